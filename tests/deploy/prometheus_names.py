"""Which metrics PromQL speaks of, and which there are; promtool."""

import re
import shutil
import subprocess
from collections.abc import Iterable
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


def metrics_in(query: str) -> set[str]:
    """Names of metrics in PromQL, without the endings of a histogram's series."""
    found = set()
    for name in re.findall(r"\bray_\w+", query):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found.add(base if base in _HISTOGRAMS else name)
    return found


def unknown_metrics(queries: Iterable[str]) -> set[str]:
    """Metrics in PromQL that nobody exports."""
    return {name for query in queries for name in metrics_in(query)} - OURS - SERVES


def promtool(*arguments: str) -> str:
    """What promtool says; skips the test where there is none, fails it where promtool does."""
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
