"""The dashboard *Replica*: why is this one slow? One generator, compared with all others."""

from grafana_foundation_sdk.models import units
from panels import Choice, Dashboard, Panel, Query, Row
from promql import SERVE_PROCESSING, least_slack, loop_delay, now, or_zero, quantile, rate, share, spent, total

from serve_app.observability import metrics

_THIS = 'replica="$replica"'

_GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Engine",
            units.Short,
            "1 if the engine is healthy. 0 means a stuck or failed step: Serve replaces the replica after three failed "
            "health checks.",
            (Query(now(metrics.ENGINE_UP, where=_THIS, take="min"), "healthy"),),
            stat=True,
            limits=(1, 0.5),
            maximum=1,
        ),
        Panel(
            "Slots in use",
            units.PercentUnit,
            "Running streams of this replica, as a share of its slots.",
            (
                Query(
                    f"{now(metrics.STREAMS_RUNNING, where=_THIS)} / ({now(metrics.SLOTS, where=_THIS)} > 0)", "in use"
                ),
            ),
            stat=True,
            limits=(0.8, 1.0),
            maximum=1,
        ),
        Panel(
            "Startup time",
            units.Seconds,
            "Time from this replica's start to its first stream.",
            (Query(now(metrics.LOAD_SECONDS, where=_THIS, take="max"), "loaded after"),),
            stat=True,
        ),
        Panel(
            "Model",
            units.Short,
            "The loaded model. A device, dtype or weight format that differs from the other replicas explains a lot.",
            (
                Query(
                    now(metrics.MODEL_INFO, ("model", "device", "dtype", "weights"), _THIS, "max"),
                    "{{model}} {{device}} {{dtype}} {{weights}}",
                ),
            ),
            stat=True,
            names=True,
        ),
    ),
)

_STEPS = Row(
    "Steps of the engine",
    (
        Panel(
            "Step time, p95",
            units.Seconds,
            "By stage. A frame is 80 ms of audio: talk, predict and decode together have to stay below it, with all "
            "streams in the batch.",
            (Query(quantile(0.95, metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}"),),
        ),
        Panel(
            "Step time, median",
            units.Seconds,
            "Median step of this replica and of all replicas. If only this replica is slow, look at its machine. If "
            "all are slow, look at the load.",
            (
                Query(quantile(0.5, metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}, this replica"),
                Query(quantile(0.5, metrics.STEP_SECONDS, ("stage",)), "{{stage}}, all replicas"),
            ),
        ),
        Panel(
            "Engine time by stage",
            units.PercentUnit,
            "Share of time in each stage, estimated from the buckets. If the sum is near 100 %, the replica is "
            "saturated. A large share of prefill means many new streams or long texts.",
            (Query(spent(metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}"),),
        ),
        Panel(
            "Streams per step",
            units.Short,
            "Median number of streams in a step, by stage; above ten it is rounded to a bucket. Steps take longer "
            "with more streams, but less than proportionally.",
            (Query(f"round({quantile(0.5, metrics.STEP_STREAMS, ('stage',), _THIS)})", "{{stage}}"),),
        ),
        Panel(
            "Steps per second",
            units.CountsPerSecond,
            "By stage. 12.5 frames per second are real time.",
            (Query(rate(metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}"),),
        ),
        Panel(
            "Failed steps, disabled graphs",
            units.Short,
            "Totals so far. A failed step ends the streams in it. A CUDA graph whose results differed from the steps "
            "without a graph is no longer used: the replica is slower, and correct.",
            (
                Query(f"{total(metrics.STEPS_FAILED, ('stage',), _THIS)} or vector(0)", "failed {{stage}}"),
                Query(or_zero(total(metrics.GRAPH_FALLBACKS, where=_THIS)), "disabled graphs"),
            ),
        ),
    ),
)

_STREAMS = Row(
    "Streams",
    (
        Panel(
            "Streams and slots",
            units.Short,
            "Running and waiting streams of this replica, and the calls that Serve has sent it.",
            (
                Query(now(metrics.SLOTS, where=_THIS), "slots"),
                Query(now(metrics.STREAMS_RUNNING, where=_THIS), "running"),
                Query(now(metrics.STREAMS_WAITING, where=_THIS), "waiting"),
                Query(now(SERVE_PROCESSING, where=_THIS), "calls"),
            ),
        ),
        Panel(
            "Listeners",
            units.Short,
            "Listeners beyond their first seconds, and those of them that are close to an underrun.",
            (
                Query(now(metrics.LISTENERS, where=_THIS), "listening"),
                Query(now(metrics.LISTENERS_LATE, where=_THIS), "late"),
            ),
        ),
        Panel(
            "Smallest slack",
            units.Seconds,
            "Slack of the listener closest to an underrun; absent without listeners.",
            (Query(least_slack(where=_THIS), "least"),),
        ),
        Panel(
            "Time in a slot",
            units.Seconds,
            "Average. It rises with long texts or slow frames.",
            (Query(now(metrics.STREAM_SECONDS, where=_THIS, take="max"), "average"),),
        ),
        Panel(
            "Streams by finish reason",
            units.CountsPerSecond,
            "Cancelled streams free their slot at once; errors here are failed steps.",
            (Query(rate(metrics.STREAMS, ("finish_reason",), _THIS), "{{finish_reason}}"),),
        ),
        Panel(
            "Event loop delay, p99",
            units.Milliseconds,
            "How late the event loop runs scheduled work. It also sends the frames, so its delay reaches the "
            "listeners.",
            (Query(loop_delay(0.99, _THIS), "p99"),),
        ),
    ),
)


def _hits(cache: str) -> str:
    where = f'{_THIS}, cache="{cache}"'
    found, missed = or_zero(rate(metrics.VOICE_HITS, where=where)), or_zero(rate(metrics.VOICE_MISSES, where=where))
    return share(found, f"({found} + {missed})")


_VOICES = Row(
    "Voices",
    (
        Panel(
            "Voice cache hits",
            units.PercentUnit,
            "Share of voice look-ups found in the caches. A missing prompt is requested from the store; a missing "
            "state costs a prefill of the reference. Many misses mean more voices than the caches hold, or streams "
            "that are routed to replicas without their voice.",
            (Query(_hits("prompt"), "prompt"), Query(_hits("state"), "state")),
            maximum=1,
        ),
        Panel(
            "Memory for voices",
            units.BytesIEC,
            "Bytes in these caches.",
            (Query(now(metrics.VOICE_CACHE_BYTES, ("cache",), _THIS), "{{cache}}"),),
        ),
        Panel(
            "Voice encoding time, p95",
            units.Seconds,
            "Runs once for each new voice, with the lowest priority; absent if there was none.",
            (Query(quantile(0.95, metrics.VOICE_ENCODE_SECONDS, where=_THIS), "p95"),),
        ),
    ),
)

REPLICA = Dashboard(
    "replica",
    "Replica",
    "Why is this one slow? One generator compared with all others; select it at the top.",
    (_GLANCE, _STEPS, _STREAMS, _VOICES),
    (Choice("replica", "Replica", f"label_values({metrics.ENGINE_UP.exported}, replica)"),),
)
