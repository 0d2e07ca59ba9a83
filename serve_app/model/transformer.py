"""The Qwen3 decoder stack that talker and code predictor share, over static keys and values.

It takes its weights out of the upstream module once and never calls it again. Query, key and value are one product,
gate and up another; each norm's weight is folded into the product behind it; query and key are normed and rotated as
one tensor. On a CPU every small operation costs a few microseconds, and there are 103 layers to a frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.linear import Linear, WeightForm, make_linear
from serve_app.model.quiet import Upstream


@dataclass(frozen=True, slots=True)
class StackShape:
    """Sizes of a stack.

    Attributes:
        layers: number of decoder layers.
        heads: query heads.
        kv_heads: key and value heads; ``heads`` is a multiple of it.
        head_dim: width of a head.
        hidden: width of the residual stream.
        rms_eps: added to the mean square before its root.
        rope_theta: base of the rotary frequencies.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    rms_eps: float
    rope_theta: float


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one decoder layer; ``norm_qk`` [heads + kv_heads, D] scales normed queries and keys."""

    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear
    norm_qk: Tensor


class Rotary:
    """Cosines and sines of every position, made once in float32.

    The talker's three rotary sections (temporal, height, width) hold the same position in speech, so that its
    interleaved form equals the plain one.
    Source: qwen-tts 0.1.1, modeling_qwen3_tts.py, Qwen3TTSTalkerRotaryEmbedding and get_rope_index.
    """

    def __init__(self, shape: StackShape, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Tabulate [positions, head_dim] in ``dtype``; sines of the first half are negated, for swapped halves."""
        exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
        frequencies = 1.0 / (shape.rope_theta**exponent)  # [head_dim / 2]
        angles = torch.arange(positions).float()[:, None] * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        self.cos = angles.cos().to(dtype).to(device)
        sign = torch.ones(shape.head_dim)
        sign[: shape.head_dim // 2] = -1.0
        self.sin = (angles.sin() * sign).to(dtype).to(device)


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
        self._eps = torch.tensor(shape.rms_eps, device=self.norm.device)
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
        end = start + x.shape[1]
        mask = None
        if start and x.shape[1] > 1:
            hidden = torch.ones(x.shape[1], end, dtype=torch.bool, device=x.device).triu(start + 1)
            mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, float("-inf"))
        cos, sin = self._rotary.cos[start:end, None], self._rotary.sin[start:end, None]  # [T, 1, D]
        for number, layer in enumerate(self.layers):
            queries, keys, values = self._project(layer, x, cos, sin)
            cached_keys, cached_values = cache.keys[number, rows], cache.values[number, rows]  # [B, KV, P, D]
            cached_keys[:, :, start:end] = keys.transpose(1, 2)
            cached_values[:, :, start:end] = values.transpose(1, 2)
            attended = functional.scaled_dot_product_attention(
                queries.transpose(1, 2),
                cached_keys[:, :, :end],
                cached_values[:, :, :end],
                attn_mask=mask,
                is_causal=start == 0 and x.shape[1] > 1,
                enable_gqa=True,
            )
            x = self._finish(layer, x, attended.transpose(1, 2).flatten(2))
        return functional.rms_norm(x, (self.shape.hidden,), self.norm, self.shape.rms_eps)

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
        cos, sin = self._rotary.cos[positions][:, None, None], self._rotary.sin[positions][:, None, None]  # [B,1,1,D]
        hidden = torch.arange(length, device=x.device) > positions[:, None]  # [B, length]
        mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, float("-inf"))
        mask = mask[:, None, None]
        slots = torch.arange(rows.start, rows.stop, device=x.device) if isinstance(rows, slice) else rows
        for number, layer in enumerate(self.layers):
            queries, keys, values = self._project(layer, x, cos, sin)
            cache.keys[number][slots, :, positions] = keys[:, 0]  # [B, KV, D]
            cache.values[number][slots, :, positions] = values[:, 0]
            attended = functional.scaled_dot_product_attention(
                queries.transpose(1, 2),
                cache.keys[number][:, :, :length][rows],
                cache.values[number][:, :, :length][rows],
                attn_mask=mask,
                enable_gqa=True,
            )
            x = self._finish(layer, x, attended.transpose(1, 2).flatten(2))
        return functional.rms_norm(x, (self.shape.hidden,), self.norm, self.shape.rms_eps)

    def _project(self, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, T, heads, D], keys and values [B, T, kv_heads, D], the first two normed and rotated."""
        shape = self.shape
        rotated_heads = shape.heads + shape.kv_heads
        fused = layer.qkv(_rms_norm(x, self._eps))
        fused = fused.view(*x.shape[:2], rotated_heads + shape.kv_heads, shape.head_dim)
        turned = _rms_norm(fused[:, :, :rotated_heads], self._eps) * layer.norm_qk
        turned = torch.addcmul(turned * cos, turned.roll(shape.head_dim // 2, -1), sin)
        return turned[:, :, : shape.heads], turned[:, :, shape.heads :], fused[:, :, rotated_heads:]

    def _finish(self, layer: Layer, x: Tensor, attended: Tensor) -> Tensor:
        """Output projection and feed-forward, each added to the residual stream."""
        x = layer.out(attended, x)
        gate, up = layer.gate_up(_rms_norm(x, self._eps)).chunk(2, dim=-1)
        return layer.down(functional.silu(gate).mul_(up), x)


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


def _rms_norm(x: Tensor, eps: Tensor) -> Tensor:
    """Divide [..., N] by its root mean square, in float32 inside.

    Four operations; torch's own ``rms_norm`` is eleven on a CPU (measured: 21 against 12 µs, 325 times a frame).
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.addcmul(eps, norm, norm, value=1.0 / x.shape[-1]).rsqrt_()
    return torch.mul(x, scale, out=torch.empty_like(x))
