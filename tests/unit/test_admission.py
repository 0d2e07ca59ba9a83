import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.admission import RETRY_MIN_S, Admission, Backlog, Ticket, next_free_s
from serve_app.config import AdmissionConfig
from serve_app.errors import CapacityError


def ticket(number, needed_by_s=None, *, asked_s=0.0, key="", priority=0, begun=False, batch=False):
    needed_by_s = asked_s if needed_by_s is None else needed_by_s
    return Ticket(number, key, priority, asked_s, needed_by_s, begun, batch)


def admission(capacity, *, stream_s=None, **settings):
    """An admission that has learnt how long a stream takes."""
    made = Admission(AdmissionConfig(**settings), capacity)
    if stream_s is not None:
        taught = ticket(0)
        made.ask(taught, 0.0)
        made.admit(0.0)
        made.leave(taught, stream_s, spoken=True)
    return made


def admitted(made, now_s=0.0):
    return [each.number for each in made.admit(now_s)]


def test_as_many_start_as_the_capacity_allows():
    made = admission(2)
    for number in (1, 2, 3):
        made.ask(ticket(number), 0.0)
    assert admitted(made) == [1, 2]
    assert admitted(made) == []
    made.leave(ticket(1), 1.0)
    assert admitted(made) == [3]


def test_a_listener_with_audio_to_play_lets_a_new_request_pass():
    made = admission(1)
    made.ask(ticket(1, 5.0, begun=True), 0.0)
    made.ask(ticket(2, asked_s=1.0), 1.0)
    assert admitted(made) == [2]


def test_a_priority_is_worth_a_number_of_seconds_and_no_more():
    made = admission(1, priority_step_s=10)
    made.ask(ticket(1, asked_s=0), 0.0)
    made.ask(ticket(2, asked_s=9, priority=-1), 9.0)
    made.ask(ticket(3, asked_s=11, priority=-1), 11.0)
    order = []
    for _ in range(3):
        order += admitted(made)
        made.leave(ticket(order[-1]), 0.0)
    assert order == [2, 1, 3]


def test_a_key_at_its_limit_waits_and_lets_others_pass():
    made = admission(3, max_streams_per_key=1)
    for number, key in enumerate(["a", "a", "b", "", ""], 1):
        made.ask(ticket(number, key=key), 0.0)
    assert admitted(made) == [1, 3, 4]
    made.leave(ticket(1), 1.0)
    assert admitted(made) == [2]


def test_texts_beyond_the_limit_of_their_key_are_refused_and_do_not_get_others_refused():
    made, refused = admission(10, stream_s=4.0, start_deadline_s=15, max_streams_per_key=2), []
    for number in range(1, 41):
        try:
            made.ask(ticket(number, key="a"), 0.0)
        except CapacityError:
            refused.append(number)
        made.admit(0.0)
    assert refused == list(range(9, 41))  # two start at 0, 4, 8 and 12 s each
    made.ask(ticket(41, key="b"), 0.0)
    made.ask(ticket(42), 0.0)
    assert admitted(made) == [41, 42]


def test_texts_that_wait_for_their_key_count_separately():
    made = admission(10, stream_s=4.0, max_streams_per_key=2)
    for number in range(1, 6):
        made.ask(ticket(number, key="a", needed_by_s=100.0, begun=True), 0.0)
    assert made.backlog == Backlog(0, 2, 8.0, 6, blocked=3)
    made.admit(0.0)
    assert made.backlog == Backlog(2, 0, 0.0, 6, blocked=3)


@pytest.mark.parametrize("limit", [None, 4, 3])
def test_a_limit_that_a_key_cannot_reach_changes_no_estimate(limit):
    made = admission(3, stream_s=4.0, start_deadline_s=15, max_streams_per_key=limit)
    for number in range(1, 7):
        made.ask(ticket(number, key="a"), 0.0)
        made.admit(0.0)
    assert made.expected_start_s(ticket(7, key="b"), 0.0) == 8.0


def test_more_than_may_wait_are_refused_at_once():
    made = admission(1, max_waiting=2)
    for number in (1, 2, 3):  # one of them starts
        made.ask(ticket(number), 0.0)
    with pytest.raises(CapacityError, match="the limit is 2") as refused:
        made.ask(ticket(4), 0.0)
    assert refused.value.retry_after_ms == 1000 * RETRY_MIN_S
    assert made.backlog.waiting == 3
    made.ask(ticket(5, 3.0, begun=True), 0.0)  # his listener hears the beginning already


def test_a_text_that_would_not_start_in_time_is_refused_at_once_with_a_retry_time():
    made = admission(1, stream_s=10.0, start_deadline_s=15)
    for number in (1, 2):
        made.ask(ticket(number), 0.0)
        made.admit(0.0)
    with pytest.raises(CapacityError, match="about 20 s") as refused:
        made.ask(ticket(3), 0.0)
    assert refused.value.retry_after_ms == 5000
    made.ask(ticket(4, 3.0, begun=True), 0.0)  # his listener hears the beginning already
    made.ask(ticket(5, asked_s=6.0, priority=-1), 6.0)  # needed before all who wait


def test_no_text_is_refused_for_an_estimate_before_anything_is_known():
    made = admission(1, start_deadline_s=1)
    for number in range(100):
        made.ask(ticket(number), 0.0)
    assert made.backlog.waiting == 100
    assert made.backlog.waiting_s == 0.0


def test_a_stream_that_was_cut_short_teaches_nothing():
    made = admission(1)
    made.ask(ticket(1), 0.0)
    made.admit(0.0)
    made.leave(ticket(1), 50.0)
    made.ask(ticket(2), 50.0)
    assert made.backlog.waiting_s == 0.0


def test_a_capacity_that_shrinks_lets_its_streams_end():
    made = admission(2, stream_s=10.0)
    for number in (1, 2, 3):
        made.ask(ticket(number), 0.0)
    made.admit(0.0)
    made.capacity = 1
    made.leave(ticket(1), 4.0)
    assert admitted(made, 4.0) == []
    assert made.expected_start_s(ticket(3), 4.0) == pytest.approx(10.0)
    made.leave(ticket(2), 10.0)
    assert admitted(made, 10.0) == [3]


def test_the_deadline_counts_from_when_the_audio_runs_out():
    made = admission(1, start_deadline_s=15, resume_deadline_s=60)
    assert made.deadline_s(ticket(1, 7.0)) == 22.0
    assert made.deadline_s(ticket(1, 7.0, begun=True)) == 67.0


@pytest.mark.parametrize(
    ("ends_s", "ahead_s", "slots", "free_s"),
    [
        ([], [], 1, 10.0),
        ([12.0], [], 1, 12.0),
        ([12.0], [], 2, 10.0),
        ([12.0, 15.0], [4.0], 2, 15.0),
        ([12.0, 15.0, 20.0], [], 1, 20.0),
        ([], [1.0, 2.0, 3.0], 2, 12.0),
        ([], [], 0, float("inf")),
    ],
)
def test_when_a_slot_is_free(ends_s, ahead_s, slots, free_s):
    assert next_free_s(ends_s, ahead_s, slots, 10.0) == free_s


def test_a_batch_leaves_a_stream_free_however_long_it_has_waited():
    made = admission(3, reserved_streams=1)
    for number in (1, 2, 3):
        made.ask(ticket(number, batch=True, priority=1), 0.0)
    assert admitted(made) == [1, 2]
    made.ask(ticket(4, asked_s=14.0), 14.0)
    assert admitted(made, 14.0) == [4]
    made.leave(ticket(1), 14.0)
    made.ask(ticket(5, asked_s=14.0), 14.0)
    assert admitted(made, 14.0) == [5]
    made.leave(ticket(2), 14.0)
    assert admitted(made, 14.0) == []
    made.leave(ticket(4), 14.0)
    assert admitted(made, 14.0) == [3]


def test_the_expected_start_of_a_batch_counts_without_the_reserved_streams():
    made = admission(2, stream_s=10.0, reserved_streams=1)
    made.ask(ticket(1), 0.0)
    made.admit(0.0)
    assert made.expected_start_s(ticket(2), 4.0) == 4.0
    assert made.expected_start_s(ticket(2, batch=True), 4.0) == 10.0


def test_a_batch_waits_as_long_as_its_client_and_delays_and_refuses_nobody():
    made = admission(2, stream_s=100.0, reserved_streams=0, start_deadline_s=15, max_waiting=3)
    for number in range(1, 6):
        made.ask(ticket(number, batch=True), 0.0)
        made.admit(0.0)
    with pytest.raises(CapacityError, match="3 texts wait on this server; the limit is 3"):
        made.ask(ticket(6, batch=True), 0.0)
    assert made.deadline_s(ticket(3, batch=True)) == float("inf")
    made.ask(ticket(7, asked_s=99.0), 99.0)
    assert made.expected_start_s(ticket(7, asked_s=99.0), 99.0) == pytest.approx(109.0)
    made.leave(ticket(1), 100.0)
    assert admitted(made, 100.0) == [7]
    for number in (8, 9):
        made.ask(ticket(number, asked_s=99.0, begun=True), 99.0)
    made.leave(ticket(2), 100.0)
    made.leave(ticket(7), 100.0)
    assert admitted(made, 100.0) == [8, 9]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(1, 6), st.integers(0, 8))
def test_a_batch_never_starts_in_a_reserved_stream_and_always_has_one(steps, capacity, reserved):
    made = admission(capacity, reserved_streams=reserved, start_deadline_s=1e9, max_waiting=1000)
    running = []
    for number, (batch, leaving) in enumerate(steps, 1):
        if leaving < len(running):
            made.leave(running.pop(leaving), 0.0, spoken=True)
        made.ask(ticket(number, batch=batch), 0.0)
        for each in made.admit(0.0):
            running.append(each)
            assert len(running) <= capacity
            assert not each.batch or len(running) <= max(1, capacity - reserved)
        assert running


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 20), st.sampled_from([-1, 0, 1]), st.floats(0.1, 5)), max_size=40
)


@given(ARRIVALS, st.integers(1, 4))
def test_no_text_starves_and_the_capacity_is_never_exceeded(arrivals, capacity):
    """Everybody starts; nobody is overtaken by one who came later than his priority and his lead are worth."""
    made = Admission(AdmissionConfig(priority_step_s=5, start_deadline_s=1e9), capacity)
    coming = [
        (ticket(number, asked_s + lead_s, asked_s=asked_s, priority=priority), holds_s)
        for number, (asked_s, lead_s, priority, holds_s) in enumerate(sorted(arrivals))
    ]
    running, started, now_s = {}, {}, 0.0
    holds = {each.number: holds_s for each, holds_s in coming}
    while coming or running or made.backlog.waiting:
        next_s = min([each.asked_s for each, _ in coming[:1]] + [end_s for end_s, _ in running.values()])
        now_s = max(now_s, next_s)
        while coming and coming[0][0].asked_s <= now_s:
            made.ask(coming.pop(0)[0], now_s)
        for number in [number for number, (end_s, _) in running.items() if end_s <= now_s]:
            made.leave(running.pop(number)[1], now_s, spoken=True)
        for each in made.admit(now_s):
            started[each.number] = (now_s, each)
            running[each.number] = (now_s + holds[each.number], each)
        assert len(running) <= capacity
        assert made.backlog.waiting == 0 or len(running) == capacity
    assert len(started) == len(holds)
    for mine_s, mine in started.values():
        for other_s, other in started.values():
            if other.asked_s > mine.needed_by_s + 2 * 5:
                assert other_s >= mine_s


def test_refused_texts_count_as_requested():
    made = admission(1, max_waiting=0)
    made.ask(ticket(1), 0.0)
    made.admit(0.0)
    with pytest.raises(CapacityError):
        made.ask(ticket(2), 0.0)
    assert made.backlog.asked == 2
