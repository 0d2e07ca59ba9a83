"""Our own kernels for bfloat16 on a GPU; torch does the rest. Importing this module imports Triton."""

from collections.abc import Iterable

import torch
from torch import Tensor

from serve_app.model import sampling
from serve_app.model.backends.biased_linear import BiasedLinear
from serve_app.model.backends.cuda.fused_linear import FusedLinear
from serve_app.model.backends.cuda.fused_stack import FusedStack
from serve_app.model.backends.protocol import Linear, PredictorLayers, PredictorWeights
from serve_app.model.backends.stepwise import stepwise
from serve_app.model.backends.torch.torch_codec import TorchCodec
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.codec_weights import CodecWeights
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.sampling import DrawRows
from serve_app.model.stack_shape import StackShape


class CudaBackend:
    """:class:`serve_app.model.backends.protocol.Backend` for bfloat16 on a GPU; batch-invariant."""

    label = "fused"

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False) -> Linear:
        """Keep a weight as it is; torch multiplies an ``exact`` one."""
        if exact:
            return PlainLinear(weight, bias)
        linear = FusedLinear(weight)
        return linear if bias is None else BiasedLinear(linear, bias)

    def stack(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> FusedStack:
        """Make decoder layers of five kernels each."""
        return FusedStack(layers, norm, shape, positions)

    def predictor(
        self, weights: PredictorWeights, shape: StackShape, embedding: CodeEmbedding, cache: KvCache
    ) -> PredictorLayers:
        """Make the code predictor's layers, which run one step after the other."""
        del embedding
        return stepwise(self, weights, shape, cache.positions)

    def draw(self, logits: Tensor, uniform: Tensor, rows: DrawRows, indices: Rows, keep: int | None) -> Tensor:
        """Draw one code per row."""
        return sampling.draw(logits, uniform, rows, indices, keep)

    def codec(self, weights: CodecWeights, dtype: torch.dtype, device: torch.device) -> TorchCodec:
        """Make the codec's layers."""
        return TorchCodec(weights, dtype, device)
