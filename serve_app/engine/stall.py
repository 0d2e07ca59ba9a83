"""Detects a stalled stream: one that repeats itself or stays silent.

The 0.6B model sometimes fails to stop and then hums for minutes. This guard detects such a stream, and the engine ends
it; the frame budget is the final limit. The guard looks only at codes and samples, and has no clock.
"""

import numpy as np
from numpy.typing import NDArray

_LONGEST_CYCLE_FRAMES = 4
_SILENT_RMS = 1e-3


class StallGuard:
    """Counts consecutive frames that repeat a short cycle in codebook 0, and consecutive silent frames."""

    def __init__(self, limit_frames: int) -> None:
        """Report a stall after ``limit_frames`` consecutive repeated or silent frames."""
        self._limit_frames = limit_frames
        self._recent: list[int] = []
        self._cycled = [0] * (_LONGEST_CYCLE_FRAMES + 1)
        self._silent = 0

    def recall(self, codes: NDArray[np.int16]) -> None:
        """Count codes [F, 16] that were delivered before the stream was interrupted; their samples are not known."""
        for frame in codes[:, 0].tolist():
            self._count_cycles(frame)

    def observe(self, codes: NDArray[np.int16], pcm: NDArray[np.float32]) -> bool:
        """Count the next frames.

        Args:
            codes: [T, 16] int16.
            pcm: [T * 1920] float32 of the same frames.

        Returns:
            True once the stream should end.
        """
        for frame, samples in zip(codes[:, 0].tolist(), np.split(pcm, len(codes)), strict=True):
            self._count_cycles(frame)
            is_silent = float(np.sqrt(np.mean(samples * samples))) < _SILENT_RMS
            self._silent = self._silent + 1 if is_silent else 0
        return max(*self._cycled, self._silent) >= self._limit_frames

    def _count_cycles(self, frame: int) -> None:
        for period in range(1, _LONGEST_CYCLE_FRAMES + 1):
            repeats = len(self._recent) >= period and self._recent[-period] == frame
            self._cycled[period] = self._cycled[period] + 1 if repeats else 0
        self._recent = [*self._recent[1 - _LONGEST_CYCLE_FRAMES :], frame]
