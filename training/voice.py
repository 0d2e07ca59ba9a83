"""Voices derived from the teacher's: spectra are stretched along frequency, and pitch is scaled."""

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOWEST_PITCH, HIGHEST_PITCH = 0.6, 1.3
_DEEPEST_PITCH = 0.45  # 90 Hz
NARROWEST, WIDEST = 0.85, 1.2
_BIN_HZ = 20.0


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker.

    Attributes:
        stretch: stretch of formants; above 1 means a shorter vocal tract.
        pitch: factor of the teacher's pitch.
    """

    stretch: float = 1.0
    pitch: float = 1.0

    def coordinates(self) -> tuple[float, float]:
        """Stretch and pitch as numbers from about -1 to 1, evenly distributed if drawn by :func:`random_voice`."""
        return _place(self.stretch, NARROWEST, WIDEST), _place(self.pitch, LOWEST_PITCH, HIGHEST_PITCH)


def random_voice(rng: random.Random, *, deep: bool = False) -> Voice:
    """Draw a voice; as with people, low voices mostly have long vocal tracts. A deep one is lower than all others."""
    if deep:
        pitch = _DEEPEST_PITCH * (LOWEST_PITCH / _DEEPEST_PITCH) ** rng.random()
        return Voice(NARROWEST * 1.1 ** rng.random(), pitch)
    height = rng.random()
    pitch = LOWEST_PITCH * (HIGHEST_PITCH / LOWEST_PITCH) ** height
    place = min(1.0, max(0.0, height + rng.uniform(-0.3, 0.3)))
    return Voice(NARROWEST * (WIDEST / NARROWEST) ** place, pitch)


def stretched(spectrum: NDArray[np.float32], stretch: float) -> NDArray[np.float32]:
    """Move the value at each frequency to ``stretch`` times that frequency, [bins, F] -> [bins, F]."""
    if stretch == 1.0:
        return spectrum
    bins = len(spectrum)
    at = np.minimum(np.arange(bins) / stretch, bins - 1)
    below = np.minimum(at.astype(np.int64), bins - 2)
    part = (at - below)[:, None].astype(np.float32)
    return spectrum[below] * (1 - part) + spectrum[below + 1] * part


def envelope(spectrum: NDArray[np.float32], pitch_hz: NDArray[np.float32], stretch: float) -> NDArray[np.float32]:
    """Interpolate a spectrum's values at the harmonics, and stretch the result, for use with another pitch.

    Between harmonics, the teacher's network was not trained to any value.

    Args:
        spectrum: [bins, F], bins of 20 Hz.
        pitch_hz: [F], positive.
        stretch: as for :func:`stretched`.
    """
    bins = len(spectrum)
    harmonic = np.maximum(np.arange(bins)[:, None] * _BIN_HZ / stretch / pitch_hz, 1.0)
    below = np.floor(harmonic)
    part = (harmonic - below).astype(np.float32)
    column = np.arange(len(pitch_hz))
    ends = [
        spectrum[np.minimum(np.rint(number * pitch_hz / _BIN_HZ), bins - 1).astype(np.int64), column]
        for number in (below, below + 1)
    ]
    return ends[0] * (1 - part) + ends[1] * part


def _place(value: float, low: float, high: float) -> float:
    return 2 * math.log(value / low) / math.log(high / low) - 1
