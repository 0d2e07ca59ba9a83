"""Float32 products by a constant weight over windows of columns, on all of torch's threads; never what those are of.

A window's columns lie one after the other, so that what a convolution multiplies is read where it is: nothing is
gathered. Weights lie in tiles of some outputs, are read from front to end, and stay in the caches while a block of
columns passes; meanwhile those that follow are fetched, so that memory and arithmetic do not wait for each other.
A column's sums are made in one order whatever the columns beside it: of each segment of its inputs, then of those.
"""

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.compiled.instructions import LONG, WIDE, at, broadcast, choice_by_rows, fetch, multiply_add
from serve_app.model.compiled.parts import Function, float32_at, part
from serve_app.model.compiled.team import TeamFunction, job_of, jobs_at, team_size, tell, thread_number, threads
from serve_app.model.quiet import Upstream

_LANES, _ROWS = (16, 8) if WIDE else (8, 6)
"""Sums in a register, and columns that share one reading of a tile's weights: of 32 registers 16 hold sums, of 16
registers 12."""

_OUTPUTS = 2 * _LANES
"""Outputs of a tile."""

_SEGMENT = 256
"""Inputs that are summed before the sum is added to the others': shorter sums round less."""

_BLOCK_ROWS = 16 * _ROWS
"""Columns that stay in a core's own cache while a tile's weights pass, or all tiles' where a thread has them all."""

_GROUP_BYTES = 65536
"""Weights of a tile that all columns of a block pass before the next of them: the next are fetched meanwhile."""

_NEAR_BYTES = 2048
"""How far ahead weights are fetched where all columns fit into one reading of them."""

_COMMON_BYTES = 2 << 20
"""Up to so many bytes of weights each thread reads all of them, for columns of its own; more are split by tiles."""

_LINE_BYTES = 64

_REALS = ir.VectorType(ir.FloatType(), _LANES)


def _tile_of(rows: int) -> Function:
    """Make ``(weights, starts, segments, stride, length, sums, ahead, pace)``: a tile's sums of ``rows`` columns.

    Args of the made function: addresses of the tile's weights [segments * length, OUTPUTS], of the addresses [rows] of
    where each column's inputs begin, and of the sums [rows, OUTPUTS] float32, which are added to; the inputs are
    ``segments`` times ``length`` values, ``stride`` bytes apart. With each of them what lies ``ahead`` is fetched,
    which moves on by ``pace`` bytes.
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
        _ahead: Upstream,
        _pace: Upstream,
    ) -> Upstream:
        return types.void(*[types.int64] * 8), generate

    made: Upstream = intrinsic(tile)
    return made


def _emit_tile(builder: Upstream, rows: int, arguments: Upstream) -> None:
    """Write the loop over the inputs of all segments: of each the tile's weights, and of each column one value."""
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
    builder.branch(loop)

    builder.position_at_end(loop)
    step, weight, wanted = builder.phi(LONG), builder.phi(LONG), builder.phi(LONG)
    running = [builder.phi(_REALS) for _ in places]
    read = [builder.load(at(builder, _REALS, weight, LONG(4 * _LANES * half)), align=4 * _LANES) for half in range(2)]
    for line in range(4 * _OUTPUTS // _LINE_BYTES):
        fetch(builder, builder.add(wanted, LONG(_LINE_BYTES * line)))
    totals: list[Upstream] = []
    for row in range(rows):
        value = broadcast(builder, _REALS, builder.add(addresses[row], builder.mul(step, LONG(4))))
        totals += [multiply_add(builder, value, read[half], running[2 * row + half]) for half in range(2)]
    following, weight_after = builder.add(step, LONG(1)), builder.add(weight, LONG(4 * _OUTPUTS))
    wanted_after = builder.add(wanted, pace)
    builder.cbranch(builder.icmp_signed("<", following, length), loop, segment_end)

    builder.position_at_end(segment_end)
    for place, total in zip(places, totals, strict=True):
        builder.store(builder.fadd(builder.load(place, align=4), total), place, align=4)
    next_segment = builder.add(segment, LONG(1))
    builder.cbranch(builder.icmp_signed("<", next_segment, segments), segment_loop, after)

    zero = ir.Constant(_REALS, [0.0] * _LANES)
    for phi, block, entering, again, going_on in (
        (segment, before, LONG(0), segment_end, next_segment),
        (first_weight, before, weights, segment_end, weight_after),
        (first_ahead, before, ahead, segment_end, wanted_after),
        (step, segment_loop, LONG(0), loop, following),
        (weight, segment_loop, first_weight, loop, weight_after),
        (wanted, segment_loop, first_ahead, loop, wanted_after),
        *((phi, segment_loop, zero, loop, total) for phi, total in zip(running, totals, strict=True)),
    ):
        phi.add_incoming(entering, block)
        phi.add_incoming(going_on, again)
    builder.position_at_end(after)


_tile = choice_by_rows([_tile_of(rows) for rows in range(1, _ROWS + 1)])


def _outputs_of(addends: int) -> Function:
    """Make ``(address, ..., out)``: OUTPUTS sums of one value of each of so many addresses, put to another."""

    def generate(context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        *given, out = arguments
        for half in range(2):
            offset = LONG(4 * _LANES * half)
            total, *others = [builder.load(at(builder, _REALS, each, offset), align=4) for each in given]
            for other in others:
                total = builder.fadd(total, other)
            builder.store(total, at(builder, _REALS, out, offset), align=4)
        return context.get_dummy_value()

    def copy(_context: Upstream, _one: Upstream, _out: Upstream) -> Upstream:
        return types.void(*[types.int64] * 2), generate

    def add(_context: Upstream, _one: Upstream, _other: Upstream, _out: Upstream) -> Upstream:
        return types.void(*[types.int64] * 3), generate

    made: Upstream = intrinsic(copy if addends == 1 else add)
    return made


_copy, _add = _outputs_of(1), _outputs_of(2)

WINDOW_PRODUCT = job_of(
    "x", "rows", "rows_of_stream", "stream_bytes", "column_bytes", "segments", "segment_bytes", "length", "group",
    "weights", "bias", "tiles", "tile_bytes", "outputs", "out", "residual", "by_columns",
)  # fmt: skip
"""What compiled code is told of a product: of ``rows`` columns that are made, each stream's read from a window of
``stream_bytes``. A window without a history has none of its own: all are one stream's then."""

window_products_at = jobs_at(WINDOW_PRODUCT)


@part()
def _find(job: Upstream, first: int, starts: Upstream) -> None:
    """Fill in where the inputs of the columns from ``first`` on begin."""
    stream, column = first // job.rows_of_stream, first % job.rows_of_stream
    for i in range(starts.size):
        starts[i] = job.x + stream * job.stream_bytes + column * job.column_bytes
        column += 1
        if column == job.rows_of_stream:
            stream, column = stream + 1, 0


@part()
def _put(job: Upstream, row: int, place: int, sums: int) -> None:
    """Write a column's sums of one tile, plus what is there of the residual."""
    out, residual = job.out + 4 * (row * job.outputs + place), job.residual + 4 * (row * job.outputs + place)
    if job.outputs - place >= _OUTPUTS:
        if job.residual:
            _add(sums, residual, out)
        else:
            _copy(sums, out)
        return
    width = job.outputs - place
    given, written = float32_at(sums, width), float32_at(out, width)
    for i in range(width):
        written[i] = given[i] + (float32_at(residual, width)[i] if job.residual else np.float32(0))


@part()
def _multiply_block(job: Upstream, tile: int, first: int, starts: Upstream, sums: Upstream, more: int) -> None:
    """One tile's sums of the columns from ``first`` on; ``more``: the tile after it is the next that is needed."""
    rows, weights, place = starts.size, job.weights + job.tile_bytes * tile, _OUTPUTS * tile
    for row in range(rows):
        _copy(job.bias + 4 * place, sums[row].ctypes.data)
    parts = -(-rows // _ROWS)
    for segment in range(0, job.segments, job.group):
        count = min(job.group, job.segments - segment)
        group = weights + 4 * _OUTPUTS * job.length * segment
        ahead, pace = group, 0  # of one column the CPU itself sees what is read next
        if parts > 1 and (more or segment + count < job.segments):
            ahead, pace = group + 4 * _OUTPUTS * job.length * count, -(-4 * _OUTPUTS // parts)
        elif parts == 1 and rows > 1:
            ahead, pace = group + _NEAR_BYTES, 4 * _OUTPUTS
        for each in range(parts):
            begin, end = rows * each // parts, rows * (each + 1) // parts
            _tile(
                end - begin,
                group,
                starts[begin:].ctypes.data,
                count,
                job.segment_bytes,
                job.length,
                sums[begin].ctypes.data,
                ahead + each * pace * job.length * count,
                pace,
            )
        for i in range(rows):
            starts[i] += count * job.segment_bytes
    for row in range(rows):
        _put(job, first + row, place, sums[row].ctypes.data)


@part()
def multiply_windows(job: Upstream, me: int, team: int) -> None:
    """Multiply one thread's share of windows: some of their columns, or some outputs of all of them.

    Args:
        job: one of :data:`WINDOW_PRODUCT`.
        me: the thread's number.
        team: threads.
    """
    first_row, end_row, first_tile, end_tile = 0, job.rows, 0, job.tiles
    if job.by_columns:
        first_row, end_row = job.rows * me // team, job.rows * (me + 1) // team
    else:
        first_tile, end_tile = job.tiles * me // team, job.tiles * (me + 1) // team
    starts, sums = np.empty(_BLOCK_ROWS, np.int64), np.empty((_BLOCK_ROWS, _OUTPUTS), np.float32)
    tiles, blocks = end_tile - first_tile, -(-(end_row - first_row) // _BLOCK_ROWS)
    for turn in range(tiles * blocks):
        # Columns of its own pass all tiles, block by block, as all of them lie in the caches; tiles of its own are read
        # once, for all columns.
        block, tile = (turn // tiles, turn % tiles) if job.by_columns else (turn % blocks, turn // blocks)
        first = first_row + _BLOCK_ROWS * block
        these = starts[: min(_BLOCK_ROWS, end_row - first)]
        _find(job, first, these)
        more = tile + 1 < tiles and (job.by_columns or block + 1 == blocks)
        _multiply_block(job, first_tile + tile, first, these, sums, more)


def _multiply_windows(address: int) -> None:
    job = window_products_at(address, 1)[0]
    multiply_windows(job, thread_number(job.team), team_size(job.team))


_MULTIPLY_WINDOWS = TeamFunction(_multiply_windows)


class WindowLinear:
    """Products of windows by one weight, float32 on a CPU.

    Attributes:
        nbytes: bytes of the weight.
        channels: C, values of a column.
        history: columns of a window before those that are made.
        outputs: N, values of a column that is made.
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
        self.outputs, inputs = weight.shape
        self._taps, self.history, self.channels = taps, (taps - 1) * dilation, inputs // taps
        segments, segment_bytes, length = taps, 4 * dilation * self.channels, self.channels
        if taps == 1 and inputs % _SEGMENT == 0:
            segments, segment_bytes, length = inputs // _SEGMENT, 4 * _SEGMENT, _SEGMENT
        tiles = -(-self.outputs // _OUTPUTS)
        filled = torch.zeros(tiles * _OUTPUTS, inputs)
        filled[: self.outputs] = weight
        self._packed = filled.view(tiles, _OUTPUTS, inputs).transpose(1, 2).contiguous()
        self._bias = torch.zeros(tiles * _OUTPUTS)
        if bias is not None:
            self._bias[: self.outputs] = bias
        self.nbytes = weight.nbytes
        self._job = np.zeros(1, WINDOW_PRODUCT)
        tell(
            self._job,
            column_bytes=4 * self.channels,
            segments=segments,
            segment_bytes=segment_bytes,
            length=length,
            group=max(1, _GROUP_BYTES // (4 * _OUTPUTS * length)),
            weights=self._packed.data_ptr(),
            bias=self._bias.data_ptr(),
            tiles=tiles,
            tile_bytes=self._packed[0].nbytes,
            outputs=self.outputs,
        )

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply windows [B, (taps - 1) * dilation + T, C] float32 into [B, T, N], plus ``residual`` [B, T, N]."""
        assert x.dtype == torch.float32, "they are read as such"
        assert x.shape[2] == self.channels, "columns of another width"
        x = x.contiguous()
        batch, columns, _ = x.shape
        new = columns - self.history
        out = x.new_empty(batch, new, self.outputs)
        kept = None if residual is None else residual.contiguous()
        assert kept is None or kept.shape == out.shape, "it is added as it lies"
        team = threads()
        job = self.product(batch, new, team)
        job["x"], job["out"], job["residual"] = x.data_ptr(), out.data_ptr(), 0 if kept is None else kept.data_ptr()
        _MULTIPLY_WINDOWS.run(job, team)
        return out

    def product(self, batch: int, new: int, team: int) -> NDArray[Any]:
        """Describe the product of ``batch`` windows that make ``new`` columns each, for so many threads.

        Returns:
            [1] :data:`WINDOW_PRODUCT`, of whose addresses only those of the weight are set.
        """
        job, rows = self._job.copy(), batch * new
        job["rows"], job["stream_bytes"] = rows, 4 * (self.history + new) * self.channels
        job["rows_of_stream"] = new if self._taps > 1 else rows  # without a history all streams' columns are neighbours
        job["by_columns"] = self.nbytes <= _COMMON_BYTES and rows >= team * _BLOCK_ROWS // 2
        return job


def rows_of_state(x: Tensor, state: Tensor, width: int, n_frames: Tensor | None) -> Tensor | None:
    """Check what compiled layers read and write by address alone.

    Args:
        x: [B, T, C], the streams' new columns.
        state: [B, W], what the streams remember; rows may lie further apart than they are wide.
        width: that the layers need of W.
        n_frames: [B] int64, how many of the new frames are real, or None.

    Returns:
        ``n_frames``, contiguous.
    """
    assert x.dtype == state.dtype == torch.float32, "they are read as such"
    assert len(state) == len(x), "a row of state for each stream"
    assert state.stride(1) == 1, "what a layer remembers is contiguous"
    assert state.shape[1] >= width, "the layers remember more"
    if n_frames is None:
        return None
    assert n_frames.dtype == torch.int64, "they are read as such"
    assert n_frames.shape == (len(x),), "a number for each stream"
    return n_frames.contiguous()
