from hypothesis import given
from hypothesis import strategies as st

from serve_app.cluster.routing import FANOUT, Candidate, ranks


def test_a_free_slot_comes_before_the_voice_and_the_voice_before_the_load():
    full = Candidate("full", 10, 10, {"ours"})
    busy = Candidate("busy", 9, 10, {"ours"})
    idle = Candidate("idle", 0, 10, {"theirs"})
    assert ranks("ours", [full, busy, idle]) == [["busy"], ["idle"], ["full"]]


def test_the_least_loaded_of_a_rank_come_first_and_few_are_asked():
    candidates = [Candidate(str(number), number, 10, {"ours"}) for number in (5, 2, 9, 3, 4)]
    assert ranks("ours", candidates) == [["2", "3", "4"]]


def test_a_replica_that_was_not_heard_of_lately_may_have_room():
    assert ranks("ours", [Candidate("a", None, 10, ()), Candidate("b", 10, 10, ())]) == [["a"], ["b"]]


def test_a_silent_replica_is_asked_last():
    silent = Candidate("silent", 0, 10, {"ours"}, silent=True)
    full = Candidate("full", 10, 10, ())
    assert ranks("ours", [silent, full]) == [["full"], ["silent"]]


def test_voices_that_no_replica_holds_spread_over_equals():
    candidates = [Candidate(str(number), 0, 10, ()) for number in range(4)]
    firsts = [ranks(f"voice{number}", candidates)[0][0] for number in range(100)]
    assert all(firsts.count(candidate.name) > 10 for candidate in candidates)


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        st.uuids().map(str),
        st.none() | st.integers(0, 12),
        st.integers(1, 10),
        st.frozensets(st.sampled_from(["a", "b"])),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda each: each.name,
)


@given(CANDIDATES, st.sampled_from(["a", "b", "c"]))
def test_every_replica_is_asked_once(candidates, voice):
    chosen = ranks(voice, candidates)
    names = [name for rank in chosen for name in rank]
    assert len(names) == len(set(names))
    assert bool(names) == bool(candidates)
    assert all(0 < len(rank) <= FANOUT for rank in chosen)
