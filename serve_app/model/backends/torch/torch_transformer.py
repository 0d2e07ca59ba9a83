"""The codec's transformer with torch's operations.

Source: qwen-tts 0.1.1, modeling_qwen3_tts_tokenizer_v2.py, Qwen3TTSTokenizerV2DecoderTransformerModel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.backends.protocol import CodecStep
from serve_app.model.backends.torch.state_windows import close_window, open_window
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.codec_weights import AttentionWeights, TransformerWeights, angles


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


class _Layer:
    """One pre-norm layer: attention over the stored keys, then a gated MLP."""

    def __init__(
        self, layer: AttentionWeights, weights: TransformerWeights, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._heads, self._kv_heads, self._eps = weights.heads, weights.kv_heads, weights.eps
        self._head_dim = 2 * len(weights.frequencies)
        self._history = layer.history
        matrices = layer.qkv, layer.output, layer.gate_up, layer.down
        self._qkv, self._output, self._gate_up, self._down = (PlainLinear(each.to(device, dtype)) for each in matrices)

    def __call__(self, step: CodecStep, places: Places, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = self._output(self._attend(step, places, self._norm(x)), residual=x)
        gate, up = self._gate_up(self._norm(x)).chunk(2, dim=2)
        return self._down(functional.silu(gate) * up, residual=x)

    def _norm(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[2],), eps=self._eps)

    def _attend(self, step: CodecStep, places: Places, x: Tensor) -> Tensor:
        heads, kv_heads = self._heads, self._kv_heads
        qkv = self._qkv(x).unflatten(2, (-1, self._head_dim))  # [B, T, heads + 2 * kv_heads, head_dim]
        turned = _rotate(qkv[:, :, : heads + kv_heads], places)
        window = open_window(self._history, step, x.shape[1])
        keys_values = window.unflatten(2, (2, kv_heads, self._head_dim))
        keys_values[:, self._history.columns :, 0] = turned[:, :, heads:]
        keys_values[:, self._history.columns :, 1] = qkv[:, :, heads + kv_heads :]
        close_window(self._history, step, window)
        attended = functional.scaled_dot_product_attention(
            turned[:, :, :heads].transpose(1, 2),
            keys_values[:, :, 0].transpose(1, 2),
            keys_values[:, :, 1].transpose(1, 2),
            attn_mask=places.mask,
            enable_gqa=heads != kv_heads,
        )
        return attended.transpose(1, 2).flatten(2)


class TorchTransformer:
    """All layers and the final norm's scaling."""

    def __init__(self, weights: TransformerWeights, dtype: torch.dtype, device: torch.device) -> None:
        """Copy the weights in ``dtype`` to ``device``."""
        self._window, self._eps = weights.window, weights.eps
        self._frequencies = weights.frequencies.to(device)
        self._layers = [_Layer(layer, weights, dtype, device) for layer in weights.layers]

    def __call__(self, step: CodecStep, position: Tensor, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]; ``position`` [B] int64 is the number of earlier frames of each row."""
        cosine, sine = angles(self._frequencies, position, x.shape[1])
        mask = sliding_mask(position, x.shape[1], self._window)
        places = Places(cosine[:, :, None].to(x.dtype), sine[:, :, None].to(x.dtype), mask.to(x.dtype))
        for layer in self._layers:
            x = layer(step, places, x)
        return functional.rms_norm(x, (x.shape[2],), eps=self._eps)


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
