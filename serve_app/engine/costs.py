"""Measured step durations: all that the scheduler knows about the machine.

This module has no clock; callers pass durations in.
"""

import math
from collections import defaultdict
from typing import Literal

Stage = Literal["prefill", "predict", "talk", "decode"]

_SMOOTHING = 0.2
"""Weight of the newest measurement; the average covers about the last ten steps."""

_PREFILL_POSITIONS = 32
"""Prefills are grouped by length in steps of this many positions, because a long prefill costs several times more
than a short one."""


_MAX_RISE = 1.5
"""One measurement counts for at most this many times the current estimate, so that a spike does not distort it."""


class Costs:
    """Smoothed durations per stage and size; a size that was not measured has the estimate of the nearest measured one.

    The size of a prefill is the number of positions that it computes, with padding; the size of any other stage is its
    number of streams. Decode durations are per frame, and are kept separately for each number of frames in an audio
    chunk.
    """

    def __init__(self) -> None:
        self._seconds: dict[Stage, dict[tuple[int, int], float]] = defaultdict(dict)
        self._first: set[tuple[Stage, tuple[int, int]]] = set()

    def observe(self, stage: Stage, size: int, seconds: float, frames: int = 1) -> None:
        """Record one measured step.

        Args:
            stage: what the step did.
            size: positions of a prefill, streams of any other stage.
            seconds: how long it took; per frame for a decode.
            frames: frames in each audio chunk of a decode.
        """
        known, key = self._seconds[stage], _key(stage, size, frames)
        before = known.get(key)
        if before is None:
            known[key] = seconds
            self._first.add((stage, key))
            return
        if (stage, key) in self._first and seconds < before:  # the first measurement may include compilation
            known[key] = seconds
        else:
            known[key] = before + _SMOOTHING * (min(seconds, _MAX_RISE * before) - before)
        self._first.discard((stage, key))

    def of(self, stage: Stage, size: int, frames: int = 1) -> float:
        """Expected seconds of a step (per frame for a decode); 0 until the stage has been measured."""
        known, key = self._seconds[stage], _key(stage, size, frames)
        if not known:
            return 0.0
        exact = known.get(key)
        if exact is not None:
            return exact
        return known[min(known, key=lambda seen: (abs(seen[0] - key[0]), abs(seen[1] - key[1]), seen))]

    def of_prefills(self, count: int, positions: int) -> float:
        """Upper estimate of the seconds that one prefill of ``count`` requests takes, each of ``positions`` positions.

        It is the time of as many single prefills, or less if a prefill of at least this size was faster.
        """
        size = _key("prefill", count * positions, 1)[0]
        larger = (seconds for key, seconds in self._seconds["prefill"].items() if key[0] >= size)
        return min(count * self.of("prefill", positions), min(larger, default=math.inf))

    def of_gathered(self, size: int) -> float | None:
        """Lowest expected seconds per frame when an audio chunk has several frames; None until one was decoded.

        If this number of streams has not been measured, the nearest measured number stands in for it.
        """
        known = {key: seconds for key, seconds in self._seconds["decode"].items() if key[1] > 1}
        if not known:
            return None
        nearest = min((key[0] for key in known), key=lambda streams: (abs(streams - size), streams))
        return min(seconds for key, seconds in known.items() if key[0] == nearest)


def _key(stage: Stage, size: int, frames: int) -> tuple[int, int]:
    return -(-size // _PREFILL_POSITIONS) if stage == "prefill" else size, frames
