"""Convolutions of seven taps with half of the products, on one thread; never which convolutions those are.

A unit is four columns that are made, each as far from the next as two taps, of the ten columns that those read. Four
columns of seven taps are 28 products of a column by a weight. Here blends of the ten columns are multiplied by blends
of the weights, 13 times, and the columns are blends of the sums: the first four taps by seven products, Winograd's
F(4, 4), the last three by six, F(4, 3), whose sums are made together with those of the first where they are blended
alike. A convolution rounds about four times as much as by all 28, and the codec's samples come as near to a decode in
float64 as before; with F(4, 7), of ten products, they are up to three times farther from it (measured, random weights).

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016; the blends by Toom and Cook's method.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.compiled.parts import REAL, float32_at, part
from serve_app.model.compiled.window_tiles import OUTPUTS, ROWS, add_tile, put_outputs
from serve_app.model.quiet import Upstream

TAPS = 7

UNITS = 8 * ROWS
"""Units of a block: their blends stay in a core's own cache while a weight passes."""

_COLUMNS = 4
_FIRST_TAPS = 4
_READS = _COLUMNS + TAPS - 1
_SUMS = _COLUMNS + _FIRST_TAPS - 1

_POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0)
"""Where Toom and Cook's polynomials are evaluated, besides infinity; powers of two, so that blends are hardly rounded.
:func:`_unblend` counts on these. The last three taps go without the last of them."""


def _blends(taps: int, points: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of F(4, taps): how weights [sums, taps] and columns [sums, 3 + taps] are blended; infinity's are the last."""
    sums = len(points) + 1
    of_weights, of_columns = np.zeros((sums, taps)), np.zeros((sums, sums))
    for number, point in enumerate(points):
        others = [other for other in points if other != point]
        of_weights[number] = point ** np.arange(taps) / np.prod([point - other for other in others])
        of_columns[number, :-1] = np.poly(others)[::-1]
    of_weights[-1, -1] = 1.0
    of_columns[-1] = np.poly(points)[::-1]
    return of_weights, of_columns


def _in_order(first: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blends of the first taps with that of the point which the last taps lack behind all others."""
    return first[[*range(_SUMS - 2), _SUMS - 1, _SUMS - 2]]


_OF_FIRST_WEIGHTS, _of_first_columns = map(_in_order, _blends(_FIRST_TAPS, _POINTS))
_OF_LAST_WEIGHTS, _of_last_columns = _blends(TAPS - _FIRST_TAPS, _POINTS[:-1])
_OF_COLUMNS = np.zeros((_SUMS, 2, _SUMS), np.float32)
"""Of each sum, how the unit's columns 0 to 6 are blended for the first taps, and its columns 3 to 9 for the last."""
_OF_COLUMNS[:, 0] = _of_first_columns
_OF_COLUMNS[:-1, 1, 1:] = _of_last_columns


def blended_weights(weight: Tensor) -> Tensor:
    """Blend the weight of a convolution, and lay it out in tiles.

    Args:
        weight: [N, 7 * C] float32, the oldest column first.

    Returns:
        [13 * C * tiles * OUTPUTS]: of each sum but the last [tiles, 2 * C, OUTPUTS], of the last [tiles, C, OUTPUTS].
    """
    outputs, inputs = weight.shape
    tiles = -(-outputs // OUTPUTS)
    filled = torch.zeros(tiles * OUTPUTS, TAPS, inputs // TAPS, dtype=torch.float64)
    filled[:outputs] = weight.view(outputs, TAPS, -1)

    def blend(of_weights: NDArray[np.float64], taps: Tensor) -> Tensor:
        blended = torch.einsum("st,ntc->snc", torch.from_numpy(of_weights), taps).float()
        return blended.unflatten(1, (tiles, OUTPUTS)).transpose(2, 3)  # [sums, tiles, C, OUTPUTS]

    first = blend(_OF_FIRST_WEIGHTS, filled[:, :_FIRST_TAPS])
    last = blend(_OF_LAST_WEIGHTS, filled[:, _FIRST_TAPS:])
    return torch.cat([torch.cat([first[:-1], last], dim=2).flatten(), first[-1].flatten()])


def units_of(columns: int, dilation: int) -> int:
    """How many units make that many columns of a stream; some make more than are wanted."""
    group = _COLUMNS * dilation
    return columns // group * dilation + min(columns % group, dilation)


@part()
def _column_of(job: Upstream, unit: int) -> int:
    """The first column that one of a stream's units makes."""
    return unit // job.dilation * _COLUMNS * job.dilation + unit % job.dilation


@part()
def _find(job: Upstream, unit: int, reads: Upstream) -> None:
    """Fill in where the columns lie that a unit reads; those behind the window are zeros."""
    stream = unit // job.units_of_stream
    column, window = _column_of(job, unit % job.units_of_stream), job.x + stream * job.stream_bytes
    for i in range(_READS):
        place = window + job.column_bytes * (column + i * job.dilation)
        reads[i] = place if place < window + job.stream_bytes else job.nothing


@part("contract")
def _blend(reads: Upstream, factors: Upstream, blended: Upstream) -> None:
    """Sum seven columns, each times its factor."""
    n = blended.size
    a, b, c, d = (float32_at(reads[0], n), float32_at(reads[1], n), float32_at(reads[2], n), float32_at(reads[3], n))
    e, f, g = (float32_at(reads[4], n), float32_at(reads[5], n), float32_at(reads[6], n))
    t, u, v, w, x, y, z = factors[0], factors[1], factors[2], factors[3], factors[4], factors[5], factors[6]
    for i in range(n):
        blended[i] = t * a[i] + u * b[i] + v * c[i] + w * d[i] + x * e[i] + y * f[i] + z * g[i]


@part("contract")
def _unblend(sums: Upstream, unit: int, bias: Upstream, made: Upstream) -> None:
    """Make a unit's columns of one tile: column k sums point^k times each point's sum, the last infinity's besides.

    Args:
        sums: [SUMS, UNITS, OUTPUTS] float32.
        unit: of those.
        bias: [OUTPUTS].
        made: [COLUMNS, OUTPUTS], overwritten.
    """
    half, quarter, eighth = np.float32(0.5), np.float32(0.25), np.float32(0.125)
    two, four, eight = np.float32(2), np.float32(4), np.float32(8)
    for i in range(OUTPUTS):
        ones, halves = sums[1, unit, i] + sums[2, unit, i], sums[3, unit, i] + sums[4, unit, i]
        apart, halves_apart = sums[1, unit, i] - sums[2, unit, i], sums[3, unit, i] - sums[4, unit, i]
        twos = sums[6, unit, i]
        made[0, i] = bias[i] + sums[0, unit, i] + ones + halves + twos
        made[1, i] = bias[i] + apart + half * halves_apart + two * twos
        made[2, i] = bias[i] + ones + quarter * halves + four * twos
        made[3, i] = bias[i] + apart + eighth * halves_apart + eight * twos + sums[5, unit, i]


@part()
def _put_tile(job: Upstream, first: int, count: int, tile: int, sums: Upstream, made: Upstream) -> None:
    """Write what some units make of one tile, but for columns that nobody wants."""
    place = OUTPUTS * tile
    bias = float32_at(job.bias + REAL * place, OUTPUTS)
    for unit in range(count):
        stream, unit_of_stream = (first + unit) // job.units_of_stream, (first + unit) % job.units_of_stream
        column = _column_of(job, unit_of_stream)
        _unblend(sums, unit, bias, made)
        for each in range(_COLUMNS):
            if column + each * job.dilation < job.rows_of_stream:
                row = stream * job.rows_of_stream + column + each * job.dilation
                out = job.out + REAL * (row * job.outputs + place)
                put_outputs(made[each].ctypes.data, 0, out, job.outputs - place)


@part()
def multiply_units(job: Upstream, me: int, team: int) -> None:
    """Make one thread's share of a convolution: some units, or some outputs of all of them.

    Args:
        job: one of :data:`serve_app.model.compiled.window_tiles.WINDOW_PRODUCT`.
        me: the thread's number.
        team: threads.
    """
    units = job.rows // job.rows_of_stream * job.units_of_stream
    first_unit, end_unit, first_tile, end_tile = 0, units, 0, job.tiles
    if job.by_columns:
        first_unit, end_unit = units * me // team, units * (me + 1) // team
    else:
        first_tile, end_tile = job.tiles * me // team, job.tiles * (me + 1) // team
    n = job.length
    reads, starts = np.empty((UNITS, _READS), np.int64), np.empty(UNITS, np.int64)
    blended, made = np.empty((UNITS, 2 * n), np.float32), np.empty((_COLUMNS, OUTPUTS), np.float32)
    sums = np.empty((end_tile - first_tile, _SUMS, UNITS, OUTPUTS), np.float32)
    for first in range(first_unit, end_unit, UNITS):
        count = min(UNITS, end_unit - first)
        for unit in range(count):
            _find(job, first + unit, reads[unit])
        for number in range(_SUMS):
            segments = 2 if number < _SUMS - 1 else 1
            for unit in range(count):
                for each in range(segments):
                    columns, blend = reads[unit, 3 * each :], blended[unit, n * each : n * each + n]
                    _blend(columns, _OF_COLUMNS[number, each], blend)
            weights, tile_bytes = job.weights + number * job.tiles * job.tile_bytes, job.tile_bytes // 2 * segments
            for tile in range(first_tile, end_tile):
                for unit in range(count):
                    starts[unit] = blended[unit].ctypes.data
                these = sums[tile - first_tile, number, :count]
                these[:] = np.float32(0)
                address, more = weights + tile * tile_bytes, tile + 1 < end_tile
                add_tile(address, segments, job.segment_bytes, n, starts[:count], these, more)
        for tile in range(first_tile, end_tile):
            _put_tile(job, first, count, tile, sums[tile - first_tile], made)
