"""The highest rate that keeps a promise: what a promise is, and which rate is to be tried next.

Decides from what was seen and does nothing: whoever calls makes the load.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve_app.cli.load.figures import NAMES


class PromiseError(ValueError):
    """What was written is no promise; says what is."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a service owes its listeners: figures that may not exceed their limits.

    Attributes:
        limits: by name of a figure (``figures.NAMES``), at least one.
    """

    limits: Mapping[str, float]

    def used(self, figures: Mapping[str, float]) -> dict[str, float]:
        """How much of each limit was used: up to 1 is kept, and a figure that nothing is known of is infinite."""
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
    """A promise such as ``ttfa_p95_ms=500,underruns=0.01``.

    Raises:
        PromiseError: another name, no number, the same name twice.
    """
    limits: dict[str, float] = {}
    for part in words.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if name not in NAMES:
            raise PromiseError(f"{name!r} is none of {', '.join(NAMES)}")
        if name in limits:
            raise PromiseError(f"{name} is promised twice")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise PromiseError(f"{name}={value}: not a number") from error
        if not 0 <= limits[name] < math.inf:
            raise PromiseError(f"{name}={value}: 0 or more")
    return Promise(limits)


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that was tried, and whether the promise was kept."""

    rate_hz: float
    kept: bool


@dataclass(frozen=True, slots=True)
class Search:
    """How the knee is looked for.

    Attributes:
        start_hz: the first rate.
        lowest_hz: none below it is tried.
        highest_hz: none above it is tried.
        max_steps: rates that are tried at the most.
        factor: between rates until one is known that keeps the promise, and one that breaks it.
        precision: how far apart, as a share, the two may be in the end.
    """

    start_hz: float
    lowest_hz: float
    highest_hz: float
    max_steps: int
    factor: float = 2.0
    precision: float = 0.1


def bracket(steps: Sequence[Step]) -> tuple[float | None, float | None]:
    """The highest rate that kept the promise below every one that broke it, and the lowest that broke it."""
    broken_hz = min((step.rate_hz for step in steps if not step.kept), default=None)
    below = (step.rate_hz for step in steps if step.kept and (broken_hz is None or step.rate_hz < broken_hz))
    return max(below, default=None), broken_hz


def next_rate(steps: Sequence[Step], search: Search) -> float | None:
    """The rate to try next; None when the knee is known well enough, or no more may be tried.

    Up by the factor while the promise is kept, down while it is broken, then between the two by their geometric mean.
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
