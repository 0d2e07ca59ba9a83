import json
import warnings
from types import SimpleNamespace

import pytest
from recorded import Recorded

from serve_app.config import ScalingConfig

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from ray.serve.config import AutoscalingContext

    from serve_app.deployments.autoscaling_policy import ReplicaStats, ScaleGenerators

SCALING = ScalingConfig()


def policy(recorder=None, **settings) -> ScaleGenerators:
    return ScaleGenerators(10, ScalingConfig(**settings).model_dump(), recorder or Recorded())


def context(replicas, *, target=None, queued=0.0, state=None, now_s=0.0, bounds=(0, 8), scaling=SCALING):
    """What Serve hands over when these replicas have reported these numbers."""
    raw = {}
    for index, stats in enumerate(replicas):
        for name, value in stats.numbers(scaling).items():
            old, new = (SimpleNamespace(timestamp=at_s, value=at_value) for at_s, at_value in ((0, -1.0), (1, value)))
            raw.setdefault(name, {})[f"replica {index}"] = [old, new]
    return AutoscalingContext(
        deployment_id=None,
        deployment_name="Generator",
        app_name="tts",
        current_num_replicas=len(replicas),
        target_num_replicas=len(replicas) if target is None else target,
        running_replicas=[f"replica {index}" for index in range(len(replicas))],
        total_num_requests=0.0,
        total_queued_requests=queued,
        aggregated_metrics=None,
        raw_metrics=lambda: raw,
        capacity_adjusted_min_replicas=bounds[0],
        capacity_adjusted_max_replicas=bounds[1],
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now_s,
        config=None,
    )


@pytest.fixture
def decided(monkeypatch):
    """The structured lines of the log, read."""
    lines = []
    monkeypatch.setattr(
        "serve_app.deployments.autoscaling_policy.log.info", lambda text, *given: lines.append(text % given)
    )
    return lambda: [json.loads(line.removeprefix("scaling ")) for line in lines if line.startswith("scaling {")]


def test_replicas_are_added_up_and_the_board_counts_once():
    board = {"waiting_before": 30.0, "waiting_before_s": 120.0, "arrivals_hz": 6.0}
    one = ReplicaStats(running=10, waiting=1, stream_s=4.0, listeners=8, late=1, **board)
    other = ReplicaStats(running=6, waiting=0, stream_s=2.0, listeners=2, late=1, **board)
    load = policy()._load(context([one, other], target=3, queued=5.0), [one, other])
    assert (load.ready, load.starting, load.slots) == (2, 1, 10)
    assert (load.running, load.waiting, load.stream_s, load.arrivals_hz) == (16, 36, 3.0, 6.0)
    assert load.waiting_s == 6 * 3.0 + 120.0
    assert load.late == 0.2


def test_the_newest_numbers_decide_and_one_line_says_so(decided):
    replicas, _ = policy()(context([ReplicaStats(running=10, stream_s=4.0, waiting_before=20, waiting_before_s=80.0)]))
    (line,) = decided()
    assert replicas == line["to"] > line["from"] == 1
    assert line["running"] == 10
    assert line["reason"]


def test_no_change_says_nothing(decided):
    assert policy()(context([ReplicaStats(running=2, stream_s=2.0)]))[0] == 1
    assert decided() == []


def test_serve_keeps_the_memory_between_two_questions():
    asked, scaling, state, decisions = policy(), ScalingConfig(downscale_delay_s=30), {}, []
    numbers = [ReplicaStats(running=0.25, stream_s=2.0)] * 4
    for second in range(40):
        replicas, state = asked(context(numbers, state=state, now_s=100.0 + second, scaling=scaling))
        decisions.append(replicas)
    assert decisions[:30] == [4] * 30
    assert decisions[30] == 1


def test_serves_own_queue_counts_if_no_replica_reports():
    replicas, state = policy(downscale_to_zero_delay_s=0)(context([], target=1))
    assert replicas == 1, "the first is waited for"
    assert policy()(context([], target=0, queued=3.0, state=state, now_s=1.0))[0] == 1


def test_settings_reach_the_policy_through_the_replicas_and_stay():
    asked = policy()
    asked(context([ReplicaStats()], scaling=ScalingConfig(headroom=3.0)))
    assert asked._scaling == ScalingConfig(headroom=3.0)
    asked(context([]))
    assert asked._scaling == ScalingConfig(headroom=3.0)


def test_the_bounds_are_serves():
    crowd = ReplicaStats(running=10, stream_s=4.0, waiting_before=400, waiting_before_s=1600.0)
    assert policy()(context([crowd], bounds=(1, 3)))[0] == 3


def test_what_is_wanted_and_why_is_recorded():
    recorded = Recorded()
    busy = ReplicaStats(running=10, stream_s=4.0, waiting_before=20, waiting_before_s=80.0)
    asked = policy(recorded)
    replicas, state = asked(context([busy]))
    assert recorded.gauges == {"replicas_desired": replicas, "replicas_maximum": 8}
    ((decision, times),) = recorded.counters.items()
    assert decision.startswith("scaling_decisions up ")
    assert times == 1
    asked(context([busy], target=replicas, state=state))
    assert sum(recorded.counters.values()) == 1, "it wants what there is going to be"
