"""The dashboard *Capacity*: what will break next? How full the service is, and how fast it can grow."""

from grafana_foundation_sdk.models import units
from panels import Dashboard, Panel, Query, Row
from promql import (
    SERVE_HEALTHY,
    SERVE_LOOP_MS,
    SERVE_QUEUED,
    SERVE_TARGET,
    least_slack,
    now,
    or_zero,
    quantile,
    rate,
    share,
    total,
)

from serve_app.errors import CapacityError
from serve_app.observability import metrics

_GENERATORS = 'deployment="Generator"'
_INGRESSES = 'deployment="Ingress"'
_REFUSED = or_zero(rate(metrics.ERRORS, where=f'code="{CapacityError.code}"'))

_GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Slots in use",
            units.PercentUnit,
            "Running streams, as a share of all slots. Near 100 % the next text has to wait.",
            (Query(f"{now(metrics.STREAMS_RUNNING)} / ({now(metrics.SLOTS)} > 0)", "in use"),),
            stat=True,
            limits=(0.8, 0.95),
            maximum=1,
        ),
        Panel(
            "Waiting texts",
            units.Short,
            "Text chunks at the ingresses that wait for a free slot. They are refused after their deadline.",
            (Query(or_zero(now(metrics.CHUNKS_WAITING)), "waiting"),),
            stat=True,
            limits=(1, 20),
        ),
        Panel(
            "Refused for lack of capacity",
            units.CountsPerSecond,
            f"Requests that were refused with {CapacityError.code}. Above 0, some clients got no audio.",
            (Query(_REFUSED, "refused"),),
            stat=True,
            limits=(0.001, 0.1),
        ),
        Panel(
            "Healthy generators",
            units.Short,
            "Generators whose engine is healthy.",
            (Query(or_zero(now(metrics.ENGINE_UP)), "healthy"),),
            stat=True,
            limits=(1, 0.5),
        ),
    ),
)

_GENERATION = Row(
    "Generators",
    (
        Panel(
            "Streams and slots",
            units.Short,
            "Texts start to queue when all slots are used. The gap between the two lines is the spare capacity for a "
            "spike.",
            (
                Query(now(metrics.SLOTS), "slots"),
                Query(now(metrics.STREAMS_RUNNING), "running"),
                Query(now(metrics.STREAMS_WAITING), "waiting in an engine"),
                Query(or_zero(now(metrics.CHUNKS_WAITING)), "waiting at an ingress"),
            ),
        ),
        Panel(
            "Generators: wanted, maximum, running",
            units.Short,
            "If wanted is above running, generators are starting or cannot be placed. If wanted is at the maximum, "
            "more load leads to refusals. Wanted and maximum are absent if the number is fixed.",
            (
                Query(or_zero(now(SERVE_HEALTHY, where=_GENERATORS)), "running"),
                Query(now(metrics.REPLICAS_DESIRED, take="max"), "wanted"),
                Query(now(metrics.REPLICAS_MAXIMUM, take="max"), "maximum"),
                Query(now(SERVE_TARGET, where=_GENERATORS, take="max"), "ordered"),
            ),
        ),
        Panel(
            "Scaling decisions",
            units.Short,
            "How often the policy has requested more or fewer generators so far, and why: each step is one decision. "
            "Alternating increases and decreases mean that the policy oscillates.",
            (
                Query(
                    f"{total(metrics.DECISIONS, ('direction', 'reason'))} or vector(0)",
                    "{{direction}} {{reason}}",
                ),
            ),
        ),
        Panel(
            "Listeners close to an underrun",
            units.PercentUnit,
            "Share of the listeners beyond their first seconds that have little audio left to play. If there are more "
            "slots than the machine can serve in real time, it shows here first.",
            (Query(share(now(metrics.LISTENERS_LATE), now(metrics.LISTENERS)), "late"),),
            maximum=1,
        ),
        Panel(
            "Smallest slack",
            units.Seconds,
            "Slack of the listener closest to an underrun, in each replica; absent without listeners.",
            (Query(least_slack(("replica",)), "{{replica}}"),),
        ),
        Panel(
            "Time in a slot",
            units.Seconds,
            "Average. The longer streams take, the more slots the same number of texts needs.",
            (Query(now(metrics.STREAM_SECONDS, take="avg"), "average"),),
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        Panel(
            "Streams per second",
            units.CountsPerSecond,
            "Streams that ended, by reason. This rate times the time in a slot is the number of slots needed.",
            (Query(rate(metrics.STREAMS, ("finish_reason",)), "{{finish_reason}}"),),
        ),
        Panel(
            "Text in, audio out",
            "none",
            "Characters per second sent to generators, and seconds of audio per second sent to clients. With real-time "
            "listeners, the latter is the number of listeners.",
            (
                Query(rate(metrics.TEXT_CHARACTERS), "characters per second"),
                Query(rate(metrics.AUDIO_SECONDS), "audio seconds per second"),
            ),
        ),
        Panel(
            "Bytes sent to clients",
            units.BytesPerSecondSI,
            "By encoding, including framing: the load on the network.",
            (Query(rate(metrics.AUDIO_BYTES, ("encoding",)), "{{encoding}}"),),
        ),
    ),
)

_INGRESS = Row(
    "Ingresses",
    (
        Panel(
            "Sessions per ingress",
            units.Short,
            "Each accepts up to `ingress.max_sessions`. Very different numbers mean that one of them is new, or that "
            "the proxy did not choose it.",
            (Query(now(metrics.SESSIONS, ("replica",)), "{{replica}}"),),
        ),
        Panel(
            "Sessions opened",
            units.CountsPerSecond,
            "By dialect. A high rate without more open sessions means that clients keep reconnecting.",
            (Query(rate(metrics.SESSIONS_OPENED, ("dialect",)), "{{dialect}}"),),
        ),
        Panel(
            "Text chunks at generators",
            units.Short,
            "By ingress. Its queue, if any, is in *Waiting texts*.",
            (Query(now(metrics.CHUNKS_RUNNING, ("replica",)), "{{replica}}"),),
        ),
        Panel(
            "Ingress event loop delay, p99",
            units.Milliseconds,
            "How late the event loop runs scheduled work. Above about 20 ms, every listener of that ingress is "
            "affected: it has too many sockets, or something blocks. Serve reports the actor, not the replica.",
            (Query(quantile(0.99, SERVE_LOOP_MS, ("actor_id",), _INGRESSES), "actor {{actor_id}}"),),
        ),
        Panel(
            "Calls waiting in Serve",
            units.Short,
            "Serve's own queue in front of the generators. The ingresses' admission keeps it near 0.",
            (Query(or_zero(now(SERVE_QUEUED, where=_GENERATORS)), "waiting"),),
        ),
        Panel(
            "Startup time",
            units.Seconds,
            "Time from a generator's start to its first stream. The policy has to request generators this far ahead of "
            "a spike (`scaling.cold_start_s`).",
            (Query(now(metrics.LOAD_SECONDS, ("replica",), take="max"), "{{replica}}"),),
        ),
    ),
)

_VOICES = Row(
    "Voices",
    (
        Panel(
            "Voices",
            units.Short,
            "Voices in the store, by state. Pending voices are being encoded; unavailable voices have no usable clip.",
            (Query(now(metrics.VOICES, ("state",), take="max"), "{{state}}"),),
        ),
        Panel(
            "Memory for voices",
            units.BytesIEC,
            "Voice prompts in the store, and in the caches of all generators.",
            (
                Query(now(metrics.VOICE_STORE_BYTES, take="max"), "store"),
                Query(now(metrics.VOICE_CACHE_BYTES, ("cache",)), "generators: {{cache}}"),
            ),
        ),
        Panel(
            "Failed calls to the coordinator",
            units.CountsPerSecond,
            "Reported by generators. A few failures while the store restarts are harmless; new voices wait meanwhile.",
            (Query(or_zero(rate(metrics.COORDINATOR_ERRORS)), "failed"),),
        ),
    ),
)

CAPACITY = Dashboard(
    "capacity",
    "Capacity",
    "What will break next? How full the service is, and how fast it can grow.",
    (_GLANCE, _GENERATION, _LOAD, _INGRESS, _VOICES),
)
