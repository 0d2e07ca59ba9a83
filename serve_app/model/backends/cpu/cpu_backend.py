"""Our own compiled code for a CPU."""

from collections.abc import Iterable

import torch
from torch import Tensor

from serve_app.model.backends.biased_linear import BiasedLinear
from serve_app.model.backends.cpu import cpu_sampling
from serve_app.model.backends.cpu.compiled_frame import CompiledFrame
from serve_app.model.backends.cpu.compiled_stack import CompiledStack
from serve_app.model.backends.cpu.cpu_codec import CpuCodec
from serve_app.model.backends.cpu.tiled_linear import TiledLinear
from serve_app.model.backends.cpu.tiles import WeightFormat, lossless
from serve_app.model.backends.protocol import Linear, PredictorLayers, PredictorWeights
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.codec_weights import CodecWeights
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.sampling import SamplingTensors
from serve_app.model.stack_shape import StackShape


class CpuBackend:
    """:class:`serve_app.model.backends.protocol.Backend` on a CPU; batch-invariant."""

    def __init__(self, weights: WeightFormat) -> None:
        """Read ``weights``: that of the checkpoint's own entries, or int8 or int4 for a bfloat16 checkpoint.

        Only the code predictor's layers use int4, since they are read fifteen times per frame. Everything else is int8
        then. This includes the heads: they are a small part of what is read, and codes are sampled from their outputs.
        """
        rounded = weights in {WeightFormat.INT8, WeightFormat.INT4}
        self.label = weights.value if rounded else "packed"
        self._weights = WeightFormat.INT8 if rounded else weights
        self._predictor_weights = weights

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False) -> Linear:
        """Lay out a copy of a weight in tiles."""
        linear = TiledLinear(weight, lossless(weight.dtype) if exact else self._weights)
        return linear if bias is None else BiasedLinear(linear, bias)

    def stack(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> CompiledStack:
        """Make decoder layers that are one compiled call."""
        return CompiledStack(layers, norm, shape, positions, self._weights)

    def predictor(
        self, weights: PredictorWeights, shape: StackShape, embedding: CodeEmbedding, cache: KvCache
    ) -> PredictorLayers:
        """Make the code predictor's layers; all steps are one call.

        If the talker is wider, this projects the embeddings of all codes to the code predictor's width.
        """
        stack = CompiledStack(weights.layers, weights.norm, shape, cache.positions, self._predictor_weights)
        heads = [TiledLinear(head, self._weights) for head in weights.heads]
        project = None if weights.projection is None else self.linear(*weights.projection)
        narrow = embedding if project is None else embedding.through(project)
        return PredictorLayers(stack, heads, project, CompiledFrame(stack, heads, narrow, cache))

    def sample(self, logits: Tensor, uniform: Tensor, rows: SamplingTensors, indices: Rows, keep: int | None) -> Tensor:
        """Sample one code per row."""
        return cpu_sampling.sample(logits, uniform, rows, indices, keep)

    def codec(self, weights: CodecWeights, dtype: torch.dtype, device: torch.device) -> CpuCodec:
        """Make the codec's layers, which only compute in float32 on a CPU."""
        assert (dtype, device.type) == (torch.float32, "cpu"), "the compiled codec computes in float32 on a CPU"
        return CpuCodec(weights)
