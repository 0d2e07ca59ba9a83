"""The dashboard *Listeners*: is it good now? What listeners hear, and which errors clients get."""

from grafana_foundation_sdk.models import units
from panels import Dashboard, Panel, Query, Row
from promql import now, or_zero, quantile, rate, share, total

from serve_app.errors import CapacityError, SynthesisError, TtsUnavailableError
from serve_app.observability import metrics

OURS = "|".join(error.code for error in (SynthesisError, TtsUnavailableError, CapacityError))
"""Codes of server errors; all other codes report client errors."""

_OUR_ERRORS = or_zero(rate(metrics.ERRORS, where=f'code=~"{OURS}"'))
_WELL_ENDED = or_zero(rate(metrics.UTTERANCES, where='finish_reason!="error"'))

_GLANCE = Row(
    "At a glance",
    (
        Panel(
            "First audio, p95",
            units.Seconds,
            "Time from receiving a client's text to sending its first audio, for all but the slowest 5 %. Up to 0.5 s "
            "feels like an answer; above 1 s people start to speak again.",
            (Query(quantile(0.95, metrics.TTFA_SECONDS), "p95"),),
            stat=True,
            limits=(0.5, 1.0),
        ),
        Panel(
            "Utterances without a gap",
            units.PercentUnit,
            "Share of utterances that were played from beginning to end without an underrun. The target is 99 %.",
            (Query(f"1 - {share(rate(metrics.UTTERANCES_UNDERRUN), rate(metrics.UTTERANCES))}", "without a gap"),),
            stat=True,
            limits=(0.99, 0.95),
        ),
        Panel(
            "Server errors",
            units.PercentUnit,
            f"Share of utterances that ended with {OURS.replace('|', ', ')}. Client errors are not counted. The target "
            "is less than 0.5 %.",
            (Query(f"{_OUR_ERRORS} / ({_OUR_ERRORS} + {_WELL_ENDED} > 0)", "errors"),),
            stat=True,
            limits=(0.005, 0.05),
        ),
        Panel(
            "Open sessions",
            units.Short,
            "Open sockets and HTTP requests, whether they are speaking or not.",
            (Query(or_zero(now(metrics.SESSIONS)), "sessions"),),
            stat=True,
        ),
    ),
)

_FIRST_AUDIO = Row(
    "First audio",
    (
        Panel(
            "First audio",
            units.Seconds,
            "Time from receiving text that can be spoken to sending its first audio. If only p99 rises, some texts "
            "wait for a slot. If all three rise, every replica is slow or full.",
            tuple(Query(quantile(q, metrics.TTFA_SECONDS), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
        ),
        Panel(
            "First audio by part, p95",
            units.Seconds,
            "The same time by part: queue (no slot is free), prompt (the voice is fetched or encoded), prefill, "
            "predictor and codec (the model), transport (the rest: routing, retries, the socket). "
            "Start with the largest part.",
            (Query(quantile(0.95, metrics.TTFA_PART_SECONDS, ("part",)), "{{part}}"),),
        ),
        Panel(
            "Sessions by dialect",
            units.Short,
            "Open sessions by the protocol that they use.",
            (Query(now(metrics.SESSIONS, ("dialect",)), "{{dialect}}"),),
        ),
    ),
)

_LISTENING = Row(
    "Playback",
    (
        Panel(
            "Utterances with a gap",
            units.PercentUnit,
            "Share of utterances with at least one underrun. Above 1 % the target is missed.",
            (Query(share(rate(metrics.UTTERANCES_UNDERRUN), rate(metrics.UTTERANCES)), "with a gap"),),
        ),
        Panel(
            "Silence in underruns",
            units.Seconds,
            "Seconds of unwanted silence per minute, over all listeners, and the number of gaps per minute. They tell "
            "one long gap from many short ones.",
            (
                Query(f"60 * {or_zero(rate(metrics.UNDERRUN_SECONDS))}", "seconds per minute"),
                Query(f"60 * {or_zero(rate(metrics.UNDERRUNS))}", "gaps per minute"),
            ),
        ),
        Panel(
            "Slack when audio is sent",
            units.Seconds,
            "Audio that listeners had left to play when the next audio was sent. If the lowest 5 % are near 0, gaps "
            "are imminent.",
            (
                Query(quantile(0.05, metrics.SLACK_SECONDS), "lowest 5 %"),
                Query(quantile(0.5, metrics.SLACK_SECONDS), "median"),
            ),
        ),
        Panel(
            "Real-time factor",
            "none",
            "Time to generate an utterance divided by its length. Below 1, audio is generated faster than it is "
            "played. At 1, every hiccup causes a gap.",
            tuple(Query(quantile(q, metrics.RTF), f"p{q * 100:g}") for q in (0.5, 0.95)),
        ),
    ),
)

_ENDS = Row(
    "Endings and errors",
    (
        Panel(
            "Utterances by finish reason",
            units.CountsPerSecond,
            "eos: a complete utterance. length: cut at the maximum length. cancelled: the client cancelled it. "
            "disconnected: the client left. Look into stalled and error.",
            (Query(rate(metrics.UTTERANCES, ("finish_reason",)), "{{finish_reason}}"),),
        ),
        Panel(
            "Errors sent to clients",
            units.CountsPerSecond,
            f"By code. {OURS.replace('|', ', ')} are server errors. If another code rises, a client has changed.",
            (Query(f"{rate(metrics.ERRORS, ('code',))} or vector(0)", "{{code}}"),),
        ),
        Panel(
            "Sessions by close code",
            units.CountsPerSecond,
            "As sent by the service. 1000: after a stop. 1008: client too slow or silent. 1011: server error. 1013: no "
            "capacity. gone: the client left first, as most do.",
            (Query(f"{rate(metrics.SESSIONS_CLOSED, ('code',))} or vector(0)", "{{code}}"),),
        ),
        Panel(
            "Interrupted streams",
            units.Short,
            "Streams whose replica was lost, as a total so far: each step is one stream. A resumed stream costs a "
            "pause at most; a stream that was given up costs an utterance.",
            (Query(f"{total(metrics.STREAMS_RESUMED, ('outcome',))} or vector(0)", "{{outcome}}"),),
        ),
    ),
)

LISTENERS = Dashboard(
    "listeners",
    "Listeners",
    "Is it good now? What listeners hear, and which errors clients get.",
    (_GLANCE, _FIRST_AUDIO, _LISTENING, _ENDS),
)
