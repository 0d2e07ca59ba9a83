"""What is left out of a stream's audio, as a function of its samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.silence import SilenceFilter, leading_silence, silent_windows, trailing_silence
from serve_app.speech import SAMPLES_PER_FRAME, SilenceLimits

LEVEL = 0.01
WINDOW = 240
FRAME = SAMPLES_PER_FRAME


def audio(pattern):
    """A window for each character: a dot is silence, anything else is sound; filled up to whole frames with silence."""
    values = [0.0 if each == "." else 0.1 for each in pattern]
    values += [0.0] * (-len(values) % 8)
    pcm = np.repeat(np.array(values, dtype=np.float32), WINDOW)
    return pcm + np.arange(len(pcm), dtype=np.float32) * 1e-9  # all samples differ, so that order is seen


def limits(leading=4, left_out=50, trailing=16, delivered=0):
    """Counted in windows."""
    return SilenceLimits(LEVEL, leading * WINDOW, left_out * WINDOW, trailing * WINDOW, delivered * WINDOW)


def delivered(pcm, given, sizes=(1,), *, resumed=False):
    """Push the frames in groups of the given sizes, and end the stream."""
    kept = SilenceFilter(given, resumed=resumed)
    made, at, turn = [], 0, 0
    while at < len(pcm):
        size = sizes[turn % len(sizes)] * FRAME
        made.append(kept.push(pcm[at : at + size]))
        at, turn = at + size, turn + 1
    return np.concatenate([*made, kept.end()])


patterns = st.lists(st.tuples(st.sampled_from(".x"), st.integers(1, 40)), min_size=1, max_size=8).map(
    lambda runs: "".join(each * times for each, times in runs)
)
sizes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("pattern", "leading", "trailing"),
    [("........", 8, 8), ("...xx...", 3, 3), ("x.......", 0, 7), ("xxxxxxxx", 0, 0), (".......x", 7, 0)],
)
def test_silence_is_found_to_the_window(pattern, leading, trailing):
    assert leading_silence(audio(pattern), LEVEL) == leading * WINDOW
    assert trailing_silence(audio(pattern), LEVEL) == trailing * WINDOW
    assert silent_windows(audio(pattern), LEVEL).tolist() == [each == "." for each in pattern]


def test_a_soft_start_is_kept():
    pcm = audio("." * 20 + "x" * 12)
    np.testing.assert_array_equal(delivered(pcm, limits(leading=4)), pcm[16 * WINDOW :])


def test_audio_that_begins_with_sound_is_delivered_at_once():
    pcm = audio("x" * 8)
    np.testing.assert_array_equal(SilenceFilter(limits()).push(pcm), pcm)


def test_nothing_is_delivered_before_the_first_sound():
    kept = SilenceFilter(limits())
    assert len(kept.push(audio("." * 16))) == 0
    assert len(kept.push(audio("...xxxxx"))) == 9 * WINDOW  # four silent ones and five, no more


def test_more_silence_than_may_be_left_out_is_delivered():
    pcm = audio("." * 96 + "x" * 8)
    np.testing.assert_array_equal(delivered(pcm, limits(left_out=50)), pcm[50 * WINDOW :])


def test_nothing_is_left_out_with_a_limit_of_zero():
    pcm = audio("." * 24 + "x" * 8)
    assert len(SilenceFilter(limits(left_out=0)).push(pcm[:FRAME])) == FRAME
    np.testing.assert_array_equal(delivered(pcm, limits(left_out=0)), pcm)


def test_silence_at_the_end_is_limited_and_in_the_middle_is_not():
    pcm = audio("x" * 8 + "." * 40 + "x" * 8 + "." * 40)
    np.testing.assert_array_equal(delivered(pcm, limits(trailing=16)), pcm[: (56 + 16) * WINDOW])


def test_silence_at_the_end_counts_from_the_last_sound_on():
    kept = SilenceFilter(limits(trailing=16))
    kept.push(audio("xxxx...."))
    assert kept.silent_samples == 4 * WINDOW
    kept.push(audio("." * 8))
    assert kept.silent_samples == 12 * WINDOW
    assert len(kept.push(audio("." * 8))) == 0
    assert len(kept.end()) == 4 * WINDOW
    assert kept.silent_samples == 16 * WINDOW


def test_a_stream_without_any_sound_is_as_short_as_a_soft_start():
    assert len(delivered(audio("." * 32), limits(leading=4))) == 4 * WINDOW


@given(patterns, st.integers(0, 20), st.integers(0, 60), st.integers(0, 60))
def test_only_silence_is_left_out_and_only_at_the_ends(pattern, leading, left_out, trailing):
    pcm = audio(pattern)
    made = delivered(pcm, limits(leading, left_out, trailing))
    before, after = leading_silence(pcm, LEVEL), trailing_silence(pcm, LEVEL)
    if before == len(pcm):
        assert len(made) <= max(leading, trailing, len(pcm) // WINDOW - left_out) * WINDOW
        return
    removed = min(left_out * WINDOW, max(0, before - leading * WINDOW))
    kept = max(trailing * WINDOW, after % FRAME)  # the frame that ends the last sound was delivered as a whole
    np.testing.assert_array_equal(made, pcm[removed : len(pcm) - max(0, after - kept)])


@given(patterns, sizes)
def test_the_audio_does_not_depend_on_how_frames_are_grouped(pattern, sizes):
    pcm = audio(pattern)
    np.testing.assert_array_equal(delivered(pcm, limits(), sizes), delivered(pcm, limits()))


@given(patterns, st.integers(0, 30))
def test_a_resumed_stream_delivers_the_rest(pattern, interrupted):
    """Frames that were held back when a stream was interrupted are made again by the stream that resumes it."""
    pcm = audio(pattern)
    first = SilenceFilter(limits())
    had, made, held = 0, [], 0
    for at in range(0, len(pcm), FRAME):
        if at // FRAME == interrupted:
            break
        sound = first.push(pcm[at : at + FRAME])
        held += 1
        if len(sound):
            made.append(sound)
            had, held = had + held, 0
    given = limits(delivered=first.silent_samples // WINDOW)
    rest = delivered(pcm[had * FRAME :], given, resumed=had > 0)
    np.testing.assert_array_equal(np.concatenate([*made, rest]), delivered(pcm, limits()))
