"""The dashboard *Capacity*: what will break next? How full everything is, and how fast more can come."""

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
            "Streams that run, of those that can. Near 100 % the next text waits.",
            (Query(f"{now(metrics.STREAMS_RUNNING)} / ({now(metrics.SLOTS)} > 0)", "in use"),),
            stat=True,
            limits=(0.8, 0.95),
            maximum=1,
        ),
        Panel(
            "Texts that wait",
            units.Short,
            "Text chunks at the ingresses for which no slot is free. They are refused after their deadline.",
            (Query(or_zero(now(metrics.CHUNKS_WAITING)), "waiting"),),
            stat=True,
            limits=(1, 20),
        ),
        Panel(
            "Refused for want of room",
            units.CountsPerSecond,
            f"Clients that were told {CapacityError.code}. Anything but 0 is somebody who was not heard.",
            (Query(_REFUSED, "refused"),),
            stat=True,
            limits=(0.001, 0.1),
        ),
        Panel(
            "Generators that serve",
            units.Short,
            "Replicas whose engine is healthy.",
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
            "When the streams come up to the slots, the queue begins. The gap between the two is what a crowd finds.",
            (
                Query(now(metrics.SLOTS), "slots"),
                Query(now(metrics.STREAMS_RUNNING), "running"),
                Query(now(metrics.STREAMS_WAITING), "waiting in an engine"),
                Query(or_zero(now(metrics.CHUNKS_WAITING)), "waiting at an ingress"),
            ),
        ),
        Panel(
            "Generators: wanted, allowed, there",
            units.Short,
            "Wanted above there: some are starting, or find no machine. Wanted at the maximum: more load means "
            "refusals. Wanted and maximum are absent where the number is fixed.",
            (
                Query(or_zero(now(SERVE_HEALTHY, where=_GENERATORS)), "there"),
                Query(now(metrics.REPLICAS_DESIRED, take="max"), "wanted"),
                Query(now(metrics.REPLICAS_MAXIMUM, take="max"), "maximum"),
                Query(now(SERVE_TARGET, where=_GENERATORS, take="max"), "ordered"),
            ),
        ),
        Panel(
            "Changes of their number",
            units.Short,
            "How often the policy ordered more or fewer so far, and why: a step for each. Up and down in turn is a "
            "fleet that swings.",
            (
                Query(
                    f"{total(metrics.DECISIONS, ('direction', 'reason'))} or vector(0)",
                    "{{direction}} {{reason}}",
                ),
            ),
        ),
        Panel(
            "Listeners about to run dry",
            units.PercentUnit,
            "Listeners past their first seconds with little left to play, of all of them. Slots that promise more than "
            "the machine can do show here first.",
            (Query(share(now(metrics.LISTENERS_LATE), now(metrics.LISTENERS)), "late"),),
            maximum=1,
        ),
        Panel(
            "Least left to play",
            units.Seconds,
            "The listener who is nearest to silence, in each replica; absent where nobody listens.",
            (Query(least_slack(("replica",)), "{{replica}}"),),
        ),
        Panel(
            "How long streams hold a slot",
            units.Seconds,
            "On average. Longer streams need more slots for as many texts.",
            (Query(now(metrics.STREAM_SECONDS, take="avg"), "average"),),
        ),
    ),
)

_LOAD = Row(
    "Load",
    (
        Panel(
            "Streams a second",
            units.CountsPerSecond,
            "Streams that ended, by why. Times the seconds for which one holds its slot, this is "
            "the slots that are needed.",
            (Query(rate(metrics.STREAMS, ("finish_reason",)), "{{finish_reason}}"),),
        ),
        Panel(
            "Text in, audio out",
            "none",
            "Characters a second that generators were given, and seconds of audio a second that clients were sent: "
            "with real-time listeners the latter is how many listen.",
            (
                Query(rate(metrics.TEXT_CHARACTERS), "characters a second"),
                Query(rate(metrics.AUDIO_SECONDS), "audio seconds a second"),
            ),
        ),
        Panel(
            "Bytes to clients",
            units.BytesPerSecondSI,
            "By encoding, framing included: what the network has to carry.",
            (Query(rate(metrics.AUDIO_BYTES, ("encoding",)), "{{encoding}}"),),
        ),
    ),
)

_INGRESS = Row(
    "Ingresses",
    (
        Panel(
            "Sessions of each ingress",
            units.Short,
            "Each takes up to `ingress.max_sessions`. Very different numbers mean that one of them is new, or was not "
            "chosen.",
            (Query(now(metrics.SESSIONS, ("replica",)), "{{replica}}"),),
        ),
        Panel(
            "Sessions opened",
            units.CountsPerSecond,
            "By dialect. Many without more open sessions are clients that connect again and again.",
            (Query(rate(metrics.SESSIONS_OPENED, ("dialect",)), "{{dialect}}"),),
        ),
        Panel(
            "Text chunks with the generators",
            units.Short,
            "By ingress. Its queue, if there is one, is in *Texts that wait*.",
            (Query(now(metrics.CHUNKS_RUNNING, ("replica",)), "{{replica}}"),),
        ),
        Panel(
            "An ingress's event loop, p99",
            units.Milliseconds,
            "How late the loop gets to what is due. Above some 20 ms every listener of that ingress feels it: it has "
            "too many sockets, or something blocks. Serve names the actor, not the replica.",
            (Query(quantile(0.99, SERVE_LOOP_MS, ("actor_id",), _INGRESSES), "actor {{actor_id}}"),),
        ),
        Panel(
            "Calls that wait in Serve",
            units.Short,
            "Serve's own queue before the generators. The ingresses' admission keeps it near 0.",
            (Query(or_zero(now(SERVE_QUEUED, where=_GENERATORS)), "waiting"),),
        ),
        Panel(
            "From start to first stream",
            units.Seconds,
            "How long each generator took to load. This is how far ahead of a crowd its replicas must be ordered "
            "(`scaling.cold_start_s`).",
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
            "Of the store, by state. Pending ones are being encoded; unavailable ones have no usable clip.",
            (Query(now(metrics.VOICES, ("state",), take="max"), "{{state}}"),),
        ),
        Panel(
            "Memory for voices",
            units.BytesIEC,
            "Prompts in the store, and what all generators keep of them.",
            (
                Query(now(metrics.VOICE_STORE_BYTES, take="max"), "store"),
                Query(now(metrics.VOICE_CACHE_BYTES, ("cache",)), "generators: {{cache}}"),
            ),
        ),
        Panel(
            "Failed calls of the store",
            units.CountsPerSecond,
            "Seen by generators. Some while it starts again are no harm; new voices wait.",
            (Query(or_zero(rate(metrics.STORE_ERRORS)), "failed"),),
        ),
    ),
)

CAPACITY = Dashboard(
    "capacity",
    "Capacity",
    "What will break next? How full everything is, and how fast more can come.",
    (_GLANCE, _GENERATION, _LOAD, _INGRESS, _VOICES),
)
