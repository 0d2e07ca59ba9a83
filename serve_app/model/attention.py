"""Positions of a pass in the key-value cache, and what they attend to; knows slots only by index."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.kv_cache import Rows, runs


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


class Rotary:
    """Cosines and sines of every position, computed once in float32.

    The talker's three rotary sections (temporal, height, width) hold the same position in speech, so its interleaved
    form equals the plain one.
    Source: qwen-tts 0.1.1, modeling_qwen3_tts.py, Qwen3TTSTalkerRotaryEmbedding and get_rope_index.
    """

    def __init__(self, shape: StackShape, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Tabulate [positions, head_dim] in ``dtype``; sines of the first half are negated, for rotate-half."""
        exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
        frequencies = 1.0 / (shape.rope_theta**exponent)  # [head_dim / 2]
        angles = torch.arange(positions).float()[:, None] * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        self.cos = angles.cos().to(dtype).to(device)
        sign = torch.ones(shape.head_dim)
        sign[: shape.head_dim // 2] = -1.0
        self.sin = (angles.sin() * sign).to(dtype).to(device)


class Span(Protocol):
    """The T new positions of each of B slots.

    Attributes:
        cos: [B or 1, T, 1, D], for the new positions.
        sin: [B or 1, T, 1, D], for the new positions.
    """

    cos: Tensor
    sin: Tensor

    def store(self, cached: Tensor, new: Tensor) -> None:
        """Write ``new`` [B, T, KV, D] into one layer's keys or values [slots, KV, P, D]."""
        ...

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with [B, T, heads, D] to one layer's keys and values [slots, KV, P, D]: [B, T, heads * D]."""
        ...

    def addresses(self) -> tuple[int, int, int, int]:
        """Where a CPU kernel reads the B slots and their first new positions.

        Returns:
            The address of the slots [B] int64, or 0 and the first of consecutive slots; the address of the positions
            [B] int64, or 0 and the position that all slots share.
        """
        ...


class Aligned:
    """Consecutive slots that are all at the same position."""

    def __init__(self, rotary: Rotary, x: Tensor, rows: slice, start: int) -> None:
        """Use positions ``start`` to ``start + T - 1`` of the B slots, for an input [B, T, H]."""
        new = x.shape[1]
        self._rows, self._start, self._end = rows, start, start + new
        self._causal = start == 0 and new > 1
        self._mask = None
        if start and new > 1:
            hidden = torch.ones(new, self._end, dtype=torch.bool, device=x.device).triu(start + 1)
            self._mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, float("-inf"))
        self.cos = rotary.cos[start : self._end][None, :, None]
        self.sin = rotary.sin[start : self._end][None, :, None]

    def store(self, cached: Tensor, new: Tensor) -> None:
        """Write ``new`` [B, T, KV, D] into one layer's keys or values [slots, KV, P, D]."""
        cached[self._rows, :, self._start : self._end] = new.transpose(1, 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with [B, T, heads, D] to one layer's keys and values [slots, KV, P, D]: [B, T, heads * D]."""
        attended = functional.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys[self._rows, :, : self._end],
            values[self._rows, :, : self._end],
            attn_mask=self._mask,
            is_causal=self._causal,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).flatten(2)

    def addresses(self) -> tuple[int, int, int, int]:
        """No addresses: the slots are consecutive and share one position."""
        return 0, self._rows.start, 0, self._start


class Staggered:
    """Several slots, each with one new position of its own."""

    def __init__(self, rotary: Rotary, x: Tensor, rows: Rows, positions: Tensor, length: int) -> None:
        """Use ``positions`` [B] of the B slots, for [B, 1, H]; attention covers the first ``length`` positions."""
        hidden = torch.arange(length, device=x.device) > positions[:, None]  # [B, length]
        mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, float("-inf"))
        self._mask = mask[:, None, None]
        self._rows, self._positions, self._length = rows, positions, length
        self._slots = torch.arange(rows.start, rows.stop, device=x.device) if isinstance(rows, slice) else rows
        # Gathering the keys copies them. A CPU attends to each run of consecutive slots in place, which takes a seventh
        # of the time at 300 positions. A GPU would have to wait for the indices, and could not be captured.
        self._runs = runs(rows.tolist()) if isinstance(rows, Tensor) and rows.device.type == "cpu" else None
        self.cos = rotary.cos[positions][:, None, None]
        self.sin = rotary.sin[positions][:, None, None]

    def store(self, cached: Tensor, new: Tensor) -> None:
        """Write ``new`` [B, 1, KV, D] into one layer's keys or values [slots, KV, P, D]."""
        cached[self._slots, :, self._positions] = new[:, 0]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with [B, 1, heads, D] to one layer's keys and values [slots, KV, P, D]: [B, 1, heads * D]."""
        keys, values, queries = keys[:, :, : self._length], values[:, :, : self._length], queries.transpose(1, 2)
        if self._runs is None:
            return _attend(queries, keys[self._rows], values[self._rows], self._mask)
        parts = [
            _attend(queries[places], keys[slots], values[slots], self._mask[places]) for places, slots in self._runs
        ]
        return torch.cat(parts)

    def addresses(self) -> tuple[int, int, int, int]:
        """Both are tensors, so both have an address."""
        return self._slots.data_ptr(), 0, self._positions.data_ptr(), 0


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend with [B, heads, T, D] to [B, KV, P, D]: [B, T, heads * D]."""
    attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    return attended.transpose(1, 2).flatten(2)
