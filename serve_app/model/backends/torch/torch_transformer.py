"""The transformer of the 12 Hz decoder, over a sliding window of keys.

Source: qwen-tts 0.1.1, modeling_qwen3_tts_tokenizer_v2.py, Qwen3TTSTokenizerV2DecoderTransformerModel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.backends.cpu.compiled_transformer import AttentionLayer, CompiledTransformer
from serve_app.model.backends.torch.torch_codec import Builder, Step, compiled_products
from serve_app.model.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Places:
    """Rotary angles and mask of a step's columns, shared by all layers.

    Attributes:
        cosine: [B, T, 1, head_dim] codec dtype.
        sine: [B, T, 1, head_dim] codec dtype; the first half is negated, for rotate-half.
        mask: [B, 1, T, window - 1 + T] codec dtype; 0 where a key is visible, -inf elsewhere.
    """

    cosine: Tensor
    sine: Tensor
    mask: Tensor


class Layer:
    """One pre-norm layer: attention over the stored keys, then a gated MLP.

    The norms' weights are folded into the matmuls after them, the layer scales into the matmuls before them.
    """

    def __init__(self, builder: Builder, layer: Upstream, config: Upstream) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._head_dim = attention.head_dim
        self._eps = config.rms_norm_eps
        self._history = builder.history(config.sliding_window - 1, 2 * self._kv_heads * self._head_dim)
        qkv = torch.cat([p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
        self._qkv = builder.linear(qkv.float() * layer.input_layernorm.weight, None)
        self._output = builder.linear(
            attention.o_proj.weight.float() * layer.self_attn_layer_scale.scale[:, None], None
        )
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self._gate_up = builder.linear(gate_up.float() * layer.post_attention_layernorm.weight, None)
        self._down = builder.linear(mlp.down_proj.weight.float() * layer.mlp_layer_scale.scale[:, None], None)

    def compiled(self) -> AttentionLayer:
        """This layer's matmuls and the offset of its history, for a compiled call."""
        qkv, output, gate_up, down = compiled_products(self._qkv, self._output, self._gate_up, self._down)
        return AttentionLayer(qkv, output, gate_up, down, self._history.start)

    def __call__(self, step: Step, places: Places, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = self._output(self._attend(step, places, self._norm(x)), residual=x)
        gate, up = self._gate_up(self._norm(x)).chunk(2, dim=2)
        return self._down(functional.silu(gate) * up, residual=x)

    def _norm(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[2],), eps=self._eps)

    def _attend(self, step: Step, places: Places, x: Tensor) -> Tensor:
        heads, kv_heads = self._heads, self._kv_heads
        qkv = self._qkv(x).unflatten(2, (-1, self._head_dim))  # [B, T, heads + 2 * kv_heads, head_dim]
        turned = _rotate(qkv[:, :, : heads + kv_heads], places)
        window = self._history.open(step, x.shape[1])
        keys_values = window.unflatten(2, (2, kv_heads, self._head_dim))
        keys_values[:, self._history.columns :, 0] = turned[:, :, heads:]
        keys_values[:, self._history.columns :, 1] = qkv[:, :, heads + kv_heads :]
        self._history.close(step, window)
        attended = functional.scaled_dot_product_attention(
            turned[:, :, :heads].transpose(1, 2),
            keys_values[:, :, 0].transpose(1, 2),
            keys_values[:, :, 1].transpose(1, 2),
            attn_mask=places.mask,
            enable_gqa=heads != kv_heads,
        )
        return attended.transpose(1, 2).flatten(2)


class Transformer:
    """All layers and the final norm's scaling; the norm's weight is folded into the following matmul."""

    def __init__(self, builder: Builder, transformer: Upstream, config: Upstream) -> None:
        self._window = config.sliding_window
        self._eps = config.rms_norm_eps
        head_dim = transformer.layers[0].self_attn.head_dim
        # From the configuration: a module that was moved to bfloat16 has rounded its own copy.
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self._frequencies = (1.0 / config.rope_theta**exponent).to(builder.device)
        self._layers = [Layer(builder, layer, config) for layer in transformer.layers]
        self._compiled: CompiledTransformer | None = None
        if builder.compiled:
            layers = [layer.compiled() for layer in self._layers]
            heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
            self._compiled = CompiledTransformer(layers, heads, kv_heads, self._window, self._eps)

    def __call__(self, step: Step, position: Tensor, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]; ``position`` [B] int64 is the number of earlier frames of each row."""
        cosine, sine = self._angles(position, x.shape[1])
        if self._compiled is not None:
            return self._compiled(x, step.state, position, step.n_frames, cosine, sine)
        mask = sliding_mask(position, x.shape[1], self._window)
        places = Places(cosine[:, :, None].to(x.dtype), sine[:, :, None].to(x.dtype), mask.to(x.dtype))
        for layer in self._layers:
            x = layer(step, places, x)
        return functional.rms_norm(x, (x.shape[2],), eps=self._eps)

    def _angles(self, position: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, T, head_dim] float32; the first half of the sines is negated."""
        frame = torch.arange(frames, device=position.device)
        angle = (position[:, None] + frame).float()[:, :, None] * self._frequencies
        cosine, sine = angle.cos(), angle.sin()
        return torch.cat([cosine, cosine], dim=2), torch.cat([-sine, sine], dim=2)


def sliding_mask(position: Tensor, frames: int, window: int) -> Tensor:
    """Additive mask of ``frames`` queries over the ``window - 1`` stored keys and their own.

    Query i sees key j if i - window < j <= i and j >= 0, as in transformers' create_sliding_window_causal_mask.

    Args:
        position: [B] int64, absolute frame of each row's first query.
        frames: T, queries.
        window: keys that a query sees, including its own.

    Returns:
        [B, 1, T, window - 1 + T] float32, 0 or -inf; key k belongs to frame position - window + 1 + k.
    """
    query = torch.arange(frames, device=position.device)[:, None]
    key = torch.arange(window - 1 + frames, device=position.device)
    near = (key >= query) & (key < query + window)
    begun = key >= window - 1 - position[:, None, None, None]
    return torch.where(near & begun, 0.0, -torch.inf)


def _rotate(x: Tensor, places: Places) -> Tensor:
    swapped = x.unflatten(3, (2, -1)).flip(3).flatten(3)
    return (x * places.cosine).addcmul_(swapped, places.sine)
