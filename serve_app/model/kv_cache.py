"""Static keys and values for a pool of slots, written in place; the caller keeps track of each slot's length."""

import torch
from torch import Tensor

Rows = slice | Tensor
"""Slots that take part: a slice if they are consecutive (no copy), else their indices [B] int64."""


class KvCache:
    """Keys and values ``[layers, slots, kv_heads, positions, head_dim]``."""

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
        return 2 * self.keys[:, 0].numel() * self.keys.element_size()


def as_rows(slots: list[int], device: torch.device) -> Rows:
    """Index slots in the cheapest way: a slice if they are consecutive, else an index tensor."""
    if slots == list(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return torch.tensor(slots, device=device)
