"""The listener of the tests, on texts and tones that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.hearing import median_pitch_hz, pieces, prefix_errors, recognized, word_errors, words

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=12)


def test_numbers_are_words_however_they_are_written():
    assert words("It's $3, or 21 p.m.?") == words("it's three dollars or twenty-one p m")


@given(TEXTS)
def test_what_is_heard_as_it_was_said_has_no_errors(said):
    assert word_errors([(" ".join(said), said)]) == 0
    assert all(recognized(said, said))


@given(TEXTS, TEXTS)
def test_word_errors_and_recognized_words_agree(said, heard):
    missed = recognized(said, heard).count(False)
    assert missed <= word_errors([(" ".join(said), heard)]) * len(said) + 1e-9
    assert len(said) - missed <= len(heard)


def test_the_rate_is_of_all_texts_together():
    assert word_errors([("one two three", ["one", "two", "three"]), ("four", ["for"])]) == 0.25


def test_a_word_that_is_left_out_is_the_only_one_that_is_not_recognized():
    assert recognized(words("The old cat sat down."), words("The cat sat down.")) == [True, False, True, True, True]


@given(TEXTS, st.data())
def test_a_beginning_is_found(said, data):
    count = data.draw(st.integers(1, len(said)))
    assert prefix_errors(" ".join(said), said[:count]) == (count, 0)


def test_words_from_elsewhere_are_no_beginning():
    assert prefix_errors("one two three four", ["five", "six", "seven"])[1] >= 1


@pytest.mark.parametrize("pitch_hz", [90, 130, 200, 330])
@pytest.mark.parametrize("rate_hz", [16_000, 24_000])
def test_the_pitch_of_pulses_is_found_in_spite_of_silence(pitch_hz, rate_hz):
    at = np.arange(rate_hz) * pitch_hz / rate_hz
    voiced = sum(np.cos(2 * np.pi * harmonic * at) / harmonic for harmonic in range(1, 9)) / 8
    samples = np.concatenate([np.zeros(rate_hz), voiced, np.zeros(rate_hz // 2)])
    assert median_pitch_hz(samples, rate_hz) == pytest.approx(pitch_hz, rel=0.03)


def test_long_audio_is_cut_in_silence():
    rate_hz = 1000
    samples = np.tile(np.r_[np.ones(2900), np.zeros(100)], 40)
    cut = list(pieces(samples, rate_hz))
    assert np.array_equal(np.concatenate(cut), samples)
    assert all(15 * rate_hz <= len(piece) <= 30 * rate_hz for piece in cut[:-1])
    assert all(piece[0] == piece[-1] == 0 for piece in cut[1:-1])
