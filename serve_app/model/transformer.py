"""The Qwen3 decoder stack that talker and code predictor share, over static keys and values.

It takes its weights out of the upstream module once and never calls it again. Query, key and value are one product,
gate and up another; each norm's weight is folded into the product behind it; query and key are normed and rotated as
one tensor. On a CPU every small operation costs a few microseconds, and there are 103 layers to a frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.model.attention import Aligned, Rotary, Span, StackShape, Staggered
from serve_app.model.kernels import make_kernels
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.linear import Linear, WeightForm, make_linear
from serve_app.model.quiet import Upstream


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer; ``norm_qk`` [heads + kv_heads, D] scales normed queries and keys."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm_qk: Tensor


class Stack:
    """Decoder layers and their final norm."""

    def __init__(self, module: Upstream, shape: StackShape, positions: int, form: WeightForm) -> None:
        """Take the weights of an upstream model with ``layers`` and ``norm``.

        Args:
            module: Qwen3TTSTalkerModel or Qwen3TTSTalkerCodePredictorModel.
            shape: its sizes.
            positions: most positions that a slot will hold.
            form: how the weights are kept.
        """
        self.shape = shape
        self.layers = [_take_layer(layer, shape, form) for layer in module.layers]
        self.norm: Tensor = module.norm.weight.detach()
        self._kernels = make_kernels(shape, positions, self.norm.dtype, self.norm.device)
        self._rotary = Rotary(shape, positions, self.norm.dtype, self.norm.device)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one pass reads, whatever its batch."""
        return sum(
            layer.qkv.nbytes + layer.out.nbytes + layer.gate_up.nbytes + layer.down.nbytes for layer in self.layers
        )

    def run_aligned(self, x: Tensor, cache: KvCache, rows: slice, start: int) -> Tensor:
        """Run T new positions of neighbouring slots that all stand at the same position.

        Args:
            x: [B, T, H], inputs of positions ``start`` to ``start + T - 1``.
            cache: written in place.
            rows: the B slots.
            start: first new position; the slots hold all positions before it.

        Returns:
            [B, T, H], after the final norm.
        """
        return self._run(x, cache, Aligned(self._rotary, x, rows, start))

    def run_staggered(self, x: Tensor, cache: KvCache, rows: Rows, positions: Tensor, length: int) -> Tensor:
        """Run one new position of several slots, each at its own.

        Args:
            x: [B, 1, H].
            cache: written in place at (rows, positions).
            rows: the B slots.
            positions: [B] int64, where each slot's new position stands; it holds all positions before it.
            length: positions of the cache that are looked at; more than every one of ``positions``.

        Returns:
            [B, 1, H], after the final norm.
        """
        return self._run(x, cache, Staggered(self._rotary, x, rows, positions, length))

    def _run(self, x: Tensor, cache: KvCache, span: Span) -> Tensor:
        kernels = self._kernels
        for number, layer in enumerate(self.layers):
            fused = layer.qkv(kernels.norm(x))
            attended = kernels.attend(fused, layer.norm_qk, cache.keys[number], cache.values[number], span)
            x = layer.out(attended, x)
            x = layer.down(kernels.swiglu(layer.gate_up(kernels.norm(x))), x)
        return kernels.norm(x) * self.norm


def _take_layer(layer: Upstream, shape: StackShape, form: WeightForm) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    norm_q, norm_k = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
    return Layer(
        qkv=make_linear(_fold(qkv, layer.input_layernorm.weight), form),
        out=make_linear(attention.o_proj.weight.detach(), form),
        gate_up=make_linear(_fold(gate_up, layer.post_attention_layernorm.weight), form),
        down=make_linear(mlp.down_proj.weight.detach(), form),
        norm_qk=torch.cat([norm_q.expand(shape.heads, -1), norm_k.expand(shape.kv_heads, -1)]),
    )


def _fold(weight: Tensor, norm: Tensor) -> Tensor:
    """A product's weight [N, K] with the weight [K] of the norm before it."""
    return (weight.detach().float() * norm.detach().float()).to(weight.dtype)
