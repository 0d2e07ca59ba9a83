"""Convolutions of seven taps with a third of the multiplications, on one thread.

A unit is six output columns, two taps' distance apart, and the twelve input columns that they read. Directly, six
columns of seven taps are 42 products of a column and a weight. Here, 14 blends of the twelve input columns are
multiplied with 14 blends of the weights, and the output columns are blends of the results. This is Winograd's F(6, 7):
polynomials are multiplied by their residues at 0, infinity, plus and minus 1/2, 1 and 2, and modulo x^2 + x + 1 and
x^2 - x + 1. Each of these two takes three products, and two more points would take only two, but other points make
sums of very different sizes. A convolution rounds here about three times as much as with all 42 products; with twelve
products, using only points and x^2 + 1, it rounds eleven times as much (measured on six columns, random weights).

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016; Barabasz and Gregg, Winograd
Convolution for DNNs: Beyond Linear Polynomials, 2019; the blends by Toom and Cook's method.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.backends.cpu.instructions import LONG, at, by_number, multiply_add
from serve_app.model.backends.cpu.llvm import Builder, Typed, Value, Values, intrinsic
from serve_app.model.backends.cpu.parts import REAL, Addresses, Function, Reals, Record, part
from serve_app.model.backends.cpu.window_tiles import OUTPUTS, ROWS, add_tile, put_outputs

TAPS = 7

UNITS = 8 * ROWS
"""Maximum number of units of a block: a group of their blends stays in a core's own cache while a weight passes."""

_COLUMNS = 6
_READS = _COLUMNS + TAPS - 1


@dataclass(frozen=True, slots=True)
class _Group:
    """Blends that are computed together from sums over every other column.

    Attributes:
        factors: factors of columns ``first + i``, ``first + i + 2`` and so on in sum i.
        first: column of the first sum.
        blends: [blends, sums], factor of each sum in each blend.
        unblend: [blends, COLUMNS], factor of each blend's product in each output column.
    """

    factors: NDArray[np.float64]
    first: int
    blends: NDArray[np.float64]
    unblend: NDArray[np.float64]

    def of_columns(self) -> NDArray[np.float64]:
        """Factor of each input column in each blend: [blends, READS]."""
        sums = np.zeros((self.blends.shape[1], _READS))
        for number, row in enumerate(sums):
            row[self.first + number :: 2][: len(self.factors)] = self.factors
        return self.blends @ sums


def _with_roots(*roots: float) -> NDArray[np.float64]:
    """Coefficients of the polynomial with these roots, the constant first."""
    return np.asarray(np.poly(roots)[::-1], np.float64)


def _groups() -> list[_Group]:
    # The product of all divisors is x * N(x^2), N(y) = (y^3 - 1)(y - 1/4)(y - 4). A blend is a column of the quotient
    # by one of its factors; the quotient's odd columns are summed like the even ones.
    squares = _with_roots(0.25, 4.0)
    all_of_them = np.convolve(squares, [-1.0, 0.0, 0.0, 1.0])
    ends = np.zeros((2, _COLUMNS))
    ends[0, 0] = ends[1, -1] = 1.0
    groups = [_Group(all_of_them, 0, np.eye(2), ends)]
    for point in (1.0, 0.5, 2.0):
        others = np.convolve(_with_roots(*{0.25, 1.0, 4.0} - {point**2}), [1.0, 1.0, 1.0])
        unblend = np.vander([point, -point], _COLUMNS, increasing=True)
        groups.append(_Group(others, 1, np.array([[point, 1.0], [-point, 1.0]]), unblend))
    others = np.convolve(squares, [-1.0, 1.0])
    for sign in (1.0, -1.0):  # x^2 + sign * x + 1: the residue of x^k, and a third product by Karatsuba
        left = np.array([[1.0, 0.0, -1.0, sign, 0.0, -sign], [0.0, 1.0, -sign, 0.0, sign, -1.0]])
        blends = np.array([[1.0, 0.0, 0.0, sign], [1.0, -sign, 1.0, 0.0], [0.0, 1.0, -sign, 1.0]])
        groups.append(_Group(others, 1, blends, np.vstack([left, left[0] - sign * left[1]])))
    return groups


_GROUPS = _groups()
_SUMS = sum(len(group.blends) for group in _GROUPS)
_FIRST_OF_GROUP = np.cumsum([0, *(len(group.blends) for group in _GROUPS)])
_MAX_BLENDS = max(len(group.blends) for group in _GROUPS)
_OF_COLUMNS = np.vstack([group.of_columns() for group in _GROUPS])
_OF_PRODUCTS = np.vstack([group.unblend for group in _GROUPS])


def _of_weights() -> NDArray[np.float64]:
    """Factor of each tap in each blend [SUMS, TAPS]: output column i sums tap j times input column i + j."""
    known = np.einsum("pi,pk->ikp", _OF_PRODUCTS, _OF_COLUMNS).reshape(-1, _SUMS)
    wanted = np.array([np.eye(_READS, TAPS, -column) for column in range(_COLUMNS)]).reshape(-1, TAPS)
    return np.linalg.lstsq(known, wanted)[0]


_OF_WEIGHTS = _of_weights()


def blended_weights(weight: Tensor) -> Tensor:
    """Blend the weight of a convolution, and lay it out in tiles.

    Args:
        weight: [N, 7 * C] float32, the oldest column first.

    Returns:
        [SUMS, tiles, C, OUTPUTS] float32.
    """
    outputs, inputs = weight.shape
    tiles = -(-outputs // OUTPUTS)
    filled = torch.zeros(tiles * OUTPUTS, TAPS, inputs // TAPS, dtype=torch.float64)
    filled[:outputs] = weight.view(outputs, TAPS, -1)
    blended = torch.einsum("st,ntc->snc", torch.from_numpy(_OF_WEIGHTS), filled).float()
    return blended.unflatten(1, (tiles, OUTPUTS)).transpose(2, 3).contiguous()


def units_of(columns: int, dilation: int) -> int:
    """Number of units for ``columns`` output columns of a stream; some units compute surplus columns."""
    group = _COLUMNS * dilation
    return columns // group * dilation + min(columns % group, dilation)


_REALS = ir.VectorType(ir.FloatType(), OUTPUTS // 2)


def _sum(builder: Builder, factors: Iterable[float], values: Iterable[Value]) -> Value:
    """Emit the sum of factor * value, for vectors or numbers; the values are computed one by one."""
    total: Value | None = None
    for factor, value in zip(factors, values, strict=True):
        if total is not None:
            total = _add(builder, total, factor, value)
        elif factor != 0:
            total = value if factor == 1 else builder.fmul(_constant(value.type, factor), value)
    assert total is not None, "every sum has a factor other than 0"
    return total


def _add(builder: Builder, total: Value, factor: float, value: Value) -> Value:
    """Emit total + factor * value, for vectors or numbers."""
    if factor == 0:
        return total
    if abs(factor) == 1:
        return builder.fadd(total, value) if factor > 0 else builder.fsub(total, value)
    return multiply_add(builder, _constant(value.type, factor), value, total)


def _constant(kind: ir.Type, value: float) -> Value:
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _blend_of(group: _Group) -> Function:
    """Make ``(reads, n, blended, apart)``: a group's blends of the ``n`` values of columns.

    Arguments of the made function: address of the addresses [READS] of the columns, number of values, address of the
    first blend, and bytes from blend to blend.
    """

    def emit(builder: Builder, kind: ir.Type, columns: list[Value], place: Value, outs: list[Value]) -> None:
        sums: list[Value] = []
        for number in range(group.blends.shape[1]):
            addresses = columns[group.first + number :: 2]
            values = (builder.load(at(builder, kind, each, place), align=REAL) for each in addresses)
            sums.append(_sum(builder, group.factors, itertools.islice(values, len(group.factors))))
        for out, factors in zip(outs, group.blends, strict=True):
            builder.store(_sum(builder, factors, sums), at(builder, kind, out, place), align=REAL)

    def generate(context: BaseContext, builder: Builder, _signature: object, arguments: Values) -> Value:
        reads, n, blended, apart = arguments
        columns = [builder.load(at(builder, LONG, reads, LONG(8 * read))) for read in range(_READS)]
        outs = [builder.add(blended, builder.mul(LONG(number), apart)) for number in range(len(group.blends))]
        end = builder.mul(n, LONG(REAL))
        whole = builder.and_(end, LONG(-REAL * _REALS.count))
        for kind, begin, stop in ((_REALS, LONG(0), whole), (_REALS.element, whole, end)):
            step = LONG(REAL * getattr(kind, "count", 1))
            with cgutils.for_range_slice(builder, begin, stop, step) as (place, _):
                emit(builder, kind, columns, place, outs)
        return context.get_dummy_value()

    def blend(_context: object, _reads: types.Type, _n: types.Type, _blended: types.Type, _apart: types.Type) -> Typed:
        return types.void(*[types.int64] * 4), generate

    return intrinsic(blend)


_blend = by_number([_blend_of(group) for group in _GROUPS])
"""``(number, reads, n, blended, apart)``: calls the group with this number, from 1."""


def _make_unblend(
    _context: object, _sums: types.Type, _apart: types.Type, _bias: types.Type, _made: types.Type
) -> Typed:
    """Make ``(sums, apart, bias, made)``: a unit's output columns of one tile.

    Arguments of the made function: address of the first of its sums [OUTPUTS], bytes from sum to sum, address of the
    bias [OUTPUTS], and address of the output columns [COLUMNS, OUTPUTS] float32.
    """

    def generate(context: BaseContext, builder: Builder, _signature: object, arguments: Values) -> Value:
        sums, apart, bias, made = arguments
        for half in range(2):
            offset = LONG(REAL * _REALS.count * half)
            columns = [builder.load(at(builder, _REALS, bias, offset), align=REAL)] * _COLUMNS
            for number, factors in enumerate(_OF_PRODUCTS):
                address = at(builder, _REALS, sums, builder.mul(LONG(number), apart), offset)
                value = builder.load(address, align=REAL)
                columns = [_add(builder, total, factor, value) for total, factor in zip(columns, factors, strict=True)]
            for number, column in enumerate(columns):
                place = LONG(REAL * OUTPUTS * number)
                builder.store(column, at(builder, _REALS, made, place, offset), align=REAL)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


_unblend = intrinsic(_make_unblend)


@part()
def _find(job: Record, unit: int, reads: Addresses, outs: Addresses) -> None:
    """Compute the addresses of a unit's input and output columns; past the window it reads zeros and drops outputs."""
    stream, each = unit // job.units_of_stream, unit % job.units_of_stream
    column = each // job.dilation * _COLUMNS * job.dilation + each % job.dilation
    window = job.x + stream * job.stream_bytes
    for i in range(_READS):
        place = window + job.column_bytes * (column + i * job.dilation)
        reads[i] = place if place < window + job.stream_bytes else job.nothing
    for i in range(_COLUMNS):
        row, beyond = column + i * job.dilation, stream * job.rows_of_stream
        outs[i] = job.out + REAL * job.outputs * (beyond + row) if row < job.rows_of_stream else 0


@part()
def _put_tile(job: Record, outs: Addresses, tile: int, sums: Reals, made: Reals) -> None:
    """Write the output columns of some units for one tile, without surplus columns."""
    place = OUTPUTS * tile
    for unit in range(len(outs)):
        _unblend(sums[0, unit].ctypes.data, REAL * OUTPUTS * UNITS, job.bias + REAL * place, made.ctypes.data)
        for each in range(_COLUMNS):
            if outs[unit, each]:
                put_outputs(made[each].ctypes.data, 0, outs[unit, each] + REAL * place, job.outputs - place)


@part()
def multiply_units(job: Record, me: int, team: int) -> None:
    """Compute one thread's share of a convolution: some units, or some outputs of all of them.

    Args:
        job: one of :data:`serve_app.model.backends.cpu.window_tiles.WINDOW_PRODUCT`.
        me: number of this thread.
        team: number of threads.
    """
    units = job.rows // job.rows_of_stream * job.units_of_stream
    first_unit, end_unit, first_tile, end_tile = 0, units, 0, job.tiles
    if job.by_columns:
        first_unit, end_unit = units * me // team, units * (me + 1) // team
    else:
        first_tile, end_tile = job.tiles * me // team, job.tiles * (me + 1) // team
    n, mine = job.length, end_unit - first_unit
    reads, outs = np.empty((UNITS, _READS), np.int64), np.empty((UNITS, _COLUMNS), np.int64)
    starts, made = np.empty(UNITS, np.int64), np.empty((_COLUMNS, OUTPUTS), np.float32)
    blended = np.empty((_MAX_BLENDS, UNITS, n), np.float32)
    sums = np.empty((end_tile - first_tile, _SUMS, UNITS, OUTPUTS), np.float32)
    blocks = -(-mine // UNITS)
    for block in range(blocks):
        first = first_unit + mine * block // blocks
        count = first_unit + mine * (block + 1) // blocks - first
        for unit in range(count):
            _find(job, first + unit, reads[unit], outs[unit])
        for group in range(len(_FIRST_OF_GROUP) - 1):
            for unit in range(count):
                _blend(group + 1, reads[unit].ctypes.data, n, blended[0, unit].ctypes.data, REAL * UNITS * n)
            for number in range(_FIRST_OF_GROUP[group], _FIRST_OF_GROUP[group + 1]):
                for unit in range(count):
                    starts[unit] = blended[number - _FIRST_OF_GROUP[group], unit].ctypes.data
                for tile in range(first_tile, end_tile):
                    these = sums[tile - first_tile, number, :count]
                    these[:] = np.float32(0)
                    address = job.weights + job.tile_bytes * (number * job.tiles + tile)
                    more = tile + 1 < end_tile or end_tile - first_tile == job.tiles  # the next sum's weights follow
                    add_tile(address, 1, 0, n, starts[:count], these, more)
        for tile in range(first_tile, end_tile):
            _put_tile(job, outs[:count], tile, sums[tile - first_tile], made)
