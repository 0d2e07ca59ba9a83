"""Results of a load: measurements per utterance, and their summary.

This module does not know how a load is sent or how its results are displayed.
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
    """Result of one arrival; times start when ``speak`` was sent, and are None if the event did not happen.

    Attributes:
        at_s: when it was due, from the start of the load.
        code: COMPLETE, NOT_SENT, an error code of the server, or one of the client's own (``client.py``).
        late_s: delay between its due time and its start, caused by the load generator itself.
        connect_s: time from its start until the socket was open.
        ttfa_s: time to the first samples.
        audible_s: time until a player without a buffer plays the first audible sound.
        e2e_s: time to the message that ended the utterance.
        samples: samples received.
        underruns: underruns of a player with a buffer.
        silent_s: total silence of these underruns.
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
        """Time to the end divided by audio time; None without audio."""
        return self.e2e_s * SAMPLE_RATE_HZ / self.samples if self.e2e_s is not None and self.samples else None


@dataclass(frozen=True, slots=True)
class Measure:
    """One measurement of every complete utterance.

    Attributes:
        name: name in SLOs and in JSON.
        label: label in tables.
        unit: ``ms``, or empty.
        of: returns the value, in seconds if it has a unit.
    """

    name: str
    label: str
    unit: str
    of: Callable[[Utterance], float | None]

    def key(self, percentile: str) -> str:
        """Name of a percentile in the results, such as ``ttfa_p95_ms``."""
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
"""All metrics that an SLO can limit."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Summary of all utterances of a load.

    Attributes:
        arrivals: number of arrivals.
        complete: how many were complete; time measurements cover only these.
        codes: number of other arrivals by code.
        audio_s: seconds of audio received, in total.
        samples: samples received, in total.
        underruns: underruns of all complete utterances.
        silent_s: total silence of these underruns.
        figures: values by name: percentiles, ``underruns`` (share of complete utterances with an underrun) and
            ``errors`` (share of arrivals that were not completed, including NOT_SENT). Unknown values are missing.
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
    """Summarize at least one utterance."""
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
    """The smallest value that at least ``percent`` percent of the values do not exceed (nearest rank).

    The values must be in ascending order, at least one. The result is always a measured value, without interpolation;
    with few values, high percentiles are the worst value.
    """
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]
