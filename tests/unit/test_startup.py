from hypothesis import given
from hypothesis import strategies as st

from serve_app.startup import CHECK_AGAIN_S, REMIND_S, NotYetError, Patience

MISSING = NotYetError("the weights in /w", "config.json is missing", "Name another")
OTHER = NotYetError("the weights in /w", "model.safetensors is cut short", check_again_s=30)


def test_what_is_missing_is_said_once_and_again_after_some_minutes():
    patience = Patience(3600, 0)
    says = [patience.pause(MISSING, now_s).say for now_s in range(0, 900, 3)]
    assert [3 * look for look, said in enumerate(says) if said] == [0, REMIND_S, 2 * REMIND_S]


def test_another_reason_is_said_at_once():
    patience = Patience(3600, 0)
    assert [patience.pause(missing, now_s).say for now_s, missing in enumerate((MISSING, OTHER, OTHER, MISSING))] == [
        True,
        True,
        False,
        True,
    ]


def test_what_costs_others_something_is_asked_for_less_often():
    patience = Patience(3600, 0)
    assert patience.pause(MISSING, 0).seconds == CHECK_AGAIN_S
    assert patience.pause(OTHER, 3).seconds == 30


@given(limit_s=st.floats(0, 1e5), looks_s=st.floats(0, 60))
def test_waiting_ends_at_its_limit_with_a_last_look_there(limit_s, looks_s):
    patience, now_s, last_s = Patience(limit_s, 0.0), 0.0, 0.0
    while (pause := patience.pause(MISSING, now_s)) is not None:
        assert 0 < pause.seconds <= limit_s - now_s
        last_s, now_s = now_s, now_s + max(pause.seconds, looks_s)
    assert now_s >= limit_s
    assert last_s <= limit_s
    assert patience.waited == (limit_s > 0)


def test_a_generator_that_does_not_wait_says_what_is_missing_and_what_to_do():
    patience = Patience(0, 5)
    assert patience.pause(MISSING, 5) is None
    assert patience.ended(MISSING) == "cannot start without the weights in /w: config.json is missing. Name another"


def test_a_generator_that_has_waited_says_how_long_and_where_that_is_set():
    assert Patience(60, 0).ended(MISSING).endswith("Name another (waited 60 s, generator.startup_wait_s)")


def test_what_is_waited_for_is_said_without_what_to_do():
    assert MISSING.waiting == "waits for the weights in /w: config.json is missing"
