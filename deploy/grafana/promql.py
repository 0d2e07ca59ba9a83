"""PromQL for panels, written from rows of the service's table of metrics; it knows no Grafana.

Names and labels come from :mod:`serve_app.observability.metrics`, so a metric that is renamed there, or loses a label
that a panel groups by, fails here and not in front of whoever opens the dashboard.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.observability import metrics

WINDOW = "[$__rate_interval]"
"""Grafana's own: four scrapes at least, wider where the dashboard shows days."""

_RAYS = ("application", "deployment", "replica", "le")
"""Labels that Ray adds to those of a metric, and Prometheus to a histogram."""


class Exported(Protocol):
    """What Prometheus can be asked for; a row of the table is one."""

    @property
    def exported(self) -> str:
        """Its name there, without a histogram's endings."""
        ...

    @property
    def kind(self) -> Literal["counter", "gauge", "histogram"]:
        """What it is to Prometheus."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels beside Ray's."""
        ...


@dataclass(frozen=True, slots=True)
class ServeMetric:
    """A metric that Ray Serve exports by itself; a label of Ray's need not be named."""

    exported: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...] = ()


SERVE_HEALTHY = ServeMetric("ray_serve_deployment_replica_healthy", "gauge")
SERVE_TARGET = ServeMetric("ray_serve_autoscaling_target_replicas", "gauge")
SERVE_QUEUED = ServeMetric("ray_serve_deployment_queued_queries", "gauge")
SERVE_PROCESSING = ServeMetric("ray_serve_replica_processing_queries", "gauge")
SERVE_LOOP_MS = ServeMetric("ray_serve_event_loop_scheduling_latency_ms", "histogram", ("actor_id",))


def now(metric: Exported, by: Sequence[str] = (), where: str = "", take: str = "sum") -> str:
    """A gauge as it stands, over all of its series.

    Args:
        metric: of kind gauge.
        by: labels that are kept apart.
        where: matchers, as between PromQL's braces.
        take: PromQL's operator over the series of a group.
    """
    assert metric.kind == "gauge", metric
    return f"{take}{_grouped(metric, by)} ({metric.exported}{_braces(where)})"


def rate(metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """Counts in a second; of a histogram, how many values it took."""
    assert metric.kind != "gauge", metric
    name = metric.exported + ("_count" if metric.kind == "histogram" else "")
    return f"sum{_grouped(metric, by)} (rate({name}{_braces(where)}{WINDOW}))"


def total(metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """A counter as it stands, for what is rare: its first count is seen too, which no rate shows."""
    assert metric.kind == "counter", metric
    return f"sum{_grouped(metric, by)} ({metric.exported}{_braces(where)})"


def spent(metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """What a histogram's values add up to in a second.

    Ray passes values on as the middles of their buckets, so this is an estimate.
    """
    assert metric.kind == "histogram", metric
    return f"sum{_grouped(metric, by)} (rate({metric.exported}_sum{_braces(where)}{WINDOW}))"


def quantile(q: float, metric: Exported, by: Sequence[str] = (), where: str = "") -> str:
    """A quantile, read from a histogram's buckets: as exact as they are narrow."""
    assert metric.kind == "histogram", metric
    buckets = f"rate({metric.exported}_bucket{_braces(where)}{WINDOW})"
    return f"histogram_quantile({q:g}, sum{_grouped(metric, ('le', *by))} ({buckets}))"


def least_slack(by: Sequence[str] = (), where: str = "") -> str:
    """What the listener who is nearest to silence has left; nothing of a replica to which nobody listens."""
    metric = metrics.LEAST_SLACK_SECONDS
    listened = f"{now(metrics.LISTENERS, ('replica',), where)} > 0"
    return f"min{_grouped(metric, by)} ({metric.exported}{_braces(where)} and on (replica) {listened})"


def share(part: str, whole: str) -> str:
    """How much of ``whole`` is ``part``, from 0 to 1; nothing where there is no whole."""
    return f"{or_zero(part)} / ({whole} > 0)"


def loop_delay(q: float, replica: str) -> str:
    """How late a replica's event loop is, in milliseconds, as a quantile.

    Serve does not say whose loop it is: the process tells, which the replica's own metrics name as well.
    """
    buckets = f"rate({SERVE_LOOP_MS.exported}_bucket{WINDOW})"
    theirs = f"{SERVE_PROCESSING.exported}{_braces(replica)}"
    return f"histogram_quantile({q:g}, sum by (le) ({buckets} and on (WorkerId) {theirs}))"


def or_zero(query: str) -> str:
    """The query, or 0 where nothing was ever counted: a counter appears with its first count."""
    return f"({query} or vector(0))"


def _grouped(metric: Exported, by: Sequence[str]) -> str:
    unknown = set(by) - {*metric.labels, *_RAYS}
    assert not unknown, f"{metric.exported} has no label {sorted(unknown)}; it has {metric.labels}"
    return f" by ({', '.join(by)})" if by else ""


def _braces(where: str) -> str:
    return f"{{{where}}}" if where else ""
