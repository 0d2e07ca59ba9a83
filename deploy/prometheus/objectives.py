"""The SLOs, and the rules that compute how fast their error budgets burn. Does not know the other alerts.

An SLO of 99 % over 30 days has an error budget of 1 % bad events. A burn rate of 1 uses it up in exactly 30 days. An
alert checks two windows: the long one shows that the burn is significant, the short one that it continues.
"""

from dataclasses import dataclass

from serve_app.errors import CapacityError, SynthesisError, TtsUnavailableError
from serve_app.observability import metrics

OURS = "|".join(error.code for error in (SynthesisError, TtsUnavailableError, CapacityError))
"""Codes of server errors; all other codes report client errors."""

PROMPT_S = 0.5
"""Target of the first audio: a bound of the histogram's buckets, so that the share is counted and not estimated."""

FEW = 20
"""Shares are not significant with this number of utterances or fewer."""

WINDOWS = ("5m", "30m", "1h", "6h", "3d")


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows: the alert fires while the burn rate of both exceeds ``factor``.

    Source: Google, The Site Reliability Workbook, chapter 5, table 5-8: 2 % of the budget in an hour, 5 % in six hours,
    10 % in three days.
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
    """One SLO.

    Attributes:
        name: the middle part of its recording rules' names.
        alert: name of the alert.
        goal: target share of good events over 30 days.
        slo: the same in words.
        bad_share: PromQL of the share of bad events, with a placeholder ``{window}``; no value without events.
        events: PromQL of the number of events, with the same placeholder.
    """

    name: str
    alert: str
    goal: float
    slo: str
    bad_share: str
    events: str

    def recorded(self, window: str) -> str:
        """Name of the recorded series for that window."""
        return f"tts:{self.name}:share_{window}"

    def over(self, window: str) -> str:
        """PromQL of the share of bad events in that window."""
        return self.bad_share.replace("{window}", f"[{window}]")

    def burning(self, burn: Burn) -> str:
        """PromQL that is true while the budget burns too fast."""
        limit = f"{burn.factor * (1 - self.goal):.4g}"
        many = f"{self.events.replace('{window}', f'[{burn.long}]')} > {FEW}"
        return f"{self.recorded(burn.long)} > {limit} and {self.recorded(burn.short)} > {limit} and on () {many}"


def asked(window: str) -> str:
    """PromQL: number of utterances plus server errors (refused requests are not counted as utterances)."""
    errors = f'(sum(increase({metrics.ERRORS.exported}{{code=~"{OURS}"}}{window})) or vector(0))'
    return f"({errors} + (sum(increase({metrics.UTTERANCES.exported}{window})) or vector(0)))"


def heard(window: str) -> str:
    """PromQL: number of utterances with a listener. Their first audio is measured once for each.

    Texts of a batch and buffered responses have no listener.
    """
    return f"sum(increase({metrics.TTFA_SECONDS.exported}_count{window}))"


def our_errors(window: str) -> str:
    """PromQL: server errors per second; 0 if there never was one."""
    return f'(sum(rate({metrics.ERRORS.exported}{{code=~"{OURS}"}}{window})) or vector(0))'


def error_share(window: str) -> str:
    """PromQL: share of server errors among server errors and utterances that ended without an error."""
    ended = f'(sum(rate({metrics.UTTERANCES.exported}{{finish_reason!="error"}}{window})) or vector(0))'
    return f"{our_errors(window)} / ({our_errors(window)} + {ended} > 0)"


def underrun_share(window: str) -> str:
    """PromQL: share of utterances with an underrun, among those with a listener; see :func:`heard`."""
    bad = f"(sum(rate({metrics.UTTERANCES_UNDERRUN.exported}{window})) or vector(0))"
    return f"{bad} / (sum(rate({metrics.TTFA_SECONDS.exported}_count{window})) > 0)"


def late_share(window: str) -> str:
    """PromQL: share of first audio later than :data:`PROMPT_S`."""
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
        heard("{window}"),
    ),
    Objective(
        "late_first_audio",
        "TtsFirstAudioBudget",
        0.95,
        f"95 % of first audio comes within {PROMPT_S:g} s",
        late_share("{window}"),
        heard("{window}"),
    ),
    Objective(
        "error",
        "TtsErrorBudget",
        0.995,
        "99.5 % of utterances end without a server error",
        error_share("{window}"),
        asked("{window}"),
    ),
)
