"""What is recorded of one generator: its streams, its engine's steps, its caches.

Counts are kept where things happen, as plain numbers; this carries what is new of them to the recorder once a second,
so that no step of the engine waits for it. No Ray, no torch.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from serve_app.engine.engine import Engine
from serve_app.observability import metrics
from serve_app.observability.metrics import Metric, Recorder
from serve_app.speech import FinishReason


class CountedCache(Protocol):
    """A cache that knows how it fared."""

    hits: int
    misses: int
    bytes: int


class GeneratorMetrics:
    """One per generator replica; on its event loop."""

    def __init__(self, recorder: Recorder, slots: int) -> None:
        self._record = recorder
        self._recorded: Counter[tuple[str, str]] = Counter()
        self._slots = slots
        self._model: Mapping[str, str] = {}
        self._load_s = 0.0

    def loaded(self, model: Mapping[str, str], seconds: float) -> None:
        """The model speaks, so long after the replica began; counters of faults show themselves.

        Args:
            model: the labels of :data:`serve_app.observability.metrics.MODEL_INFO`.
            seconds: since the replica's start.
        """
        self._model, self._load_s = model, seconds
        self._record.add(metrics.STORE_ERRORS, 0)
        self._record.add(metrics.GRAPH_FALLBACKS, 0)
        for stage in ("prefill", "predict", "talk", "decode"):
            self._record.add(metrics.STEPS_FAILED, 0, stage=stage)

    def ended(self, reason: FinishReason) -> None:
        """A stream is over, or was refused."""
        self._record.add(metrics.STREAMS, finish_reason=reason)

    def encoded(self, seconds: float) -> None:
        """A clip was made into a prompt."""
        self._record.observe(metrics.VOICE_ENCODE_SECONDS, seconds)

    def store_failed(self) -> None:
        """The voice store did not answer."""
        self._record.add(metrics.STORE_ERRORS)

    def engine(self, engine: Engine, graph_fallbacks: int) -> None:
        """The engine now, once its model is loaded, and the steps it took since the last time.

        What never changes is said again each time: what is not, Ray does not export for long.
        """
        load, playback = engine.load, engine.playback
        self._record.set(metrics.MODEL_INFO, 1, **self._model)
        self._record.set(metrics.LOAD_SECONDS, self._load_s)
        self._record.set(metrics.SLOTS, self._slots)
        self._record.set(metrics.ENGINE_UP, int(engine.healthy))
        self._record.set(metrics.STREAMS_RUNNING, load.running)
        self._record.set(metrics.STREAMS_WAITING, load.waiting)
        self._record.set(metrics.STREAM_SECONDS, engine.stream_s)
        self._record.set(metrics.LISTENERS, playback.listeners)
        self._record.set(metrics.LISTENERS_LATE, playback.late)
        self._record.set(metrics.LEAST_SLACK_SECONDS, playback.slack_s)
        self._add_new(metrics.GRAPH_FALLBACKS, graph_fallbacks)
        for step in engine.steps_seen():
            if step.failed:
                self._record.add(metrics.STEPS_FAILED, stage=step.stage)
            else:
                self._record.observe(metrics.STEP_SECONDS, step.seconds, stage=step.stage)
                self._record.observe(metrics.STEP_STREAMS, step.streams, stage=step.stage)

    def caches(self, caches: Mapping[str, CountedCache]) -> None:
        """What the caches of voices hold now, and how often a voice was in them since the last time."""
        for name, cache in caches.items():
            self._record.set(metrics.VOICE_CACHE_BYTES, cache.bytes, cache=name)
            self._add_new(metrics.VOICE_HITS, cache.hits, cache=name)
            self._add_new(metrics.VOICE_MISSES, cache.misses, cache=name)

    def _add_new(self, metric: Metric, total: int, **labels: str) -> None:
        """Bring a counter to a total that is kept elsewhere."""
        key = (metric.name, ",".join(labels.values()))
        self._record.add(metric, total - self._recorded[key], **labels)
        self._recorded[key] = total
