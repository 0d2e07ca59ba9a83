"""Runs the codec's layers after its transformer in one compiled call, on all of torch's threads.

A layer fills windows, which begin with the streams' history, and multiplies them. When the layers were separate calls,
the threads slept between them, and waking them took longer than many of the matmuls. The last layers have many columns,
so they process one frame of one stream at a time, which stays in the caches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.backends.cpu.codec_plan import CompiledLayer, Layout, columns_of, lay_out
from serve_app.model.backends.cpu.parts import (
    REAL,
    Record,
    copy,
    dot,
    float32_at,
    gelu,
    int64_at,
    part,
    standardise,
    wave,
)
from serve_app.model.backends.cpu.team import (
    TeamFunction,
    barrier,
    job_of,
    jobs_at,
    set_fields,
    team_size,
    thread_number,
    threads,
)
from serve_app.model.backends.cpu.window_tiles import WINDOW_PRODUCT, window_products_at
from serve_app.model.backends.cpu.windows import WindowLinear, multiply_windows, rows_of_state
from serve_app.model.backends.protocol import CodecStep
from serve_app.model.codec_weights import Activation, Depthwise, Wave


class _Kind(IntEnum):
    """What is computed from the windows."""

    PRODUCT = 0
    DEPTHWISE = 1
    WAVE = 2


_SNAKE, _GELU = int(Activation.SNAKE), int(Activation.GELU)
_PRODUCT, _DEPTHWISE = int(_Kind.PRODUCT), int(_Kind.DEPTHWISE)

_LAYER = job_of(
    "activation", "kind", "x", "window", "out", "alpha", "inverse_beta", "weights", "bias",
    "channels", "columns", "history", "remembered",
    real=("eps",),
)  # fmt: skip
"""``columns`` is per frame. A layer without a window reads its columns in place."""
_layers_at = jobs_at(_LAYER)

_PASS = job_of(
    "streams", "frames", "state", "state_bytes", "n_frames",
    "layers", "products", "wide", "count", "samples", "given_bytes", "sample_bytes",
)  # fmt: skip
"""The first ``wide`` of ``count`` layers process all columns. ``given_bytes`` is the size of a frame of input to the
others, and ``sample_bytes`` the size of a frame of their output."""
_passes_at = jobs_at(_PASS)


class _Cut(NamedTuple):
    """Frames of some streams, and one of the threads that work on them.

    Attributes:
        first: first stream.
        streams: number of streams.
        first_frame: first frame of each stream.
        frames: number of frames.
        given: address of the first layer's input columns.
        samples: address of the last layer's output, if it makes samples.
        me: number of this thread.
        team: number of threads.
    """

    first: int
    streams: int
    first_frame: int
    frames: int
    given: int
    samples: int
    me: int
    team: int


@part()
def _fill(layer: Record, job: Record, x: int, cut: _Cut) -> None:
    """Write one thread's share of windows of the columns at ``x``: some streams' history, and some new columns."""
    n, past, new = layer.channels, layer.history * layer.channels, layer.columns * cut.frames
    window_bytes = REAL * (past + new * n)
    for b in range(cut.me, cut.streams, cut.team):
        state = job.state + (cut.first + b) * job.state_bytes
        copy(state + layer.remembered, layer.window + b * window_bytes, past)
    alpha, inverse_beta = float32_at(layer.alpha, n), float32_at(layer.inverse_beta, n)
    columns = cut.streams * new
    for each in range(columns * cut.me // cut.team, columns * (cut.me + 1) // cut.team):
        place = layer.window + each // new * window_bytes + REAL * (past + each % new * n)
        given = x + REAL * each * n
        if layer.activation == _SNAKE:
            wave(float32_at(given, n), alpha, inverse_beta, float32_at(place, n))
        elif layer.activation == _GELU:
            gelu(float32_at(given, n), float32_at(place, n))
        else:
            copy(given, place, n)


@part()
def _remember(layer: Record, job: Record, cut: _Cut) -> None:
    """Save the last real columns of some streams' windows as history."""
    n, past = layer.channels, layer.history * layer.channels
    for b in range(cut.me, cut.streams, cut.team):
        real = cut.frames
        if job.n_frames:
            real = min(max(int64_at(job.n_frames, job.streams)[cut.first + b] - cut.first_frame, 0), cut.frames)
        window = layer.window + REAL * b * (past + layer.columns * cut.frames * n)
        state = job.state + (cut.first + b) * job.state_bytes
        copy(window + REAL * real * layer.columns * n, state + layer.remembered, past)


@part("contract")
def _multiply_each(layer: Record, cut: _Cut) -> None:
    """Convolve each channel with its own taps and normalise the columns: one thread's share."""
    n, new = layer.channels, layer.columns * cut.frames
    window_bytes, columns = REAL * n * (layer.history + new), cut.streams * new
    for each in range(columns * cut.me // cut.team, columns * (cut.me + 1) // cut.team):
        window = layer.window + each // new * window_bytes + REAL * n * (each % new)
        made = float32_at(layer.out + REAL * n * each, n)
        copy(layer.bias, layer.out + REAL * n * each, n)
        for tap in range(layer.history + 1):
            column, weights = float32_at(window + REAL * n * tap, n), float32_at(layer.weights + REAL * n * tap, n)
            for i in range(n):
                made[i] += weights[i] * column[i]
        standardise(made, layer.eps)


@part()
def _sum_up(layer: Record, cut: _Cut) -> None:
    """Compute one thread's share of the samples of one stream's window, clipped to [-1, 1]; a sample is one sum."""
    reads, columns = layer.channels * (layer.history + 1), layer.columns * cut.frames
    weights, bias = float32_at(layer.weights, reads), float32_at(layer.bias, 1)[0]
    samples = float32_at(cut.samples, columns)
    for each in range(columns * cut.me // cut.team, columns * (cut.me + 1) // cut.team):
        window = float32_at(layer.window + REAL * layer.channels * each, reads)
        samples[each] = min(max(dot(window, weights) + bias, np.float32(-1)), np.float32(1))


@part()
def _run(job: Record, begin: int, end: int, cut: _Cut) -> None:
    """Run layers ``begin`` to ``end``."""
    layers, products = _layers_at(job.layers, job.count), window_products_at(job.products, job.count)
    for number in range(begin, end):
        layer = layers[number]
        if layer.window:
            _fill(layer, job, cut.given if number == begin else layer.x, cut)
            barrier(job.team)
            _remember(layer, job, cut)
        if layer.kind == _PRODUCT:
            multiply_windows(products[number], cut.me, cut.team)
        elif layer.kind == _DEPTHWISE:
            _multiply_each(layer, cut)
        else:
            _sum_up(layer, cut)
        barrier(job.team)


def _run_codec_layers(address: int) -> None:
    job = _passes_at(address, 1)[0]
    me, team, frames = thread_number(job.team), team_size(job.team), job.frames
    layers = _layers_at(job.layers, job.count)
    _run(job, 0, job.wide, _Cut(0, job.streams, 0, frames, layers[0].x, 0, me, team))
    if job.wide < job.count:
        between = layers[job.wide].x
        for place in range(job.streams * frames):
            given, samples = between + place * job.given_bytes, job.samples + place * job.sample_bytes
            _run(job, job.wide, job.count, _Cut(place // frames, 1, place % frames, 1, given, samples, me, team))


RUN_CODEC_LAYERS = TeamFunction(_run_codec_layers)


@dataclass(frozen=True, slots=True)
class _Shaped:
    """Parameters of layers for one shape; the address of the workspace is set later.

    Attributes:
        layers: [layers] of :data:`_LAYER`.
        products: [layers] of WINDOW_PRODUCT; unused for a layer without one.
        layout: layout of the workspace.
        columns: columns per frame that the last layer outputs.
    """

    layers: NDArray[np.void]
    products: NDArray[np.void]
    layout: Layout
    columns: int

    def place(self, given: int, workspace: int) -> None:
        """Set the addresses of the first layer's columns and of the workspace."""
        places = self.layout.windows, self.layout.given, self.layout.made, self.layout.added
        windows, x, made, added = [np.where(each < 0, 0, each + workspace) for each in places]
        x[0] = given
        set_fields(self.layers, x=x, window=windows, out=made)
        set_fields(self.products, x=np.where(windows, windows, x), out=made, residual=added)


class CompiledLayers:
    """Runs layers one after the other; the last ones frame by frame.

    Float32, on a CPU; not safe for concurrent calls.
    """

    def __init__(self, wide: Sequence[CompiledLayer], narrow: Sequence[CompiledLayer] = ()) -> None:
        """Run ``wide``, then ``narrow`` on one frame of one stream at a time; the last narrow layer makes samples."""
        self._wide, self._narrow, self._layers = wide, narrow, [*wide, *narrow]
        waves = [isinstance(layer.product, Wave) for layer in self._layers]
        assert waves == [False] * (len(waves) - 1) + [bool(narrow)], "only the last narrow layer makes samples"
        assert not narrow or narrow[0].has_window, "the first narrow layer's input moves from frame to frame"
        self._width = max(layer.width for layer in self._layers)
        self._workspace = torch.empty(0)  # kept at its largest size, since new memory costs page faults
        self._shaped: dict[tuple[int, int, int, int], _Shaped] = {}
        """By streams, frames, columns of a frame, and threads."""

    def __call__(self, step: CodecStep, x: Tensor) -> Tensor:
        """Run some streams' new columns through the layers.

        Args:
            step: its state is [B, width] float32, contiguous rows; mutated where the layers keep their history.
            x: [B, T, C] float32, at least one stream; T is a multiple of ``step.frames``.

        Returns:
            [B, T * rate, C'] float32, or samples [B, T * rate].
        """
        state, frames = step.state, step.frames
        kept = rows_of_state(x, state, self._width, step.n_frames)
        assert x.shape[2] == self._layers[0].product.channels, "the columns have another width"
        streams, columns, _ = x.shape
        assert columns % frames == 0, "all frames must have the same number of columns"
        x, team = x.contiguous(), threads()
        shape = streams, frames, columns // frames, team
        if shape not in self._shaped:
            self._shaped[shape] = self._of_shape(*shape)
        shaped = self._shaped[shape]
        if len(self._workspace) < shaped.layout.size:
            self._workspace = torch.empty(shaped.layout.size)
        shaped.place(x.data_ptr(), self._workspace.data_ptr())
        samples = x.new_empty(streams, frames * shaped.columns) if self._narrow else None
        job = np.zeros(1, _PASS)
        set_fields(
            job,
            streams=streams,
            frames=frames,
            state=state.data_ptr(),
            state_bytes=REAL * state.stride(0),
            n_frames=0 if kept is None else kept.data_ptr(),
            layers=shaped.layers.ctypes.data,
            products=shaped.products.ctypes.data,
            wide=len(self._wide),
            count=len(self._layers),
        )
        if samples is not None:
            first = shaped.layers[len(self._wide)]
            job["given_bytes"] = REAL * first["columns"] * first["channels"]
            set_fields(job, samples=samples.data_ptr(), sample_bytes=REAL * shaped.columns)
        RUN_CODEC_LAYERS.run(job, team)
        if samples is not None:
            return samples
        values = shaped.columns * self._layers[-1].product.outputs // self._layers[-1].rate
        begin = shaped.layout.made[-1] // REAL
        made = self._workspace[begin : begin + streams * frames * values].clone()
        return made.view(streams, frames * shaped.columns, -1)

    def _of_shape(self, streams: int, frames: int, columns: int, team: int) -> _Shaped:
        layers, products = np.zeros(len(self._layers), _LAYER), np.zeros(len(self._layers), WINDOW_PRODUCT)
        *given, last = columns_of(self._layers, columns)
        for number, (layer, of_frame) in enumerate(zip(self._layers, given, strict=True)):
            set_fields(layers[number : number + 1], **_fields_of(layer), columns=of_frame)
            if isinstance(layer.product, WindowLinear):
                of_all = (streams, of_frame * frames) if number < len(self._wide) else (1, of_frame)
                products[number] = layer.product.product(*of_all, team)[0]
        return _Shaped(layers, products, lay_out(self._wide, self._narrow, streams, frames, columns), last)


def _fields_of(layer: CompiledLayer) -> dict[str, int | float]:
    """A layer's parameters for compiled code, except addresses."""
    product, fields = layer.product, {"activation": int(layer.activation), "remembered": REAL * layer.remembered}
    fields |= {"kind": int(_Kind.PRODUCT), "channels": product.channels, "history": product.history}
    if layer.snake is not None:
        fields |= {"alpha": layer.snake[0].data_ptr(), "inverse_beta": layer.snake[1].data_ptr()}
    if not isinstance(product, WindowLinear):
        kind = _Kind.DEPTHWISE if isinstance(product, Depthwise) else _Kind.WAVE
        fields |= {"kind": int(kind), "weights": product.taps.data_ptr(), "bias": product.bias.data_ptr()}
    return fields | ({"eps": product.eps} if isinstance(product, Depthwise) else {})
