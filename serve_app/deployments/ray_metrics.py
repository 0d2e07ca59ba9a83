"""Passes :mod:`serve_app.observability.metrics` to Ray, which exports them on each node's metrics port."""

from typing import cast

from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.deployments.ray_internals import export_at_zero
from serve_app.observability.metrics import Metric


class RayRecorder:
    """A :class:`serve_app.observability.metrics.Recorder` for one process.

    In a replica, Serve adds the labels application, deployment and replica; other processes pass them here.
    """

    def __init__(self, **labels: str) -> None:
        """Add ``labels`` to everything that is recorded."""
        self._labels = labels
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}

    def add(self, metric: Metric, value: float = 1.0, **labels: str) -> None:
        """Increment a counter; adding 0 exports it at 0, so that its first count is an increase."""
        assert metric.kind == "counter", metric.name
        counter = self._counters.get(metric.name)
        if counter is None:
            counter = self._counters[metric.name] = Counter(metric.name, metric.help, self._keys(metric))
            counter.set_default_tags(dict(self._labels))
        if value > 0:
            counter.inc(value, labels)
        else:
            export_at_zero(counter, labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        assert metric.kind == "gauge", metric.name
        gauge = self._gauges.get(metric.name)
        if gauge is None:
            gauge = self._gauges[metric.name] = Gauge(metric.name, metric.help, self._keys(metric))
            gauge.set_default_tags(dict(self._labels))
        gauge.set(value, labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        """Add one value to a histogram."""
        assert metric.kind == "histogram", metric.name
        histogram = self._histograms.get(metric.name)
        if histogram is None:
            keys, buckets = self._keys(metric), list(metric.buckets)
            histogram = self._histograms[metric.name] = Histogram(metric.name, metric.help, buckets, keys)
            histogram.set_default_tags(dict(self._labels))
        histogram.observe(value, labels)

    def _keys(self, metric: Metric) -> tuple[str]:
        """All label names; Ray's type annotation says one, but any number works."""
        return cast("tuple[str]", (*self._labels, *metric.labels))
