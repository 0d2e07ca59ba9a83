"""Players and ears, in times that are given."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.load.player import WINDOW_SAMPLES, FirstSound, heard_at_s, play

FRAME = 1920  # 80 ms

pieces = st.lists(
    st.tuples(st.floats(0, 2), st.integers(1, 24_000)),
    max_size=12,
).map(lambda steps: list(zip(accumulate(gap for gap, _ in steps), (size for _, size in steps), strict=True)))


def sound(*levels):
    """PCM16 of windows of 20 ms, each at a level of full scale."""
    return np.concatenate([np.full(WINDOW_SAMPLES, round(level * 32768), "<i2") for level in levels]).tobytes()


def test_audio_that_comes_in_time_is_played_without_a_gap():
    playback = play([(1.0, FRAME), (1.05, FRAME), (1.15, FRAME)], buffer_s=0.0, ended_s=1.2)
    assert (playback.begins_s, playback.underruns, playback.silent_s) == (1.0, 0, 0.0)


def test_what_comes_late_is_an_underrun_as_long_as_it_is_late():
    playback = play([(1.0, FRAME), (1.2, FRAME), (1.5, FRAME)], buffer_s=0.0, ended_s=1.5)
    assert playback.underruns == 2
    assert playback.silent_s == pytest.approx(0.12 + 0.22)


def test_a_player_begins_when_its_buffer_is_full():
    playback = play([(1.0, FRAME), (1.2, FRAME), (1.5, FRAME)], buffer_s=0.16, ended_s=1.5)
    assert playback.begins_s == 1.2
    assert playback.underruns == 1  # at 1.36 s, until 1.5 s
    assert playback.silent_s == pytest.approx(0.14)


def test_an_utterance_shorter_than_the_buffer_is_played_when_it_is_complete():
    playback = play([(1.0, FRAME), (1.1, FRAME)], buffer_s=10.0, ended_s=1.3)
    assert (playback.begins_s, playback.underruns, playback.silent_s) == (1.3, 0, 0.0)


def test_nothing_is_played_of_nothing():
    assert play([], buffer_s=0.0, ended_s=2.0).underruns == 0


@given(pieces, st.floats(0, 3), st.floats(0, 3), st.floats(0, 1))
def test_a_larger_buffer_never_makes_it_worse(pieces, one_s, other_s, after_s):
    small_s, large_s = sorted((one_s, other_s))
    ended_s = (pieces[-1][0] if pieces else 0.0) + after_s
    small, large = (play(pieces, buffer_s=each, ended_s=ended_s) for each in (small_s, large_s))
    assert large.begins_s >= small.begins_s
    assert large.silent_s <= small.silent_s + 1e-9
    # What comes to the very instant may fall on either side of it, by rounding.
    assert large.underruns <= small.underruns or large.silent_s <= 1e-9


@given(pieces, st.floats(0, 3))
def test_it_is_played_to_the_end_and_never_before_it_came(pieces, buffer_s):
    ended_s = pieces[-1][0] if pieces else 0.0
    playback = play(pieces, buffer_s=buffer_s, ended_s=ended_s)
    duration_s = sum(samples for _, samples in pieces) / 24_000
    through_s = playback.begins_s + duration_s + playback.silent_s
    last_s = pieces[-1][0] + pieces[-1][1] / 24_000 if pieces else 0.0
    assert through_s >= last_s - 1e-9


def test_a_sample_is_heard_after_all_before_it_were_played():
    pieces = [(1.0, FRAME), (1.01, FRAME), (2.0, FRAME)]
    assert heard_at_s(pieces, 0) == 1.0
    assert heard_at_s(pieces, FRAME + 240) == pytest.approx(1.09)
    assert heard_at_s(pieces, 2 * FRAME) == 2.0
    assert heard_at_s(pieces, 3 * FRAME) is None


def test_speech_begins_with_the_first_of_two_loud_windows():
    first = FirstSound()
    first.push(sound(0, 0.001, 0.5, 0.001, 0.2, 0.2))  # a click is no speech
    assert first.sample == 4 * WINDOW_SAMPLES


@pytest.mark.parametrize(("level", "found"), [(10 ** (-44 / 20), 0), (10 ** (-46 / 20), None)])
def test_the_limit_is_45_decibels_below_full_scale(level, found):
    first = FirstSound()
    first.push(sound(level, level))
    assert first.sample == found


def test_one_window_is_not_enough_and_neither_is_a_part_of_the_second():
    first = FirstSound()
    first.push(sound(0.5))
    first.push(sound(0.5)[:-2])
    assert first.sample is None


@given(st.lists(st.sampled_from([0.0, 0.001, 0.1]), max_size=10), st.data())
def test_any_cut_of_the_audio_finds_the_same(levels, data):
    pcm = sound(*levels) if levels else b""
    cuts = sorted(2 * cut for cut in data.draw(st.lists(st.integers(0, len(pcm) // 2), max_size=5)))
    whole, parts = FirstSound(), FirstSound()
    whole.push(pcm)
    for begin, end in zip([0, *cuts], [*cuts, len(pcm)], strict=True):
        parts.push(pcm[begin:end])
    assert parts.sample == whole.sample
