"""The loudness of a clip, and the one gain with which its voice speaks at a chosen level.

A gain is a number for a whole utterance. It acts on each sample alone, so that it does not matter how audio is cut into
pieces. This module knows nothing about voices, streams or encodings.
"""

import math
from dataclasses import dataclass

import av
import numpy as np
from av.error import EOFError as AvEOFError
from av.filter import Graph
from numpy.typing import NDArray

MAX_GAIN_DB = 12.0
"""Most that a voice is made louder or softer; beyond it, a clip should be recorded again."""

PEAK_DBFS = -1.0
"""A gain does not lift the clip's own peak above this level."""

SILENT_LUFS = -70.0
"""Loudness of silence: the absolute gate of ITU-R BS.1770, below which nothing is counted."""

_KNEE = 10 ** (PEAK_DBFS / 20)


@dataclass(frozen=True, slots=True)
class Loudness:
    """How loud a clip is.

    Attributes:
        lufs: integrated loudness by ITU-R BS.1770; at least :data:`SILENT_LUFS`.
        peak: largest magnitude of a sample; 1 is full scale.
    """

    lufs: float
    peak: float


def loudness_of(pcm: NDArray[np.float32], sample_rate_hz: int) -> Loudness:
    """Measure a clip with FFmpeg's meter.

    Args:
        pcm: [N] float32, mono, not empty. Less than 0.4 s counts as silence.
        sample_rate_hz: its sample rate.

    Source: FFmpeg's filter ``ebur128`` (EBU R 128, ITU-R BS.1770), which exports its results as metadata.
    """
    graph = Graph()
    source = graph.add_abuffer(sample_rate=sample_rate_hz, format="flt", layout="mono")
    meter, sink = graph.add("ebur128", "metadata=1:framelog=quiet"), graph.add("abuffersink")
    graph.link_nodes(source, meter, sink).configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm, np.float32)[None], format="flt", layout="mono")
    frame.sample_rate = sample_rate_hz
    graph.push(frame)
    graph.push(None)
    lufs = SILENT_LUFS
    try:
        while True:
            lufs = float(graph.pull().metadata.get("lavfi.r128.I", lufs))
    except AvEOFError:
        peak = float(np.abs(pcm).max(initial=0.0))
        return Loudness(lufs if math.isfinite(lufs) else SILENT_LUFS, peak)


def gain_of(loudness: Loudness, target_lufs: float | None) -> float:
    """Return the factor that brings a clip to a level, as far as its peak and :data:`MAX_GAIN_DB` allow.

    Args:
        loudness: of the clip.
        target_lufs: the level; None leaves samples unchanged.

    Returns:
        A factor for samples; exactly 1 without a target.
    """
    if target_lufs is None:
        return 1.0
    wanted_db = float(np.clip(target_lufs - loudness.lufs, -MAX_GAIN_DB, MAX_GAIN_DB))
    if wanted_db > 0:
        headroom_db = PEAK_DBFS - 20 * math.log10(max(loudness.peak, 1e-9))
        wanted_db = min(wanted_db, max(0.0, headroom_db))
    return 10 ** (wanted_db / 20)


def amplified(pcm: NDArray[np.float32], gain: float) -> NDArray[np.float32]:
    """Multiply samples by a gain, and round peaks off, so that none exceeds full scale.

    Speech may have higher peaks than the clip it was cloned from. Samples up to :data:`PEAK_DBFS` are multiplied only;
    what is above it is compressed towards full scale.

    Args:
        pcm: [N] float32 in [-1, 1]; not changed.
        gain: from :func:`gain_of`; 1 returns ``pcm`` itself.

    Returns:
        [N] float32 in [-1, 1].
    """
    if gain == 1:
        return pcm
    louder = pcm * np.float32(gain)
    over = np.abs(louder) - np.float32(_KNEE)
    if gain > 1 and over.max(initial=0.0) > 0:
        rounded = _KNEE + (1 - _KNEE) * np.tanh(over / (1 - _KNEE))
        louder = np.where(over > 0, np.copysign(rounded, louder), louder)
    return louder.astype(np.float32)
