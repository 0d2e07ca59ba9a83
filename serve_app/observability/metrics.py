"""Every metric of the service, once: its name, kind, help, labels and buckets; and how one is recorded.

``docs/metrics.md``, the dashboards and the alerts are checked against this table. It knows no Ray: whoever records is
given a :class:`Recorder`. Ray puts ``ray_`` in front of each name, ``_total`` behind a counter's, and its own labels
(application, deployment, replica) beside ours. No label takes an id, a text, a voice's name or an address: what a label
may say is a fixed set, so that the number of series does not depend on who calls.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]

_LATENCY_S = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
_STEP_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 1.0, 5.0)
_SLACK_S = (0.0001, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_RTF = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 4.0)
_BATCH = (0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5, 16.5, 32.5, 64.5)
"""Ray keeps of a value the middle of its bucket: these are the numbers themselves."""
_ENCODE_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    Attributes:
        name: without Ray's prefix; its unit ends it.
        kind: what it is to Prometheus.
        help: one line, for whoever reads a dashboard at night.
        where: which part of the service records it.
        labels: names of its labels; each takes few values.
        buckets: upper bounds, of a histogram.
    """

    name: str
    kind: Kind
    help: str
    where: Literal["ingress", "generator", "voice store", "autoscaler"]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The name under which Prometheus sees it; a histogram's series end with _bucket, _sum and _count."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


class Recorder(Protocol):
    """Takes values; safe on any thread, never blocks, never raises."""

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Count up; by 0 a counter shows itself, so that its first count is an increase."""
        ...

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """What a gauge shows from now on."""
        ...

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """One value of a histogram."""
        ...


class NoRecorder:
    """Records nothing: for a session or an engine that runs outside of the service."""

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """See :meth:`Recorder.add`."""

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """See :meth:`Recorder.set`."""

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """See :meth:`Recorder.observe`."""


# Sessions and what they hear: the ingress.

SESSIONS = Metric("tts_sessions", "gauge", "Sessions that are open, by dialect", "ingress", ("dialect",))
SESSIONS_OPENED = Metric("tts_sessions_opened", "counter", "Sessions that were opened", "ingress", ("dialect",))
SESSIONS_CLOSED = Metric(
    "tts_sessions_closed", "counter", "Sessions by the close code they were sent, or gone", "ingress", ("code",)
)
UTTERANCES = Metric(
    "tts_utterances",
    "counter",
    "Utterances that ended: eos, length, stalled, cancelled, error, disconnected",
    "ingress",
    ("finish_reason",),
)
UTTERANCES_UNDERRUN = Metric(
    "tts_utterances_underrun", "counter", "Utterances whose listener ran dry at least once", "ingress"
)
UNDERRUNS = Metric("tts_underruns", "counter", "Times a listener ran dry before an utterance ended", "ingress")
UNDERRUN_SECONDS = Metric("tts_underrun_seconds", "counter", "Silence that listeners heard in underruns", "ingress")
ERRORS = Metric("tts_errors", "counter", "Errors told to clients, by their wire code", "ingress", ("code",))
TTFA_SECONDS = Metric(
    "tts_ttfa_seconds",
    "histogram",
    "From text that can be spoken now to its first audio sent",
    "ingress",
    buckets=_LATENCY_S,
)
TTFA_PART_SECONDS = Metric(
    "tts_ttfa_part_seconds",
    "histogram",
    "The same, split: queue, prompt, prefill, predictor, codec, transport",
    "ingress",
    ("part",),
    _LATENCY_S,
)
RTF = Metric("tts_rtf", "histogram", "Generation time over audio time, of whole utterances", "ingress", buckets=_RTF)
SLACK_SECONDS = Metric(
    "tts_slack_seconds",
    "histogram",
    "What a listener had left to play when more audio came",
    "ingress",
    buckets=_SLACK_S,
)
AUDIO_SECONDS = Metric("tts_audio_seconds", "counter", "Audio sent to clients", "ingress", ("encoding",))
AUDIO_BYTES = Metric(
    "tts_audio_bytes", "counter", "The same in bytes, as sent, framing included", "ingress", ("encoding",)
)
TEXT_CHARACTERS = Metric(
    "tts_text_characters", "counter", "Characters of the text that generators were given", "ingress"
)
CHUNKS_WAITING = Metric("tts_chunks_waiting", "gauge", "Text chunks that wait for a stream", "ingress")
CHUNKS_RUNNING = Metric("tts_chunks_running", "gauge", "Text chunks that an ingress has with the generators", "ingress")
STREAMS_RESUMED = Metric(
    "tts_streams_resumed",
    "counter",
    "Streams that broke off: resumed alike, resumed by a replica that computes otherwise, given up",
    "ingress",
    ("outcome",),
)

# Streams and the model: the generator.

ENGINE_UP = Metric("tts_engine_up", "gauge", "1 while a replica's engine is healthy, 0 while it is not", "generator")
MODEL_INFO = Metric(
    "tts_model_info",
    "gauge",
    "1, with what was loaded in its labels",
    "generator",
    ("model", "device", "dtype", "weights"),
)
LOAD_SECONDS = Metric("tts_load_seconds", "gauge", "From a replica's start to its first stream", "generator")
SLOTS = Metric("tts_slots", "gauge", "Streams that a replica runs at a time", "generator")
STREAMS_RUNNING = Metric("tts_streams_running", "gauge", "Streams in slots", "generator")
STREAMS_WAITING = Metric("tts_streams_waiting", "gauge", "Streams that wait for a slot", "generator")
STREAMS = Metric("tts_streams", "counter", "Streams that ended, by why", "generator", ("finish_reason",))
STREAM_SECONDS = Metric(
    "tts_stream_seconds", "gauge", "For how long streams held their slots lately, on average", "generator"
)
LISTENERS = Metric("tts_listeners", "gauge", "Listeners past their first seconds", "generator")
LISTENERS_LATE = Metric("tts_listeners_late", "gauge", "Those of them who are about to run dry", "generator")
LEAST_SLACK_SECONDS = Metric(
    "tts_least_slack_seconds", "gauge", "The least that a listener has left to play; 0 without one", "generator"
)
STEP_SECONDS = Metric(
    "tts_step_seconds",
    "histogram",
    "One step of the engine: prefill, predict, talk, decode (per frame)",
    "generator",
    ("stage",),
    _STEP_S,
)
STEP_STREAMS = Metric("tts_step_streams", "histogram", "Streams that shared a step", "generator", ("stage",), _BATCH)
STEPS_FAILED = Metric("tts_steps_failed", "counter", "Steps that raised; their streams ended", "generator", ("stage",))
GRAPH_FALLBACKS = Metric(
    "tts_graph_fallbacks", "counter", "Captured CUDA graphs that differed from the plain path", "generator"
)
VOICE_HITS = Metric(
    "tts_voice_hits",
    "counter",
    "Voices found in a replica's memory: prompt, own, earlier or state",
    "generator",
    ("cache",),
)
VOICE_MISSES = Metric("tts_voice_misses", "counter", "The same, not found", "generator", ("cache",))
VOICE_CACHE_BYTES = Metric("tts_voice_cache_bytes", "gauge", "What those caches hold", "generator", ("cache",))
VOICE_ENCODE_SECONDS = Metric(
    "tts_voice_encode_seconds", "histogram", "Encoding a clip into a voice prompt", "generator", buckets=_ENCODE_S
)

# The board.

VOICES = Metric("tts_voices", "gauge", "Voices of the store: ready, pending, unavailable", "voice store", ("state",))
VOICE_STORE_BYTES = Metric("tts_voice_store_bytes", "gauge", "Prompts that the store holds in memory", "voice store")
STORE_ERRORS = Metric(
    "tts_voice_store_errors", "counter", "Calls of the voice store that failed, seen by a generator", "generator"
)

# How many there should be.

REPLICAS_DESIRED = Metric("tts_replicas_desired", "gauge", "Generators that the policy wants", "autoscaler")
REPLICAS_MAXIMUM = Metric("tts_replicas_maximum", "gauge", "Generators that it may want", "autoscaler")
DECISIONS = Metric(
    "tts_scaling_decisions",
    "counter",
    "Changes of that number: direction and reason",
    "autoscaler",
    ("direction", "reason"),
)

TABLE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in this file's order."""
