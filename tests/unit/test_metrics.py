"""The table itself, and that Ray takes what it says."""

import re

import pytest
from ray.serve.metrics import Counter

from serve_app.deployments.ray_metrics import RayRecorder
from serve_app.observability import metrics
from serve_app.observability.metrics import TABLE

UNITS = ("_seconds", "_bytes")


def test_every_name_stands_there_once():
    names = [metric.name for metric in TABLE]
    assert len(set(names)) == len(names) > 30
    assert all(re.fullmatch(r"tts(_[a-z]+)+", name) for name in names)


def test_only_histograms_have_buckets_and_they_rise():
    for metric in TABLE:
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
        assert all(bound > 0 for bound in metric.buckets), "Ray takes no others"


def test_help_is_one_line_and_says_something():
    for metric in TABLE:
        assert 10 < len(metric.help) < 100, metric.name
        assert not metric.help.endswith("."), metric.name


def test_no_label_is_one_of_rays_own_or_can_grow_without_a_bound():
    labels = {label for metric in TABLE for label in metric.labels}
    assert labels <= {
        "dialect", "code", "finish_reason", "part", "encoding", "outcome", "model", "device", "dtype", "weights",
        "stage", "cache", "state", "direction", "reason",
    }  # fmt: skip


def test_the_promises_have_a_bucket_bound():
    assert 0.2 in metrics.TTFA_SECONDS.buckets
    assert 0.5 in metrics.TTFA_SECONDS.buckets
    assert 1.0 in metrics.RTF.buckets


@pytest.fixture
def sent(monkeypatch):
    """What reaches Ray's own recording, which needs a cluster."""
    seen = []
    monkeypatch.setattr(
        "ray.util.metrics.Metric._record",
        lambda self, value, tags=None: (
            self._validate_tags(self._get_final_tags(tags)),
            seen.append((self._name, value, self._get_final_tags(tags))),
        ),
    )
    return seen


def test_each_metric_of_the_table_is_one_that_ray_takes(sent):
    recorder = RayRecorder(application="tts")
    for metric in TABLE:
        labels = dict.fromkeys(metric.labels, "x")
        {"counter": recorder.add, "gauge": recorder.set, "histogram": recorder.observe}[metric.kind](
            metric, 1.5, **labels
        )
        assert sent[-1] == (metric.name, 1.5, {"application": "tts", **labels})
    assert len(sent) == len(TABLE)


def test_a_counter_can_be_seen_before_its_first_count(sent):
    RayRecorder().add(metrics.UNDERRUNS, 0)
    assert sent == [("tts_underruns", 0, {})]


def test_one_object_of_rays_stands_for_one_metric(sent, monkeypatch):
    made = []
    first = Counter.__init__
    monkeypatch.setattr(Counter, "__init__", lambda self, *args: (made.append(args[0]), first(self, *args))[1])
    recorder = RayRecorder()
    for _ in range(3):
        recorder.add(metrics.UNDERRUNS)
    assert made == ["tts_underruns"]
    assert len(sent) == 3
