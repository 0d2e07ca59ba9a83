"""Matmuls with constant weights, laid out so that a CPU reads them once, in order, and sums every row alike.

A tile is a group of outputs. Its sums are made in a fixed order whatever the other rows are, so that rows do not affect
each other. This module handles rows and weights, not layers. There are four weight formats:

- float32 and bfloat16 are multiplied with float32 inputs and summed in float32;
- int8: inputs are rounded to int8 too, each row scaled by its own largest magnitude, and integer sums are exact. The
  CPU's instructions for such sums need one unsigned factor. For VNNI, a row is stored with 128 added to each code, and
  the effect on a sum, which is known from the weights, is subtracted. For AVX2, whose sums of two products have 16
  bits, the signs of the weights are moved to the row; the sums fit since no code is -128;
- int4 has half as many bytes, see ``nibbles``.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from torch import Tensor

from serve_app.model.backends.cpu.instructions import (
    ADD_PRODUCTS,
    LANES,
    LONG,
    REALS,
    SUMS,
    TILE,
    TILE_ROWS,
    Flavour,
    add_signed_products,
    at,
    broadcast,
    by_rows,
    fetch_ahead,
    multiply_add,
    splat,
    this_cpus,
)
from serve_app.model.backends.cpu.llvm import Builder, Typed, Value, Values, intrinsic
from serve_app.model.backends.cpu.nibbles import GROUP, GROUP_WORDS, make_int4_tiles, pack
from serve_app.model.backends.cpu.parts import (
    REAL,
    ROUNDER,
    Addresses,
    Function,
    Reals,
    Record,
    Row,
    exp,
    float32_at,
    int32_at,
    part,
    uint8_at,
)
from serve_app.model.backends.cpu.strands import STRANDS, deal
from serve_app.model.backends.cpu.team import claim, team_size
from serve_app.model.backends.cpu.window_tiles import OUTPUTS, ROWS, go_on


class WeightFormat(StrEnum):
    """Format of a constant weight's entries."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


def lossless(dtype: torch.dtype) -> WeightFormat:
    """The format that keeps weights of ``dtype``, float32 or bfloat16, as they are."""
    return WeightFormat(str(dtype).removeprefix("torch."))


_STEP_BYTES = 4
"""Bytes of a row that are multiplied with a tile's weights at a time."""

_INT8_STEP = 4
"""Number of int8 inputs in these bytes."""

_MOST = 127.0

_ROUNDED = 0x4B400000
"""The bits of :data:`ROUNDER`."""

_FORMATS = {weight_format: number for number, weight_format in enumerate(WeightFormat)}
_FLOAT32, _BFLOAT16, _INT8, _INT4 = _FORMATS.values()

_How = Flavour | Literal["float32", "bfloat16"]
"""How a tile's products are computed and summed."""

_BYTES_A_STEP: dict[_How, int] = {"float32": 4 * TILE, "bfloat16": 2 * TILE}
"""Bytes of a tile's weights that are multiplied at a time; the default is four int8 per output."""


_OFFSET = 0 if this_cpus() == "avx2" else 128
"""Offset that is added to each of a row's codes."""


@dataclass(frozen=True, slots=True)
class TiledWeight:
    """A weight [N, K] in tiles; zeros fill the last tile.

    Attributes:
        weight_format: format of its entries.
        packed: [STRANDS, tiles, steps / STRANDS, ...], steps distributed by ``strands.deal``. A step of float32 is
            [TILE] of one input. A step of bfloat16 is [TILE / 32, 16, 2]: of one input, the outputs 0 and 16, 1 and 17
            and so on up to 15 and 31, then 32 and 48 and so on. A step of int8 is [TILE, 4]: four inputs of each
            output. A step of int4 is a group of inputs as laid out by ``nibbles.pack``.
        scales: for int8: [tiles * TILE] float32, factors of the sums besides the row's largest magnitude.
        added: for int8: [tiles * TILE] int32, what the rows' offset adds to a sum.
    """

    weight_format: WeightFormat
    packed: Tensor
    scales: Tensor
    added: Tensor

    @classmethod
    def of(cls, weight: Tensor, weight_format: WeightFormat) -> "TiledWeight":
        """Lay out a copy of ``weight``; int8 is quantised per output, scaled by its largest magnitude."""
        if weight_format == WeightFormat.INT4:
            return cls(weight_format, deal(pack(weight)), torch.empty(0), torch.empty(0, dtype=torch.int32))
        rows, columns = weight.shape
        filled_rows = -(-rows // TILE) * TILE
        if weight_format == WeightFormat.BFLOAT16:
            filled = torch.zeros(filled_rows, columns, dtype=torch.bfloat16)
            filled[:rows] = weight
            packed = filled.view(-1, TILE // (2 * LANES), 2, LANES, columns).permute(0, 4, 1, 3, 2)
            return cls(weight_format, deal(packed), torch.empty(0), torch.empty(0, dtype=torch.int32))
        if weight_format == WeightFormat.FLOAT32:
            exact = torch.zeros(filled_rows, columns)
            exact[:rows] = weight
            packed = exact.view(-1, TILE, columns).transpose(1, 2)
            return cls(weight_format, deal(packed), torch.empty(0), torch.empty(0, dtype=torch.int32))
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-8) / _MOST  # [N]
        codes = torch.zeros(filled_rows, -(-columns // _INT8_STEP) * _INT8_STEP, dtype=torch.int8)
        codes[:rows, :columns] = (weight.float() / scale[:, None]).round().clamp(-_MOST, _MOST).to(torch.int8)
        scales = torch.zeros(filled_rows)
        scales[:rows] = scale / _MOST
        packed = codes.view(-1, TILE, codes.shape[1] // _INT8_STEP, _INT8_STEP).transpose(1, 2)
        return cls(weight_format, deal(packed), scales, _OFFSET * codes.sum(dim=1, dtype=torch.int32))

    @property
    def outputs(self) -> int:
        """Outputs that a matmul writes: N, including what fills the last tile."""
        return self.packed.shape[1] * TILE

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of inputs as written by :func:`take`."""
        return _STEP_BYTES * self._steps

    @property
    def _steps(self) -> int:
        return STRANDS * self.packed.shape[2] * (GROUP_WORDS if self.weight_format == WeightFormat.INT4 else 1)

    @property
    def nbytes(self) -> int:
        """Bytes that a matmul reads."""
        return self.packed.nbytes + self.scales.nbytes + self.added.nbytes

    def fields(self) -> tuple[int, ...]:
        """Values of the fields of :data:`PRODUCT`."""
        addresses = (each.data_ptr() for each in (self.packed, self.scales, self.added))
        strand = self.packed[0]
        return *addresses, len(strand), self._steps, strand[0].nbytes, strand.nbytes, _FORMATS[self.weight_format]


_FIELDS = "packed", "scales", "added", "tiles", "steps", "tile_bytes", "strand_bytes", "weight_format"
PRODUCT = np.dtype([(field, np.int64) for field in _FIELDS])
"""A :class:`TiledWeight` for compiled code. A step is four bytes of a row: one input, four of int8, or a sum of these.
``tile_bytes`` is the size of a tile in one strand."""

PRODUCTS: types.Type = numba.from_dtype(PRODUCT)
"""The same type for compiled code."""


def _read_weights(builder: Builder, address: Value, how: _How) -> list[Value]:
    """One step's weights as vectors of sixteen outputs, ready to multiply."""
    if how != "bfloat16":
        kind = REALS if how == "float32" else SUMS
        return [builder.load(at(builder, kind, address, LONG(64 * each)), align=64) for each in range(TILE // LANES)]
    registers: list[Value] = []
    for pair in range(TILE // (2 * LANES)):
        pairs = builder.load(at(builder, SUMS, address, LONG(64 * pair)), align=64)
        low, high = builder.shl(pairs, splat(16)), builder.and_(pairs, splat(0xFFFF0000))
        registers += [builder.bitcast(low, REALS), builder.bitcast(high, REALS)]
    return registers


def _emit_tile(builder: Builder, arguments: Values, rows: int, how: _How) -> None:
    """Write the loop over steps, one step per strand in turn: the weights of all outputs, four bytes of each row."""
    weights, apart, inputs, stride, steps, sums = arguments
    vector, bytes_a_step = SUMS if how in ADD_PRODUCTS else REALS, _BYTES_A_STEP.get(how, _INT8_STEP * TILE)
    vectors = TILE // LANES
    before = builder.block
    loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tile_end")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, place = builder.phi(LONG), builder.phi(LONG)
    running = [builder.phi(vector) for _ in range(rows * vectors)]
    totals: Values = running
    for strand in range(STRANDS):
        address = builder.add(place, builder.mul(apart, LONG(strand)))
        read = _read_weights(builder, address, how)
        fetch_ahead(builder, address, bytes_a_step)
        bytes_before = builder.mul(builder.add(step, LONG(strand)), LONG(_STEP_BYTES))
        begins = [builder.add(inputs, builder.mul(stride, LONG(row))) for row in range(rows)]
        given = [broadcast(builder, vector, builder.add(begin, bytes_before)) for begin in begins]
        totals = [
            _add_products(builder, how, total, given[number // vectors], read[number % vectors])
            for number, total in enumerate(totals)
        ]
    following, place_after = builder.add(step, LONG(STRANDS)), builder.add(place, LONG(bytes_a_step))
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
    zeros = ir.Constant(vector, [0] * LANES)
    for phi, entering, going_on in (
        (step, LONG(0), following),
        (place, weights, place_after),
        *((phi, zeros, total) for phi, total in zip(running, totals, strict=True)),
    ):
        phi.add_incoming(entering, before)
        phi.add_incoming(going_on, loop)
    builder.position_at_end(after)
    for number, total in enumerate(totals):
        builder.store(total, at(builder, vector, sums, LONG(64 * number)), align=4)


def _add_products(builder: Builder, how: _How, sums: Value, inputs: Value, weights: Value) -> Value:
    if how in ("float32", "bfloat16"):
        return multiply_add(builder, inputs, weights, sums)
    if how == "avx2":
        return add_signed_products(builder, sums, weights, inputs)
    return ADD_PRODUCTS[how](builder, sums, inputs, weights)


def make_tiles(how: _How) -> Function:
    """Make ``(rows, weights, apart, inputs, stride, steps, sums)``: a tile's sums for each of 1 to ``TILE_ROWS`` rows.

    Arguments of the made function: rows; address of the tile's weights in the first strand, 64-byte aligned; bytes from
    strand to strand; address of the rows' inputs; bytes from row to row; steps per sum, the same number in each strand;
    address of the sums [rows, TILE] int32 or float32.
    """
    return by_rows(lambda builder, arguments, rows: _emit_tile(builder, arguments, rows, how))


_int8_tiles, _int4_tiles = make_tiles(this_cpus()), make_int4_tiles(this_cpus())
_float32_tiles, _bfloat16_tiles = make_tiles("float32"), make_tiles("bfloat16")

_CHUNK = 256
"""Inputs whose tile weights stay in a core's nearest cache, as float32, while many rows pass."""

_PANELS = TILE // OUTPUTS

assert _PANELS * -(-(2 * TILE_ROWS + 1) // ROWS) >= STRANDS, "a pass of many rows must prefetch from every strand"


def _unpack_of(how: Literal["float32", "bfloat16"]) -> Function:
    """Make ``(weights, apart, steps, panels)``: unpacks steps of a tile's weights to float32 [PANELS, CHUNK, OUTPUTS].

    Arguments of the made function: address of the weights in the first strand; bytes from strand to strand; steps, the
    same number in each strand; address of the panels.
    """

    def generate(context: BaseContext, builder: Builder, _signature: object, arguments: Values) -> Value:
        weights, apart, steps, panels = arguments
        with cgutils.for_range(builder, builder.udiv(steps, LONG(STRANDS))) as loop:
            place = builder.add(weights, builder.mul(loop.index, LONG(_BYTES_A_STEP[how])))
            for strand in range(STRANDS):
                step = builder.add(builder.mul(loop.index, LONG(STRANDS)), LONG(strand))
                read = _read_weights(builder, builder.add(place, builder.mul(apart, LONG(strand))), how)
                for number, vector in enumerate(read):
                    panel, output = divmod(LANES * number, OUTPUTS)
                    row = builder.add(LONG(panel * _CHUNK), step)
                    offset = builder.mul(builder.add(builder.mul(row, LONG(OUTPUTS)), LONG(output)), LONG(4))
                    builder.store(vector, at(builder, REALS, panels, offset), align=4)
        return context.get_dummy_value()

    def unpack(
        _context: object, _weights: types.Type, _apart: types.Type, _steps: types.Type, _panels: types.Type
    ) -> Typed:
        return types.void(*[types.int64] * 4), generate

    return intrinsic(unpack)


_unpack_float32, _unpack_bfloat16 = _unpack_of("float32"), _unpack_of("bfloat16")


@part()
def _sum_many(product: Record, weights: int, taken: int, starts: Addresses, panels: Reals, sums: Reals) -> None:
    """A tile's float32 sums of many rows, in the same order as for each row alone.

    Args:
        product: one of :data:`PRODUCT`, with float32 or bfloat16 weights.
        weights: address of the tile's weights.
        taken: address of the rows as written by :func:`take`.
        starts: [rows] int64, scratch.
        panels: [PANELS, CHUNK, OUTPUTS] float32, scratch; aligned like one of its rows.
        sums: [PANELS, rows, OUTPUTS] float32, overwritten.
    """
    rows, stride = starts.size, _STEP_BYTES * product.steps
    parts, step_bytes = -(-rows // ROWS), STRANDS * product.tile_bytes // product.steps
    calls = _PANELS * parts // STRANDS  # per strand; each call prefetches a part of what is read there next
    pace = -(-step_bytes // (STRANDS * calls))
    sums[:] = np.float32(0)
    for first in range(0, product.steps, _CHUNK):
        count = min(_CHUNK, product.steps - first)
        here = weights + step_bytes * first // STRANDS
        if product.weight_format == _FLOAT32:
            _unpack_float32(here, product.strand_bytes, count, panels.ctypes.data)
        else:
            _unpack_bfloat16(here, product.strand_bytes, count, panels.ctypes.data)
        for row in range(rows):
            starts[row] = taken + stride * row + _STEP_BYTES * first
        following = here + step_bytes * count // STRANDS
        for call in range(_PANELS * parts):
            panel, each = call // parts, call % parts
            begin, end = rows * each // parts, rows * (each + 1) // parts
            ahead, strand = here, call // calls
            if strand < STRANDS:
                ahead = following + product.strand_bytes * strand + pace * count * (call % calls)
            go_on(
                end - begin,
                panels[panel].ctypes.data,
                starts[begin:].ctypes.data,
                1,
                0,
                count,
                sums[panel, begin].ctypes.data,
                ahead,
                pace if strand < STRANDS else 0,
            )


STORE, ADD, GATE = 0, 1, 2
"""What to do with a matmul's result: write it, add it to the existing values, or, if a tile holds gates followed by the
values that they gate, write silu(gate) * value."""


@part()
def take(row: Row, product: Record, taken: int) -> np.float32:
    """Convert a row of inputs to the form that a matmul reads.

    Args:
        row: [K] float32; may be overwritten.
        product: one of :data:`PRODUCT`.
        taken: address of ``row_bytes`` bytes, written.

    Returns:
        Factor of the row's sums.
    """
    if product.weight_format == _INT8:
        return quantise(row, taken)
    if product.weight_format == _INT4:
        return quantise_groups(row, product.steps // GROUP_WORDS, taken) / np.float32(_MOST)
    copied = float32_at(taken, product.steps)
    for i in range(row.size):
        copied[i] = row[i]
    for i in range(row.size, product.steps):
        copied[i] = np.float32(0)
    return np.float32(1)


@part()
def quantise(row: Row, codes: int) -> np.float32:
    """Round a row to int8, scaled so that its largest magnitude becomes 127; adds ``_OFFSET`` to each code.

    Args:
        row: [K] float32; overwritten.
        codes: address of [K] bytes, signed if the offset is 0.

    Returns:
        The largest magnitude, at least 1e-8.
    """
    most, rounded, written = _round(row), row.view(np.uint32), uint8_at(codes, row.size)
    for i in range(row.size):
        written[i] = np.uint8(rounded[i] + np.uint32(_OFFSET))
    return most


@part()
def quantise_groups(row: Row, count: int, groups: int) -> np.float32:
    """Round a row to int8, scaled so that its largest magnitude becomes 127, and sum the codes of each group.

    Args:
        row: [K] float32; overwritten.
        count: number of groups; K inputs, padded with zeros.
        groups: address of [count, GROUP_WORDS] int32: for each group its signed codes, and their sum.

    Returns:
        The largest magnitude, at least 1e-8.
    """
    most, rounded = _round(row), row.view(np.uint32)
    for group in range(count):
        place, first = groups + _STEP_BYTES * GROUP_WORDS * group, GROUP * group
        written, here, total = uint8_at(place, GROUP), max(0, min(GROUP, row.size - first)), np.int32(0)
        for i in range(here):
            written[i] = np.uint8(rounded[first + i])
            total += np.int32(rounded[first + i]) - np.int32(_ROUNDED)
        for i in range(here, GROUP):
            written[i] = 0
        int32_at(place + GROUP, 1)[0] = total
    return most


@part()
def _round(row: Row) -> np.float32:
    """Scale a row so that its largest magnitude becomes 127, and round it: its lowest bits then hold the codes."""
    magnitudes = row.view(np.uint32)
    bits = np.uint32(0)  # as integers, magnitudes keep their order, and the loop is vectorised
    for i in range(row.size):
        bits = max(bits, magnitudes[i] & np.uint32(0x7FFFFFFF))
    most = max(np.uint32(bits).view(np.float32), np.float32(1e-8))
    scale = np.float32(1) / most * np.float32(_MOST)
    for i in range(row.size):
        row[i] = row[i] * scale + ROUNDER
    return most


@part("contract")
def _multiply_tile(
    product: Record, tile: int, taken: int, factors: Row, sums: int, out: int, width: int, kind: int, values: Row
) -> None:
    """One tile of a matmul that reads the weights again for every ``TILE_ROWS`` rows; ``values`` [TILE] is scratch."""
    rows, stride, apart = factors.size, _STEP_BYTES * product.steps, product.strand_bytes
    parts, weights = -(-rows // TILE_ROWS), product.packed + product.tile_bytes * tile
    for each in range(parts):
        first, end = rows * each // parts, rows * (each + 1) // parts
        given = taken + first * stride
        if product.weight_format == _INT8:
            _int8_tiles(end - first, weights, apart, given, stride, product.steps, sums)
        elif product.weight_format == _INT4:
            _int4_tiles(end - first, weights, apart, given, stride, product.steps // GROUP_WORDS, sums)
        elif product.weight_format == _FLOAT32:
            _float32_tiles(end - first, weights, apart, given, stride, product.steps, sums)
        else:
            _bfloat16_tiles(end - first, weights, apart, given, stride, product.steps, sums)
        for row in range(first, end):
            place = sums + 4 * TILE * (row - first)
            if product.weight_format == _INT8:
                _scale(product, tile, place, factors[row], values)
                _settle(values, out, row, width, tile, kind)
            elif product.weight_format == _INT4:
                found = float32_at(place, TILE)
                for i in range(TILE):
                    values[i] = found[i] * factors[row]
                _settle(values, out, row, width, tile, kind)
            else:
                _settle(float32_at(place, TILE), out, row, width, tile, kind)


@part("contract")
def _multiply_few(
    product: Record, team: Record, taken: int, factors: Row, sums: int, out: int, width: int, kind: int
) -> None:
    """:func:`multiply` for few rows, or for integer weights."""
    values = np.empty(TILE, np.float32)
    for turn in range(team_size(team)):
        tile = claim(team, turn, product.tiles)
        while tile >= 0:
            _multiply_tile(product, tile, taken, factors, sums, out, width, kind, values)
            tile = claim(team, turn, product.tiles)


@part("contract")
def _multiply_many(product: Record, team: Record, taken: int, rows: int, out: int, width: int, kind: int) -> None:
    """:func:`multiply` with float32 or bfloat16 weights, unpacked once for all rows; needs some rows to pay off."""
    scratch = np.empty((_PANELS * _CHUNK + 1) * OUTPUTS, np.float32)
    skipped = OUTPUTS - scratch.ctypes.data // REAL % OUTPUTS  # panels are read in whole registers
    panels = scratch[skipped : skipped + _PANELS * _CHUNK * OUTPUTS].reshape(_PANELS, _CHUNK, OUTPUTS)
    starts = np.empty(rows, np.int64)
    sums, values = np.empty((_PANELS, rows, OUTPUTS), np.float32), np.empty((_PANELS, OUTPUTS), np.float32)
    for turn in range(team_size(team)):
        tile = claim(team, turn, product.tiles)
        while tile >= 0:
            _sum_many(product, product.packed + product.tile_bytes * tile, taken, starts, panels, sums)
            for row in range(rows):
                for panel in range(_PANELS):
                    values[panel] = sums[panel, row]
                _settle(values.reshape(TILE), out, row, width, tile, kind)
            tile = claim(team, turn, product.tiles)


@part("contract")
def multiply(
    product: Record, team: Record, taken: int, factors: Row, sums: int, out: int, width: int, kind: int
) -> None:
    """One thread's part of a matmul: its own share, and what remains of the others'.

    Args:
        product: one of :data:`PRODUCT`.
        team: the team; all of its threads call this with the same product and rows, and synchronize before the next
            matmul.
        taken: address of the rows as written by :func:`take`, the same for each thread.
        factors: [rows], as returned by :func:`take`.
        sums: address of scratch [TILE_ROWS, TILE] float32 or int32, private to this thread.
        out: address of [rows, width] float32.
        width: distance between rows of ``out``.
        kind: what to do with the result.
    """
    if factors.size > 2 * TILE_ROWS and product.weight_format in (_FLOAT32, _BFLOAT16):
        _multiply_many(product, team, taken, factors.size, out, width, kind)
    else:
        _multiply_few(product, team, taken, factors, sums, out, width, kind)


@part()
def _scale(product: Record, tile: int, sums: int, most: np.float32, values: Row) -> None:
    """Multiply sums of int8 products by their scales."""
    scales = float32_at(product.scales + 4 * TILE * tile, TILE)
    added = int32_at(product.added + 4 * TILE * tile, TILE)
    found = int32_at(sums, TILE)
    for i in range(TILE):
        values[i] = np.float32(found[i] - added[i]) * scales[i] * most


@part("contract")
def _settle(values: Row, out: int, row: int, width: int, tile: int, kind: int) -> None:
    """Write, add or gate a tile's values."""
    if kind == GATE:
        gated = float32_at(out + 4 * (row * width + TILE // 2 * tile), TILE // 2)
        for i in range(TILE // 2):
            gated[i] = values[i] / (np.float32(1) + exp(-values[i])) * values[TILE // 2 + i]
        return
    written = float32_at(out + 4 * (row * width + TILE * tile), TILE)
    for i in range(TILE):
        written[i] = written[i] + values[i] if kind == ADD else values[i]


def pair_up(gate: Tensor, up: Tensor) -> Tensor:
    """Interleave half tiles: rows of ``gate`` [N, K] before the rows of ``up`` that they gate; zeros fill N."""
    half = TILE // 2
    rows = -(-len(gate) // half) * half
    filled = [torch.nn.functional.pad(each, (0, 0, 0, rows - len(each))) for each in (gate, up)]
    return torch.cat([each.view(-1, half, each.shape[1]) for each in filled], dim=1).flatten(0, 1)
