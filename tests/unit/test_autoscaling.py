from dataclasses import replace

import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.autoscaling import Bounds, Load, Memory, desired_replicas
from serve_app.config import ScalingConfig

CONFIG = ScalingConfig()
WIDE = Bounds(0, 1000)

long_run = examples(30)


class Fleet:
    """Replicas that come ``start_s`` after they are wanted, under the policy; asked once a second."""

    def __init__(self, *, ready: int = 1, bounds: Bounds = WIDE, start_s: float = 30.0, **knobs) -> None:
        self.ready, self.bounds, self.start_s = ready, bounds, start_s
        self.config = ScalingConfig(**knobs)
        self.starting: list[float] = []
        self.memory = Memory()
        self.now_s = 0.0
        self.reason = ""

    @property
    def replicas(self) -> int:
        return self.ready + len(self.starting)

    def live(self, seconds: float, **load) -> list[int]:
        """The number of replicas after each second of this load."""
        seen = []
        for _ in range(round(seconds)):
            self.now_s += 1
            self.ready += sum(at_s <= self.now_s for at_s in self.starting)
            self.starting = [at_s for at_s in self.starting if at_s > self.now_s]
            self.decide(Load(self.ready, len(self.starting), slots=10, **load))
            seen.append(self.replicas)
        return seen

    def decide(self, load: Load) -> None:
        decision = desired_replicas(load, self.bounds, self.config, self.memory, self.now_s)
        self.memory, self.reason = decision.memory, decision.reason
        for _ in range(decision.replicas - self.replicas):
            self.starting.append(self.now_s + self.start_s)
        for _ in range(self.replicas - decision.replicas):
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1


def loads(most: float = 500.0):
    numbers = st.floats(0, most)
    return st.builds(
        Load,
        ready=st.integers(0, 60),
        starting=st.integers(0, 30),
        slots=st.integers(1, 16),
        running=numbers,
        waiting=numbers,
        waiting_s=numbers,
        stream_s=st.floats(0, 20),
        arrivals_hz=numbers,
        late=st.floats(0, 1),
    )


def memories():
    """Memories as they come about: of any loads, one after another."""
    steps = st.lists(st.tuples(st.floats(0.05, 200), loads()), max_size=6)
    return st.builds(_remember, steps, configs())


def configs():
    return st.sampled_from(
        [
            ScalingConfig(),
            ScalingConfig(headroom=0, crowding=0, downscale_delay_s=0, downscale_to_zero_delay_s=0),
            ScalingConfig(look_back_s=30, react_s=10, cold_start_s=300, drain_s=1, crowding=1, late_share=0),
        ]
    )


def _remember(steps, config):
    memory, now_s = Memory(), 1000.0
    for passed_s, load in steps:
        now_s += passed_s
        memory = desired_replicas(load, WIDE, config, memory, now_s).memory
    return memory, now_s, config


GROWING = ["running", "waiting", "waiting_s", "arrivals_hz", "late", "stream_s"]


@given(memories(), loads(), st.sampled_from(GROWING), st.floats(0, 500), st.floats(0.05, 200))
def test_more_of_anything_never_asks_for_fewer(remembered, load, what, more, passed_s):
    memory, at_s, config = remembered
    most = 1.0 if what == "late" else 2000.0
    heavier = replace(load, **{what: min(most, getattr(load, what) + more)})
    one, other = (desired_replicas(each, WIDE, config, memory, at_s + passed_s) for each in (load, heavier))
    assert other.replicas >= one.replicas


@given(memories(), loads(), st.integers(0, 20), st.integers(0, 20), st.floats(0.05, 200))
def test_the_bounds_hold_whatever_happens(remembered, load, fewest, more, passed_s):
    memory, at_s, config = remembered
    bounds = Bounds(fewest, max(1, fewest + more))
    assert fewest <= desired_replicas(load, bounds, config, memory, at_s + passed_s).replicas <= bounds.max_replicas


@long_run
@given(st.floats(0, 300), st.floats(0.5, 10), st.integers(1, 40), st.floats(0, 40))
def test_a_constant_load_does_not_oscillate(running, stream_s, ready, start_s):
    fleet = Fleet(ready=ready, start_s=start_s)
    seen = fleet.live(1500, running=running, stream_s=stream_s, arrivals_hz=running / stream_s)
    steps = [after - before for before, after in zip([ready, *seen], seen, strict=False) if after != before]
    assert len({step > 0 for step in steps}) <= 1, "it goes one way"
    assert len(set(seen[-300:])) == 1


@long_run
@given(st.floats(0, 300), st.integers(0, 3), st.floats(0, 100))
def test_no_load_reaches_the_minimum_after_its_delays(running, fewest, waiting):
    fleet = Fleet(ready=5, bounds=Bounds(fewest, 100), downscale_delay_s=60, downscale_to_zero_delay_s=120)
    fleet.live(100, running=running, waiting=waiting, stream_s=4.0, arrivals_hz=running / 4)
    fade_s = 60 * 8  # the streams of the last minute are forgotten to a thousandth
    seen = fleet.live(fade_s + 60 + 60 + 120 + 5)
    assert seen[-1] == fewest


@long_run
@given(st.floats(0.1, 200), st.floats(0.5, 10))
def test_the_slots_hold_the_streams_with_some_to_spare(running, stream_s):
    fleet = Fleet(ready=0)
    fleet.live(600, running=running, stream_s=stream_s, arrivals_hz=running / stream_s)
    assert fleet.replicas * 10 >= running
    assert fleet.replicas <= 1 + (running * 1.7 + 1.5 * (running * 1.7) ** 0.5) / 10


def test_waiting_texts_are_answered_at_once_and_a_dip_is_not():
    fleet = Fleet(ready=2)
    fleet.live(120, running=12, stream_s=4.0, arrivals_hz=3.0)
    settled = fleet.replicas
    assert fleet.live(5, running=20, waiting=60, waiting_s=240.0, stream_s=4.0, arrivals_hz=3.0)[-1] > settled
    grown = fleet.replicas
    assert min(fleet.live(fleet.config.downscale_delay_s - 1, running=2, stream_s=4.0, arrivals_hz=0.5)) == grown


def test_no_replica_is_stopped_while_texts_wait():
    fleet = Fleet(ready=3, downscale_delay_s=10)
    assert min(fleet.live(60, running=4, waiting=12, stream_s=2.0)) == 3
    assert fleet.live(60, running=4, stream_s=2.0)[-1] < 3


def test_rising_arrivals_are_met_before_anybody_waits():
    fleet = Fleet(ready=4)
    fleet.live(300, running=25, stream_s=4.0, arrivals_hz=6.0)
    settled = fleet.replicas
    for second in range(10):
        fleet.live(1, running=25, stream_s=4.0, arrivals_hz=6.0 + 2 * second)
    assert fleet.replicas > settled
    assert "texts a second" in fleet.reason


def test_what_arrivals_vary_by_alone_orders_nothing():
    fleet = Fleet(ready=4)
    fleet.live(300, running=25, stream_s=4.0, arrivals_hz=6.0)
    settled = fleet.replicas
    assert max(fleet.live(10, running=25, stream_s=4.0, arrivals_hz=7.0)) == settled


def test_refused_texts_count_even_if_no_text_waits():
    fleet = Fleet(ready=2)
    fleet.live(60, running=20, stream_s=4.0, arrivals_hz=20.0)
    assert fleet.replicas >= 8


def test_late_listeners_bring_replicas_though_slots_are_free_and_these_stay():
    fleet = Fleet(ready=3)
    fleet.live(120, running=12, stream_s=4.0, arrivals_hz=3.0)
    settled = fleet.replicas
    fleet.live(30, running=12, stream_s=4.0, arrivals_hz=3.0, late=0.4)
    grown = fleet.replicas
    assert grown > settled
    fleet.live(300, running=12, stream_s=4.0, arrivals_hz=3.0)
    assert fleet.replicas == grown, "with fewer of them they would be late again"
    assert fleet.live(4 * 3600, running=12, stream_s=4.0, arrivals_hz=3.0)[-1] == settled, "one day it is tried"


def test_one_late_listener_in_many_brings_nothing():
    fleet = Fleet(ready=3)
    settled = fleet.live(120, running=12, stream_s=4.0, arrivals_hz=3.0)[-1]
    assert fleet.live(60, running=12, stream_s=4.0, arrivals_hz=3.0, late=0.04)[-1] == settled


def test_idle_sockets_hold_no_replica_and_one_that_speaks_does():
    fleet = Fleet(ready=1, downscale_to_zero_delay_s=60)
    assert fleet.live(3600, running=1, stream_s=600.0)[-1] == 1
    assert fleet.live(1200)[-1] == 0
    assert fleet.live(60)[-1] == 0


def test_from_zero_a_waiting_text_starts_the_first_replica():
    fleet = Fleet(ready=1, downscale_to_zero_delay_s=0, downscale_delay_s=0)
    fleet.live(1200)
    assert fleet.replicas == 0
    assert fleet.live(1, waiting=1)[-1] == 1


def test_a_fleet_that_starts_at_zero_shows_that_it_can_speak():
    fleet = Fleet(ready=0, downscale_to_zero_delay_s=10)
    assert fleet.live(1)[-1] == 1
    assert fleet.live(29)[-1] == 1, "it is not taken before it serves"
    assert fleet.live(60)[-1] == 0


def test_less_is_taken_in_steps_of_what_was_needed_during_the_delay():
    fleet = Fleet(ready=10, downscale_delay_s=60)
    fleet.live(60, running=70, stream_s=4.0, arrivals_hz=17.0)
    before = fleet.replicas
    fleet.live(50, running=5, stream_s=4.0, arrivals_hz=1.0)
    assert fleet.replicas == before
    assert fleet.live(400, running=5, stream_s=4.0, arrivals_hz=1.0)[-1] == 2


@pytest.mark.parametrize("every_s", [0.1, 1.0, 5.0])
def test_how_often_it_is_asked_changes_little(every_s):
    memory, now_s = Memory(), 0.0
    load = Load(ready=3, starting=0, slots=10, running=10, stream_s=4.0, arrivals_hz=2.5)
    for _ in range(round(120 / every_s)):
        now_s += every_s
        memory = desired_replicas(load, WIDE, CONFIG, memory, now_s).memory
    heavier = replace(load, running=20)
    for _ in range(round(60 / every_s)):
        now_s += every_s
        memory = desired_replicas(heavier, WIDE, CONFIG, memory, now_s).memory
    assert memory.streams == pytest.approx(10 + 10 * (1 - 2.718281828**-1), rel=0.01)


@pytest.mark.parametrize("arrivals_hz", [0.0, 20.0])
def test_a_clock_that_is_set_back_changes_nothing(arrivals_hz):
    steady = Load(2, 0, 10, running=10, arrivals_hz=2.0, stream_s=5.0)
    memory = desired_replicas(steady, WIDE, CONFIG, Memory(), 1000.0).memory
    changed = replace(steady, arrivals_hz=arrivals_hz)
    before, after = (desired_replicas(changed, WIDE, CONFIG, memory, at_s) for at_s in (1000.0, 940.0))
    assert after.replicas == before.replicas


def test_a_lower_maximum_is_obeyed_at_once():
    memory = desired_replicas(Load(8, 0, 10, running=70), Bounds(1, 10), CONFIG, Memory(), 0.0).memory
    assert desired_replicas(Load(8, 0, 10, running=70), Bounds(1, 5), CONFIG, memory, 1.0).replicas == 5


def test_the_reason_says_what_the_bounds_cut():
    decision = desired_replicas(Load(2, 0, 10, running=90), Bounds(1, 4), CONFIG, Memory(), 0.0)
    assert decision.replicas == 4
    assert "1 to 4 are allowed" in decision.reason


def test_averages_depend_on_the_configuration():
    with pytest.raises(ValueError, match="react_s"):
        ScalingConfig(look_back_s=20, react_s=10)
