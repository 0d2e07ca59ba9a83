"""Metrics of one generator: its streams, its engine's steps and its caches.

Each part keeps plain counts. Once a second, this module passes the increments to the recorder, so that no engine step
waits for it. It imports neither Ray nor torch.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from serve_app.engine.engine import Engine
from serve_app.observability import metrics
from serve_app.observability.metrics import Metric, Recorder
from serve_app.speech import FinishReason


class CountedCache(Protocol):
    """A cache that counts its hits and misses."""

    hits: int
    misses: int
    bytes: int


class GeneratorMetrics:
    """One per generator replica; used on its event loop."""

    def __init__(self, recorder: Recorder, slots: int) -> None:
        self._record = recorder
        self._recorded: Counter[tuple[str, str]] = Counter()
        self._slots = slots
        self._model: Mapping[str, str] = {}
        self._load_s = 0.0

    def loaded(self, model: Mapping[str, str], seconds: float) -> None:
        """Record that the model is loaded, and export the fault counters as 0.

        Args:
            model: the labels of :data:`serve_app.observability.metrics.MODEL_INFO`.
            seconds: time since the replica started.
        """
        self._model, self._load_s = model, seconds
        self._record.add(metrics.COORDINATOR_ERRORS, 0)
        self._record.add(metrics.GRAPH_FALLBACKS, 0)
        for stage in ("prefill", "predict", "talk", "decode"):
            self._record.add(metrics.STEPS_FAILED, 0, stage=stage)

    def ended(self, reason: FinishReason) -> None:
        """A stream has ended or was refused."""
        self._record.add(metrics.STREAMS, finish_reason=reason)

    def encoded(self, seconds: float) -> None:
        """A clip was encoded into a voice prompt."""
        self._record.observe(metrics.VOICE_ENCODE_SECONDS, seconds)

    def coordinator_failed(self) -> None:
        """The coordinator did not answer."""
        self._record.add(metrics.COORDINATOR_ERRORS)

    def engine(self, engine: Engine, graph_fallbacks: int) -> None:
        """Record the current state of a loaded engine, and the steps since the last call.

        Values that never change are recorded each time as well: Ray soon stops exporting a gauge that is not updated.
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
        """Record the size of the voice caches, and their hits and misses since the last call."""
        for name, cache in caches.items():
            self._record.set(metrics.VOICE_CACHE_BYTES, cache.bytes, cache=name)
            self._add_new(metrics.VOICE_HITS, cache.hits, cache=name)
            self._add_new(metrics.VOICE_MISSES, cache.misses, cache=name)

    def _add_new(self, metric: Metric, total: int, **labels: str) -> None:
        """Advance a counter to a total that is kept elsewhere."""
        key = (metric.name, ",".join(labels.values()))
        self._record.add(metric, total - self._recorded[key], **labels)
        self._recorded[key] = total
