import io
import struct
import warnings
from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio import Pcm16Encoder, PcmF32Encoder, Timeline, encoder_for, milliseconds, seconds, wav_file
from serve_app.speech import SAMPLES_PER_FRAME


def _pcm(*values):
    return np.array(values, dtype=np.float32)


def test_pcm16_rounds_to_the_nearest_and_clips():
    pcm = _pcm(0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 1.4 / 32768, 1.6 / 32768, -1.6 / 32768)
    assert struct.unpack("<9h", Pcm16Encoder().encode(pcm)) == (0, 32767, -32768, 32767, -32768, 16384, 1, 2, -2)


def test_not_a_number_is_silence_and_infinity_is_full_scale():
    pcm = _pcm(np.nan, np.inf, -np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert struct.unpack("<3h", Pcm16Encoder().encode(pcm)) == (0, 32767, -32768)
        assert struct.unpack("<3f", PcmF32Encoder().encode(pcm)) == (0.0, 1.0, -1.0)


def test_encoding_does_not_change_what_it_is_given():
    pcm = _pcm(np.nan, 3.0)
    Pcm16Encoder().encode(pcm)
    PcmF32Encoder().encode(pcm)
    assert np.isnan(pcm[0])
    assert pcm[1] == 3.0


@given(st.lists(st.floats(-1, 1, width=32), max_size=200), st.integers(0, 200), st.sampled_from(["pcm16", "pcm_f32"]))
def test_any_split_encodes_as_the_whole(values, cut, encoding):
    pcm = _pcm(*values)
    encoder = encoder_for(encoding)
    assert encoder.encode(pcm[:cut]) + encoder.encode(pcm[cut:]) == encoder_for(encoding).encode(pcm)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200))
def test_pcm16_is_within_one_step_of_what_it_encodes(values):
    decoded = np.frombuffer(Pcm16Encoder().encode(_pcm(*values)), dtype="<i2") / 32768.0
    assert np.abs(decoded - np.array(values)).max() <= 1 / 32768


@given(st.lists(st.integers(0, 10_000), max_size=100))
def test_spans_touch_and_add_up_without_drift(lengths):
    timeline = Timeline()
    spans = [timeline.advance(samples) for samples in lengths]
    assert sum(span.duration_ms for span in spans) == milliseconds(sum(lengths))
    for before, after in pairwise(spans):
        assert after.start_ms == before.start_ms + before.duration_ms


def test_a_frame_is_eighty_milliseconds():
    assert milliseconds(SAMPLES_PER_FRAME) == 80
    assert seconds(SAMPLES_PER_FRAME) == pytest.approx(0.08)


def test_a_wav_file_is_read_back_as_it_was_written():
    pcm = np.linspace(-1, 0.99, 4801, dtype=np.float32)
    encoded = Pcm16Encoder().encode(pcm)
    read, rate_hz = sf.read(io.BytesIO(wav_file(encoded)), dtype="int16")
    assert rate_hz == 24_000
    assert read.astype("<i2").tobytes() == encoded


def test_a_wav_header_counts_its_bytes():
    file = wav_file(b"\0\0" * 10)
    assert len(file) == 44 + 20
    assert struct.unpack_from("<I", file, 4) == (len(file) - 8,)
    assert struct.unpack_from("<I", file, 40) == (20,)
