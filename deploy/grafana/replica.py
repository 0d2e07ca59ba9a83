"""The dashboard *Replica*: why is this one slow? One generator, beside all of them."""

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
            "1 while the engine is healthy. 0 is a stuck or failed step: Serve replaces the replica at the third "
            "failed health check.",
            (Query(now(metrics.ENGINE_UP, where=_THIS, take="min"), "healthy"),),
            stat=True,
            limits=(1, 0.5),
            maximum=1,
        ),
        Panel(
            "Slots in use",
            units.PercentUnit,
            "Streams that run in this replica, of those that can.",
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
            "From start to first stream",
            units.Seconds,
            "How long this replica took to load.",
            (Query(now(metrics.LOAD_SECONDS, where=_THIS, take="max"), "loaded after"),),
            stat=True,
        ),
        Panel(
            "Model",
            units.Short,
            "What is loaded: another device, dtype or kind of weights than its neighbours' explains much.",
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
            "Time of a step, p95",
            units.Seconds,
            "By stage. A frame is 80 ms of audio: talk, predict and decode together have to stay below it, with every "
            "stream in the batch.",
            (Query(quantile(0.95, metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}"),),
        ),
        Panel(
            "The same, in the middle",
            units.Seconds,
            "This replica's typical step beside that of all replicas: apart, the machine is the reason; together, the "
            "load is.",
            (
                Query(quantile(0.5, metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}, here"),
                Query(quantile(0.5, metrics.STEP_SECONDS, ("stage",)), "{{stage}}, everywhere"),
            ),
        ),
        Panel(
            "What the engine does with its time",
            units.PercentUnit,
            "Share of each second in each stage, estimated from the buckets. Near 100 % in sum the replica is as fast "
            "as it can be; much prefill is many new streams or long texts.",
            (Query(spent(metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}"),),
        ),
        Panel(
            "Streams in a step",
            units.Short,
            "The typical number that share one, by stage; above ten it is rounded to a bucket. Steps get longer "
            "with it, but less than in proportion.",
            (Query(f"round({quantile(0.5, metrics.STEP_STREAMS, ('stage',), _THIS)})", "{{stage}}"),),
        ),
        Panel(
            "Steps a second",
            units.CountsPerSecond,
            "By stage. 12.5 frames a second are real time.",
            (Query(rate(metrics.STEP_SECONDS, ("stage",), _THIS), "{{stage}}"),),
        ),
        Panel(
            "Failed steps, abandoned graphs",
            units.Short,
            "So far, a step for each. A failed step ends the streams that were in it. A graph that differed from the "
            "plain path is not used any more: slower, and right.",
            (
                Query(f"{total(metrics.STEPS_FAILED, ('stage',), _THIS)} or vector(0)", "failed {{stage}}"),
                Query(or_zero(total(metrics.GRAPH_FALLBACKS, where=_THIS)), "abandoned graphs"),
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
            "What it runs, what waits in it, and what Serve has sent it.",
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
            "Those past their first seconds, and those of them who are about to run dry.",
            (
                Query(now(metrics.LISTENERS, where=_THIS), "listening"),
                Query(now(metrics.LISTENERS_LATE, where=_THIS), "late"),
            ),
        ),
        Panel(
            "Least left to play",
            units.Seconds,
            "Of the listener who is nearest to silence; absent where nobody listens.",
            (Query(least_slack(where=_THIS), "least"),),
        ),
        Panel(
            "How long streams hold a slot",
            units.Seconds,
            "On average: long texts, or slow frames.",
            (Query(now(metrics.STREAM_SECONDS, where=_THIS, take="max"), "average"),),
        ),
        Panel(
            "Streams by how they ended",
            units.CountsPerSecond,
            "Those that were cancelled gave their slot back at once; errors here are failed steps.",
            (Query(rate(metrics.STREAMS, ("finish_reason",), _THIS), "{{finish_reason}}"),),
        ),
        Panel(
            "Its event loop, p99",
            units.Milliseconds,
            "How late the loop gets to what is due. Frames leave through it: when it is late, listeners are.",
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
            "Voices found in memory",
            units.PercentUnit,
            "Of those that were asked for. A miss of a prompt asks the store, a miss of a state costs a prefill of the "
            "reference; many are more voices than the memory holds, or streams that are routed elsewhere.",
            (Query(_hits("prompt"), "prompt"), Query(_hits("state"), "state")),
            maximum=1,
        ),
        Panel(
            "Memory for voices",
            units.BytesIEC,
            "What those caches hold.",
            (Query(now(metrics.VOICE_CACHE_BYTES, ("cache",), _THIS), "{{cache}}"),),
        ),
        Panel(
            "Encoding a clip, p95",
            units.Seconds,
            "Once for each new voice, with the lowest priority; absent where none was new.",
            (Query(quantile(0.95, metrics.VOICE_ENCODE_SECONDS, where=_THIS), "p95"),),
        ),
    ),
)

REPLICA = Dashboard(
    "replica",
    "Replica",
    "Why is this one slow? One generator beside all of them; choose it at the top.",
    (_GLANCE, _STEPS, _STREAMS, _VOICES),
    (Choice("replica", "Replica", f"label_values({metrics.ENGINE_UP.exported}, replica)"),),
)
