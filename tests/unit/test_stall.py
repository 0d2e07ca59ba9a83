import numpy as np
import pytest

from serve_app.engine.stall import StallGuard
from serve_app.speech import SAMPLES_PER_FRAME


def frames(firsts, level=0.1):
    codes = np.zeros((len(firsts), 16), dtype=np.int16)
    codes[:, 0] = firsts
    return codes, np.full(len(firsts) * SAMPLES_PER_FRAME, level, dtype=np.float32)


@pytest.mark.parametrize("cycle", [[5], [5, 9], [1, 2, 3], [1, 2, 3, 4]])
def test_a_short_cycle_is_noticed_after_the_limit(cycle):
    guard = StallGuard(20)
    assert not guard.observe(*frames((cycle * 60)[:20]))
    assert guard.observe(*frames((cycle * 60)[20 : 20 + len(cycle) + 1]))


def test_codes_of_before_a_break_count():
    guard = StallGuard(20)
    guard.recall(frames([5] * 15)[0])
    assert guard.observe(*frames([5] * 6))


def test_silence_is_noticed_however_it_is_cut():
    guard = StallGuard(10)
    assert not guard.observe(*frames(list(range(9)), level=1e-5))
    assert guard.observe(*frames([99], level=1e-5))


def test_speech_is_left_alone():
    guard = StallGuard(10)
    assert not guard.observe(*frames(np.random.default_rng(0).integers(0, 2048, 500)))


def test_a_pause_shorter_than_the_limit_is_left_alone():
    guard = StallGuard(10)
    for begin in range(0, 200, 12):
        assert not guard.observe(*frames(list(range(begin, begin + 9)), level=0.0))
        assert not guard.observe(*frames(list(range(begin + 9, begin + 12))))
