"""Finds silence in PCM, and shortens long silence at the beginning and the end of a stream.

The codec decodes every frame as before; only the samples that are delivered change. This module does not read a clock.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.speech import SAMPLES_PER_FRAME, SilenceLimits

WINDOW_SAMPLES = 240
"""Loudness is measured in windows of 10 ms; a frame has eight."""

_NOTHING = np.zeros(0, dtype=np.float32)


def silent_windows(pcm: NDArray[np.float32], level: float) -> NDArray[np.bool_]:
    """Return which windows are silent.

    Args:
        pcm: [N] float32; a shorter last part counts as a window.
        level: RMS amplitude below which a window is silent.

    Returns:
        [ceil(N / 240)] bool.
    """
    missing = -len(pcm) % WINDOW_SAMPLES
    windows = np.pad(pcm, (0, missing)).reshape(-1, WINDOW_SAMPLES)
    return np.sqrt(np.mean(windows * windows, axis=1)) < level


def leading_silence(pcm: NDArray[np.float32], level: float) -> int:
    """Return the number of samples before the first window that is not silent; all of them if there is none."""
    silent = silent_windows(pcm, level)
    return len(pcm) if silent.all() else int(np.argmin(silent)) * WINDOW_SAMPLES


def trailing_silence(pcm: NDArray[np.float32], level: float) -> int:
    """Return the number of samples after the last window that is not silent; all of them if there is none."""
    silent = silent_windows(pcm, level)
    return len(pcm) if silent.all() else len(pcm) - (len(silent) - int(np.argmin(silent[::-1]))) * WINDOW_SAMPLES


class SilenceFilter:
    """Shortens the silence of one stream; the result does not depend on how many frames each call has.

    Silence at the beginning is held back until the first sound. The last part of it is delivered, so that the sound
    starts softly. Later silence is delivered up to the limit for the end of a stream. Frames of silence beyond that
    limit are held back, and delivered if a sound follows. Silence after a sound in the same frame is always delivered.

    Attributes:
        silent_samples: samples of silence at the end of the audio delivered so far.
    """

    def __init__(self, limits: SilenceLimits, *, resumed: bool = False) -> None:
        """Begin a stream; ``resumed`` if its first sound was delivered before an interruption."""
        self._limits = limits
        self._begun = resumed
        self._held = _NOTHING
        self._left_out = 0
        self.silent_samples = limits.delivered_samples if resumed else 0

    @property
    def held_frames(self) -> int:
        """Number of frames at the end whose samples are held back."""
        return -(-len(self._held) // SAMPLES_PER_FRAME)

    def push(self, pcm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Accept [T * 1920] float32, and return what can be delivered, [N] float32."""
        frames = np.split(pcm, max(1, len(pcm) // SAMPLES_PER_FRAME))
        return np.concatenate([self._later(frame) if self._begun else self._first(frame) for frame in frames])

    def end(self) -> NDArray[np.float32]:
        """End the stream: return the part of the silence held back that may still be delivered."""
        limit = self._limits.trailing_samples if self._begun else self._limits.leading_samples
        rest = self._held[: max(0, limit - self.silent_samples)]
        self._held = _NOTHING
        self.silent_samples += len(rest)
        return rest

    def _first(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        limits = self._limits
        silent = leading_silence(frame, limits.level)
        self._held = np.concatenate([self._held, frame])
        onset = len(self._held) - len(frame) + silent
        left_out = min(limits.left_out_samples - self._left_out, max(0, onset - limits.leading_samples))
        self._held = self._held[left_out:]
        self._left_out += left_out
        if silent == len(frame) and self._left_out < limits.left_out_samples:
            return _NOTHING
        self._begun = True
        delivered, self._held = self._held, _NOTHING
        self.silent_samples = trailing_silence(delivered, limits.level)
        return delivered

    def _later(self, frame: NDArray[np.float32]) -> NDArray[np.float32]:
        trailing = trailing_silence(frame, self._limits.level)
        if trailing < len(frame):
            delivered, self._held = np.concatenate([self._held, frame]), _NOTHING
            self.silent_samples = trailing
            return delivered
        if len(self._held) or self.silent_samples + trailing > self._limits.trailing_samples:
            self._held = np.concatenate([self._held, frame])
            return _NOTHING
        self.silent_samples += trailing
        return frame
