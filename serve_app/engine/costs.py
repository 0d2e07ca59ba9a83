"""What each step costs, measured as it runs: the scheduler's only knowledge of the machine.

No clock here: durations are told, not taken.
"""

from collections import defaultdict
from typing import Literal

Stage = Literal["prefill", "predict", "talk", "decode"]

_SMOOTHING = 0.2
"""Weight of the newest measurement: about the last ten steps count."""


class Costs:
    """Smoothed durations per stage and batch size; an unseen size is judged from the nearest seen one.

    Decoding is told per frame of each stream, since its cost grows with the frames of an audio chunk.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, dict[int, float]] = defaultdict(dict)

    def observe(self, stage: Stage, batch: int, seconds: float) -> None:
        """Take in one measured step of ``batch`` rows."""
        known = self._seconds[stage]
        before = known.get(batch)
        known[batch] = seconds if before is None else before + _SMOOTHING * (seconds - before)

    def of(self, stage: Stage, batch: int) -> float:
        """Expected seconds of a step; 0 while the stage was never seen."""
        known = self._seconds[stage]
        if not known:
            return 0.0
        exact = known.get(batch)
        if exact is not None:
            return exact
        return known[min(known, key=lambda seen: (abs(seen - batch), seen))]
