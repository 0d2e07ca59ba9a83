import io
import struct
from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.mark import COMMENT
from serve_app.audio.pcm import (
    WAV_HEADER_BYTES,
    Timeline,
    _info_chunk,
    milliseconds,
    pcm16_bytes,
    pcm16_of,
    pcm_of,
    seconds,
    wav_file,
    wav_header,
)
from serve_app.speech import SAMPLES_PER_FRAME


@given(st.lists(st.integers(0, 10_000), max_size=100))
def test_sections_add_up_without_drift(lengths):
    timeline = Timeline()
    edges_ms = [timeline.now_ms]
    for samples in lengths:
        timeline.advance(samples)
        edges_ms.append(timeline.now_ms)
    assert sum(after - before for before, after in pairwise(edges_ms)) == milliseconds(sum(lengths))
    assert edges_ms == sorted(edges_ms)


def test_a_frame_is_eighty_milliseconds():
    assert milliseconds(SAMPLES_PER_FRAME) == 80
    assert seconds(SAMPLES_PER_FRAME) == pytest.approx(0.08)


def test_every_pcm16_value_is_kept_as_float():
    values = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(pcm16_of(pcm_of(values)), values)


def test_a_wav_file_is_read_back_as_it_was_written():
    pcm = np.linspace(-1, 0.99, 4801, dtype=np.float32)
    encoded = pcm16_bytes(pcm)
    read, rate_hz = sf.read(io.BytesIO(wav_file(encoded)), dtype="int16")
    assert rate_hz == 24_000
    assert read.astype("<i2").tobytes() == encoded


def test_a_wav_header_counts_its_bytes():
    file = wav_file(b"\0\0" * 10)
    assert len(file) == WAV_HEADER_BYTES + 20
    assert struct.unpack_from("<I", file, 4) == (len(file) - 8,)
    assert struct.unpack_from("<4sI", file, WAV_HEADER_BYTES - 8) == (b"data", 20)


def test_a_wav_header_of_unknown_length_has_the_marks_that_players_know():
    header = wav_header(None, 8000)
    assert len(header) == WAV_HEADER_BYTES
    assert header[4:8] == header[-4:] == b"\xff\xff\xff\xff"
    assert header[8:-4] == wav_header(0, 8000)[8:-4]


@given(st.integers(1, 300))
def test_a_comment_of_any_length_keeps_chunks_at_even_places(size):
    chunk = _info_chunk(b"x" * size)
    assert len(chunk) % 2 == 0
    kind, length, listed, name, text_length = struct.unpack_from("<4sI4s4sI", chunk)
    assert (kind, listed, name) == (b"LIST", b"INFO", b"ICMT")
    assert (length, text_length) == (len(chunk) - 8, len(chunk) - 20)
    assert chunk[20:].rstrip(b"\0") == b"x" * size
    assert chunk[-1] == 0


@pytest.mark.parametrize("data_bytes", [None, 20])
def test_a_wav_header_says_that_a_machine_speaks(data_bytes):
    file = wav_header(data_bytes) + b"\0\0" * 10
    with sf.SoundFile(io.BytesIO(file)) as read:
        assert read.comment == COMMENT
        assert len(read.read()) == 10
