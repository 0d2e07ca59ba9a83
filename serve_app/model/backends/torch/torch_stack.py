"""The Qwen3 decoder stack of talker and code predictor, over static keys and values.

It copies its weights from the upstream module once and never calls the module. On a CPU every small operation costs a
few microseconds, and a frame has 103 layers.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from serve_app.model.attention import Aligned, Rotary, Span, StackShape, Staggered
from serve_app.model.backends.cpu.compiled_stack import CompiledStack
from serve_app.model.backends.torch.torch_kernels import make_kernels
from serve_app.model.backends.torch.torch_linear import PlainLinear, WeightFormat, exact_form
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights, take_layer
from serve_app.model.upstream import Upstream


class Stack(Protocol):
    """Decoder layers and their final norm."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one pass reads, for any batch size."""
        ...

    @property
    def reads_length(self) -> bool:
        """Whether ``run_staggered`` reads all ``length`` positions, or only each slot's own."""
        ...

    def run_aligned(self, x: Tensor, cache: KvCache, rows: slice, start: int) -> Tensor:
        """Run T new positions of consecutive slots that are all at the same position.

        Args:
            x: [B, T, H], inputs of positions ``start`` to ``start + T - 1``.
            cache: written in place.
            rows: the B slots.
            start: first new position; the slots hold all positions before it.

        Returns:
            [B, T, H], after the final norm.
        """
        ...

    def run_staggered(self, x: Tensor, cache: KvCache, rows: Rows, positions: Tensor, length: int) -> Tensor:
        """Run one new position of several slots, each at its own position.

        Args:
            x: [B, 1, H].
            cache: written in place at (rows, positions).
            rows: the B slots.
            positions: [B] int64, each slot's new position; the slot holds all positions before it.
            length: positions of the cache to read; more than any of ``positions``.

        Returns:
            [B, 1, H], after the final norm.
        """
        ...


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer; ``norm_qk`` [heads + kv_heads, D] scales normed queries and keys."""

    qkv: PlainLinear
    out: PlainLinear
    gate_up: PlainLinear
    down: PlainLinear
    norm_qk: Tensor


class LinearStack:
    """Runs layers operation by operation, with torch's own matmuls, on any device."""

    def __init__(self, module: Upstream, shape: StackShape, positions: int) -> None:
        """See :func:`make_stack`."""
        self._layers = [_make_layer(take_layer(layer, shape)) for layer in module.layers]
        self._norm: Tensor = module.norm.weight.detach()
        self._kernels = make_kernels(shape, positions, self._norm.dtype, self._norm.device)
        self._rotary = Rotary(shape, positions, self._norm.dtype, self._norm.device)

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
        """Run one new position of several slots, each at its own position."""
        return self._run(x, cache, Staggered(self._rotary, x, rows, positions, length))

    def _run(self, x: Tensor, cache: KvCache, span: Span) -> Tensor:
        kernels = self._kernels
        for number, layer in enumerate(self._layers):
            fused = layer.qkv(kernels.norm(x))
            attended = kernels.attend(fused, layer.norm_qk, cache.keys[number], cache.values[number], span)
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


def make_stack(module: Upstream, shape: StackShape, positions: int, weight_format: WeightFormat) -> Stack:
    """Build a stack from the weights of an upstream model with ``layers`` and ``norm``.

    Args:
        module: Qwen3TTSTalkerModel or Qwen3TTSTalkerCodePredictorModel.
        shape: its sizes.
        positions: most positions that a slot will hold.
        weight_format: weight format.
    """
    norm: Tensor = module.norm.weight.detach()
    if weight_format == "fused":
        from serve_app.model.backends.cuda.fused_stack import FusedStack  # noqa: PLC0415 - torch's CPU wheels come without Triton

        return FusedStack((take_layer(layer, shape) for layer in module.layers), norm, shape, positions)
    if weight_format == "plain":
        return LinearStack(module, shape, positions)
    tiled = exact_form(norm) if weight_format == "packed" else weight_format
    return CompiledStack((take_layer(layer, shape) for layer in module.layers), norm, shape, positions, tiled)
