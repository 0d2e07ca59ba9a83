"""Float32 matmuls with a constant weight over windows of columns, on all of torch's threads.

The columns of a window are adjacent in memory, so a convolution reads its inputs in place, without gathering. This
module decides how columns and the weight's tiles are shared among the threads.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.backends.cpu.parts import REAL, Addresses, Reals, Record, part
from serve_app.model.backends.cpu.team import TeamFunction, set_fields, team_size, thread_number, threads
from serve_app.model.backends.cpu.window_tiles import (
    OUTPUTS,
    ROWS,
    WINDOW_PRODUCT,
    add_tile,
    copy_outputs,
    put_outputs,
    window_products_at,
)
from serve_app.model.backends.cpu.winograd import TAPS, UNITS, blended_weights, multiply_units, units_of

_SEGMENT = 256
"""Inputs that are summed before their sum is added to the others: shorter sums have smaller rounding errors."""

_BLOCK_ROWS = 16 * ROWS
"""Columns that stay in a core's own cache while a tile's weights pass, or all tiles' if a thread has all of them."""

_COMMON_BYTES = 2 << 20
"""Up to this size of the weights, each thread reads all of them for its own columns; larger ones are split by tiles."""


@part()
def _find(job: Record, first: int, starts: Addresses) -> None:
    """Compute where the inputs of the columns from ``first`` on begin."""
    stream, column = first // job.rows_of_stream, first % job.rows_of_stream
    for i in range(starts.size):
        starts[i] = job.x + stream * job.stream_bytes + column * job.column_bytes
        column += 1
        if column == job.rows_of_stream:
            stream, column = stream + 1, 0


@part()
def _multiply_block(job: Record, tile: int, first: int, starts: Addresses, sums: Reals, more: int) -> None:
    """One tile's sums of the columns from ``first`` on; ``more``: the tile after it is needed next."""
    rows, place = starts.size, OUTPUTS * tile
    for row in range(rows):
        copy_outputs(job.bias + REAL * place, sums[row].ctypes.data)
    add_tile(job.weights + job.tile_bytes * tile, job.segments, job.segment_bytes, job.length, starts, sums, more)
    for row in range(rows):
        beyond = REAL * ((first + row) * job.outputs + place)
        residual = job.residual + beyond if job.residual else 0
        put_outputs(sums[row].ctypes.data, residual, job.out + beyond, job.outputs - place)


@part()
def multiply_windows(job: Record, me: int, team: int) -> None:
    """Multiply one thread's share of windows: some of their columns, or some outputs of all of them.

    Args:
        job: one of :data:`WINDOW_PRODUCT`.
        me: number of this thread.
        team: number of threads.
    """
    if job.dilation:
        multiply_units(job, me, team)
        return
    first_row, end_row, first_tile, end_tile = 0, job.rows, 0, job.tiles
    if job.by_columns:
        first_row, end_row = job.rows * me // team, job.rows * (me + 1) // team
    else:
        first_tile, end_tile = job.tiles * me // team, job.tiles * (me + 1) // team
    starts, sums = np.empty(_BLOCK_ROWS, np.int64), np.empty((_BLOCK_ROWS, OUTPUTS), np.float32)
    tiles, blocks = end_tile - first_tile, -(-(end_row - first_row) // _BLOCK_ROWS)
    for turn in range(tiles * blocks):
        # A thread with its own columns processes all tiles block by block, since all tiles fit into the caches. A
        # thread with its own tiles reads each of them once, for all columns.
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
    """Matmuls of windows by one weight, float32 on a CPU.

    Attributes:
        nbytes: bytes of the weight.
        channels: C, values per input column.
        history: columns of a window before the new ones.
        outputs: N, values per output column.
        winograd: whether it uses the Winograd method, which does not support a residual.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, taps: int = 1, dilation: int = 1, *, winograd: bool = False
    ) -> None:
        """Lay out a copy of a weight.

        Args:
            weight: [N, taps * C], the oldest column first.
            bias: [N], or None.
            taps: columns that an output reads.
            dilation: distance between these columns.
            winograd: multiply a third as often, with twice the weights: for windows of many columns, and seven taps.
        """
        assert weight.dtype == torch.float32, "the compiled code reads float32"
        self.outputs, inputs = weight.shape
        self._taps, self._dilation, self.winograd = taps, dilation, winograd
        self.history, self.channels = (taps - 1) * dilation, inputs // taps
        tiles = -(-self.outputs // OUTPUTS)
        self._bias = torch.zeros(tiles * OUTPUTS)
        if bias is not None:
            self._bias[: self.outputs] = bias
        self._nothing = torch.zeros(self.channels)
        self._job = np.zeros(1, WINDOW_PRODUCT)
        set_fields(self._job, column_bytes=REAL * self.channels, bias=self._bias.data_ptr(), tiles=tiles)
        set_fields(self._job, outputs=self.outputs, nothing=self._nothing.data_ptr())
        if winograd:
            assert taps == TAPS, "the Winograd method needs this number of taps"
            segments, segment_bytes, length = 1, 0, self.channels
            self._packed = blended_weights(weight)
            self._job["dilation"] = dilation
        else:
            segments, segment_bytes, length = taps, REAL * dilation * self.channels, self.channels
            if taps == 1 and inputs % _SEGMENT == 0:
                segments, segment_bytes, length = inputs // _SEGMENT, REAL * _SEGMENT, _SEGMENT
            filled = torch.zeros(tiles * OUTPUTS, inputs)
            filled[: self.outputs] = weight
            self._packed = filled.view(tiles, OUTPUTS, inputs).transpose(1, 2).contiguous()
        set_fields(self._job, segments=segments, segment_bytes=segment_bytes, length=length)
        set_fields(self._job, weights=self._packed.data_ptr(), tile_bytes=REAL * OUTPUTS * segments * length)
        self.nbytes = self._packed.nbytes

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply windows [B, (taps - 1) * dilation + T, C] float32 into [B, T, N], plus ``residual`` [B, T, N]."""
        assert x.dtype == torch.float32, "the compiled code reads float32"
        assert x.shape[2] == self.channels, "the columns have another width"
        assert residual is None or not self.winograd, "the Winograd method does not support a residual"
        x = x.contiguous()
        batch, columns, _ = x.shape
        new = columns - self.history
        out = x.new_empty(batch, new, self.outputs)
        kept = None if residual is None else residual.contiguous()
        assert kept is None or kept.shape == out.shape, "the residual must have the output's shape"
        team = threads()
        job = self.product(batch, new, team)
        job["x"], job["out"], job["residual"] = x.data_ptr(), out.data_ptr(), 0 if kept is None else kept.data_ptr()
        _MULTIPLY_WINDOWS.run(job, team)
        return out

    def product(self, batch: int, new: int, team: int) -> NDArray[np.void]:
        """Describe the matmul of ``batch`` windows with ``new`` output columns each, for a number of threads.

        Returns:
            [1] :data:`WINDOW_PRODUCT`, in which only the addresses of the weight are set.
        """
        job, rows = self._job.copy(), batch * new
        job["rows"], job["stream_bytes"] = rows, REAL * (self.history + new) * self.channels
        job["rows_of_stream"] = new if self._taps > 1 else rows  # without a history, all streams' columns are adjacent
        shares, block = rows, _BLOCK_ROWS
        if self.winograd:
            job["units_of_stream"] = units = units_of(new, self._dilation)
            shares, block = batch * units, UNITS
        job["by_columns"] = self.nbytes <= _COMMON_BYTES and shares >= team * block // 2
        return job


def rows_of_state(x: Tensor, state: Tensor, width: int, n_frames: Tensor | None) -> Tensor | None:
    """Check what compiled layers access by address only.

    Args:
        x: [B, T, C], the streams' new columns.
        state: [B, W], the streams' histories; the stride of rows may exceed W.
        width: how much of W the layers need.
        n_frames: [B] int64, number of real new frames, or None.

    Returns:
        ``n_frames``, contiguous.
    """
    assert x.dtype == state.dtype == torch.float32, "the compiled code reads float32"
    assert len(state) == len(x), "each stream needs a row of state"
    assert state.stride(1) == 1, "a row of state must be contiguous"
    assert state.shape[1] >= width, "the layers need a wider state"
    if n_frames is None:
        return None
    assert n_frames.dtype == torch.int64, "the compiled code reads int64"
    assert n_frames.shape == (len(x),), "each stream needs a number of frames"
    return n_frames.contiguous()
