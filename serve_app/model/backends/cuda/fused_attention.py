"""One kernel: norm and rotation of queries and keys, the cache's new entries, and attention.

A program handles one query head of one new position. It walks over the earlier positions from the first one on, a
fixed number at a time. The order of its sums therefore depends only on its position, not on its batch or on how its
prompt was split. Its own key and value come first, and are never read from the cache. A prompt takes two passes of this
kernel: one that stores keys and values, and one that attends. A single position does both at once. All of these use one
compiled kernel, since another one might round differently.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from serve_app.model.backends.cuda.language import kernel, part, to_bfloat16
from serve_app.model.kv_cache import Rows, WatchedHead
from serve_app.model.stack_shape import Rotary, StackShape


@part
def _turned(
    source: "tl.tensor",
    scales: "tl.tensor",
    cos: "tl.tensor",
    sin: "tl.tensor",
    dim: tl.constexpr,
    width: tl.constexpr,
    eps: tl.constexpr,
) -> "tl.tensor":
    """Norm, scale and rotate ``source`` [dim]: [width] float32, with zeros after ``dim``."""
    i = tl.arange(0, width)
    inside, partner = i < dim, (i + dim // 2) % dim
    x = tl.load(source + i, mask=inside, other=0.0)
    other = tl.load(source + partner, mask=inside, other=0.0)
    factor = tl.rsqrt(tl.sum(x * x, axis=0) / dim + eps)
    x *= factor * tl.load(scales + i, mask=inside, other=0.0)
    other *= factor * tl.load(scales + partner, mask=inside, other=0.0)
    turned = x * tl.load(cos + i, mask=inside, other=0.0)
    return turned + other * tl.load(sin + i, mask=inside, other=0.0)


@kernel("slot_step", "first_slot", "position_step", "first_position", "new", "placing", "attending", "watched")
def _attend(
    fused: "tl.tensor",
    scales: "tl.tensor",
    cos: "tl.tensor",
    sin: "tl.tensor",
    keys: "tl.tensor",
    values: "tl.tensor",
    queries: "tl.tensor",
    attended: "tl.tensor",
    slots: "tl.tensor",
    positions: "tl.tensor",
    slot_step: int,
    first_slot: int,
    position_step: int,
    first_position: int,
    new: int,
    placing: int,
    attending: int,
    watched: int,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    dim: tl.constexpr,
    width: tl.constexpr,
    capacity: tl.constexpr,
    block: tl.constexpr,
    eps: tl.constexpr,
    sharpness: tl.constexpr,
) -> None:
    head, row = tl.program_id(0), tl.program_id(1)
    stream, step = row // new, row % new
    slot = tl.load(slots + stream * slot_step) + first_slot + stream * (1 - slot_step)
    own = (tl.load(positions + stream * position_step) + first_position + step).to(tl.int32)
    group: tl.constexpr = heads // kv_heads
    kv_head = head // group
    i = tl.arange(0, width)
    inside = i < dim
    source = fused + row * ((heads + 2 * kv_heads) * dim)
    cos += own * dim
    sin += own * dim
    key = _turned(source + (heads + kv_head) * dim, scales + (heads + kv_head) * dim, cos, sin, dim, width, eps)
    own_key = to_bfloat16(key)
    own_value = to_bfloat16(tl.load(source + (heads + kv_heads + kv_head) * dim + i, mask=inside, other=0.0))
    place = (slot.to(tl.int64) * kv_heads + kv_head) * (capacity * dim)
    if placing != 0:
        first = inside & (head % group == 0)
        tl.store(keys + place + own * dim + i, own_key, mask=first)
        tl.store(values + place + own * dim + i, own_value, mask=first)
    if attending != 0:
        # Scores are in units of log 2, so that the softmax uses powers of two.
        query = _turned(source + head * dim, scales + head * dim, cos, sin, dim, width, eps)
        kept = queries + (slot.to(tl.int64) * capacity + own) * dim
        tl.store(kept + i, to_bfloat16(query), mask=inside & (head == watched))
        query *= sharpness
        largest = tl.sum(query * own_key.to(tl.float32), axis=0)
        mass = tl.full([], 1.0, tl.float32)
        mixed = own_value.to(tl.float32)
        for begin in range(0, own, block):
            position = begin + tl.arange(0, block)
            seen = (position < own)[:, None] & inside[None, :]
            offsets = place + position[:, None] * dim + i[None, :]
            some_keys = tl.load(keys + offsets, mask=seen, other=0.0)
            some_values = tl.load(values + offsets, mask=seen, other=0.0)
            scores = tl.sum(some_keys.to(tl.float32) * query[None, :], axis=1)
            scores = tl.where(position < own, scores, float("-inf"))
            larger = tl.maximum(largest, tl.max(scores, axis=0))
            shrink = tl.exp2(largest - larger)
            weights = tl.exp2(scores - larger)
            mass = mass * shrink + tl.sum(weights, axis=0)
            mixed = mixed * shrink + tl.sum(weights[:, None] * some_values.to(tl.float32), axis=0)
            largest = larger
        tl.store(attended + row * (heads * dim) + head * dim + i, to_bfloat16(mixed / mass), mask=inside)


@dataclass(frozen=True, slots=True)
class Places:
    """Locations of new positions as the kernel reads them: an entry of a tensor or 0, plus an integer.

    Attributes:
        slots: [B] int64, or [1] if the slots are consecutive.
        slot_step: 1 to read each slot, 0 if they follow ``first_slot``.
        first_slot: added to the slot.
        positions: [B] int64, or [1] if all are at ``first_position``.
        position_step: 1 to read each position, else 0.
        first_position: added to the position.
    """

    slots: Tensor
    slot_step: int
    first_slot: int
    positions: Tensor
    position_step: int
    first_position: int


class Attention:
    """Attention of a stack's layers."""

    def __init__(self, shape: StackShape, positions: int, device: torch.device) -> None:
        """Tabulate the rotation of ``positions``, the largest number that a slot holds."""
        rotary = Rotary(shape, positions, torch.float32, device)
        self._cos, self._sin = rotary.cos, rotary.sin
        self._zero = torch.zeros(1, dtype=torch.int64, device=device)
        self._heads, self._width = shape.heads, shape.heads * shape.head_dim
        # A larger block is not faster, and spills registers; a smaller one waits for memory more often.
        block = min(128, triton.next_power_of_2(positions))
        self._sizes: dict[str, object] = {
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "dim": shape.head_dim,
            "width": triton.next_power_of_2(shape.head_dim),
            "capacity": positions,
            "block": block,
            "eps": shape.rms_eps,
            "sharpness": 1.0 / (math.sqrt(shape.head_dim) * math.log(2.0)),
            "num_warps": 8 if block == 128 else 4,
        }

    def aligned(self, rows: slice, start: int) -> Places:
        """Consecutive slots that are all at the same position."""
        return Places(self._zero, 0, rows.start, self._zero, 0, start)

    def staggered(self, rows: Rows, positions: Tensor) -> Places:
        """Several slots, each from its own position on."""
        if isinstance(rows, slice):
            return Places(self._zero, 0, rows.start, positions, 1, 0)
        return Places(rows, 1, 0, positions, 1, 0)

    def run(
        self,
        fused: Tensor,
        scales: Tensor,
        cached: tuple[Tensor, Tensor],
        places: Places,
        new: int,
        watched: WatchedHead | None = None,
    ) -> Tensor:
        """Norm, scale and rotate queries and keys, store keys and values, and attend.

        Args:
            fused: [M, (heads + 2 * kv_heads) * D] float32, ``new`` consecutive positions of each slot.
            scales: [heads + kv_heads, D] float32, scales of normed queries and keys.
            cached: one layer's keys and values [slots, kv_heads, P, D] bfloat16; written in place.
            places: where the positions are; the slots hold all positions before them.
            new: positions per slot.
            watched: the head of this layer whose queries are written too; None if there is none.

        Returns:
            [M, heads * D] bfloat16.
        """
        rows = fused.shape[0]
        attended = torch.empty(rows, self._width, dtype=torch.bfloat16, device=fused.device)
        # A layer without a watched head passes a tensor that the kernel does not write to.
        queries, head = (cached[0], -1) if watched is None else (watched.queries, watched.head)
        for placing, attending in ((1, 1),) if new == 1 else ((1, 0), (0, 1)):
            _attend[self._heads, rows](
                fused, scales, self._cos, self._sin, *cached, queries, attended,
                places.slots, places.positions,
                places.slot_step, places.first_slot, places.position_step, places.first_position,
                new, placing, attending, head,
                **self._sizes,
            )  # fmt: skip
        return attended
