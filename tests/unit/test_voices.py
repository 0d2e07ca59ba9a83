import asyncio
import base64
import json
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from clips import ffmpeg, wav
from hypothesis import given
from hypothesis import strategies as st
from openai.types.audio import speech_create_params
from until import until

from serve_app.audio.loudness import Loudness
from serve_app.audio.pcm import pcm_of
from serve_app.config import VoicesConfig, folded
from serve_app.errors import VoiceInvalidError
from serve_app.protocol.messages import Start
from serve_app.voices.decoding import decode, decode_apart
from serve_app.voices.voice import (
    OPENAI_VOICES,
    BoundedCache,
    VoiceManifest,
    VoicePrompt,
    VoiceStatus,
    digest_of,
    make_reference,
    read_reference,
    resolve_voice,
    scan,
)
from serve_app.web import clips as clips_module
from serve_app.web.clips import Clips

MANIFEST = {
    "name": "Test",
    "audio": "clip.wav",
    "transcript": "Some words that may well be said in four seconds.",
    "language": "english",
    "speaker": "nobody",
    "licence": "CC0-1.0",
}


TEXT = "Some words that may well be said in four seconds."


def test_a_reference_is_mono_float_at_the_models_rate_with_silence_behind_it():
    reference = read_reference("v", wav(channels=2), f" {TEXT} ")
    assert reference.pcm.dtype == np.float32
    assert reference.pcm.ndim == 1
    assert abs(len(reference.pcm) / 24_000 - 4.5) < 0.3
    assert not reference.pcm[-12_000:].any()
    assert (reference.sample_rate_hz, reference.transcript) == (24_000, TEXT)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (wav(seconds=2.5), "duration_s is 2.5"),
        (wav(seconds=31), "duration_s is 3"),
        (wav(level=0.0), "silent"),
        (b"no audio at all", "decoded"),
        (b"", "decoded"),
        (wav()[:40], "decoded"),
        (b"x" * ((20 << 20) + 1), "bytes"),
    ],
)
def test_a_bad_reference_is_refused_with_its_reason(audio, reason):
    with pytest.raises(VoiceInvalidError, match=reason):
        read_reference("v", audio, None)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(tail):
    for audio in (tail, wav()[:44] + tail):
        with pytest.raises(VoiceInvalidError):
            read_reference("v", audio, None)


@pytest.mark.parametrize(
    "audio", [wav(level=0.9), wav(rate_hz=24_000, level=0.05), ffmpeg("mp4", "aac")], ids=["loud", "quiet", "aac"]
)
async def test_a_clip_has_the_same_samples_as_a_voice_of_the_service_an_upload_and_an_inline_voice(tmp_path, audio):
    """They share one prompt, because they have the same digest."""
    digest = digest_of(audio, TEXT)
    uploaded = make_reference("uploaded", decode_apart(audio), digest, TEXT, "english")
    upload = {"digest": digest, "at": "2026-12-01T00:00:00Z", "report": uploaded.report.model_dump()}
    for name, content, more in (("own", audio, {}), ("uploaded", uploaded.wav(), {"upload": upload})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.wav").write_bytes(content)
        (tmp_path / name / "manifest.json").write_text(json.dumps({**MANIFEST, **more}))
    own, stored = (voice.reference for voice in scan(tmp_path))
    start = Start(voice_audio=base64.b64encode(audio).decode(), voice_transcript=TEXT)
    inline = await Clips(VoicesConfig()).own(start)
    assert own.digest == stored.digest == inline.digest
    np.testing.assert_array_equal(own.pcm, stored.pcm)
    np.testing.assert_array_equal(own.pcm, pcm_of(inline.pcm16))


async def test_one_clip_is_decoded_at_a_time_even_if_its_client_leaves(monkeypatch):
    begun, release = [], threading.Event()

    def decoded(audio):
        begun.append(audio)
        assert release.wait(10)
        return decode(audio)

    monkeypatch.setattr(clips_module, "decode_apart", decoded)
    made = Clips(VoicesConfig())
    leaving = asyncio.create_task(made.reference("leaving", wav(hz=180.0), TEXT, "english"))
    await until(lambda: begun)
    staying = asyncio.create_task(made.reference("staying", wav(), TEXT, "english"))
    leaving.cancel()
    await asyncio.sleep(0.05)
    assert (leaving.cancelled(), len(begun)) == (True, 1)
    release.set()
    assert (await staying).voice == "staying"
    assert len(begun) == 2


def test_the_digest_changes_with_audio_and_transcript():
    digests = {
        read_reference("v", wav(level=level), text).digest for level in (0.2, 0.3) for text in (None, TEXT, TEXT + "!")
    }
    assert len(digests) == 6


def test_scan_lists_every_voice_and_says_why_one_cannot_be_used(tmp_path):
    for name, manifest, audio in [
        ("good", MANIFEST, wav()),
        ("missing", MANIFEST, None),
        ("wrong", {**MANIFEST, "audio": "../../etc/passwd"}, wav()),
        ("Bad Name", MANIFEST, wav()),
        ("short", MANIFEST, wav(seconds=1)),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        if audio is not None:
            (folder / "clip.wav").write_bytes(audio)
    (tmp_path / "not-a-voice").mkdir()
    voices = {voice.voice: voice for voice in scan(tmp_path)}
    assert set(voices) == {"good", "missing", "wrong", "Bad Name", "short"}
    assert voices["good"].reference is not None
    assert "not there yet" in voices["missing"].reason
    assert "audio" in voices["wrong"].reason
    assert voices["Bad Name"].reason
    assert "duration_s" in voices["short"].reason
    assert scan(tmp_path / "nowhere") == []


def test_no_reason_tells_a_client_a_path_or_a_librarys_words(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "empty" / "clip.wav").write_bytes(b"")
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "html" / "clip.wav").write_bytes(b"<html>")
    for name, content in {"no-json": "{", "no-name": "{}", "number": "7"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content)
    reasons = {voice.voice: voice.reason for voice in scan(tmp_path)}
    assert "it is empty" in reasons["empty"]
    assert "it is HTML" in reasons["html"]
    assert "name: Field required" in reasons["no-name"]

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", denied)
    reasons |= {f"{voice.voice}, unreadable": voice.reason for voice in scan(tmp_path)}
    assert "Permission denied" in reasons["empty, unreadable"]
    for reason in reasons.values():
        assert reason
        for word in (str(tmp_path), "http", "Errno", "0x", "input"):
            assert word not in reason


def test_a_prompt_knows_its_size():
    prompt = VoicePrompt(
        "v", "d", np.zeros(128, np.float32), np.zeros((50, 16), np.int16), "words", Loudness(-20.0, 0.5)
    )
    assert prompt.nbytes == 128 * 4 + 50 * 16 * 2 + 512


def cache(max_bytes=10, ttl_s=None):
    return BoundedCache[str, str](max_bytes, len, ttl_s)


def test_the_least_recently_used_value_leaves_first():
    kept = cache()
    kept.put("a", "1234", 0.0)
    kept.put("b", "1234", 1.0)
    kept.get("a", 2.0)
    assert kept.put("c", "1234", 3.0) == ["b"]
    assert list(kept) == ["a", "c"]


def test_an_unused_value_expires_and_a_used_one_does_not():
    kept = cache(ttl_s=5.0)
    kept.put("a", "1", 0.0)
    kept.put("b", "1", 0.0)
    kept.get("a", 4.0)
    assert kept.get("b", 6.0) is None
    assert kept.get("a", 8.0) == "1"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.text("x", max_size=14))))
def test_the_bytes_never_pass_the_bound_and_are_counted_right(puts):
    kept = cache()
    for now_s, (key, value) in enumerate(puts):
        dropped = kept.put(key, value, float(now_s))
        assert kept.bytes <= 10
        assert (key in dropped) == (len(value) > 10)
        assert kept.bytes == sum(len(kept.get(key, float(now_s))) for key in kept)


def listed(**names):
    """Voices by id, with their display names; one whose name is None has no manifest that could be read."""
    return {
        voice: VoiceStatus(
            voice, "ready", "", None if name is None else VoiceManifest.model_validate(MANIFEST | {"name": name})
        )
        for voice, name in names.items()
    }


KNOWN = listed(austen="Jane Austen", makima=None, zoe="Zoë", sage="The sage")
NAMING = VoicesConfig(default="austen", aliases={"Nova": "makima", "echo": "nobody", "zoe": "makima"})


@pytest.mark.parametrize(
    ("name", "voice"),
    [
        ("austen", "austen"),
        ("AUSTEN ", "austen"),
        ("jane austen", "austen"),
        ("Zoe\u0308", "zoe"),
        ("zoe", "zoe"),  # an id comes before an alias
        ("nova", "makima"),
        ("NOVA", "makima"),
        ("sage", "sage"),  # a voice of its own before OpenAI's
        ("alloy", "austen"),
        ("Shimmer", "austen"),
        ("echo", None),  # an alias that means nothing is no default voice
        ("nobody", None),
        ("", None),
    ],
)
def test_a_voice_is_meant_by_id_alias_display_name_or_a_name_of_openais(name, voice):
    assert resolve_voice(name, KNOWN, NAMING) == voice


def test_openais_built_in_voices_are_those_of_its_client():
    literals = [each for each in get_args(speech_create_params.Voice) if get_args(each)]
    assert {name for each in literals for name in get_args(each)} == OPENAI_VOICES


def test_of_two_voices_with_one_name_the_first_that_can_be_spoken_with_is_meant():
    known = listed(b="Twin", c="Twin") | {"a": VoiceStatus("a", "unavailable", "gone", listed(a="Twin")["a"].manifest)}
    assert resolve_voice("twin", known, VoicesConfig()) == "b"


def test_while_no_voices_are_known_an_alias_is_one_all_the_same():
    assert [resolve_voice(name, {}, NAMING) for name in ("nova", "alloy", "austen")] == ["makima", "austen", None]


@given(st.text(max_size=30), st.dictionaries(st.text(min_size=1, max_size=8).filter(str.strip), st.just("makima")))
def test_whatever_is_named_is_a_known_voice_or_none_and_case_means_nothing(name, aliases):
    naming = VoicesConfig(default="austen", aliases=aliases)
    voice = resolve_voice(name, KNOWN, naming)
    assert voice in (None, *KNOWN)
    assert resolve_voice(folded(name), KNOWN, naming) == voice


@pytest.mark.parametrize("language", ["en", "English", "en-GB"])
def test_a_manifests_language_is_any_name_of_it(language):
    assert VoiceManifest.model_validate(MANIFEST | {"language": language}).language == "english"
