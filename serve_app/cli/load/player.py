"""Simulates playback of one utterance: when it is first heard, and when the player has an underrun.

This module has no I/O and no clock; the caller passes times in.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from serve_app.config import SAMPLE_RATE_HZ

WINDOW_SAMPLES = SAMPLE_RATE_HZ // 50
"""20 ms."""
WINDOW_BYTES = 2 * WINDOW_SAMPLES
AUDIBLE_DBFS = -45.0
_AUDIBLE_RMS = 32768 * 10 ** (AUDIBLE_DBFS / 20)


@dataclass(frozen=True, slots=True)
class Playback:
    """What a listener heard of an utterance.

    Attributes:
        begins_s: when the first sample was played.
        underruns: how often the player ran out of audio before the end.
        silent_s: total silence of these underruns.
    """

    begins_s: float
    underruns: int
    silent_s: float


def play(pieces: Iterable[tuple[float, int]], *, buffer_s: float, ended_s: float) -> Playback:
    """Play with a buffer: start once it is full or all audio has arrived; after that, play audio as it arrives.

    A larger buffer does not start earlier, and never has more underruns or more silence.

    Args:
        pieces: time of arrival and number of samples of each piece, in order.
        buffer_s: audio that must have arrived before playback starts.
        ended_s: when the end of the utterance was known.
    """
    pieces = list(pieces)
    begins_s = _full_at_s(pieces, buffer_s, ended_s)
    underruns, silent_s, played_until_s = 0, 0.0, begins_s
    for at_s, samples in pieces:
        if at_s > played_until_s:
            underruns += 1
            silent_s += at_s - played_until_s
            played_until_s = at_s
        played_until_s += samples / SAMPLE_RATE_HZ
    return Playback(begins_s, underruns, silent_s)


def _full_at_s(pieces: Iterable[tuple[float, int]], buffer_s: float, ended_s: float) -> float:
    there = 0
    for at_s, samples in pieces:
        there += samples
        if there >= buffer_s * SAMPLE_RATE_HZ:
            return at_s
    return ended_s


def heard_at_s(pieces: Iterable[tuple[float, int]], sample: int) -> float | None:
    """When a player without a buffer plays the given sample of the utterance; None if it never arrived."""
    played_until_s = float("-inf")
    for at_s, samples in pieces:
        played_until_s = max(played_until_s, at_s)
        if sample < samples:
            return played_until_s + sample / SAMPLE_RATE_HZ
        sample -= samples
        played_until_s += samples / SAMPLE_RATE_HZ
    return None


class FirstSound:
    """Finds the first two consecutive windows of 20 ms that are both louder than -45 dBFS, while audio arrives.

    The windows start at the utterance's first sample and do not overlap. A single click therefore does not count as
    speech, and the result does not depend on how the audio is split.
    """

    def __init__(self) -> None:
        self.sample: int | None = None
        """First sample of the first of the two windows; None until both have arrived."""
        self._rest = b""
        self._windows = 0
        self._was_loud = False

    def push(self, pcm: bytes) -> None:
        """Process PCM16 (little endian, whole samples); keeps nothing once the sound was found."""
        if self.sample is not None:
            return
        self._rest += pcm
        whole = len(self._rest) // WINDOW_BYTES
        samples = np.frombuffer(self._rest, dtype="<i2", count=whole * WINDOW_SAMPLES).astype(np.float64)
        self._rest = self._rest[whole * WINDOW_BYTES :]
        for rms in np.sqrt((samples.reshape(whole, WINDOW_SAMPLES) ** 2).mean(axis=1)):
            is_loud = bool(rms > _AUDIBLE_RMS)
            if is_loud and self._was_loud:
                self.sample = (self._windows - 1) * WINDOW_SAMPLES
                self._rest = b""
                return
            self._was_loud = is_loud
            self._windows += 1
