"""Static keys and values for a pool of slots, written in place; the caller keeps track of each slot's length."""

from dataclasses import dataclass

import torch
from torch import Tensor

Rows = slice | Tensor
"""Slots that take part: a slice if they are consecutive (no copy), else their indices [B] int64."""


@dataclass(frozen=True, slots=True)
class WatchedHead:
    """A head whose queries are kept, so that its attention can be computed afterwards.

    Attributes:
        layer: its layer.
        head: its number among the layer's query heads.
        kv_head: the head of its keys.
        queries: [slots, 1, positions, head_dim], normed, scaled and rotated; written in place, like keys.
    """

    layer: int
    head: int
    kv_head: int
    queries: Tensor


class KvCache:
    """Keys and values ``[layers, slots, kv_heads, positions, head_dim]``.

    Attributes:
        watched: the head whose queries are kept too; None if there is none.
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        positions: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate everything once, zeroed."""
        shape = (layers, slots, kv_heads, positions, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.positions = positions
        self.watched: WatchedHead | None = None

    def watch(self, layer: int, head: int, kv_head: int) -> None:
        """Keep the queries of a head from now on; call this before the first position is filled."""
        self.watched = WatchedHead(layer, head, kv_head, torch.zeros_like(self.keys[layer, :, :1]))

    def watched_in(self, layer: int) -> WatchedHead | None:
        """Return the watched head if it is in this layer."""
        return self.watched if self.watched is not None and self.watched.layer == layer else None

    def looked_at(self, slot: int, positions: Tensor, begin: int, end: int) -> Tensor:
        """Find which earlier position the watched head attends to most.

        A row's result does not depend on the other rows.

        Args:
            slot: the slot.
            positions: [T] int64, filled positions that look.
            begin: first position to look at; before all of ``positions``.
            end: after the last position to look at.

        Returns:
            [T] int64, from ``begin`` to ``end - 1``, not after the position that looks.
        """
        assert self.watched is not None, "no head is watched"
        keys = self.keys[self.watched.layer, slot, self.watched.kv_head, begin:end].float()
        queries = self.watched.queries[slot, 0, positions].float()
        scores = (queries[:, None] * keys).sum(2)
        later = torch.arange(begin, end, device=scores.device) > positions[:, None]
        return begin + scores.masked_fill(later, float("-inf")).argmax(1)

    def copy_out(self, slot: int, length: int) -> tuple[Tensor, Tensor]:
        """Copy a slot's first positions: keys and values, each [layers, kv_heads, length, head_dim]."""
        return self.keys[:, slot, :, :length].clone(), self.values[:, slot, :, :length].clone()

    def copy_in(self, slot: int, copied: tuple[Tensor, Tensor]) -> None:
        """Write copied positions into a slot, starting at its first position."""
        length = copied[0].shape[2]
        self.keys[:, slot, :, :length], self.values[:, slot, :, :length] = copied

    @property
    def bytes_per_slot(self) -> int:
        """Bytes that one slot holds."""
        queries = 0 if self.watched is None else self.watched.queries[0].numel()
        return (2 * self.keys[:, 0].numel() + queries) * self.keys.element_size()


def as_rows(slots: list[int], device: torch.device) -> Rows:
    """Index slots in the cheapest way: a slice if they are consecutive, else an index tensor."""
    if slots == list(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return torch.tensor(slots, device=device)
