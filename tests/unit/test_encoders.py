import gc
import io
import struct
import warnings
import wave
from itertools import pairwise

import av
import numpy as np
import pytest
import soundfile as sf
import soxr
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.encoders import CONTENT_TYPES, encoder_for
from serve_app.audio.mark import COMMENT, DIGITAL_SOURCE_TYPE
from serve_app.audio.pcm import wav_header
from serve_app.protocol.messages import ENCODINGS, FORMATS, SAMPLE_RATES_HZ

CONTAINERS = {"opus": "ogg", "mp3": "mp3", "aac": "aac", "flac": "flac", "wav": "wav"}
EVERYTHING = sorted({*ENCODINGS, *FORMATS})


def _pcm(*values):
    return np.array(values, dtype=np.float32)


def tone(seconds, hz=440.0):
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(round(24_000 * seconds)) / 24_000)).astype(np.float32)


def encoded(encoder, pcm, cuts=()):
    edges = [0, *sorted(cuts), len(pcm)]
    pieces = [encoder.push(pcm[start:end]) for start, end in pairwise(edges)]
    return b"".join([*pieces, encoder.flush()])


def decoded(data, container):
    """What FFmpeg hears: [N] float32 and its rate in Hz."""
    with av.open(io.BytesIO(data), format=container) as file:
        to_float = av.AudioResampler(format="flt", layout="mono")
        frames = [part for frame in file.decode(audio=0) for part in to_float.resample(frame)]
        return np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].sample_rate


def test_pcm16_rounds_to_the_nearest_and_clips():
    pcm = _pcm(0.0, 1.0, -1.0, 2.0, -2.0, 0.5, 1.4 / 32768, 1.6 / 32768, -1.6 / 32768)
    assert struct.unpack("<9h", encoder_for("pcm16").push(pcm)) == (0, 32767, -32768, 32767, -32768, 16384, 1, 2, -2)


def test_not_a_number_is_silence_and_infinity_is_full_scale():
    pcm = _pcm(np.nan, np.inf, -np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert struct.unpack("<3h", encoder_for("pcm16").push(pcm)) == (0, 32767, -32768)
        assert struct.unpack("<3f", encoder_for("pcm_f32").push(pcm)) == (0.0, 1.0, -1.0)


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
@pytest.mark.parametrize("encoding", EVERYTHING)
def test_one_wrong_sample_does_not_spoil_those_after_it(encoding, rate_hz):
    pcm = tone(0.5)
    clean = encoded(encoder_for(encoding, rate_hz), pcm)
    pcm[100] = np.nan
    pcm[200] = np.inf
    spoilt = pcm.copy()
    data = encoded(encoder_for(encoding, rate_hz), pcm)
    np.testing.assert_array_equal(pcm, spoilt)
    if encoding == "pcm_f32":
        late = slice(round(0.1 * rate_hz), None)
        np.testing.assert_allclose(np.frombuffer(data, "<f4")[late], np.frombuffer(clean, "<f4")[late], atol=1e-4)
    assert abs(len(data) - len(clean)) < 0.2 * len(clean)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=200))
def test_pcm16_is_within_one_step_of_what_it_encodes(values):
    samples = np.frombuffer(encoder_for("pcm16").push(_pcm(*values)), dtype="<i2") / 32768.0
    assert np.abs(samples - np.array(values)).max() <= 1 / 32768


@examples(120)
@given(
    st.sampled_from(EVERYTHING),
    st.sampled_from(SAMPLE_RATES_HZ),
    st.lists(st.integers(0, 5000), max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_any_cut_encodes_as_the_whole(encoding, rate_hz, cuts, seed):
    pcm = np.random.default_rng(seed).uniform(-1.1, 1.1, 5000).astype(np.float32)
    whole = encoded(encoder_for(encoding, rate_hz), pcm)
    cut = encoded(encoder_for(encoding, rate_hz), pcm, cuts)
    if encoding == "opus":  # the serial number of an Ogg stream is random
        np.testing.assert_array_equal(decoded(cut, "ogg")[0], decoded(whole, "ogg")[0])
    else:
        assert cut == whole


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
def test_resampling_in_pieces_is_resampling_the_whole(rate_hz):
    pcm = tone(1.0)
    pieces = encoded(encoder_for("pcm_f32", rate_hz), pcm, range(1920, 24_000, 1920))
    samples = np.frombuffer(pieces, "<f4")
    assert len(samples) == rate_hz
    np.testing.assert_allclose(samples, soxr.resample(pcm, 24_000, rate_hz, quality="HQ"), atol=1e-5)


def test_a_tone_in_pieces_has_no_click_at_their_borders():
    samples = np.frombuffer(encoded(encoder_for("pcm_f32", 48_000), tone(1.0), range(1920, 24_000, 1920)), "<f4")
    steepest = 0.4 * 2 * np.pi * 440 / 48_000
    assert np.abs(np.diff(samples[2000:-2000])).max() < 1.01 * steepest


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
def test_mulaw_is_what_others_write(rate_hz):
    pcm = tone(0.2)
    samples = np.frombuffer(encoded(encoder_for("pcm16", rate_hz), pcm), "<i2")
    file = io.BytesIO()
    sf.write(file, samples, rate_hz, format="RAW", subtype="ULAW")
    ours = encoded(encoder_for("mulaw", rate_hz), pcm)
    theirs = file.getvalue()
    assert len(ours) == len(theirs)
    # Where a sample lies in the middle between two steps the two round to different ones.
    steps = np.abs(np.frombuffer(ours, np.uint8).astype(int) - np.frombuffer(theirs, np.uint8).astype(int))
    assert (steps > 1).sum() == 0


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
@pytest.mark.parametrize("encoding", CONTAINERS)
def test_what_is_compressed_is_heard_again(encoding, rate_hz):
    pcm = tone(1.0)
    heard, heard_rate_hz = decoded(encoded(encoder_for(encoding, rate_hz), pcm), CONTAINERS[encoding])
    assert heard_rate_hz == (48_000 if encoding == "opus" else rate_hz)
    assert 1.0 <= len(heard) / heard_rate_hz < 1.35
    middle = heard[heard_rate_hz // 4 : heard_rate_hz * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * 2 - 440) <= 4
    assert 0.2 < np.sqrt(2) * np.sqrt((middle**2).mean()) < 0.6


def test_opus_says_where_it_ends():
    heard, _ = decoded(encoded(encoder_for("opus"), tone(0.97)), "ogg")
    assert len(heard) == round(0.97 * 48_000)


def test_the_first_audio_chunk_of_opus_gives_audio_at_once():
    encoder = encoder_for("opus")
    first = encoder.push(tone(0.08))
    heard, _ = decoded(first, "ogg")
    assert len(heard) >= 0.05 * 48_000
    assert len(encoder.push(tone(0.08))) > 50


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
def test_a_streamed_wav_is_read_by_others(rate_hz):
    data = encoded(encoder_for("wav", rate_hz), tone(0.5))
    samples = np.frombuffer(encoded(encoder_for("pcm16", rate_hz), tone(0.5)), "<i2")
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (rate_hz, 1, 2)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(10**6), "<i2"), samples)
    read, read_rate_hz = sf.read(io.BytesIO(data), dtype="int16")
    assert read_rate_hz == rate_hz
    np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize("rate_hz", SAMPLE_RATES_HZ)
@pytest.mark.parametrize("encoding", sorted(CONTAINERS))
def test_every_container_says_that_a_machine_speaks_and_before_the_first_sample(encoding, rate_hz):
    encoder = encoder_for(encoding, rate_hz)
    first = encoder.push(tone(0.5))
    for data in (first, first + encoder.push(tone(0.5)) + encoder.flush()):
        with av.open(io.BytesIO(data), format=CONTAINERS[encoding]) as file:
            assert (file.metadata | file.streams[0].metadata)["comment"] == COMMENT
        assert data.index(DIGITAL_SOURCE_TYPE.encode()) < 300


@pytest.mark.parametrize("encoding", sorted({*EVERYTHING} - {*CONTAINERS}))
def test_bare_samples_have_no_place_for_a_mark(encoding):
    pcm = tone(0.5)
    sample_bytes = {"pcm_f32": 4, "mulaw": 1}.get(encoding, 2)
    assert len(encoded(encoder_for(encoding), pcm)) == len(pcm) * sample_bytes


@pytest.mark.parametrize("encoding", EVERYTHING)
def test_no_audio_is_not_an_error(encoding):
    data = encoded(encoder_for(encoding, 8000), tone(0))
    assert data == (wav_header(None, 8000) if encoding == "wav" else b"")


def test_an_encoder_that_is_dropped_says_nothing_more(capfd):
    for encoding in EVERYTHING:
        encoder_for(encoding, 8000).push(tone(0.5))
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_every_format_has_its_media_type():
    assert set(CONTENT_TYPES) == set(FORMATS)
