"""The search for the highest rate that meets an SLO: the SLO itself, and which rate to try next.

This module only decides; the caller runs the loads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.cli.load.figures import NAMES


class SloError(ValueError):
    """The text is not a valid SLO; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Slo:
    """An SLO: metrics that must not exceed their limits.

    Attributes:
        limits: limit by metric name (``figures.NAMES``); at least one.
    """

    limits: Mapping[str, float]

    def used(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Each value as a share of its limit: up to 1 meets the SLO; infinite if the value is unknown."""
        return {name: _used(figures.get(name), limit) for name, limit in self.limits.items()}

    def is_met(self, figures: Mapping[str, float]) -> bool:
        """Whether no figure exceeds its limit."""
        return all(share <= 1 for share in self.used(figures).values())


def _used(value: float | None, limit: float) -> float:
    if value is None:
        return math.inf
    if limit == 0:
        return 0.0 if value == 0 else math.inf
    return value / limit


def parse_slo(words: str) -> Slo:
    """Parse an SLO such as ``ttfa_p95_ms=500,underruns=0.01``.

    Raises:
        SloError: an unknown name, a limit that is not a number, or the same name twice.
    """
    limits: dict[str, float] = {}
    for part in words.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in NAMES:
            raise SloError(f"{name!r} is unknown; allowed: {', '.join(NAMES)}")
        if name in limits:
            raise SloError(f"{name} has two limits")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise SloError(f"{name}={value}: not a number") from error
        if not 0 <= limits[name] < math.inf:
            raise SloError(f"{name}={value}: must be 0 or more")
    return Slo(limits)


@dataclass(frozen=True, slots=True)
class Step:
    """A rate that was tried, and whether it met the SLO."""

    rate_hz: float
    met: bool


@dataclass(frozen=True, slots=True)
class Search:
    """Parameters of the search.

    Attributes:
        start_hz: the first rate.
        lowest_hz: the lowest rate to try.
        highest_hz: the highest rate to try.
        max_steps: maximum number of rates to try.
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
    violated_hz = min((step.rate_hz for step in steps if not step.met), default=None)
    below = (step.rate_hz for step in steps if step.met and (violated_hz is None or step.rate_hz < violated_hz))
    return max(below, default=None), violated_hz


def next_rate(steps: Sequence[Step], search: Search) -> float | None:
    """The rate to try next; None if the result is precise enough or no more rates may be tried.

    Increases by the factor while the SLO is met, or decreases while it is violated; then bisects with geometric means.
    """
    if len(steps) >= search.max_steps:
        return None
    met_hz, violated_hz = bracket(steps)
    if met_hz is not None and violated_hz is not None:
        is_close = violated_hz <= met_hz * (1 + search.precision)
        return None if is_close else math.sqrt(met_hz * violated_hz)
    if met_hz is not None:
        up_hz = min(met_hz * search.factor, search.highest_hz)
        return up_hz if up_hz > met_hz else None
    if violated_hz is not None:
        down_hz = max(violated_hz / search.factor, search.lowest_hz)
        return down_hz if down_hz < violated_hz else None
    return min(max(search.start_hz, search.lowest_hz), search.highest_hz)
