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


_MOST_RISE = 1.5
"""What one measurement may count for, times the estimate so far: a machine's hiccup is no cost."""


class Costs:
    """Smoothed durations per stage and size; an unseen size is judged from the nearest seen one.

    The size of a prefill is the positions that it computes, that of any other stage is its streams. Decoding is told
    and judged per frame, and apart for each number of frames of an audio chunk.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, dict[tuple[int, int], float]] = defaultdict(dict)
        self._first: set[tuple[Stage, tuple[int, int]]] = set()

    def observe(self, stage: Stage, size: int, seconds: float, frames: int = 1) -> None:
        """Take in one measured step; of a decoding step, seconds per frame, and the frames of an audio chunk."""
        known, key = self._seconds[stage], _key(stage, size, frames)
        before = known.get(key)
        if before is None:
            known[key] = seconds
            self._first.add((stage, key))
            return
        if (stage, key) in self._first and seconds < before:  # the first of all is where things are compiled
            known[key] = seconds
        else:
            known[key] = before + _SMOOTHING * (min(seconds, _MOST_RISE * before) - before)
        self._first.discard((stage, key))

    def of(self, stage: Stage, size: int, frames: int = 1) -> float:
        """Expected seconds of a step, of a decoding step per frame; 0 while the stage was never seen."""
        known, key = self._seconds[stage], _key(stage, size, frames)
        if not known:
            return 0.0
        exact = known.get(key)
        if exact is not None:
            return exact
        return known[min(known, key=lambda seen: (abs(seen[0] - key[0]), abs(seen[1] - key[1]), seen))]

    def of_gathered(self, size: int) -> float | None:
        """Expected seconds of a frame among others of its audio chunk, at the best; None while none was decoded so.

        Of the nearest number of streams that was ever decoded so: to be tried once for each.
        """
        known = {key: seconds for key, seconds in self._seconds["decode"].items() if key[1] > 1}
        if not known:
            return None
        nearest = min((key[0] for key in known), key=lambda streams: (abs(streams - size), streams))
        return min(seconds for key, seconds in known.items() if key[0] == nearest)


def _key(stage: Stage, size: int, frames: int) -> tuple[int, int]:
    return -(-size // _PREFILL_POSITIONS) if stage == "prefill" else size, frames
