"""Float32 sums of one tile of a weight over some columns, on one thread.

A tile is a group of outputs; its weights are stored input by input. They are read from front to end and stay in the
caches while a block of columns passes. Meanwhile the following weights are prefetched, so that memory and arithmetic do
not wait for each other. A column's sums are made in a fixed order whatever the other columns are: first within each
segment of its inputs, then over the segments.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.base import BaseContext

from serve_app.model.backends.cpu.instructions import LONG, WIDE, at, broadcast, by_number, fetch, multiply_add
from serve_app.model.backends.cpu.llvm import Builder, Typed, Value, Values, intrinsic
from serve_app.model.backends.cpu.parts import REAL, Addresses, Function, Reals, float32_at, part
from serve_app.model.backends.cpu.team import job_of, jobs_at

_LANES, ROWS = (16, 8) if WIDE else (8, 6)
"""Sums in a register, and columns that share one read of a tile's weights: 16 of 32 registers hold sums, or 12 of 16
registers."""

OUTPUTS = 2 * _LANES
"""Outputs of a tile."""

_GROUP_BYTES = 65536
"""Bytes of a tile's weights that all columns of a block use before the next bytes, which are prefetched meanwhile."""

_NEAR_BYTES = 2048
"""Prefetch distance if all columns fit into one read of the weights."""

_LINE_BYTES = 64

_REALS = ir.VectorType(ir.FloatType(), _LANES)


def _tile_of(rows: int, *, going_on: bool) -> Function:
    """Make ``(weights, starts, segments, stride, length, sums, ahead, pace)``: a tile's sums of ``rows`` columns.

    Arguments of the made function: addresses of the tile's weights [segments * length, OUTPUTS], of the addresses
    [rows] where each column's inputs begin, and of the sums [rows, OUTPUTS] float32, to which it adds. The inputs are
    ``segments`` times ``length`` values, ``stride`` bytes apart. For each of them it prefetches the memory at
    ``ahead``, which advances by ``pace`` bytes. Each segment is summed separately, or, if ``going_on``, starting from
    the existing sums.
    """

    def generate(context: BaseContext, builder: Builder, _signature: object, arguments: Values) -> Value:
        _emit_tile(builder, rows, arguments, going_on=going_on)
        return context.get_dummy_value()

    def tile(
        _context: object,
        _weights: types.Type,
        _starts: types.Type,
        _segments: types.Type,
        _stride: types.Type,
        _length: types.Type,
        _sums: types.Type,
        _ahead: types.Type,
        _pace: types.Type,
    ) -> Typed:
        return types.void(*[types.int64] * 8), generate

    return intrinsic(tile)


def _emit_tile(builder: Builder, rows: int, arguments: Values, *, going_on: bool) -> None:
    """Write the loop over the inputs of all segments: for each, the tile's weights and one value of each column."""
    weights, starts, segments, stride, length, sums, ahead, pace = arguments
    begins = [builder.load(at(builder, LONG, starts, LONG(8 * row))) for row in range(rows)]
    places = [at(builder, _REALS, sums, LONG(4 * _LANES * number)) for number in range(2 * rows)]
    before = builder.block
    segment_loop, loop = builder.append_basic_block("segment"), builder.append_basic_block("input")
    segment_end, after = builder.append_basic_block("segment_end"), builder.append_basic_block("end")
    builder.branch(segment_loop)

    builder.position_at_end(segment_loop)
    segment, first_weight, first_ahead = builder.phi(LONG), builder.phi(LONG), builder.phi(LONG)
    offset = builder.mul(segment, stride)
    addresses = [builder.add(begin, offset) for begin in begins]
    zero = ir.Constant(_REALS, [0.0] * _LANES)
    first_sums = [builder.load(place, align=4) if going_on else zero for place in places]
    builder.branch(loop)

    builder.position_at_end(loop)
    step, weight, wanted = builder.phi(LONG), builder.phi(LONG), builder.phi(LONG)
    running = [builder.phi(_REALS) for _ in places]
    read = [builder.load(at(builder, _REALS, weight, LONG(4 * _LANES * half)), align=4 * _LANES) for half in range(2)]
    for line in range(4 * OUTPUTS // _LINE_BYTES):
        fetch(builder, builder.add(wanted, LONG(_LINE_BYTES * line)))
    totals: list[Value] = []
    for row in range(rows):
        value = broadcast(builder, _REALS, builder.add(addresses[row], builder.mul(step, LONG(4))))
        totals += [multiply_add(builder, value, read[half], running[2 * row + half]) for half in range(2)]
    following, weight_after = builder.add(step, LONG(1)), builder.add(weight, LONG(4 * OUTPUTS))
    wanted_after = builder.add(wanted, pace)
    builder.cbranch(builder.icmp_signed("<", following, length), loop, segment_end)

    builder.position_at_end(segment_end)
    for place, total in zip(places, totals, strict=True):
        builder.store(total if going_on else builder.fadd(builder.load(place, align=4), total), place, align=4)
    next_segment = builder.add(segment, LONG(1))
    builder.cbranch(builder.icmp_signed("<", next_segment, segments), segment_loop, after)

    for phi, block, entering, again, next_value in (
        (segment, before, LONG(0), segment_end, next_segment),
        (first_weight, before, weights, segment_end, weight_after),
        (first_ahead, before, ahead, segment_end, wanted_after),
        (step, segment_loop, LONG(0), loop, following),
        (weight, segment_loop, first_weight, loop, weight_after),
        (wanted, segment_loop, first_ahead, loop, wanted_after),
        *((phi, segment_loop, sums, loop, total) for phi, sums, total in zip(running, first_sums, totals, strict=True)),
    ):
        phi.add_incoming(entering, block)
        phi.add_incoming(next_value, again)
    builder.position_at_end(after)


_tile = by_number([_tile_of(rows, going_on=False) for rows in range(1, ROWS + 1)])
go_on = by_number([_tile_of(rows, going_on=True) for rows in range(1, ROWS + 1)])
"""``(rows, weights, starts, segments, stride, length, sums, ahead, pace)``, see :func:`_tile_of`."""


def _outputs_of(addends: int) -> Function:
    """Make ``(address, ..., out)``: adds vectors of OUTPUTS values at several addresses, and writes the sum."""

    def generate(context: BaseContext, builder: Builder, _signature: object, arguments: Values) -> Value:
        *given, out = arguments
        for half in range(2):
            offset = LONG(4 * _LANES * half)
            total, *others = [builder.load(at(builder, _REALS, each, offset), align=4) for each in given]
            for other in others:
                total = builder.fadd(total, other)
            builder.store(total, at(builder, _REALS, out, offset), align=4)
        return context.get_dummy_value()

    def copy(_context: object, _one: types.Type, _out: types.Type) -> Typed:
        return types.void(*[types.int64] * 2), generate

    def add(_context: object, _one: types.Type, _other: types.Type, _out: types.Type) -> Typed:
        return types.void(*[types.int64] * 3), generate

    return intrinsic(copy if addends == 1 else add)


copy_outputs, _add_outputs = _outputs_of(1), _outputs_of(2)


@part()
def add_tile(
    weights: int, segments: int, segment_bytes: int, length: int, starts: Addresses, sums: Reals, more: int
) -> None:
    """Add a tile's sums of some columns to the existing ones.

    Args:
        weights: address of the tile's [segments * length, OUTPUTS] float32.
        segments: parts of a column's inputs that are summed separately.
        segment_bytes: distance between segments.
        length: inputs of each segment.
        starts: [n] int64, addresses where the columns' inputs begin; advanced to where they end.
        sums: [n, OUTPUTS] float32.
        more: whether the weights after the tile's are needed next.
    """
    rows = starts.size
    parts = -(-rows // ROWS)
    most = max(1, _GROUP_BYTES // (REAL * OUTPUTS * length))
    for segment in range(0, segments, most):
        count = min(most, segments - segment)
        group = weights + REAL * OUTPUTS * length * segment
        ahead, pace = group, 0  # for one column, the CPU itself predicts what is read next
        if parts > 1 and (more or segment + count < segments):
            ahead, pace = group + REAL * OUTPUTS * length * count, -(-REAL * OUTPUTS // parts)
        elif parts == 1 and rows > 1:
            ahead, pace = group + _NEAR_BYTES, REAL * OUTPUTS
        for each in range(parts):
            begin, end = rows * each // parts, rows * (each + 1) // parts
            _tile(
                end - begin,
                group,
                starts[begin:].ctypes.data,
                count,
                segment_bytes,
                length,
                sums[begin].ctypes.data,
                ahead + each * pace * length * count,
                pace,
            )
        for i in range(rows):
            starts[i] += count * segment_bytes


@part()
def put_outputs(sums: int, residual: int, out: int, width: int) -> None:
    """Write a column's sums of one tile, plus the residual if there is one; ``width`` outputs remain from there.

    Sums, residual and out are addresses; 0 means no residual.
    """
    if width >= OUTPUTS:
        if residual:
            _add_outputs(sums, residual, out)
        else:
            copy_outputs(sums, out)
        return
    given, written = float32_at(sums, width), float32_at(out, width)
    for i in range(width):
        written[i] = given[i] + (float32_at(residual, width)[i] if residual else np.float32(0))


WINDOW_PRODUCT = job_of(
    "x", "rows", "rows_of_stream", "stream_bytes", "column_bytes", "segments", "segment_bytes", "length",
    "weights", "bias", "tiles", "tile_bytes", "outputs", "out", "residual", "by_columns",
    "dilation", "units_of_stream", "nothing",
)  # fmt: skip
"""Parameters of a matmul for compiled code: ``rows`` output columns, of which each stream's are read from a window of
``stream_bytes``. Windows without a history are treated as those of one stream. The last line describes a convolution
as made by ``winograd``, and is 0 for others."""

window_products_at = jobs_at(WINDOW_PRODUCT)
