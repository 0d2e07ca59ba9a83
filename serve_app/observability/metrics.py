"""The table of all metrics: name, kind, help, labels and buckets; and the interface that records them.

``docs/metrics.md``, the dashboards and the alerts are checked against this table. This module does not know Ray: code
that records gets a :class:`Recorder`. Ray prefixes each name with ``ray_``, appends ``_total`` to counters, and adds
its own labels (application, deployment, replica). Labels never contain ids, texts, names of voices or addresses. Each
label has a fixed set of values, so the number of series does not depend on the clients.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]

_LATENCY_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_STEP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 1.0, 5.0)
_SLACK_S = (0.0001, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_RTF = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 4.0)
_BATCH = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5, 16.5, 32.5, 64.5)
"""Ray replaces a value by the middle of its bucket. With these bounds, numbers up to 10 stay exact."""
_ENCODE_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    Attributes:
        name: without Ray's prefix; ends with its unit.
        kind: Prometheus' type.
        help: one line that explains the metric to an operator.
        where: the part of the service that records it.
        labels: names of its labels; each has few values.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Kind
    help: str
    where: Literal["ingress", "generator", "coordinator", "autoscaler"]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name in Prometheus; a histogram's series end with _bucket, _sum and _count."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


class Recorder(Protocol):
    """Records values; safe on any thread, never blocks, never raises."""

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Increment a counter; adding 0 exports it at 0, so that its first count is an increase."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add one value to a histogram."""
        ...


class NoRecorder:
    """Records nothing: for a session or an engine that runs outside the service."""

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Record nothing."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Record nothing."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Record nothing."""


# The ingress: sessions and their audio.

SESSIONS = Metric("tts_sessions", "gauge", "Open sessions, by dialect", "ingress", ("dialect",))
SESSIONS_OPENED = Metric("tts_sessions_opened", "counter", "Sessions opened, by dialect", "ingress", ("dialect",))
SESSIONS_CLOSED = Metric(
    "tts_sessions_closed",
    "counter",
    "Sessions closed, by close code; gone if the client left first",
    "ingress",
    ("code",),
)
UTTERANCES = Metric(
    "tts_utterances",
    "counter",
    "Utterances that ended, by reason: eos, length, stalled, cancelled, error, disconnected",
    "ingress",
    ("finish_reason",),
)
UTTERANCES_UNDERRUN = Metric("tts_utterances_underrun", "counter", "Utterances with at least one underrun", "ingress")
UNDERRUNS = Metric(
    "tts_underruns", "counter", "Underruns: a listener had nothing left to play before the utterance ended", "ingress"
)
UNDERRUN_SECONDS = Metric(
    "tts_underrun_seconds", "counter", "Seconds of silence that listeners heard in underruns", "ingress"
)
ERRORS = Metric("tts_errors", "counter", "Errors sent to clients, by error code", "ingress", ("code",))
TTFA_SECONDS = Metric(
    "tts_ttfa_seconds",
    "histogram",
    "Time from receiving text that can be spoken to sending its first audio",
    "ingress",
    buckets=_LATENCY_S,
)
LEADING_SILENCE_SECONDS = Metric(
    "tts_leading_silence_seconds",
    "histogram",
    "Silence that was sent before the first sound of an utterance",
    "ingress",
    buckets=_LATENCY_S,
)
TTFA_PART_SECONDS = Metric(
    "tts_ttfa_part_seconds",
    "histogram",
    "The same time by part: queue, prompt, prefill, predictor, codec, transport",
    "ingress",
    ("part",),
    _LATENCY_S,
)
RTF = Metric(
    "tts_rtf", "histogram", "Generation time divided by audio time, for complete utterances", "ingress", buckets=_RTF
)
SLACK_SECONDS = Metric(
    "tts_slack_seconds",
    "histogram",
    "Audio that a listener had left to play when more was sent",
    "ingress",
    buckets=_SLACK_S,
)
AUDIO_SECONDS = Metric(
    "tts_audio_seconds", "counter", "Seconds of audio sent to clients, by encoding", "ingress", ("encoding",)
)
AUDIO_BYTES = Metric(
    "tts_audio_bytes",
    "counter",
    "Bytes of audio sent to clients, including framing, by encoding",
    "ingress",
    ("encoding",),
)
TEXT_CHARACTERS = Metric("tts_text_characters", "counter", "Characters of text sent to generators", "ingress")
CHUNKS_WAITING = Metric("tts_chunks_waiting", "gauge", "Text chunks that wait for a stream at this ingress", "ingress")
CHUNKS_RUNNING = Metric("tts_chunks_running", "gauge", "Text chunks that this ingress has at generators", "ingress")
STREAMS_RESUMED = Metric(
    "tts_streams_resumed",
    "counter",
    "Interrupted streams: resumed, resumed_otherwise (by a replica that computes differently), given_up",
    "ingress",
    ("outcome",),
)

# The generator: streams and the model.

ENGINE_UP = Metric("tts_engine_up", "gauge", "1 if the replica's engine is healthy, else 0", "generator")
MODEL_INFO = Metric(
    "tts_model_info",
    "gauge",
    "Always 1; the labels describe the loaded model",
    "generator",
    ("model", "device", "dtype", "weights"),
)
LOAD_SECONDS = Metric("tts_load_seconds", "gauge", "Time from a replica's start to its first stream", "generator")
SLOTS = Metric("tts_slots", "gauge", "Streams that a replica can run at a time", "generator")
STREAMS_RUNNING = Metric("tts_streams_running", "gauge", "Streams that hold a slot", "generator")
STREAMS_WAITING = Metric("tts_streams_waiting", "gauge", "Streams that wait for a slot", "generator")
STREAMS = Metric("tts_streams", "counter", "Streams that ended, by reason", "generator", ("finish_reason",))
STREAM_SECONDS = Metric("tts_stream_seconds", "gauge", "Average time that recent streams held their slot", "generator")
LISTENERS = Metric("tts_listeners", "gauge", "Listeners beyond their first seconds of audio", "generator")
LISTENERS_LATE = Metric("tts_listeners_late", "gauge", "Of these listeners, those close to an underrun", "generator")
LEAST_SLACK_SECONDS = Metric(
    "tts_least_slack_seconds", "gauge", "Smallest slack of any listener; 0 without listeners", "generator"
)
STEP_SECONDS = Metric(
    "tts_step_seconds",
    "histogram",
    "Duration of an engine step by stage: prefill, predict (codes), talk (talker), decode (per frame)",
    "generator",
    ("stage",),
    _STEP_S,
)
STEP_STREAMS = Metric(
    "tts_step_streams", "histogram", "Streams batched in a step, by stage", "generator", ("stage",), _BATCH
)
STEPS_FAILED = Metric(
    "tts_steps_failed", "counter", "Steps that failed and ended their streams, by stage", "generator", ("stage",)
)
GRAPH_FALLBACKS = Metric(
    "tts_graph_fallbacks", "counter", "Captured CUDA graphs that differed from the steps without a graph", "generator"
)
VOICE_HITS = Metric(
    "tts_voice_hits",
    "counter",
    "Voices found in a replica's cache: prompt or state",
    "generator",
    ("cache",),
)
VOICE_MISSES = Metric(
    "tts_voice_misses", "counter", "Voices not found in a replica's cache, by cache", "generator", ("cache",)
)
VOICE_CACHE_BYTES = Metric(
    "tts_voice_cache_bytes", "gauge", "Bytes of voices in a replica's caches, by cache", "generator", ("cache",)
)
VOICE_ENCODE_SECONDS = Metric(
    "tts_voice_encode_seconds", "histogram", "Time to encode a clip into a voice prompt", "generator", buckets=_ENCODE_S
)

# The coordinator.

VOICES = Metric(
    "tts_voices",
    "gauge",
    "Voices that the coordinator knows, by state: ready, pending, unavailable",
    "coordinator",
    ("state",),
)
VOICE_STORE_BYTES = Metric(
    "tts_voice_store_bytes", "gauge", "Bytes of voice prompts that the coordinator holds in memory", "coordinator"
)
COORDINATOR_ERRORS = Metric(
    "tts_voice_store_errors", "counter", "Failed calls from a generator to the coordinator", "generator"
)

# The autoscaler: how many generators there should be.

REPLICAS_DESIRED = Metric("tts_replicas_desired", "gauge", "Generators that the autoscaling policy wants", "autoscaler")
REPLICAS_MAXIMUM = Metric(
    "tts_replicas_maximum", "gauge", "Maximum number of generators that the policy may want", "autoscaler"
)
DECISIONS = Metric(
    "tts_scaling_decisions",
    "counter",
    "Changes of the wanted number, by direction and reason",
    "autoscaler",
    ("direction", "reason"),
)

TABLE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All metrics, in this file's order."""
