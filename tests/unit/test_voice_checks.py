import numpy as np
import pytest
from clips import speechlike
from hypothesis import given
from hypothesis import strategies as st

from serve_app.voices.checks import (
    KEPT_SILENCE_S,
    channels,
    clipping,
    duration,
    examine,
    frame_levels,
    level,
    sample_rate,
    signal_to_noise,
    silence,
    speech_span,
    transcript_rate,
    without_rumble,
)
from serve_app.voices.decoding import Clip

TEXT = "Had he married a more amiable woman, he might have been made respectable."


def clip(pcm, **fields):
    return Clip(
        **{
            "pcm": pcm.astype(np.float32),
            "channels": 1,
            "sample_rate_hz": 24_000,
            "clipped_share": 0.0,
            "length_s": len(pcm) / 24_000,
            **fields,
        }
    )


def verdicts(report):
    return {check.name: check.verdict for check in report.checks}


def test_a_good_clip_is_accepted_with_everything_measured():
    report = examine(clip(speechlike(5.0, 24_000)), TEXT, "english").report
    assert report.verdict == "accept"
    assert all(check.measured is not None and check.limit and not check.advice for check in report.checks)
    assert set(verdicts(report)) == {
        "duration_s", "level_dbfs", "clipping_percent", "signal_to_noise_db", "silence_before_s", "silence_after_s",
        "channels", "sample_rate_hz", "characters_per_second",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pcm", "fields", "check", "verdict"),
    [
        (speechlike(2.0, 24_000), {}, "duration_s", "refuse"),
        (speechlike(31.0, 24_000), {}, "duration_s", "refuse"),
        (speechlike(25.0, 24_000), {"length_s": 48.0}, "duration_s", "refuse"),
        (speechlike(5.0, 24_000, level=0.0), {}, "level_dbfs", "refuse"),
        (speechlike(5.0, 24_000, level=0.01), {}, "level_dbfs", "warn"),
        (speechlike(5.0, 24_000), {"clipped_share": 0.001}, "clipping_percent", "warn"),
        (speechlike(5.0, 24_000), {"clipped_share": 0.05}, "clipping_percent", "refuse"),
        (np.random.default_rng(2).normal(0, 0.1, 5 * 24_000), {}, "signal_to_noise_db", "refuse"),
        (np.sin(np.arange(5 * 24_000) * 0.05) * 0.3, {}, "signal_to_noise_db", "refuse"),
        (speechlike(5.0, 24_000, noise=0.15), {}, "signal_to_noise_db", "warn"),
        (speechlike(5.0, 24_000), {"channels": 2, "alike": False}, "channels", "warn"),
        (speechlike(5.0, 24_000), {"sample_rate_hz": 8_000}, "sample_rate_hz", "warn"),
    ],
)
def test_each_fault_is_found_and_comes_with_advice(pcm, fields, check, verdict):
    report = examine(clip(pcm, **fields), TEXT, "english").report
    (found,) = [each for each in report.checks if each.name == check]
    assert found.verdict == verdict
    assert found.advice
    assert report.verdict == "refuse" or verdict == "warn"
    if verdict == "refuse":
        assert check in report.reasons()


def with_silence(speech, seconds, level):
    """The speech with so much of noise at ``level`` behind it."""
    return np.concatenate([speech, np.random.default_rng(5).normal(0, level, int(seconds * 24_000))])


def sparse(seconds):
    """A word of half a second every four."""
    pcm = speechlike(seconds, 24_000)
    pcm[np.arange(len(pcm)) % 96_000 > 12_000] *= 1e-3
    return pcm


@pytest.mark.parametrize("speech", [speechlike(4.0, 24_000), sparse(8.5), sparse(12.5)])
@pytest.mark.parametrize(("seconds", "noise"), [(30, 0), (26, 1e-3)])
def test_a_clip_is_judged_by_its_speech_whatever_silence_is_around_it(speech, seconds, noise):
    alone = examine(clip(speech), None, "english").report
    before, after = with_silence(speech, seconds, noise), with_silence(speech[::-1], seconds, noise)[::-1]
    for padded in (before, after):
        report = examine(clip(padded), None, "english").report
        for name in ("level_dbfs", "signal_to_noise_db"):
            (one,), (other,) = ([each for each in found.checks if each.name == name] for found in (alone, report))
            assert one.verdict == other.verdict == "accept"
            assert noise or other.measured == pytest.approx(one.measured, abs=1.5)


def test_silence_at_its_ends_does_not_hide_the_noise_behind_a_voice():
    noisy = np.concatenate([np.zeros(48_000), speechlike(5.0, 24_000, noise=0.15), np.zeros(48_000)])
    assert verdicts(examine(clip(noisy), None, "english").report)["signal_to_noise_db"] == "warn"


def test_without_a_transcript_only_the_timbre_is_cloned_and_that_is_said():
    report = examine(clip(speechlike(5.0, 24_000)), None, "english").report
    assert report.verdict == "warn"
    assert verdicts(report)["characters_per_second"] == "warn"
    assert "x-vector" in report.reasons("warn")


@pytest.mark.parametrize(
    ("text", "language", "seconds", "verdict"),
    [
        ("The quick brown fox jumps over the lazy dog and runs away.", "english", 4.0, "accept"),
        ("The quick brown fox.", "english", 4.0, "warn"),
        ("Fox.", "english", 4.0, "refuse"),
        ("The quick brown fox jumps over the lazy dog. " * 10, "english", 4.0, "refuse"),
        ("今天天气很好,我们一起去公园散步吧。", "chinese", 4.0, "accept"),
        ("今天天气很好,我们一起去公园散步吧。", "auto", 4.0, "accept"),
        ("今天天气很好,我们一起去公园散步吧。" * 8, "chinese", 4.0, "refuse"),
        ("今日はとてもいい天気ですね、公園へ行きましょう。", "japanese", 4.0, "accept"),
        ("今日はとてもいい天気ですね、公園へ行きましょう。", "auto", 4.0, "accept"),
        ("오늘은 날씨가 정말 좋네요, 같이 산책하러 갈까요?", "korean", 4.0, "accept"),
        ("Сегодня очень хорошая погода, пойдём гулять в парк.", "russian", 4.0, "accept"),
        ("...!?", "english", 4.0, "refuse"),
    ],
)
def test_a_transcript_has_to_fit_its_clip_in_its_language(text, language, seconds, verdict):
    assert transcript_rate(text, language, seconds).verdict == verdict


@pytest.mark.parametrize(("before_s", "after_s"), [(0.0, 0.0), (0.5, 2.0), (3.0, 0.7)])
def test_silence_at_both_ends_is_cut_to_a_little_and_half_a_second_stands_behind(before_s, after_s):
    speech = speechlike(5.0, 24_000)
    padded = np.concatenate([np.zeros(int(before_s * 24_000)), speech, np.zeros(int(after_s * 24_000))])
    examined = examine(clip(padded), TEXT, "english")
    assert not examined.pcm[-12_000:].any()
    assert 0 <= len(examined.pcm) - 12_000 - len(speech) + 0.25 * 24_000 <= (2 * KEPT_SILENCE_S + 0.3) * 24_000
    found = verdicts(examined.report)
    assert found["silence_before_s"] == ("warn" if before_s > 1 else "accept")
    assert found["silence_after_s"] == ("warn" if after_s > 1 else "accept")
    assert found["duration_s"] == "accept"


@given(st.lists(st.floats(-90, 0, width=32), max_size=300))
def test_the_span_of_speech_lies_within_the_clip_and_is_never_empty(levels):
    samples = 480 * len(levels) + 100
    begin, end = speech_span(np.array(levels, np.float32), samples)
    assert 0 <= begin < end <= samples


@given(st.floats(0.001, 1.0), st.integers(480, 3000))
def test_levels_are_decibels_of_full_scale(amplitude, samples):
    levels = frame_levels(np.full(samples, amplitude, np.float32))
    np.testing.assert_allclose(levels, max(-90, 20 * np.log10(amplitude)), atol=1e-3)


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_more_of_a_fault_is_never_judged_more_kindly(one, other, share, other_share):
    order = ["accept", "warn", "refuse"]

    def worse(check, less, more):
        return order.index(check(less).verdict) <= order.index(check(more).verdict)

    assert worse(clipping, min(share, other_share), max(share, other_share))
    assert worse(lambda s: silence("silence_before_s", s), min(one, other), max(one, other))
    assert worse(lambda db: level(np.full(10, -db, np.float32)), min(one, other), max(one, other))


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(2.99, "refuse"), (3.0, "accept"), (30.0, "accept"), (30.01, "refuse")]
)
def test_the_limits_of_the_duration_are_three_and_thirty_seconds(seconds, verdict):
    assert duration(seconds).verdict == verdict


@pytest.mark.parametrize(
    ("length_s", "words"), [(48.0, "duration_s is 48,"), (599.0, "is 599,"), (601.0, "is over 600,"), (9e9, "is over")]
)
def test_a_clip_that_is_too_long_is_refused_with_its_true_length(length_s, words):
    report = examine(clip(speechlike(40.0, 24_000), length_s=length_s), None, "english").report
    assert words in report.reasons()


def test_a_transcript_is_that_of_the_whole_clip_where_only_its_beginning_was_decoded():
    report = examine(clip(speechlike(40.0, 24_000), length_s=80.0), "x" * 15 * 80, "english").report
    assert verdicts(report)["characters_per_second"] == "accept"


def test_nothing_at_all_is_refused_not_a_crash():
    examined = examine(clip(np.zeros(0)), TEXT, "english")
    assert examined.report.verdict == "refuse"
    assert signal_to_noise(np.zeros(0, np.float32)).verdict == "refuse"
    assert (channels(1, alike=True).verdict, sample_rate(24_000).verdict) == ("accept", "accept")


VOICE = speechlike(5.0, 24_000)
AT_S = np.arange(len(VOICE)) / 24_000


@pytest.mark.parametrize(
    "below",
    [
        np.full(len(VOICE), 0.3),
        np.full(len(VOICE), -0.6),
        0.4 * AT_S / 5 - 0.1,  # a drift
        0.2 * np.sin(2 * np.pi * 0.5 * AT_S),
        0.2 * np.sin(2 * np.pi * 8 * AT_S),  # rumble
    ],
)
def test_an_offset_a_drift_and_rumble_are_removed_and_the_voice_is_accepted(below):
    plain, lifted = (examine(clip(each), TEXT, "english") for each in (VOICE, VOICE + below))
    assert lifted.report.verdict == "accept"
    assert len(lifted.pcm) == len(plain.pcm)
    assert np.sqrt(np.mean((lifted.pcm - plain.pcm) ** 2)) < 2e-3
    assert abs(lifted.pcm.mean()) < 1e-4


@given(st.floats(65, 11_000), st.floats(-1, 1))
def test_what_can_be_heard_stays_and_an_offset_goes(hz, offset):
    tone = (0.3 * np.sin(2 * np.pi * hz * AT_S)).astype(np.float32)
    filtered = without_rumble((tone + offset).astype(np.float32))
    inner = slice(6000, -6000)
    np.testing.assert_allclose(filtered[inner], tone[inner], atol=3e-3)


@given(st.integers(0, 20))
def test_a_clip_of_some_samples_is_filtered_too(samples):
    assert without_rumble(np.ones(samples, np.float32)).shape == (samples,)
