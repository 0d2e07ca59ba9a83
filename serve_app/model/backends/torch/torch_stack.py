"""The decoder stack of talker and code predictor, operation by operation, with torch's own matmuls on any device."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.model.backends.torch.torch_attention import Aligned, Span, Staggered
from serve_app.model.backends.torch.torch_kernels import TorchKernels
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.stack_shape import Rotary, StackShape


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer; ``norm_qk`` [heads + kv_heads, D] scales normed queries and keys."""

    qkv: PlainLinear
    out: PlainLinear
    gate_up: PlainLinear
    down: PlainLinear
    norm_qk: Tensor


class TorchStack:
    """Runs layers operation by operation, over static keys and values."""

    def __init__(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> None:
        """Keep the weights.

        Args:
            layers: the layers' weights.
            norm: [H], weight of the final norm.
            shape: the stack's sizes.
            positions: maximum number of positions of a slot of its cache.
        """
        self._layers = [_make_layer(layer) for layer in layers]
        self._norm = norm
        self._kernels = TorchKernels(shape, norm.device)
        self._rotary = Rotary(shape, positions, norm.dtype, norm.device)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one pass reads, for any batch size."""
        return sum(
            layer.qkv.nbytes + layer.out.nbytes + layer.gate_up.nbytes + layer.down.nbytes for layer in self._layers
        )

    @property
    def reads_length(self) -> bool:
        """True: torch's attention reads all ``length`` positions and masks those after a slot's own."""
        return True

    def run_aligned(self, x: Tensor, cache: KvCache, rows: slice, start: int) -> Tensor:
        """Run T new positions of consecutive slots that are all at the same position."""
        return self._run(x, cache, Aligned(self._rotary, x, rows, start))

    def run_staggered(self, x: Tensor, cache: KvCache, rows: Rows, positions: Tensor, length: int) -> Tensor:
        """Run T new positions of several slots, each from its own position on."""
        return self._run(x, cache, Staggered(self._rotary, x, rows, positions, length))

    def _run(self, x: Tensor, cache: KvCache, span: Span) -> Tensor:
        kernels = self._kernels
        for number, layer in enumerate(self._layers):
            fused = layer.qkv(kernels.norm(x))
            cached = cache.keys[number], cache.values[number]
            attended = kernels.attend(fused, layer.norm_qk, cached, span, cache.watched_in(number))
            x = layer.out(attended, x)
            x = layer.down(kernels.swiglu(layer.gate_up(kernels.norm(x))), x)
        return kernels.norm(x) * self._norm


def _make_layer(weights: LayerWeights) -> Layer:
    return Layer(
        qkv=PlainLinear(weights.qkv),
        out=PlainLinear(weights.out),
        gate_up=PlainLinear(torch.cat([weights.gate, weights.up])),
        down=PlainLinear(weights.down),
        norm_qk=weights.norm_qk,
    )
