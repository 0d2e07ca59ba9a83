"""What is promised, and the rules that say how fast the allowance is used up; it knows no single alert.

An objective of 99 % over 30 days allows 1 % of bad events. A burn rate of 1 uses that up in exactly 30 days. An alert
looks at two windows: the long one says that it matters, the short one that it still goes on.
"""

from dataclasses import dataclass

from serve_app.errors import CapacityError, SynthesisError, TtsUnavailableError
from serve_app.observability import metrics

OURS = "|".join(error.code for error in (SynthesisError, TtsUnavailableError, CapacityError))
"""Errors that are the service's fault; all others are answers to what a client did."""

PROMPT_S = 0.5
"""First audio within this is prompt; a bound of the histogram's buckets, so that it is counted and not estimated."""

FEW = 20
"""Shares of no more utterances than this say nothing."""

WINDOWS = ("5m", "30m", "1h", "6h", "3d")


@dataclass(frozen=True, slots=True)
class Burn:
    """One pair of windows: the alert is on while both burn faster than ``factor``.

    Source: Google, The Site Reliability Workbook, chapter 5, table 5-8: 2 % of the allowance in an hour, 5 % in six
    hours, 10 % in three days.
    """

    long: str
    short: str
    factor: float
    severity: str


BURNS = (
    Burn("1h", "5m", 14.4, "critical"),
    Burn("6h", "30m", 6, "critical"),
    Burn("3d", "6h", 1, "warning"),
)


@dataclass(frozen=True, slots=True)
class Objective:
    """A promise to listeners.

    Attributes:
        name: the middle of its recording rules' names.
        alert: name of the alert.
        goal: share of events that are to be good, over 30 days.
        promise: the same in words.
        bad_share: PromQL with ``{window}`` in it; nothing where there were no events.
    """

    name: str
    alert: str
    goal: float
    promise: str
    bad_share: str

    def recorded(self, window: str) -> str:
        """Name of the series with the share of bad events in that window."""
        return f"tts:{self.name}:share_{window}"

    def over(self, window: str) -> str:
        """PromQL of that share."""
        return self.bad_share.replace("{window}", f"[{window}]")

    def burning(self, burn: Burn) -> str:
        """PromQL that holds while the allowance burns too fast."""
        limit = f"{burn.factor * (1 - self.goal):.4g}"
        many = f"{asked(f'[{burn.long}]')} > {FEW}"
        return f"{self.recorded(burn.long)} > {limit} and {self.recorded(burn.short)} > {limit} and on () {many}"


def asked(window: str) -> str:
    """PromQL: how many utterances and errors of ours there were; refusals are no utterances."""
    errors = f'(sum(increase({metrics.ERRORS.exported}{{code=~"{OURS}"}}{window})) or vector(0))'
    return f"({errors} + (sum(increase({metrics.UTTERANCES.exported}{window})) or vector(0)))"


def our_errors(window: str) -> str:
    """PromQL: errors of ours a second; 0 where there never was one."""
    return f'(sum(rate({metrics.ERRORS.exported}{{code=~"{OURS}"}}{window})) or vector(0))'


def error_share(window: str) -> str:
    """PromQL: errors of ours among these and the utterances that ended without any."""
    ended = f'(sum(rate({metrics.UTTERANCES.exported}{{finish_reason!="error"}}{window})) or vector(0))'
    return f"{our_errors(window)} / ({our_errors(window)} + {ended} > 0)"


def underrun_share(window: str) -> str:
    """PromQL: utterances with a gap among all."""
    bad = f"(sum(rate({metrics.UTTERANCES_UNDERRUN.exported}{window})) or vector(0))"
    return f"{bad} / (sum(rate({metrics.UTTERANCES.exported}{window})) > 0)"


def late_share(window: str) -> str:
    """PromQL: first audio that came after :data:`PROMPT_S`, among all."""
    assert PROMPT_S in metrics.TTFA_SECONDS.buckets
    name = metrics.TTFA_SECONDS.exported
    prompt = f'sum(rate({name}_bucket{{le="{PROMPT_S}"}}{window}))'
    return f"1 - {prompt} / (sum(rate({name}_count{window})) > 0)"


OBJECTIVES = (
    Objective(
        "underrun",
        "TtsUnderrunBudget",
        0.99,
        "99 % of utterances are heard without a gap",
        underrun_share("{window}"),
    ),
    Objective(
        "late_first_audio",
        "TtsFirstAudioBudget",
        0.95,
        f"95 % of first audio comes within {PROMPT_S:g} s",
        late_share("{window}"),
    ),
    Objective(
        "error",
        "TtsErrorBudget",
        0.995,
        "99.5 % of utterances end without an error of ours",
        error_share("{window}"),
    ),
)
