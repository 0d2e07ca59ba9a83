"""The dashboard *Listeners*: is it good now? What people hear, and what they are told."""

from grafana_foundation_sdk.models import units
from panels import Dashboard, Panel, Query, Row
from promql import now, or_zero, quantile, rate, share, total

from serve_app.errors import CapacityError, SynthesisError, TtsUnavailableError
from serve_app.observability import metrics

OURS = "|".join(error.code for error in (SynthesisError, TtsUnavailableError, CapacityError))
"""Errors that are the service's fault; all others are answers to what a client did."""

_OUR_ERRORS = or_zero(rate(metrics.ERRORS, where=f'code=~"{OURS}"'))
_WELL_ENDED = or_zero(rate(metrics.UTTERANCES, where='finish_reason!="error"'))

_GLANCE = Row(
    "At a glance",
    (
        Panel(
            "First audio, p95",
            units.Seconds,
            "From a client's text to the first audio that it was sent, for all but the slowest 5 %. "
            "Up to 0.5 s it feels like an answer; above 1 s people speak again.",
            (Query(quantile(0.95, metrics.TTFA_SECONDS), "p95"),),
            stat=True,
            limits=(0.5, 1.0),
        ),
        Panel(
            "Utterances without a gap",
            units.PercentUnit,
            "Utterances that were heard from beginning to end without silence in between. The goal is 99 %.",
            (Query(f"1 - {share(rate(metrics.UTTERANCES_UNDERRUN), rate(metrics.UTTERANCES))}", "without a gap"),),
            stat=True,
            limits=(0.99, 0.95),
        ),
        Panel(
            "Errors of ours",
            units.PercentUnit,
            f"Share of utterances for which a client was told {OURS.replace('|', ', ')}. What a client did wrong is "
            "not counted. The goal is less than 0.5 %.",
            (Query(f"{_OUR_ERRORS} / ({_OUR_ERRORS} + {_WELL_ENDED} > 0)", "errors"),),
            stat=True,
            limits=(0.005, 0.05),
        ),
        Panel(
            "Open sessions",
            units.Short,
            "Sockets and HTTP requests that are open now, whether they speak or not.",
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
            "From text that can be spoken to its first audio: the middle one, the slowest 5 % and the slowest 1 %. "
            "When p99 rises alone, some wait for a slot; when all rise, every replica is slow or full.",
            tuple(Query(quantile(q, metrics.TTFA_SECONDS), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
        ),
        Panel(
            "Where first audio waits, p95",
            units.Seconds,
            "The same time by its parts: queue (no slot is free), prompt (the voice is fetched or encoded), prefill, "
            "predictor and codec (the model), transport (the rest: routing, tries again, the socket). "
            "The largest is where to look.",
            (Query(quantile(0.95, metrics.TTFA_PART_SECONDS, ("part",)), "{{part}}"),),
        ),
        Panel(
            "Sessions by dialect",
            units.Short,
            "Open sessions by the protocol that they speak.",
            (Query(now(metrics.SESSIONS, ("dialect",)), "{{dialect}}"),),
        ),
    ),
)

_LISTENING = Row(
    "While they listen",
    (
        Panel(
            "Utterances with a gap",
            units.PercentUnit,
            "Share of utterances whose listener ran dry at least once. Above 1 % the goal is missed.",
            (Query(share(rate(metrics.UTTERANCES_UNDERRUN), rate(metrics.UTTERANCES)), "with a gap"),),
        ),
        Panel(
            "Silence heard",
            units.Seconds,
            "Seconds of unwanted silence in each minute, over all listeners, and how often it began. One long gap and "
            "many short ones look different here.",
            (
                Query(f"60 * {or_zero(rate(metrics.UNDERRUN_SECONDS))}", "seconds a minute"),
                Query(f"60 * {or_zero(rate(metrics.UNDERRUNS))}", "gaps a minute"),
            ),
        ),
        Panel(
            "Left to play when more came",
            units.Seconds,
            "What listeners still had to play when the next audio arrived. The lowest 5 % near 0 means that gaps are "
            "about to be heard.",
            (
                Query(quantile(0.05, metrics.SLACK_SECONDS), "lowest 5 %"),
                Query(quantile(0.5, metrics.SLACK_SECONDS), "middle"),
            ),
        ),
        Panel(
            "Real-time factor",
            "none",
            "Time to generate an utterance over its length. Below 1 audio comes faster than it is played; at 1 every "
            "hiccup is a gap.",
            tuple(Query(quantile(q, metrics.RTF), f"p{q * 100:g}") for q in (0.5, 0.95)),
        ),
    ),
)

_ENDS = Row(
    "How it ends",
    (
        Panel(
            "Utterances by how they ended",
            units.CountsPerSecond,
            "eos is a whole utterance, length one that was cut at its longest, cancelled a client that changed its "
            "mind, disconnected one that went away. stalled and error are worth a look.",
            (Query(rate(metrics.UTTERANCES, ("finish_reason",)), "{{finish_reason}}"),),
        ),
        Panel(
            "Errors told to clients",
            units.CountsPerSecond,
            f"By code. {OURS.replace('|', ', ')} are the service's; a rise of another is a client that changed.",
            (Query(f"{rate(metrics.ERRORS, ('code',))} or vector(0)", "{{code}}"),),
        ),
        Panel(
            "Sessions by close code",
            units.CountsPerSecond,
            "As sent by the service: 1000 after a stop, 1008 too slow or silent, 1011 an error of ours, 1013 no room. "
            "gone: the client left first, as most do.",
            (Query(f"{rate(metrics.SESSIONS_CLOSED, ('code',))} or vector(0)", "{{code}}"),),
        ),
        Panel(
            "Streams that broke off",
            units.Short,
            "So far, a step for each: a replica was lost in the middle. Resumed elsewhere cost a pause at most, given "
            "up an utterance.",
            (Query(f"{total(metrics.STREAMS_RESUMED, ('outcome',))} or vector(0)", "{{outcome}}"),),
        ),
    ),
)

LISTENERS = Dashboard(
    "listeners",
    "Listeners",
    "Is it good now? What people hear and what they are told.",
    (_GLANCE, _FIRST_AUDIO, _LISTENING, _ENDS),
)
