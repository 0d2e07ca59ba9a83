import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import soundfile as sf
from clips import encoded, ffmpeg, speechlike, wav
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from serve_app.errors import VoiceInvalidError
from serve_app.voices import decoding as voice_decoding
from serve_app.voices.decoding import FORMATS, MAX_CHANNELS, MAX_CLIP_BYTES, Clip, decode, decode_apart


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_number_of_channels_becomes_mono_at_24_khz(rate_hz, channels):
    clip = decode(wav(rate_hz=rate_hz, channels=channels))
    assert (clip.sample_rate_hz, clip.channels, clip.length_s) == (rate_hz, channels, 4)
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
        with pytest.raises(VoiceInvalidError, match=f"the limit is {MAX_CLIP_BYTES}"):
            reader(bytes(MAX_CLIP_BYTES + 1))


@pytest.mark.parametrize("form", ["FLAC", "WAV"])
def test_a_bomb_is_not_decoded_beyond_the_bound(form):
    """An hour of silence is some kilobytes of FLAC, and 460 MB of samples."""
    audio = encoded(np.zeros(8_000 * (3600 if form == "FLAC" else 300), np.int16), 8_000, form)
    assert len(audio) < MAX_CLIP_BYTES
    clip = decode(audio)
    assert len(clip.pcm) == 40 * 24_000
    assert clip.length_s == (601 if form == "FLAC" else 300)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG"])
@pytest.mark.parametrize("seconds", [39, 48, 75])
def test_a_clip_that_is_too_long_still_has_its_true_length(form, seconds):
    clip = decode(encoded(speechlike(seconds, 8_000), 8_000, form))
    assert clip.length_s == pytest.approx(seconds, abs=0.2)
    assert len(clip.pcm) / 24_000 == pytest.approx(min(seconds, 40), abs=0.2)


def test_the_same_through_ffmpeg_and_in_a_process_apart():
    audio = ffmpeg("mp4", "aac", 16_000, seconds=48)
    assert decode_apart(audio).length_s == pytest.approx(48, abs=0.2)


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
    with pytest.raises(VoiceInvalidError, match="not numbers"):
        decode(file.getvalue())


def float_wav(samples):
    file = io.BytesIO()
    sf.write(file, samples.astype(np.float32), 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


ONE_WILD = speechlike()
ONE_WILD[30_000] = 1e30


@pytest.mark.parametrize(
    "samples", [32768 * speechlike(), 32768 * speechlike(level=0.01), 128 * speechlike(), ONE_WILD]
)
def test_samples_far_beyond_full_scale_are_refused(samples):
    with pytest.raises(VoiceInvalidError, match=r"it has a sample of .*; -1 to 1 are allowed: divide them by 32768"):
        decode(float_wav(samples))


def test_a_float_file_may_go_a_little_beyond_full_scale():
    assert decode(float_wav(4 * speechlike())).clipped_share > 0


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
    for program, reason in [("import os; os.abort()", "crashed"), ("import time; time.sleep(60)", "within")]:
        monkeypatch.setattr(voice_decoding, "DECODE_TIMEOUT_S", 0.5)
        command = [voice_decoding.sys.executable, "-c", program]
        monkeypatch.setattr(voice_decoding.subprocess, "run", lambda _, command=command, **given: run(command, **given))
        with pytest.raises(VoiceInvalidError, match=reason):
            decode_apart(wav())


@pytest.mark.parametrize("clip", [wav(level=0.98, hz=50.0), wav(level=0.3)])
def test_only_runs_at_full_scale_count_as_clipped(clip):
    assert decode(clip).clipped_share == 0


def test_clipping_is_that_of_the_channel_that_is_used():
    loud = np.clip(6 * speechlike(), -1, 1)
    one = decode(encoded(loud)).clipped_share
    assert one > 0.1
    assert decode(encoded(np.stack([0 * loud, loud], axis=1))).clipped_share == pytest.approx(one)
    tone = np.where(np.arange(len(loud)) % 50 < 25, 1.0, -1.0)  # clipped throughout, and no speech
    assert decode(encoded(np.stack([tone, speechlike()], axis=1))).clipped_share == 0


VOICE = speechlike(rate_hz=24_000)


def decibels(pcm):
    return 20 * np.log10(np.sqrt(np.mean(np.square(pcm))))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=MAX_CHANNELS).filter(lambda gains: max(map(abs, gains)) > 0.05))
def test_any_mix_of_one_voice_over_the_channels_is_that_voice_at_its_level(gains):
    """Inverted, panned, in one channel of many: what comes out is the channel in which it is loudest."""
    clip = decode(encoded(np.outer(VOICE, gains), 24_000))
    most = max(gains, key=abs)
    np.testing.assert_allclose(np.abs(clip.pcm), np.abs(most * VOICE), atol=2e-4)
    assert clip.channels == len(gains)
    assert clip.alike


def test_channels_with_different_sound_are_distinguished():
    other = speechlike(rate_hz=24_000, hz=330.0)
    for beside in (other, np.random.default_rng(4).normal(0, 0.1, len(VOICE))):
        assert not decode(encoded(np.stack([VOICE, beside], axis=1), 24_000)).alike
    assert not decode_apart(encoded(np.stack([VOICE, other], axis=1), 24_000)).alike
    assert decode(encoded(np.zeros((24_000, 2)), 24_000)).alike


@pytest.mark.parametrize("channels", range(1, MAX_CHANNELS + 1))
def test_speech_in_any_one_channel_is_found_beside_silence_noise_and_offsets(channels):
    noise = np.random.default_rng(3).normal(0, 0.2, (len(VOICE), channels))
    for beside in (0 * noise, noise, 0 * noise + 0.5):
        for at in range(channels):
            samples = beside.copy()
            samples[:, at] = VOICE
            np.testing.assert_allclose(decode(encoded(samples, 24_000)).pcm, VOICE, atol=2e-4)


def test_a_few_words_in_one_channel_of_a_long_clip_are_found_beside_noise():
    samples = np.random.default_rng(3).normal(0, 0.01, (36 * 24_000, 2))
    samples[:, 1] = 0
    samples[: len(VOICE) // 2, 1] = VOICE[: len(VOICE) // 2]
    np.testing.assert_allclose(decode(encoded(samples, 24_000)).pcm, samples[:, 1], atol=2e-4)


@pytest.mark.parametrize(
    ("layout", "gains"),
    [("stereo", (0.5, -0.5)), ("5.1", (0, 0, 1, 0, 0, 0)), ("quad", (0, 0, 0, -1)), ("7.1", (0, 0, 1, 0, 0, 0, 0, 0))],
)
@pytest.mark.parametrize(("container", "codec", "exact_db"), [("mp4", "aac", 0.5), ("webm", "libopus", 0.5)])
def test_layouts_of_many_speakers_keep_the_level_of_the_voice(layout, gains, container, codec, exact_db):
    clip = decode(ffmpeg(container, codec, 48_000, layout=layout, gains=gains))
    mono = decode(ffmpeg(container, codec, 48_000, gains=(max(map(abs, gains)),)))
    assert clip.channels == len(gains)
    assert clip.alike
    assert decibels(clip.pcm) == pytest.approx(decibels(mono.pcm), abs=exact_db)


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


@examples(300, suppress_health_check=[HealthCheck.too_slow])
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


@examples(6, suppress_health_check=[HealthCheck.too_slow])
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


UNREADABLE = {
    "it is empty": [b""],
    "it is HTML or XML": [
        *(b"<!DOCTYPE html><p>Not found</p>", b"\xef\xbb\xbf  <?xml version='1.0'?><a/>", b"<html>"),
        *("<p>Café</p>".encode(encoding) for encoding in ("latin-1", "cp1252", "utf-16", "utf-8-sig")),
        "<html><body>Страница не найдена</body></html>".encode("koi8-r"),
        b"\xfe\xff" + "\n<p>Café</p>".encode("utf-16-be"),
    ],
    "it is text": [
        *(b"hello", b'{"error": "no"}', "Bé".encode() * 300, "日本語".encode() * 300, b"\n", b"RIFF"),
        *("Pas trouvé: café.".encode(encoding) for encoding in ("latin-1", "utf-16", "utf-8-sig")),
        b"\xfe\xff" + ("日本語" * 300).encode("utf-16-be"),
    ],
    "it is an AVI video": [b"RIFF\x24\0\0\0AVI LIST" + bytes(100)],
    "it is a WebP image": [b"RIFF\x24\0\0\0WEBPVP8 " + bytes(100)],
    "it is a ZIP archive": [b"PK\x03\x04" + bytes(100)],
    "it is a PDF document": [b"%PDF-1.7\n"],
    "it is a PNG image": [b"\x89PNG\r\n\x1a\n" + bytes(100)],
    "it is a JPEG image": [b"\xff\xd8\xff\xe0" + bytes(100)],
    "its format is not known": [bytes(1000), b"\x7fELF" + bytes(range(256)), b"\0", b"\xff\xff" * 9],
    "it begins as a WAV file, but has no samples": [wav()[:30], b"RIFF\x24\0\0\0WAVEfmt "],
    "it begins as a FLAC file, but has no samples": [encoded(speechlike(1.0), form="FLAC")[:40]],
    "it begins as an MP4 \\(m4a\\) file, but has no samples": [ffmpeg("mp4", "aac", seconds=1.0)[:200]],
    "it begins as an Ogg file, but has no samples": [encoded(speechlike(1.0), form="OGG")[:60]],
    "it begins as a WebM file, but has no samples": [ffmpeg("webm", "libopus", 48_000, seconds=1.0)[:60]],
}


@pytest.mark.parametrize(
    ("reason", "audio"),
    # Numbered: the bytes of an Ogg file begin with a random serial number, and two workers must agree on a test's name.
    [
        pytest.param(reason, each, id=f"{reason} {number}")
        for reason, many in UNREADABLE.items()
        for number, each in enumerate(many)
    ],
)
def test_what_cannot_be_read_is_named_with_the_formats_that_can(reason, audio):
    for reader in (decode, decode_apart) if len(audio) < 8 else (decode,):
        with pytest.raises(VoiceInvalidError, match=f"audio cannot be decoded: {reason}") as refused:
            reader(audio)
        assert refused.value.message.endswith(f"; allowed: {FORMATS}")


@given(st.one_of(st.binary(max_size=200), malformed()))
def test_no_refusal_has_an_address_or_a_librarys_words(audio):
    try:
        decode(audio)
        message = ""
    except VoiceInvalidError as error:
        message = error.message
    for word in ("0x", "object at", "BytesIO", "Errno", "avcodec", "/", "File", "Error"):
        assert word not in message
