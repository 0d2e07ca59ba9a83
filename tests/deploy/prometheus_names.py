"""The metrics and labels that a PromQL query uses, compared with those that exist; promtool."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from serve_app.observability import metrics

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"

SERVES = {
    "ray_serve_autoscaling_target_replicas",
    "ray_serve_deployment_queued_queries",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_event_loop_scheduling_latency_ms",
    "ray_serve_replica_processing_queries",
}
"""Ray Serve's own that are used; it exports them without our doing."""

OURS = {metric.exported for metric in metrics.TABLE}
_HISTOGRAMS = {metric.exported for metric in metrics.TABLE if metric.kind == "histogram"}
_HISTOGRAMS |= {name for name in SERVES if name.endswith("_latency_ms")}
_RAYS_LABELS = {"application", "deployment", "replica", "actor_id", "WorkerId", "le"}
"""Labels that Ray adds to a metric, and ``le``, which a histogram's buckets have."""
_LABELS = {metric.exported: {*metric.labels, *_RAYS_LABELS} for metric in metrics.TABLE}


def metrics_in(query: str) -> set[str]:
    """Names of metrics in PromQL, without the endings of a histogram's series."""
    found = set()
    for name in re.findall(r"\bray_\w+", query):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found.add(base if base in _HISTOGRAMS else name)
    return found


def unknown_metrics(queries: Iterable[str]) -> set[str]:
    """Metrics in PromQL that do not exist."""
    return {name for query in queries for name in metrics_in(query)} - OURS - SERVES


def unknown_labels(queries: Iterable[str]) -> set[tuple[str, str]]:
    """Metrics in PromQL, each with a label that it is grouped or selected by and does not have."""
    uses = [use for query in queries for use in (*_grouped(query), *_selected(query))]
    return {(name, label) for name, labels in uses for label in labels - _LABELS.get(name, _RAYS_LABELS)}


def _grouped(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric inside ``by (labels) (...)``, with the labels."""
    for found in re.finditer(r"\bby \(([^)]*)\) \(", query):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(query[end], 0)
            end += 1
        for name in metrics_in(query[found.end() : end]):
            yield name, set(found[1].split(", "))


def _selected(query: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric before ``{label="value"}``, with the labels."""
    for series, matchers in re.findall(r"\b(ray_\w+)\{([^}]*)\}", query):
        (name,) = metrics_in(series)
        yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def promtool(*arguments: str) -> str:
    """Run promtool and return its output; skip the test if it is not installed, and fail the test if it fails."""
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus), so rules are not checked")
    result = subprocess.run([found, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def checked_rules(path: Path, rules: list[dict[str, str]]) -> None:
    """Have promtool parse rules, by way of a file."""
    path.write_text(yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]}))
    promtool("check", "rules", str(path))
