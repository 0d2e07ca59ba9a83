import json

import numpy as np
import pytest
import soundfile as sf

from serve_app import voice_library
from serve_app.config import VoicesConfig
from serve_app.voice_library import PromptFiles, VoiceLibrary, VoiceRefusal
from serve_app.voices import Reference, VoicePrompt

MODEL = "model-1"


def add_voice(path, voice: str, *, audio: bool = True, transcript: str = "What is said.", hz: float = 200.0):
    folder = path / voice
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"name": voice, "audio": "clip.wav", "language": "english", "speaker": "nobody", "licence": "none"}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "transcript": transcript}))
    if audio:
        sf.write(folder / "clip.wav", np.sin(np.arange(4 * 16_000) * hz * 2 * np.pi / 16_000) * 0.3, 16_000)


def encode(reference: Reference, codes: int = 50) -> VoicePrompt:
    return VoicePrompt(
        reference.voice,
        reference.digest,
        np.arange(8, dtype=np.float32),
        np.ones((codes, 16), np.int16) if reference.transcript else None,
        reference.transcript,
    )


@pytest.fixture
def voices(tmp_path):
    add_voice(tmp_path / "voices", "austen")
    add_voice(tmp_path / "voices", "makima", audio=False)
    return tmp_path / "voices"


@pytest.fixture
def library(voices, tmp_path):
    return lambda **settings: VoiceLibrary(
        VoicesConfig(path=str(voices), **settings), PromptFiles(tmp_path / "cache" / "voices")
    )


def states(library: VoiceLibrary) -> dict[str, str]:
    return {status.voice: status.state for status in library.voices()}


def test_a_voice_is_pending_until_its_prompt_is_put_there(library):
    one = library()
    assert one.pending(MODEL) == ["austen"]
    reference = one.get("austen", MODEL, 0.0)
    assert isinstance(reference, Reference)
    one.put(encode(reference), MODEL, 0.0)
    assert one.pending(MODEL) == []
    assert states(one) == {"austen": "ready", "makima": "unavailable"}
    assert isinstance(one.get("austen", MODEL, 1.0), VoicePrompt)


def test_an_unavailable_voice_says_why(library):
    one = library()
    refusal = one.get("makima", MODEL, 0.0)
    assert isinstance(refusal, VoiceRefusal)
    assert "clip.wav" in refusal.message
    (makima,) = [status for status in one.voices() if status.voice == "makima"]
    assert "clip.wav" in makima.reason


def test_an_unknown_voice_is_answered_with_those_there_are(library):
    refusal = library().get("../../etc/passwd", MODEL, 0.0)
    assert isinstance(refusal, VoiceRefusal)
    assert refusal.message.endswith("there are: austen")


def test_a_library_that_starts_again_finds_its_prompts_on_disk(library):
    first = library()
    first.put(encode(first.get("austen", MODEL, 0.0)), MODEL, 0.0)
    second = library()
    assert second.pending(MODEL) == []
    prompt = second.get("austen", MODEL, 0.0)
    assert isinstance(prompt, VoicePrompt)
    assert prompt.transcript == "What is said."
    assert prompt.speaker_embedding.dtype == np.float32
    assert prompt.codes.shape == (50, 16)


def test_a_prompt_without_transcript_survives_the_disk(library, voices):
    add_voice(voices, "austen", transcript="")
    first = library()
    first.put(encode(first.get("austen", MODEL, 0.0)), MODEL, 0.0)
    prompt = library().get("austen", MODEL, 0.0)
    assert isinstance(prompt, VoicePrompt)
    assert (prompt.codes, prompt.transcript) == (None, None)


def test_another_model_encodes_for_itself(library):
    one = library()
    one.put(encode(one.get("austen", MODEL, 0.0)), MODEL, 0.0)
    assert one.pending("model-2") == ["austen"]
    assert isinstance(one.get("austen", "model-2", 0.0), Reference)


def test_another_clip_makes_the_old_prompt_worthless(library, voices):
    one = library()
    one.put(encode(one.get("austen", MODEL, 0.0)), MODEL, 0.0)
    add_voice(voices, "austen", transcript="Something else.")
    one.refresh()
    assert one.pending(MODEL) == ["austen"]


def test_a_new_voice_is_found_by_a_refresh(library, voices):
    one = library()
    add_voice(voices, "woolf")
    assert "woolf" not in states(one)
    one.refresh()
    assert states(one)["woolf"] == "pending"


def test_a_prompt_dropped_from_memory_is_read_from_disk_again(library, voices):
    add_voice(voices, "woolf", hz=300.0)
    one = library(max_bytes=1 << 20)
    for voice in ("austen", "woolf"):
        one.put(encode(one.get(voice, MODEL, 0.0), codes=30_000), MODEL, 0.0)
    assert states(one) == {"austen": "ready", "makima": "unavailable", "woolf": "ready"}
    assert isinstance(one.get("austen", MODEL, 1.0), VoicePrompt)


def test_voices_with_the_same_clip_share_a_prompt_under_their_own_names(library, voices):
    add_voice(voices, "jane")
    one = library()
    one.put(encode(one.get("austen", MODEL, 0.0)), MODEL, 0.0)
    assert states(one)["jane"] == "ready"
    assert one.get("jane", MODEL, 0.0).voice == "jane"


def test_an_expired_prompt_without_a_file_is_encoded_again(library, tmp_path):
    (tmp_path / "cache").write_text("in the way: nothing can be stored")
    one = library(ttl_s=10.0)
    one.put(encode(one.get("austen", MODEL, 0.0)), MODEL, 0.0)
    assert isinstance(one.get("austen", MODEL, 5.0), VoicePrompt)
    assert isinstance(one.get("austen", MODEL, 20.0), Reference)


def test_a_damaged_file_is_removed_and_encoded_again(library, tmp_path):
    first = library()
    first.put(encode(first.get("austen", MODEL, 0.0)), MODEL, 0.0)
    (file,) = (tmp_path / "cache").rglob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert isinstance(library().get("austen", MODEL, 0.0), Reference)
    assert not file.exists()


def test_files_are_written_whole_and_kept_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(voice_library, "MAX_STORED_PROMPTS", 3)
    files = PromptFiles(tmp_path)
    for number in range(5):
        files.save(VoicePrompt("austen", f"digest-{number}", np.zeros(8, np.float32), None, None), MODEL)
    assert len(list((tmp_path / MODEL).iterdir())) == 3
    assert files.has(MODEL, "digest-4")


def test_a_clip_that_vanished_after_the_scan_is_a_refusal(library, voices):
    one = library()
    (voices / "austen" / "clip.wav").unlink()
    assert isinstance(one.get("austen", MODEL, 0.0), VoiceRefusal)
    assert states(one)["austen"] == "unavailable"


def test_no_directory_is_no_voices(tmp_path):
    empty = VoiceLibrary(VoicesConfig(path=str(tmp_path / "nowhere")), PromptFiles(tmp_path))
    assert empty.voices() == []
    assert "nowhere" in empty.get("austen", MODEL, 0.0).message
