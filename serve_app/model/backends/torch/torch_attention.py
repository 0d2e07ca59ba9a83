"""Positions of a pass in the key-value cache, and how torch attends from them; knows slots only by index."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.kv_cache import Rows
from serve_app.model.stack_shape import Rotary


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


class Staggered:
    """Several slots, each with T new positions from its own position on."""

    def __init__(self, rotary: Rotary, x: Tensor, rows: Rows, positions: Tensor, length: int) -> None:
        """Begin at ``positions`` [B] of the B slots, for [B, T, H]; attention covers the first ``length`` positions."""
        new = positions[:, None] + torch.arange(x.shape[1], device=x.device)  # [B, T]
        hidden = torch.arange(length, device=x.device) > new[:, :, None]  # [B, T, length]
        mask = torch.zeros(hidden.shape, dtype=x.dtype, device=x.device).masked_fill_(hidden, float("-inf"))
        self._mask = mask[:, None]
        self._rows, self._positions, self._length = rows, new, length
        slots = torch.arange(rows.start, rows.stop, device=x.device) if isinstance(rows, slice) else rows
        self._slots = slots[:, None]
        self.cos = rotary.cos[new][:, :, None]
        self.sin = rotary.sin[new][:, :, None]

    def store(self, cached: Tensor, new: Tensor) -> None:
        """Write ``new`` [B, T, KV, D] into one layer's keys or values [slots, KV, P, D]."""
        cached[self._slots, :, self._positions] = new

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend with [B, T, heads, D] to one layer's keys and values [slots, KV, P, D]: [B, T, heads * D]."""
        attended = functional.scaled_dot_product_attention(
            queries.transpose(1, 2),
            keys[:, :, : self._length][self._rows],
            values[:, :, : self._length][self._rows],
            attn_mask=self._mask,
            enable_gqa=True,
        )
        return attended.transpose(1, 2).flatten(2)
