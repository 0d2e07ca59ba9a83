"""Torch's own operations, on any device: on a GPU for which our kernels cannot be compiled, and for comparison."""

from collections.abc import Iterable

import torch
from torch import Tensor

from serve_app.model import sampling
from serve_app.model.backends.protocol import Linear, PredictorLayers, PredictorWeights, Stack
from serve_app.model.backends.torch.torch_codec import TorchCodec
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.backends.torch.torch_stack import TorchStack
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.codec_weights import CodecWeights
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.sampling import SamplingTensors
from serve_app.model.stack_shape import StackShape


class TorchBackend:
    """:class:`serve_app.model.backends.protocol.Backend` with torch's matmuls, which are not batch-invariant."""

    label = "plain"

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False) -> Linear:
        """Keep a weight as it is."""
        del exact  # every weight is kept exactly
        return PlainLinear(weight, bias)

    def stack(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> Stack:
        """Make decoder layers."""
        return TorchStack(layers, norm, shape, positions)

    def predictor(
        self, weights: PredictorWeights, shape: StackShape, embedding: CodeEmbedding, cache: KvCache
    ) -> PredictorLayers:
        """Make the code predictor's layers, which run one step after the other."""
        del embedding
        return PredictorLayers(
            stack=self.stack(weights.layers, weights.norm, shape, cache.positions),
            heads=[self.linear(head) for head in weights.heads],
            project=None if weights.projection is None else self.linear(*weights.projection),
        )

    def sample(self, logits: Tensor, uniform: Tensor, rows: SamplingTensors, indices: Rows, keep: int | None) -> Tensor:
        """Sample one code per row."""
        return sampling.sample(logits, uniform, rows, indices, keep)

    def codec(self, weights: CodecWeights, dtype: torch.dtype, device: torch.device) -> TorchCodec:
        """Make the codec's layers."""
        return TorchCodec(weights, dtype, device)
