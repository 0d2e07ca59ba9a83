"""Who comes when."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.load.arrivals import ArrivalsError, Speech, poisson, span_s, trace

SPEECH = Speech(["one", "two", "three"], voice="austen")


def test_arrivals_at_random_are_as_many_as_asked_for_and_as_irregular():
    arrivals = poisson(50.0, 200.0, SPEECH, seed=1)
    assert len(arrivals) == pytest.approx(10_000, abs=400)  # four standard deviations
    gaps_s = [later.at_s - earlier.at_s for earlier, later in pairwise(arrivals)]
    mean_s = sum(gaps_s) / len(gaps_s)
    deviation_s = (sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)) ** 0.5
    assert deviation_s == pytest.approx(mean_s, rel=0.05)  # what an exponential distribution has
    assert {arrival.text for arrival in arrivals} == set(SPEECH.texts)


@given(st.floats(0.5, 50), st.floats(20, 60), st.integers(0, 2**32))
def test_the_same_seed_is_the_same_load_in_order_and_in_time(rate_hz, seconds, seed):
    arrivals = poisson(rate_hz, seconds, SPEECH, seed)
    assert arrivals == poisson(rate_hz, seconds, SPEECH, seed)
    times_s = [arrival.at_s for arrival in arrivals]
    assert times_s == sorted(times_s)
    assert 0 <= times_s[0] <= times_s[-1] < seconds


def test_another_rate_has_the_same_listeners_closer_together():
    slow, fast = (poisson(rate_hz, 60.0, SPEECH, seed=3) for rate_hz in (1.0, 2.0))
    assert len(fast) > len(slow)
    for one, other in zip(slow, fast, strict=False):
        assert (one.text, one.seed) == (other.text, other.seed)
        assert one.at_s == pytest.approx(2 * other.at_s)


@pytest.mark.parametrize(("rate_hz", "seconds"), [(0.0, 1.0), (1e6, 1.0), (1e-3, 1e6), (1e-6, 1.0)])
def test_what_cannot_be_sent_is_refused(rate_hz, seconds):
    with pytest.raises(ArrivalsError):
        poisson(rate_hz, seconds, SPEECH, seed=1)


def test_a_message_says_what_was_given_and_leaves_the_rest_to_the_server():
    message = poisson(1.0, 60.0, SPEECH, seed=1)[0].message()
    assert message["voice"] == "austen"
    assert "language" not in message
    assert (message["type"], message["encoding"], message["sample_rate"]) == ("speak", "pcm16", 24_000)
    assert 0 <= message["seed"] < 2**53


def test_a_trace_is_sent_in_the_order_of_its_times():
    lines = [
        json.dumps({"at_s": 2.5, "text": "later", "voice": "austen", "language": "english"}),
        "",
        json.dumps({"at_s": 0, "text": "first"}),
    ]
    arrivals = trace(lines, seed=1)
    assert [(arrival.at_s, arrival.text, arrival.voice) for arrival in arrivals] == [
        (0.0, "first", None),
        (2.5, "later", "austen"),
    ]
    assert arrivals == trace(lines, seed=1)
    assert span_s(arrivals) == 3.0


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("{", "line 2"),
        ('{"at_s": -1, "text": "x"}', "at_s"),
        ('{"at_s": 1e9, "text": "x"}', "at_s"),
        ('{"at_s": NaN, "text": "x"}', "at_s"),
        ('{"at_s": 1}', "text"),
        ('{"at_s": 1, "text": ""}', "text"),
        ('{"at_s": 1, "text": "x", "voise": "austen"}', "voise"),
    ],
)
def test_a_line_that_is_none_is_named(line, part):
    with pytest.raises(ArrivalsError, match=part):
        trace(['{"at_s": 0, "text": "x"}', line], seed=1)


def test_a_trace_has_an_end_and_a_beginning(monkeypatch):
    monkeypatch.setattr("serve_app.cli.load.arrivals.MAX_ARRIVALS", 2)
    with pytest.raises(ArrivalsError, match="more than 2"):
        trace(['{"at_s": 0, "text": "x"}'] * 3, seed=1)
    with pytest.raises(ArrivalsError, match="no arrivals"):
        trace(["", " "], seed=1)
