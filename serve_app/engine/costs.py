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
    per frame of each stream, since its cost grows with the frames of an audio chunk.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, dict[int, float]] = defaultdict(dict)

    def observe(self, stage: Stage, size: int, seconds: float) -> None:
        """Take in one measured step."""
        known, key = self._seconds[stage], _key(stage, size)
        before = known.get(key)
        known[key] = seconds if before is None else before + _SMOOTHING * (seconds - before)

    def of(self, stage: Stage, size: int) -> float:
        """Expected seconds of a step; 0 while the stage was never seen."""
        known, key = self._seconds[stage], _key(stage, size)
        if not known:
            return 0.0
        exact = known.get(key)
        if exact is not None:
            return exact
        return known[min(known, key=lambda seen: (abs(seen - key), seen))]


def _key(stage: Stage, size: int) -> int:
    return -(-size // _PREFILL_POSITIONS) if stage == "prefill" else size
