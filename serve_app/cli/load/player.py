"""What a player makes of the audio of one utterance as it comes: when it is first heard, where it falls silent.

It knows neither sockets nor clocks: who calls says when what came.
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
    """What was heard of an utterance.

    Attributes:
        begins_s: when the first sample was played.
        underruns: how often the player had nothing to play before the end.
        silent_s: for how long, all of them together.
    """

    begins_s: float
    underruns: int
    silent_s: float


def play(pieces: Iterable[tuple[float, int]], *, buffer_s: float, ended_s: float) -> Playback:
    """Play with a buffer: begin when it is full, or everything is there; later on play whatever comes at once.

    A larger buffer begins no sooner, and has neither more underruns nor more silence.

    Args:
        pieces: when how many samples came, in order.
        buffer_s: audio that has to be there before the first sample is played.
        ended_s: when it was known that nothing more comes.
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
    """When a player without a buffer plays a sample of the utterance; None where it never came."""
    played_until_s = float("-inf")
    for at_s, samples in pieces:
        played_until_s = max(played_until_s, at_s)
        if sample < samples:
            return played_until_s + sample / SAMPLE_RATE_HZ
        sample -= samples
        played_until_s += samples / SAMPLE_RATE_HZ
    return None


class FirstSound:
    """Looks for the first of two successive windows of 20 ms, both louder than -45 dBFS, in audio as it comes.

    The windows lie side by side from the utterance's first sample on; so one click is no speech, and any cut of the
    audio finds the same.
    """

    def __init__(self) -> None:
        self.sample: int | None = None
        """Where the first of the two begins; None until both have come."""
        self._rest = b""
        self._windows = 0
        self._was_loud = False

    def push(self, pcm: bytes) -> None:
        """Take the next PCM16, little endian, whole samples; nothing is kept once the sound is found."""
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
