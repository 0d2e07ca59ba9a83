"""SLOs, and the search for the highest rate that meets one: against services that are simulated."""

import heapq
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.load.arrivals import Speech, poisson
from serve_app.cli.load.figures import COMPLETE, Utterance, summarize
from serve_app.cli.load.knee import (
    Search,
    SloError,
    Step,
    bracket,
    next_rate,
    parse_slo,
)
from serve_app.cli.load.tables import knee_line, slo_line, step_lines

SEARCH = Search(start_hz=1.0, lowest_hz=0.01, highest_hz=1000.0, max_steps=40)


def search(is_met, plan=SEARCH):
    """All steps of a search in a service that meets its SLO at the rates that ``is_met`` says."""
    steps = []
    while (rate_hz := next_rate(steps, plan)) is not None:
        steps.append(Step(rate_hz, is_met(rate_hz)))
    return steps


@given(st.floats(0.02, 900), st.floats(0.01, 1000))
def test_the_knee_of_a_service_with_a_limit_is_found(limit_hz, start_hz):
    steps = search(lambda rate_hz: rate_hz <= limit_hz, Search(start_hz, 0.01, 1000.0, 60))
    met_hz, violated_hz = bracket(steps)
    assert met_hz <= limit_hz < violated_hz
    assert violated_hz <= met_hz * 1.1
    assert len(steps) <= 2 + abs(math.log2(limit_hz / start_hz)) + 1 + 3  # bisecting a factor of 2 to 1.1


@given(st.lists(st.booleans(), min_size=12, max_size=12), st.floats(0.01, 1000))
def test_any_service_at_all_is_searched_to_an_end(answers, start_hz):
    left = iter(answers)
    steps = search(lambda _: next(left), Search(start_hz, 0.01, 1000.0, 12))
    rates_hz = [step.rate_hz for step in steps]
    assert 1 <= len(steps) <= 12
    assert len(set(rates_hz)) == len(rates_hz)
    assert all(0.01 <= rate_hz <= 1000.0 for rate_hz in rates_hz)
    met_hz, violated_hz = bracket(steps)
    assert met_hz is None or Step(met_hz, met=True) in steps
    assert violated_hz is None or met_hz is None or met_hz < violated_hz


def test_the_rate_doubles_until_the_slo_is_violated_and_is_halved_between():
    steps = search(lambda rate_hz: rate_hz <= 5)
    assert [step.rate_hz for step in steps][:4] == [1, 2, 4, 8]
    assert steps[4].rate_hz == pytest.approx(math.sqrt(32))


def test_a_first_rate_that_is_too_high_is_left_downwards():
    assert [step.rate_hz for step in search(lambda rate_hz: rate_hz <= 0.3)][:3] == [1, 0.5, 0.25]


def test_the_search_stays_between_its_bounds():
    up = search(lambda _: True, Search(1.0, 0.1, 5.0, 40))
    assert [step.rate_hz for step in up] == [1, 2, 4, 5]
    down = search(lambda _: False, Search(1.0, 0.3, 5.0, 40))
    assert [step.rate_hz for step in down] == [1, 0.5, 0.3]
    assert bracket(down) == (None, 0.3)


def waiting_room(rate_hz, slots, service_s, seconds):
    """First audio of a service with so many slots, each of which an utterance holds for the same time."""
    free_s = [0.0] * slots
    utterances = []
    for arrival in poisson(rate_hz, seconds, Speech(["x"]), seed=7):
        begins_s = max(arrival.at_s, heapq.heappop(free_s))
        heapq.heappush(free_s, begins_s + service_s)
        wait_s = begins_s - arrival.at_s + 0.05
        utterances.append(Utterance(arrival.at_s, COMPLETE, ttfa_s=wait_s, e2e_s=wait_s + 1, samples=24_000))
    return summarize(utterances)


@pytest.mark.parametrize(("slots", "service_s"), [(10, 2.0), (4, 0.5), (1, 0.1)])
def test_the_knee_of_a_service_with_a_queue_is_just_below_what_it_can_do(slots, service_s):
    slo = parse_slo("ttfa_p95_ms=500,errors=0.01")
    tried = []

    def is_met(rate_hz):
        tried.append((rate_hz, waiting_room(rate_hz, slots, service_s, seconds=300)))
        return slo.is_met(tried[-1][1].figures)

    met_hz, violated_hz = bracket(search(is_met))
    assert 0.5 * slots / service_s < met_hz < violated_hz < 1.1 * slots / service_s
    lines = step_lines(tried, slo)
    assert len(lines) == len(tried) + 1
    assert "met" in lines[1]
    assert "violated" in lines[-1]


def test_an_slo_is_met_up_to_its_limits():
    slo = parse_slo(" ttfa_p95_ms=500, underruns=0")
    assert slo.is_met({"ttfa_p95_ms": 500.0, "underruns": 0.0})
    assert not slo.is_met({"ttfa_p95_ms": 501.0, "underruns": 0.0})
    assert not slo.is_met({"ttfa_p95_ms": 1.0, "underruns": 0.001})
    assert slo.used({"ttfa_p95_ms": 250.0, "underruns": 0.0}) == {"ttfa_p95_ms": 0.5, "underruns": 0.0}


def test_what_nothing_is_known_of_is_not_met():
    slo = parse_slo("ttfa_p95_ms=500")
    summary = summarize([Utterance(0.0, "CAPACITY")])
    assert not slo.is_met(summary.figures)
    assert slo_line(slo, summary) == "SLO VIOLATED: ttfa_p95_ms unknown"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "is unknown; allowed"),
        ("ttfa=500", "ttfa_p95_ms"),
        ("errors", "not a number"),
        ("errors=few", "not a number"),
        ("errors=-1", "0 or more"),
        ("errors=inf", "0 or more"),
        ("errors=nan", "0 or more"),
        ("errors=0.1,errors=0.2", "has two limits"),
    ],
)
def test_what_is_not_an_slo_is_refused_in_words(words, part):
    with pytest.raises(SloError, match=part):
        parse_slo(words)


def test_the_answer_says_how_much_is_known():
    assert "no rate that was tried" in knee_line(None, 0.3)
    assert "no higher rate was tried" in knee_line(5.0, None)
    assert knee_line(4.0, 4.4) == "4/s is the highest rate that met the SLO; 4.4/s violated it"
