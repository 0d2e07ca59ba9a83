"""Makes speech faster or slower and keeps its pitch, while the speech is still being generated.

FFmpeg's ``atempo`` (PyAV has it) overlaps windows of about 40 ms where they are most alike. This module knows nothing
about sessions, and has no clock.
"""

from contextlib import suppress

import numpy as np
from av import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

from serve_app.audio.pcm import audible
from serve_app.config import SAMPLE_RATE_HZ

_PUSH_SAMPLES = 480
"""Samples of each push into ``atempo``. How a piece of speech ends depends on the pushes, so all have the same size.
``atempo`` returns nothing before it has the output for one whole push; with 20 ms, the first frame gives audio at once.
"""

_NOTHING = np.zeros(0, dtype=np.float32)


class SpeedFilter:
    """Changes the speed of pieces of speech, one after the other. The result does not depend on how a piece is split.

    A piece of N samples becomes N / speed samples, to within a frame. At speed 1 the samples are returned as they are.
    """

    def __init__(self, speed: float) -> None:
        """``speed`` is 0.5 (half as fast) to 2 (twice as fast)."""
        self._speed = speed
        self._graph: Graph | None = None  # of the piece that has begun
        self._rest = _NOTHING  # less than one push

    def push(self, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Accept the next samples of a piece; return those that are ready, possibly none.

        Up to 80 ms stay in the filter until the next samples or :meth:`flush`.

        Args:
            pcm: [N] float32, mono, 24 kHz.
        """
        if self._speed == 1 or not len(pcm):
            return pcm
        if self._graph is None:
            self._graph = _graph(self._speed)
        # A NaN would spoil all samples after it.
        *pushes, self._rest = _split(np.concatenate([self._rest, audible(pcm)]))
        return np.concatenate([_NOTHING, *(_through(self._graph, each) for each in pushes)])

    def flush(self) -> NDArray[np.float32]:
        """End the piece and return its remaining samples; the next push begins a new piece."""
        graph, self._graph = self._graph, None
        rest, self._rest = self._rest, _NOTHING
        if graph is None:
            return _NOTHING
        last = _through(graph, rest) if len(rest) else _NOTHING
        return np.concatenate([last, _through(graph, None)])


def _split(pcm: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Split samples into whole pushes and a rest, which may be empty."""
    return np.split(pcm, range(_PUSH_SAMPLES, len(pcm) + 1, _PUSH_SAMPLES))


def _graph(speed: float) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE_HZ, format="flt", layout="mono")
    graph.link_nodes(source, graph.add("atempo", str(speed)), graph.add("abuffersink")).configure()
    return graph


def _through(graph: Graph, pcm: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Push samples, or None at the end, and return what the filter has ready."""
    frame = None
    if pcm is not None:
        frame = AudioFrame.from_ndarray(pcm[np.newaxis], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
    graph.push(frame)
    ready: list[NDArray[np.float32]] = [_NOTHING]
    with suppress(BlockingIOError, EOFError):  # it needs more samples, or has ended
        while True:
            made = graph.pull()
            assert isinstance(made, AudioFrame), "an audio filter makes audio"
            ready.append(made.to_ndarray()[0])
    return np.concatenate(ready)
