"""A voice's gain: one number from its clip, and what it does to samples."""

import math

import numpy as np
import pytest
from clips import speechlike
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.loudness import (
    MAX_GAIN_DB,
    PEAK_DBFS,
    SILENT_LUFS,
    Loudness,
    amplified,
    gain_of,
    loudness_of,
)

PEAK = 10 ** (PEAK_DBFS / 20)
levels = st.floats(-60, 0)
targets = st.floats(-40, -10)


def tone(rate_hz, amplitude, hz=997.0, seconds=5.0):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate_hz)) / rate_hz)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8000, 24_000, 48_000])
@pytest.mark.parametrize("amplitude", [1.0, 0.1])
def test_a_tone_of_full_scale_is_3_below_zero_as_the_recommendation_says(rate_hz, amplitude):
    """ITU-R BS.1770-5, annex 1: 997 Hz at 0 dBFS in one channel is -3.01 LKFS."""
    measured = loudness_of(tone(rate_hz, amplitude), rate_hz)
    assert measured.lufs == pytest.approx(-3.01 + 20 * math.log10(amplitude), abs=0.05)
    assert measured.peak == pytest.approx(amplitude, rel=0.01)


def test_silence_around_speech_does_not_count():
    clip, silence = speechlike(rate_hz=24_000), np.zeros(48_000, np.float32)
    around = loudness_of(np.concatenate([silence, clip, silence]), 24_000)
    assert around.lufs == pytest.approx(loudness_of(clip, 24_000).lufs, abs=0.3)


@pytest.mark.parametrize("samples", [1, 100, 72_000])
def test_silence_and_almost_nothing_are_silent(samples):
    assert loudness_of(np.zeros(samples, np.float32), 24_000) == Loudness(SILENT_LUFS, 0.0)


@pytest.mark.parametrize("db", [-12.0, -6.0, -2.0, 3.0])
def test_a_gain_brings_a_clip_to_its_level(db):
    clip = speechlike(rate_hz=24_000, level=0.3)
    before = loudness_of(clip, 24_000)
    louder = amplified(clip, gain_of(before, before.lufs + db))
    assert loudness_of(louder, 24_000).lufs == pytest.approx(before.lufs + db, abs=0.1)


def test_without_a_level_samples_are_the_very_same():
    pcm = speechlike()
    assert gain_of(Loudness(-30.0, 0.1), None) == 1
    assert amplified(pcm, 1.0) is pcm


@given(levels, st.floats(0, 1), targets)
def test_a_gain_is_bounded_and_lifts_no_clip_above_the_peak(lufs, peak, target):
    gain = gain_of(Loudness(lufs, peak), target)
    assert abs(20 * math.log10(gain)) <= MAX_GAIN_DB + 1e-6
    assert (gain - 1) * (target - lufs) >= 0, "never the other way"
    assert gain <= 1 or gain * peak <= PEAK * (1 + 1e-6)


@given(levels, levels, st.floats(0, 1), targets)
def test_the_louder_clip_never_gets_the_larger_gain(one, other, peak, target):
    louder, softer = (gain_of(Loudness(lufs, peak), target) for lufs in (max(one, other), min(one, other)))
    assert louder <= softer


@examples(50)
@given(st.integers(0, 2**32 - 1), st.floats(0.25, 4.0), st.lists(st.integers(0, 400), max_size=5))
def test_any_cut_of_audio_is_made_as_loud_as_the_whole_and_nothing_clips(seed, gain, cuts):
    pcm = np.random.default_rng(seed).uniform(-1, 1, 400).astype(np.float32)
    whole = amplified(pcm, gain)
    pieces = [amplified(piece, gain) for piece in np.split(pcm, sorted(cuts))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    assert whole.dtype == np.float32
    assert np.abs(whole).max() <= 1
    assert np.array_equal(np.sign(whole), np.sign(pcm))
    order = np.argsort(pcm)
    assert (np.diff(whole[order]) >= 0).all(), "louder stays louder"
    below = np.abs(pcm) * gain < PEAK - 1e-6
    np.testing.assert_array_equal(whole[below], pcm[below] * np.float32(gain))
