"""What each step costs, measured as it runs: the scheduler's only knowledge of the machine.

No clock here: durations are told, not taken.
"""

from collections import defaultdict
from typing import Literal

Stage = Literal["prefill", "predict", "talk", "decode"]

_SMOOTHING = 0.2
"""Weight of the newest measurement: about the last ten steps count."""

_PREFILL_POSITIONS = 32
"""Prefills are told apart by as many positions: one with a context costs several times one without."""


class Costs:
    """Smoothed durations per stage and size; an unseen size is judged from the nearest seen one.

    The size of a prefill is the positions that it computes, that of any other stage is its streams. Decoding is told
    and judged per frame of its audio chunks, of which it depends too how much a frame costs: the nearest seen number
    of frames comes before the nearest number of streams.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, dict[tuple[int, int], float]] = defaultdict(dict)

    def observe(self, stage: Stage, size: int, seconds: float, frames: int = 1) -> None:
        """Take in one measured step; of a decoding step, seconds per frame, and the frames of an audio chunk."""
        known, key = self._seconds[stage], _key(stage, size, frames)
        before = known.get(key)
        known[key] = seconds if before is None else before + _SMOOTHING * (seconds - before)

    def of(self, stage: Stage, size: int, frames: int = 1) -> float:
        """Expected seconds of a step, of a decoding step per frame; 0 while the stage was never seen."""
        known, key = self._seconds[stage], _key(stage, size, frames)
        if not known:
            return 0.0
        exact = known.get(key)
        if exact is not None:
            return exact
        return known[min(known, key=lambda seen: (abs(seen[0] - key[0]), abs(seen[1] - key[1]), seen))]


def _key(stage: Stage, size: int, frames: int) -> tuple[int, int]:
    return frames, -(-size // _PREFILL_POSITIONS) if stage == "prefill" else size
