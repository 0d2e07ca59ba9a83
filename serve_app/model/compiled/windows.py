"""Float32 products by a constant weight over windows of columns, on all of torch's threads; never what those are of.

A window's columns lie one after the other, so that what a convolution multiplies is read where it is: nothing is
gathered. Weights lie in tiles of some outputs, are read from front to end, and stay in the caches while all rows pass.
A column's sums are made in one order whatever the columns beside it: of each segment of its inputs, then of those.
"""

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from serve_app.model.compiled.instructions import WIDE, choice_by_rows, multiply_add
from serve_app.model.compiled.parts import Function, float32_at
from serve_app.model.compiled.team import TeamFunction, job_of, jobs_at, team_size, thread_number, threads
from serve_app.model.quiet import Upstream

_LANES, _ROWS = (16, 8) if WIDE else (8, 6)
"""Sums in a register, and columns that share one reading of a tile's weights: of 32 registers 16 hold sums, of 16
registers 12."""

_OUTPUTS = 2 * _LANES
"""Outputs of a tile."""

_SEGMENT = 256
"""Inputs that are summed before the sum is added to the others': shorter sums round less."""

_LONG = ir.IntType(64)
_REALS = ir.VectorType(ir.FloatType(), _LANES)


def _tile_of(rows: int) -> Function:
    """Make ``(weights, starts, segments, stride, length, sums)``: a tile's sums for each of ``rows`` columns.

    Args of the made function: addresses of the tile's weights [segments * length, OUTPUTS], of the addresses [rows] of
    where each column's inputs begin, and of the sums [rows, OUTPUTS] float32, which are added to; the inputs are
    ``segments`` times ``length`` values, ``stride`` bytes apart.
    """

    def generate(context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        _emit_tile(builder, rows, arguments)
        return context.get_dummy_value()

    def tile(
        _context: Upstream,
        _weights: Upstream,
        _starts: Upstream,
        _segments: Upstream,
        _stride: Upstream,
        _length: Upstream,
        _sums: Upstream,
    ) -> Upstream:
        return types.void(*[types.int64] * 6), generate

    made: Upstream = intrinsic(tile)
    return made


def _emit_tile(builder: Upstream, rows: int, arguments: Upstream) -> None:
    """Write the loop over the inputs of all segments: of each the tile's weights, and of each column one value."""
    weights, starts, segments, stride, length, sums = arguments

    def at(kind: Upstream, address: Upstream, offset: Upstream) -> Upstream:
        return builder.inttoptr(builder.add(address, offset), kind.as_pointer())

    begins = [builder.load(at(_LONG, starts, _LONG(8 * row))) for row in range(rows)]
    places = [at(_REALS, sums, _LONG(4 * _LANES * number)) for number in range(2 * rows)]
    before = builder.block
    segment_loop, loop = builder.append_basic_block("segment"), builder.append_basic_block("input")
    segment_end, after = builder.append_basic_block("segment_end"), builder.append_basic_block("end")
    builder.branch(segment_loop)

    builder.position_at_end(segment_loop)
    segment, first_weight = builder.phi(_LONG), builder.phi(_LONG)
    offset = builder.mul(segment, stride)
    addresses = [builder.add(begin, offset) for begin in begins]
    builder.branch(loop)

    builder.position_at_end(loop)
    step, weight = builder.phi(_LONG), builder.phi(_LONG)
    running = [builder.phi(_REALS) for _ in places]
    read = [builder.load(at(_REALS, weight, _LONG(4 * _LANES * half)), align=4 * _LANES) for half in range(2)]
    totals: list[Upstream] = []
    for row in range(rows):
        value = builder.load(at(ir.FloatType(), addresses[row], builder.mul(step, _LONG(4))), align=4)
        value = builder.insert_element(ir.Constant(_REALS, ir.Undefined), value, ir.IntType(32)(0))
        value = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES))
        totals += [multiply_add(builder, value, read[half], running[2 * row + half]) for half in range(2)]
    following, weight_after = builder.add(step, _LONG(1)), builder.add(weight, _LONG(4 * _OUTPUTS))
    builder.cbranch(builder.icmp_signed("<", following, length), loop, segment_end)

    builder.position_at_end(segment_end)
    for place, total in zip(places, totals, strict=True):
        builder.store(builder.fadd(builder.load(place, align=4), total), place, align=4)
    next_segment = builder.add(segment, _LONG(1))
    builder.cbranch(builder.icmp_signed("<", next_segment, segments), segment_loop, after)

    zero = ir.Constant(_REALS, [0.0] * _LANES)
    for phi, block, entering, again, going_on in (
        (segment, before, _LONG(0), segment_end, next_segment),
        (first_weight, before, weights, segment_end, weight_after),
        (step, segment_loop, _LONG(0), loop, following),
        (weight, segment_loop, first_weight, loop, weight_after),
        *((phi, segment_loop, zero, loop, total) for phi, total in zip(running, totals, strict=True)),
    ):
        phi.add_incoming(entering, block)
        phi.add_incoming(going_on, again)
    builder.position_at_end(after)


_tile = choice_by_rows([_tile_of(rows) for rows in range(1, _ROWS + 1)])

_PRODUCT = job_of(
    "x", "rows", "rows_of_stream", "stream_bytes", "column_bytes", "segments", "segment_bytes", "length",
    "weights", "bias", "tiles", "tile_bytes", "outputs", "out", "residual",
)  # fmt: skip
_jobs_at = jobs_at(_PRODUCT)


def _multiply_windows(address: int) -> None:
    job = _jobs_at(address, 1)[0]
    me, team, rows = thread_number(job.team), team_size(job.team), job.rows
    starts, sums = np.empty(_ROWS, np.int64), np.empty((_ROWS, _OUTPUTS), np.float32)
    parts = -(-rows // _ROWS)
    for tile in range(job.tiles * me // team, job.tiles * (me + 1) // team):
        weights, place = job.weights + job.tile_bytes * tile, _OUTPUTS * tile
        bias = float32_at(job.bias + 4 * place, _OUTPUTS)
        width = min(_OUTPUTS, job.outputs - place)
        for each in range(parts):
            first, end = rows * each // parts, rows * (each + 1) // parts
            for row in range(first, end):
                stream, column = row // job.rows_of_stream, row % job.rows_of_stream
                starts[row - first] = job.x + stream * job.stream_bytes + column * job.column_bytes
                for i in range(_OUTPUTS):
                    sums[row - first, i] = bias[i]
            _tile(
                end - first, weights, starts.ctypes.data, job.segments, job.segment_bytes, job.length, sums.ctypes.data
            )
            for row in range(first, end):
                written = float32_at(job.out + 4 * (row * job.outputs + place), width)
                if job.residual:
                    added = float32_at(job.residual + 4 * (row * job.outputs + place), width)
                    for i in range(width):
                        written[i] = sums[row - first, i] + added[i]
                else:
                    for i in range(width):
                        written[i] = sums[row - first, i]


_MULTIPLY_WINDOWS = TeamFunction(_multiply_windows)


class WindowLinear:
    """Products of windows by one weight, float32 on a CPU; one thread at a time may call it.

    Attributes:
        nbytes: bytes of the weight.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, taps: int = 1, dilation: int = 1) -> None:
        """Lay out a copy of a weight.

        Args:
            weight: [N, taps * C], the oldest column first.
            bias: [N], or None.
            taps: columns that an output reads.
            dilation: columns from one of them to the next.
        """
        assert weight.dtype == torch.float32, "it is read as such"
        self._outputs, inputs = weight.shape
        self._taps, self._dilation, self._channels = taps, dilation, inputs // taps
        segments, segment_bytes, length = taps, 4 * dilation * self._channels, self._channels
        if taps == 1 and inputs % _SEGMENT == 0:
            segments, segment_bytes, length = inputs // _SEGMENT, 4 * _SEGMENT, _SEGMENT
        tiles = -(-self._outputs // _OUTPUTS)
        filled = torch.zeros(tiles * _OUTPUTS, inputs)
        filled[: self._outputs] = weight
        self._packed = filled.view(tiles, _OUTPUTS, inputs).transpose(1, 2).contiguous()
        self._bias = torch.zeros(tiles * _OUTPUTS)
        if bias is not None:
            self._bias[: self._outputs] = bias
        self.nbytes = weight.nbytes
        self._job = np.zeros(1, _PRODUCT)
        for field, value in (
            ("column_bytes", 4 * self._channels),
            ("segments", segments),
            ("segment_bytes", segment_bytes),
            ("length", length),
            ("weights", self._packed.data_ptr()),
            ("bias", self._bias.data_ptr()),
            ("tiles", tiles),
            ("tile_bytes", self._packed[0].nbytes),
            ("outputs", self._outputs),
        ):
            self._job[field] = value

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply windows [B, (taps - 1) * dilation + T, C] float32 into [B, T, N], plus ``residual`` [B, T, N]."""
        assert x.dtype == torch.float32, "they are read as such"
        assert x.shape[2] == self._channels, "columns of another width"
        x = x.contiguous()
        batch, columns, channels = x.shape
        new = columns - (self._taps - 1) * self._dilation
        out = x.new_empty(batch, new, self._outputs)
        kept = None if residual is None else residual.contiguous()
        assert kept is None or kept.shape == out.shape, "it is added as it lies"
        rows_of_stream = new if self._taps > 1 else batch * new  # without a history all streams' columns are neighbours
        job = self._job
        job["x"], job["out"], job["residual"] = x.data_ptr(), out.data_ptr(), 0 if kept is None else kept.data_ptr()
        job["rows"], job["rows_of_stream"], job["stream_bytes"] = batch * new, rows_of_stream, 4 * columns * channels
        _MULTIPLY_WINDOWS.run(job, threads())
        return out
