"""What a change of speed does to samples, as a function of the samples."""

from itertools import pairwise

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.speed import SpeedFilter
from serve_app.speech import SAMPLES_PER_FRAME

RATE_HZ = 24_000


def tone(samples, frequency_hz=220.0):
    return (0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(samples) / RATE_HZ)).astype(np.float32)


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def changed(pcm, speed, cuts=()):
    """One piece of speech, pushed in parts."""
    kept = SpeedFilter(speed)
    edges = sorted({0, *(min(cut, len(pcm)) for cut in cuts), len(pcm)})
    return np.concatenate([*(kept.push(pcm[start:end]) for start, end in pairwise(edges)), kept.flush()])


speeds = st.floats(0.5, 2)


def test_speed_1_returns_the_very_same_samples():
    pcm, kept = noise(5000), SpeedFilter(1)
    pcm[3] = np.nan
    assert kept.push(pcm) is pcm
    assert len(kept.flush()) == 0


@examples(60)
@given(st.integers(0, 20_000), speeds, st.lists(st.integers(1, 20_000), max_size=8))
def test_any_split_gives_the_same_samples(samples, speed, cuts):
    pcm = noise(samples)
    np.testing.assert_array_equal(changed(pcm, speed, cuts), changed(pcm, speed))


@examples(60)
@given(st.integers(0, 60_000), speeds)
def test_a_piece_of_any_length_is_shortened_or_prolonged_to_within_a_frame(samples, speed):
    assert abs(len(changed(tone(samples), speed)) - samples / speed) < SAMPLES_PER_FRAME


@pytest.mark.parametrize("speed", [0.5, 0.75, 1.25, 2])
def test_the_pitch_is_kept(speed):
    pcm = changed(tone(2 * RATE_HZ, 220), speed)
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(len(pcm))))
    assert np.argmax(spectrum) * RATE_HZ / len(pcm) == pytest.approx(220, abs=2)
    assert np.sqrt(np.mean(pcm**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("speed", [0.5, 0.77, 1.1, 1.5, 2])
def test_the_first_frame_gives_audio_and_little_is_held_back(speed):
    kept, made = SpeedFilter(speed), 0
    for frame in np.split(noise(20 * SAMPLES_PER_FRAME), 20):
        ready = len(kept.push(frame))
        assert ready > 0
        made += ready
    assert 20 * SAMPLES_PER_FRAME / speed - made <= 0.08 * RATE_HZ


def test_pieces_do_not_change_one_another():
    kept = SpeedFilter(1.5)
    first, second = noise(9000, 1), noise(9000, 2)
    both = [np.concatenate([kept.push(pcm), kept.flush()]) for pcm in (first, second)]
    np.testing.assert_array_equal(both[0], changed(first, 1.5))
    np.testing.assert_array_equal(both[1], changed(second, 1.5))


def test_silence_stays_silence_and_a_broken_sample_stays_alone():
    assert not changed(np.zeros(9600, dtype=np.float32), 0.8).any()
    pcm = tone(24_000)
    pcm[5000], pcm[6000] = np.nan, np.inf
    slow = changed(pcm, 0.8)
    assert np.isfinite(slow).all()
    assert np.abs(slow).max() <= 1
