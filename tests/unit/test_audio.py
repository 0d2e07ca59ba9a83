import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.pcm import Timeline, milliseconds, pcm16_bytes, seconds, wav_file, wav_header
from serve_app.speech import SAMPLES_PER_FRAME


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
    encoded = pcm16_bytes(pcm)
    read, rate_hz = sf.read(io.BytesIO(wav_file(encoded)), dtype="int16")
    assert rate_hz == 24_000
    assert read.astype("<i2").tobytes() == encoded


def test_a_wav_header_counts_its_bytes():
    file = wav_file(b"\0\0" * 10)
    assert len(file) == 44 + 20
    assert struct.unpack_from("<I", file, 4) == (len(file) - 8,)
    assert struct.unpack_from("<I", file, 40) == (20,)


def test_a_wav_header_of_unknown_length_has_the_marks_that_players_know():
    header = wav_header(None, 8000)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff\xff\xff\xff"
    assert header[8:40] == wav_header(0, 8000)[8:40]
