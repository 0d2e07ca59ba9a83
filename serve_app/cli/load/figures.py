"""The figures of a load: what each utterance was like, and what all of them together were.

It knows neither sockets nor how figures are shown.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve_app.config import SAMPLE_RATE_HZ

COMPLETE = "COMPLETE"
NOT_SENT = "NOT_SENT"
PERCENTS = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}


@dataclass(frozen=True, slots=True)
class Utterance:
    """What became of one arrival; times of the wire count from the sent ``speak``, None where there was no such moment.

    Attributes:
        at_s: when it was due, from the beginning of the load.
        code: COMPLETE, NOT_SENT, the server's code of an error, or one of the client's own (``client.py``).
        late_s: how much later than due the client began with it; its own fault.
        connect_s: from there until the socket was open.
        ttfa_s: until the first samples came.
        audible_s: until a player without a buffer played the first of what can be heard.
        e2e_s: until the message that ended it.
        samples: that came.
        underruns: of a player with a buffer.
        silent_s: all of them together.
    """

    at_s: float
    code: str
    late_s: float = 0.0
    connect_s: float | None = None
    ttfa_s: float | None = None
    audible_s: float | None = None
    e2e_s: float | None = None
    samples: int = 0
    underruns: int = 0
    silent_s: float = 0.0

    @property
    def rtf(self) -> float | None:
        """Seconds until the end for each second of audio; None without audio."""
        return self.e2e_s * SAMPLE_RATE_HZ / self.samples if self.e2e_s is not None and self.samples else None


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured of every complete utterance.

    Attributes:
        name: as promises and JSON have it.
        label: as tables have it.
        unit: ``ms``, or nothing.
        of: its value in seconds, or without a unit.
    """

    name: str
    label: str
    unit: str
    of: Callable[[Utterance], float | None]

    def key(self, percentile: str) -> str:
        """Name of one of its percentiles among the figures: ``ttfa_p95_ms``."""
        return "_".join(filter(None, (self.name, percentile, self.unit)))


MEASURES = (
    Measure("ttfa", "TTFA", "ms", lambda one: one.ttfa_s),
    Measure("audible_ttfa", "audible TTFA", "ms", lambda one: one.audible_s),
    Measure("e2e", "E2E", "ms", lambda one: one.e2e_s),
    Measure("rtf", "RTF", "", lambda one: one.rtf),
    Measure("silence", "silence in between", "ms", lambda one: one.silent_s),
    Measure("connect", "connecting", "ms", lambda one: one.connect_s),
    Measure("late", "sent too late", "ms", lambda one: one.late_s),
)
SHARES = ("underruns", "errors")
NAMES = (*SHARES, *(measure.key(percentile) for measure in MEASURES for percentile in PERCENTS))
"""Every figure that a promise can be about."""


@dataclass(frozen=True, slots=True)
class Summary:
    """All utterances of a load together.

    Attributes:
        arrivals: how many came.
        complete: of them; the figures in time are of these alone.
        codes: how many of the others, by code.
        audio_s: seconds of audio that came, of all.
        samples: the same in samples.
        underruns: of all complete utterances.
        silent_s: of the same.
        figures: by name: percentiles, ``underruns`` (share of the complete utterances that had one) and ``errors``
            (share of the arrivals that were not completed, NOT_SENT too). What nothing is known of is missing.
    """

    arrivals: int
    complete: int
    codes: dict[str, int]
    audio_s: float
    samples: int
    underruns: int
    silent_s: float
    figures: dict[str, float]


def summarize(utterances: Sequence[Utterance]) -> Summary:
    """The figures of at least one utterance."""
    complete = [one for one in utterances if one.code == COMPLETE]
    figures = {"errors": 1 - len(complete) / len(utterances)}
    if complete:
        figures["underruns"] = sum(one.underruns > 0 for one in complete) / len(complete)
    for measure in MEASURES:
        values = sorted(value for one in complete if (value := measure.of(one)) is not None)
        for name, percent in PERCENTS.items() if values else ():
            figures[measure.key(name)] = percentile(values, percent) * (1000 if measure.unit else 1)
    samples = sum(one.samples for one in utterances)
    return Summary(
        arrivals=len(utterances),
        complete=len(complete),
        codes=dict(Counter(one.code for one in utterances if one.code != COMPLETE).most_common()),
        audio_s=samples / SAMPLE_RATE_HZ,
        samples=samples,
        underruns=sum(one.underruns for one in complete),
        silent_s=sum(one.silent_s for one in complete),
        figures=figures,
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The least of the values, in ascending order and at least one, that so many percent of them do not exceed.

    One that was measured, never one between two (nearest rank); of few values the high percentiles are the worst one.
    """
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]
