"""Products by int8 weights, laid out so that a CPU reads them once from front to end.

Activations are rounded to int8 too, each row by its own largest magnitude, and sums of integers are exact: no row
changes another's. A row is kept with 128 added to each of its codes, since a CPU's instruction for such sums (VNNI)
takes one factor without a sign; what that adds to a sum is known from the weights and taken off again.

Source: Intel's instruction set reference, VPDPBUSD.
"""

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import torch
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from serve_app.model.compiled.parts import ROUNDER, Function, Row, exp, float32_at, int32_at, part, uint8_at
from serve_app.model.quiet import Upstream

TILE = 64
"""Outputs that are summed together: four registers of sixteen sums."""

TILE_ROWS = 4
"""Rows that share one reading of a tile's weights: sixteen sums, and registers to spare."""

_STEP = 4
"""Inputs that one instruction multiplies and adds."""

_OFFSET = 128

_AHEAD = 4096
"""Bytes between what is multiplied and what the cache is told to fetch: a fifth less time for four rows (measured)."""

_MOST = 127.0

Flavour = Literal["avx512_vnni", "avx_vnni", "portable"]


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """A weight of one int8 an entry and one scale a row.

    Attributes:
        packed: [tiles, K / 4, 64, 4] int8: the inputs of four columns for each of 64 outputs, one after the other.
        scales: [tiles * 64] float32, what a sum is multiplied with besides its row's largest magnitude.
        added: [tiles * 64] int32, what the offset of the rows adds to a sum.
    """

    packed: Tensor
    scales: Tensor
    added: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "Int8Weight":
        """Quantise a copy of ``weight`` [N, K], each row to its own largest magnitude; zeros fill what N and K lack."""
        rows, columns = weight.shape
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-8) / _MOST  # [N]
        codes = torch.zeros(-(-rows // TILE) * TILE, -(-columns // _STEP) * _STEP, dtype=torch.int8)
        codes[:rows, :columns] = (weight.float() / scale[:, None]).round().clamp(-_MOST, _MOST).to(torch.int8)
        scales = torch.zeros(len(codes))
        scales[:rows] = scale / _MOST
        packed = codes.view(-1, TILE, codes.shape[1] // _STEP, _STEP).transpose(1, 2).contiguous()
        return cls(packed, scales, _OFFSET * codes.sum(dim=1, dtype=torch.int32))

    @property
    def outputs(self) -> int:
        """Outputs that a product writes: N, and what filled the last tile."""
        return len(self.scales)

    @property
    def inputs(self) -> int:
        """Inputs that a product reads."""
        return self.packed.shape[1] * _STEP

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads."""
        return self.packed.nbytes + self.scales.nbytes + self.added.nbytes

    def addresses(self) -> tuple[int, ...]:
        """As :data:`PRODUCT` has them."""
        return self.packed.data_ptr(), self.scales.data_ptr(), self.added.data_ptr(), len(self.packed), self.inputs


PRODUCT = np.dtype([(field, np.int64) for field in ("packed", "scales", "added", "tiles", "inputs")])
"""An :class:`Int8Weight` for compiled code."""

PRODUCTS: Upstream = numba.from_dtype(PRODUCT)
"""The same, as compiled code names it."""

_BYTE, _WORD, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_SUMS = ir.VectorType(_WORD, 16)
_HALF_SUMS = ir.VectorType(_WORD, 8)


def this_cpus() -> Flavour:
    """The instructions that this CPU has."""
    features = binding.get_host_cpu_features()
    if features.get("avx512vnni") and features.get("avx512vl"):
        return "avx512_vnni"
    return "avx_vnni" if features.get("avxvnni") else "portable"


def _by_vnni(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    return builder.call(_vnni(builder, _SUMS, 512), [sums, inputs, weights])


def _by_half_vnni(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    halves = [
        builder.call(
            _vnni(builder, _HALF_SUMS, 256),
            [_shuffle(builder, each, range(first, first + 8)) for each in (sums, inputs, weights)],
        )
        for first in (0, 8)
    ]
    return builder.shuffle_vector(*halves, ir.Constant(_SUMS, list(range(16))))


def _vnni(builder: Upstream, sums: Upstream, bits: int) -> Upstream:
    function = ir.FunctionType(sums, [sums, sums, sums])
    return cgutils.get_or_insert_function(builder.module, function, f"llvm.x86.avx512.vpdpbusd.{bits}")


def _portably(builder: Upstream, sums: Upstream, inputs: Upstream, weights: Upstream) -> Upstream:
    """Of each word of four bytes in turn: the weight with its sign, the input without, multiplied and added."""
    for byte in range(_STEP):
        left, right = (ir.Constant(_SUMS, [shift] * 16) for shift in (24 - 8 * byte, 24))
        weight = builder.ashr(builder.shl(weights, left), right)
        sums = builder.add(sums, builder.mul(weight, builder.lshr(builder.shl(inputs, left), right)))
    return sums


def _fetch(builder: Upstream, address: Upstream) -> None:
    """Have the cache line at an address fetched for reading, to stay near."""
    function = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
    fetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
    builder.call(fetch, [address, _WORD(0), _WORD(3), _WORD(1)])


def _shuffle(builder: Upstream, vector: Upstream, lanes: range) -> Upstream:
    indices = ir.Constant(ir.VectorType(_WORD, len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), indices)


_SUMMED_BY = {"avx512_vnni": _by_vnni, "avx_vnni": _by_half_vnni, "portable": _portably}


def _at(builder: Upstream, kind: Upstream, *addends: Upstream) -> Upstream:
    """The sum of some numbers as the address of a ``kind``."""
    total = addends[0]
    for addend in addends[1:]:
        total = builder.add(total, addend)
    return builder.inttoptr(total, kind.as_pointer())


def _emit_tile(builder: Upstream, arguments: Upstream, rows: int, flavour: Flavour) -> None:
    """Write the loop over the inputs: of each step four registers of weights, and of each row four inputs."""
    weights, inputs, stride, steps, sums = arguments
    zeros, quarters = ir.Constant(_SUMS, [0] * 16), range(4)
    before = builder.block
    loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tile_end")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_LONG)
    running = [[builder.phi(_SUMS) for _ in quarters] for _ in range(rows)]
    offset = builder.mul(step, _LONG(_STEP * TILE))
    read = [builder.load(_at(builder, _SUMS, weights, offset, _LONG(64 * quarter)), align=64) for quarter in quarters]
    if rows > 1:  # one row waits for memory alone, which then is read no faster
        for quarter in quarters:
            _fetch(builder, _at(builder, _BYTE, weights, offset, _LONG(64 * quarter + _AHEAD)))
    following = builder.add(step, _LONG(1))
    step.add_incoming(_LONG(0), before)
    step.add_incoming(following, loop)
    totals: list[Upstream] = []
    for row, sums_of_row in enumerate(running):
        place = _at(builder, _WORD, inputs, builder.mul(stride, _LONG(row)), builder.mul(step, _LONG(_STEP)))
        four = builder.insert_element(ir.Constant(_SUMS, ir.Undefined), builder.load(place, align=4), _WORD(0))
        four = builder.shuffle_vector(four, four, zeros)
        for quarter, before_step in enumerate(sums_of_row):
            totals.append(_SUMMED_BY[flavour](builder, before_step, four, read[quarter]))
            before_step.add_incoming(zeros, before)
            before_step.add_incoming(totals[-1], loop)
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
    builder.position_at_end(after)
    for place, total in enumerate(totals):
        builder.store(total, _at(builder, _SUMS, sums, _LONG(64 * place)), align=4)


def _tile_of(rows: int, flavour: Flavour) -> Function:
    """Make ``(weights, inputs, stride, steps, sums)``: the 64 sums of a tile for each of ``rows`` rows.

    Args of the made function: addresses of the tile's weights, 64-byte aligned, of the rows' codes and of the sums
    [rows, 64] int32; bytes from row to row; steps of four inputs to a sum.
    """

    def generate(context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        _emit_tile(builder, arguments, rows, flavour)
        return context.get_dummy_value()

    def tile(
        _context: Upstream, _weights: Upstream, _inputs: Upstream, _stride: Upstream, _steps: Upstream, _sums: Upstream
    ) -> Upstream:
        return types.void(types.int64, types.int64, types.int64, types.int64, types.int64), generate

    made: Upstream = intrinsic(tile)
    return made


def make_tiles(flavour: Flavour) -> Function:
    """Make ``(rows, weights, inputs, stride, steps, sums)`` for one to four rows; see :func:`_tile_of`."""
    one, two, three, four = [_tile_of(rows, flavour) for rows in range(1, TILE_ROWS + 1)]

    @part()
    def tiles(rows: int, weights: int, inputs: int, stride: int, steps: int, sums: int) -> None:
        if rows == 1:
            one(weights, inputs, stride, steps, sums)
        elif rows == 2:
            two(weights, inputs, stride, steps, sums)
        elif rows == 3:
            three(weights, inputs, stride, steps, sums)
        else:
            four(weights, inputs, stride, steps, sums)

    return tiles


_tiles = make_tiles(this_cpus())

STORE, ADD, GATE = 0, 1, 2
"""What becomes of a product: it is written, added to what is there, or, where a tile holds 32 gates and the 32 values
that they gate, silu(gate) * value is written."""


@part()
def quantise(row: Row, codes: int) -> np.float32:
    """Round a row to int8, so that its largest magnitude becomes 127; 128 is added to each.

    Args:
        row: [K] float32; overwritten.
        codes: address of [K] uint8.

    Returns:
        The largest magnitude, 1e-8 at the least.
    """
    magnitudes, written = row.view(np.uint32), uint8_at(codes, row.size)
    bits = np.uint32(0)  # read as whole numbers, magnitudes keep their order, and are vectorised
    for i in range(row.size):
        bits = max(bits, magnitudes[i] & np.uint32(0x7FFFFFFF))
    most = max(np.uint32(bits).view(np.float32), np.float32(1e-8))
    scale = np.float32(1) / most * np.float32(_MOST)
    for i in range(row.size):
        row[i] = row[i] * scale + ROUNDER
        written[i] = np.uint8(magnitudes[i] + np.uint32(_OFFSET))
    return most


@part("contract")
def multiply(
    product: Upstream, me: int, team: int, codes: int, most: Row, sums: int, out: int, width: int, kind: int
) -> None:
    """One thread's share of the product of some rows by a weight.

    Args:
        product: one of :data:`PRODUCT`.
        me: the thread's number.
        team: threads.
        codes: address of the rows as :func:`quantise` left them, [rows, inputs].
        most: [rows], their largest magnitudes.
        sums: address of room for [4, 64] int32, this thread's.
        out: address of [rows, width] float32.
        width: from row to row of ``out``.
        kind: what becomes of it.
    """
    rows, inputs = most.size, product.inputs
    parts = -(-rows // TILE_ROWS)
    for tile in range(product.tiles * me // team, product.tiles * (me + 1) // team):
        scales = float32_at(product.scales + 4 * TILE * tile, TILE)
        added = int32_at(product.added + 4 * TILE * tile, TILE)
        for each in range(parts):
            first, end = rows * each // parts, rows * (each + 1) // parts
            weights = product.packed + TILE * inputs * tile
            _tiles(end - first, weights, codes + first * inputs, inputs, inputs // _STEP, sums)
            for row in range(first, end):
                found, factor = int32_at(sums + 4 * TILE * (row - first), TILE), most[row]
                if kind == GATE:
                    gated = float32_at(out + 4 * (row * width + TILE // 2 * tile), TILE // 2)
                    for i in range(TILE // 2):
                        gate = np.float32(found[i] - added[i]) * scales[i] * factor
                        value = np.float32(found[32 + i] - added[32 + i]) * scales[32 + i] * factor
                        gated[i] = gate / (np.float32(1) + exp(-gate)) * value
                    continue
                written = float32_at(out + 4 * (row * width + TILE * tile), TILE)
                if kind == ADD:
                    for i in range(TILE):
                        written[i] += np.float32(found[i] - added[i]) * scales[i] * factor
                else:
                    for i in range(TILE):
                        written[i] = np.float32(found[i] - added[i]) * scales[i] * factor


def pair_up(gate: Tensor, up: Tensor) -> Tensor:
    """Lay 32 rows of ``gate`` [N, K] before the 32 of ``up`` that they gate, and so on; N is filled with zeros."""
    half = TILE // 2
    rows = -(-len(gate) // half) * half
    filled = [torch.nn.functional.pad(each, (0, 0, 0, rows - len(each))) for each in (gate, up)]
    return torch.cat([each.view(-1, half, each.shape[1]) for each in filled], dim=1).flatten(0, 1)
