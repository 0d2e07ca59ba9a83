"""The search for the highest rate that meets an SLO: the SLO itself, and which rate to try next.

This module only decides; the caller runs the loads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.cli.load.figures import NAMES


class PromiseError(ValueError):
    """The text is not a valid SLO; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Promise:
    """An SLO: metrics that must not exceed their limits.

    Attributes:
        limits: limit by metric name (``figures.NAMES``); at least one.
    """

    limits: Mapping[str, float]

    def used(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Each value as a share of its limit: up to 1 meets the SLO; infinite if the value is unknown."""
        return {name: _used(figures.get(name), limit) for name, limit in self.limits.items()}

    def is_kept(self, figures: Mapping[str, float]) -> bool:
        """Whether no figure exceeds its limit."""
        return all(share <= 1 for share in self.used(figures).values())


def _used(value: float | None, limit: float) -> float:
    if value is None:
        return math.inf
    if limit == 0:
        return 0.0 if value == 0 else math.inf
    return value / limit


def parse_promise(words: str) -> Promise:
    """Parse an SLO such as ``ttfa_p95_ms=500,underruns=0.01``.

    Raises:
        PromiseError: an unknown name, a limit that is not a number, or the same name twice.
    """
    limits: dict[str, float] = {}
    for part in words.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in NAMES:
            raise PromiseError(f"{name!r} is unknown; allowed: {', '.join(NAMES)}")
        if name in limits:
            raise PromiseError(f"{name} has two limits")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise PromiseError(f"{name}={value}: not a number") from error
        if not 0 <= limits[name] < math.inf:
            raise PromiseError(f"{name}={value}: must be 0 or more")
    return Promise(limits)


@dataclass(frozen=True, slots=True)
class Step:
    """A rate that was tried, and whether it met the SLO."""

    rate_hz: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Search:
    """Parameters of the search.

    Attributes:
        start_hz: the first rate.
        lowest_hz: the lowest rate to try.
        highest_hz: the highest rate to try.
        max_steps: most rates to try.
        factor: ratio between rates until one has met the SLO and one has violated it.
        precision: the search ends when these two differ by at most this share.
    """

    start_hz: float
    lowest_hz: float
    highest_hz: float
    max_steps: int
    factor: float = 2.0
    precision: float = 0.1


def bracket(steps: Sequence[Step]) -> tuple[float | None, float | None]:
    """The highest rate that met the SLO below every violating rate, and the lowest violating rate; None if unknown."""
    broken_hz = min((step.rate_hz for step in steps if not step.kept), default=None)
    below = (step.rate_hz for step in steps if step.kept and (broken_hz is None or step.rate_hz < broken_hz))
    return max(below, default=None), broken_hz


def next_rate(steps: Sequence[Step], search: Search) -> float | None:
    """The rate to try next; None if the result is precise enough or no more rates may be tried.

    Increases by the factor while the SLO is met, or decreases while it is violated; then bisects with geometric means.
    """
    if len(steps) >= search.max_steps:
        return None
    kept_hz, broken_hz = bracket(steps)
    if kept_hz is not None and broken_hz is not None:
        is_close = broken_hz <= kept_hz * (1 + search.precision)
        return None if is_close else math.sqrt(kept_hz * broken_hz)
    if kept_hz is not None:
        up_hz = min(kept_hz * search.factor, search.highest_hz)
        return up_hz if up_hz > kept_hz else None
    if broken_hz is not None:
        down_hz = max(broken_hz / search.factor, search.lowest_hz)
        return down_hz if down_hz < broken_hz else None
    return min(max(search.start_hz, search.lowest_hz), search.highest_hz)
