import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import soundfile as sf
from clips import encoded, ffmpeg, speechlike, wav
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app import voice_decoding
from serve_app.errors import VoiceInvalidError
from serve_app.voice_decoding import MAX_CLIP_BYTES, Clip, decode, decode_apart


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_number_of_channels_becomes_mono_at_24_khz(rate_hz, channels):
    clip = decode(wav(rate_hz=rate_hz, channels=channels))
    assert (clip.sample_rate_hz, clip.channels, clip.cut) == (rate_hz, channels, False)
    assert len(clip.pcm) == 4 * 24_000
    expected = speechlike(rate_hz=24_000, noise=0)
    assert np.sqrt(np.mean((clip.pcm - expected) ** 2)) < 3e-3


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_what_libsndfile_reads_is_decoded(form):
    clip = decode(encoded(speechlike(rate_hz=24_000), 24_000, form))
    assert abs(len(clip.pcm) / 24_000 - 4) < 0.1


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"),
    [("mp4", "aac", 44_100), ("adts", "aac", 24_000), ("webm", "libopus", 48_000), ("mp3", "libmp3lame", 24_000)],
)
def test_what_telephones_and_browsers_record_is_decoded(container, codec, rate_hz):
    audio = ffmpeg(container, codec, rate_hz)
    clip = decode(audio)
    assert abs(len(clip.pcm) / 24_000 - 4) < 0.1
    apart = decode_apart(audio)
    np.testing.assert_array_equal(apart.pcm, clip.pcm)
    assert (apart.channels, apart.sample_rate_hz) == (1, rate_hz)


def test_a_clip_decoded_apart_is_the_same():
    here, apart = decode(wav(channels=2)), decode_apart(wav(channels=2))
    np.testing.assert_array_equal(here.pcm, apart.pcm)
    assert (here.channels, here.clipped_share) == (apart.channels, apart.clipped_share)


def test_size_is_looked_at_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(voice_decoding.subprocess, "run", lambda *_, **__: pytest.fail("it was read"))
    for reader in (decode, decode_apart):
        with pytest.raises(VoiceInvalidError, match=f"at most {MAX_CLIP_BYTES}"):
            reader(bytes(MAX_CLIP_BYTES + 1))


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_a_bomb_is_not_decoded_beyond_the_bound(form):
    """An hour of silence is some kilobytes of FLAC, and 460 MB of samples."""
    audio = encoded(np.zeros(8_000 * (3600 if form == "FLAC" else 300), np.int16), 8_000, form)
    assert len(audio) < MAX_CLIP_BYTES
    clip = decode(audio)
    assert clip.cut
    assert len(clip.pcm) == 40 * 24_000


@pytest.mark.parametrize("seconds", [4000])
def test_a_header_that_lies_about_its_length_costs_nothing(seconds):
    lie = bytearray(wav())
    lie[40:44] = struct.pack("<I", 16_000 * 2 * seconds)
    clip = decode(bytes(lie))
    assert len(clip.pcm) <= 4 * 24_000


@pytest.mark.parametrize(
    ("samples", "rate_hz", "reason"),
    [
        (np.zeros((1000, 9)), 16_000, "9 channels"),
        (np.zeros((1000, 1)), 1_000, "1000 Hz"),
        (np.zeros((1000, 1)), 400_000, "400000 Hz"),
        (np.zeros((0, 1)), 16_000, "no samples"),
    ],
)
def test_what_no_microphone_gives_is_refused(samples, rate_hz, reason):
    with pytest.raises(VoiceInvalidError, match=reason):
        decode(encoded(samples, rate_hz))


def test_samples_that_are_no_numbers_are_refused():
    file = io.BytesIO()
    sf.write(file, np.full(16_000, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(VoiceInvalidError, match="no numbers"):
        decode(file.getvalue())


PLAYLISTS = [
    b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile /etc/passwd\n",
    b"<?xml version='1.0'?><MPD><Period/></MPD>",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
]


@pytest.mark.parametrize("audio", PLAYLISTS)
def test_a_file_that_names_others_is_never_given_to_ffmpeg(audio, monkeypatch):
    monkeypatch.setattr(voice_decoding, "_ffmpeg_blocks", lambda *_: pytest.fail("it was"))
    with pytest.raises(VoiceInvalidError, match="decoded"):
        decode(audio)


def test_a_decoder_that_crashes_or_hangs_is_a_refusal(monkeypatch):
    run = voice_decoding.subprocess.run
    for program, reason in [("import os; os.abort()", "survive"), ("import time; time.sleep(60)", "within")]:
        monkeypatch.setattr(voice_decoding, "DECODE_TIMEOUT_S", 0.5)
        command = [voice_decoding.sys.executable, "-c", program]
        monkeypatch.setattr(voice_decoding.subprocess, "run", lambda _, command=command, **given: run(command, **given))
        with pytest.raises(VoiceInvalidError, match=reason):
            decode_apart(wav())


@pytest.mark.parametrize("clip", [wav(level=0.98, hz=50.0), wav(level=0.3)])
def test_only_runs_at_full_scale_count_as_clipped(clip):
    assert decode(clip).clipped_share == 0


def test_clipping_is_counted_over_all_channels():
    loud = np.clip(3 * speechlike(), -1, 1) * 2
    one = decode(encoded(np.clip(loud, -1, 1))).clipped_share
    both = decode(encoded(np.stack([np.clip(loud, -1, 1), 0 * loud], axis=1))).clipped_share
    assert one > 0.1
    assert both == pytest.approx(one / 2)


SEEDS = [
    wav(seconds=1.0),
    encoded(speechlike(1.0, 24_000), 24_000, "FLAC"),
    encoded(speechlike(1.0, 24_000), 24_000, "OGG"),
    encoded(speechlike(1.0, 24_000), 24_000, "MP3"),
    ffmpeg("mp4", "aac", seconds=1.0),
    ffmpeg("webm", "libopus", 48_000, seconds=1.0),
    ffmpeg("adts", "aac", seconds=1.0),
]


@st.composite
def malformed(draw):
    """A well-formed file with some bytes changed, cut out, doubled or put in."""
    audio = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.one_of(st.integers(0, min(200, len(audio) - 1)), st.integers(0, len(audio) - 1)))
        size = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["change", "cut", "double", "insert"]))
        if kind == "change":
            audio[at : at + size] = draw(st.binary(min_size=size, max_size=size))
        elif kind == "cut":
            del audio[at : at + size]
        elif kind == "double":
            audio[at:at] = audio[at : at + 4 * size]
        else:
            audio[at:at] = draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"]))
        audio = audio or bytearray(b"\0")
    return bytes(audio)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(malformed(), st.binary(max_size=400)))
def test_malformed_containers_are_decoded_or_refused_and_nothing_else(audio):
    try:
        clip = decode(audio)
    except VoiceInvalidError:
        return
    assert isinstance(clip, Clip)
    assert clip.pcm.dtype == np.float32
    assert np.isfinite(clip.pcm).all()
    assert 0 < len(clip.pcm) <= 40 * 24_000 + 1


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(malformed())
def test_what_is_decoded_apart_is_decoded_or_refused(audio):
    with contextlib.suppress(VoiceInvalidError):
        decode_apart(audio)


def test_bytes_that_only_look_like_a_container_are_refused():
    noise = zlib.compress(bytes(range(256)) * 40)
    for magic in (
        b"\0\0\0\x20ftypM4A ",
        b"\x1aE\xdf\xa3",
        b"OggS",
        b"fLaC",
        b"RIFF",
        b"\xff\xf1",
        b"ID3\x03",
        b"\xff\xfb",
    ):
        with pytest.raises(VoiceInvalidError):
            decode(magic + noise)
