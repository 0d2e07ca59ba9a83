"""PromQL for panels, built from rows of the service's table of metrics. Does not know Grafana.

Names and labels come from :mod:`serve_app.observability.metrics`. If a metric is renamed there, or loses a label that a
panel groups by, the generator fails instead of the dashboard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.observability import metrics

WINDOW = "[$__rate_interval]"
"""Grafana's interval: at least four scrapes, and longer if the dashboard shows days."""

_RAYS = ("application", "deployment", "replica", "le")
"""Labels that Ray adds to a metric, and ``le``, which a histogram's buckets have."""


class Exported(Protocol):
    """A metric that Prometheus has; rows of the table implement it."""

    @property
    def exported(self) -> str:
        """Its name in Prometheus, without a histogram's suffixes."""
        ...

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """Its type in Prometheus."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in addition to Ray's."""
        ...


@dataclass(frozen=True, slots=True)
class ServeMetric:
    """A metric that Ray Serve exports itself; Ray's labels need not be listed."""

    exported: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...] = ()


SERVE_HEALTHY = ServeMetric("ray_serve_deployment_replica_healthy", "gauge")
SERVE_TARGET = ServeMetric("ray_serve_autoscaling_target_replicas", "gauge")
SERVE_QUEUED = ServeMetric("ray_serve_deployment_queued_queries", "gauge")
SERVE_PROCESSING = ServeMetric("ray_serve_replica_processing_queries", "gauge")
SERVE_LOOP_MS = ServeMetric("ray_serve_event_loop_scheduling_latency_ms", "histogram", ("actor_id",))


def now(metric: Exported, by: Sequence[str] = (), where: str = "", take: str = "sum") -> str:
    """A gauge's current value, aggregated over its series.

    Args:
        metric: a gauge.
        by: labels to group by.
        where: label matchers, as in PromQL's braces.
        take: PromQL's aggregation operator.
    """
    assert metric.kind == "gauge", metric
    return f"{take}{_grouped(metric, by)} ({metric.exported}{_braces(where)})"


def rate(metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """A counter's increase per second; for a histogram, its number of values per second."""
    assert metric.kind != "gauge", metric
    name = metric.exported + ("_count" if metric.kind == "histogram" else "")
    return f"sum{_grouped(metric, by)} (rate({name}{_braces(where)}{WINDOW}))"


def total(metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """A counter's current value, for rare events: it shows the first count too, which a rate does not."""
    assert metric.kind == "counter", metric
    return f"sum{_grouped(metric, by)} ({metric.exported}{_braces(where)})"


def spent(metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """The sum of a histogram's values per second.

    Ray replaces each value with the middle of its bucket, so this is an estimate.
    """
    assert metric.kind == "histogram", metric
    return f"sum{_grouped(metric, by)} (rate({metric.exported}_sum{_braces(where)}{WINDOW}))"


def quantile(q: float, metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """A quantile from a histogram's buckets; as precise as the buckets are narrow."""
    assert metric.kind == "histogram", metric
    buckets = f"rate({metric.exported}_bucket{_braces(where)}{WINDOW})"
    return f"histogram_quantile({q:g}, sum{_grouped(metric, ('le', *by))} ({buckets}))"


def least_slack(by: Sequence[str] = (), where: str = "") -> str:
    """Slack of the listener closest to an underrun; no value for a replica without listeners."""
    metric = metrics.LEAST_SLACK_SECONDS
    listened = f"{now(metrics.LISTENERS, ('replica',), where)} > 0"
    return f"min{_grouped(metric, by)} ({metric.exported}{_braces(where)} and on (replica) {listened})"


def share(part: str, whole: str) -> str:
    """``part`` divided by ``whole``, from 0 to 1; no value if ``whole`` is 0."""
    return f"{or_zero(part)} / ({whole} > 0)"


def loop_delay(q: float, replica: str) -> str:
    """A quantile of the delay of a replica's event loop, in milliseconds.

    Serve's metric has no replica label. The process (``WorkerId``) connects it to the replica's own metrics.
    """
    buckets = f"rate({SERVE_LOOP_MS.exported}_bucket{WINDOW})"
    theirs = f"{SERVE_PROCESSING.exported}{_braces(replica)}"
    return f"histogram_quantile({q:g}, sum by (le) ({buckets} and on (WorkerId) {theirs}))"


def or_zero(query: str) -> str:
    """The query, or 0 if nothing was counted yet: a counter appears with its first count."""
    return f"({query} or vector(0))"


def _grouped(metric: Exported, by: Sequence[str]) -> str:
    unknown = set(by) - {*metric.labels, *_RAYS}
    assert not unknown, f"{metric.exported} has no label {sorted(unknown)}; it has {metric.labels}"
    return f" by ({', '.join(by)})" if by else ""


def _braces(where: str) -> str:
    return f"{{{where}}}" if where else ""
