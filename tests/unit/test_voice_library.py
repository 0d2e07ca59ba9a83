import json
import re
import shutil

import numpy as np
import pytest
from clips import wav
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.audio.loudness import Loudness
from serve_app.config import VoicesConfig
from serve_app.errors import InvalidMessageError
from serve_app.voices import library as voice_library
from serve_app.voices.library import PromptFiles, VoiceInProgress, VoiceLibrary, VoiceRefusal
from serve_app.voices.voice import (
    VOICE_ID,
    ImportedVoice,
    Reference,
    UploadRecord,
    VoicePrompt,
    VoiceUpload,
    read_reference,
)
from serve_app.voices.voice_file import VOICE_FILE, read_voice_file

MODEL = "model-1"
SAID = "What is said in the clip of four seconds."


def add_voice(path, voice: str, *, audio: bool = True, transcript: str = SAID, hz: float = 200.0):
    folder = path / voice
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"name": voice, "audio": "clip.wav", "language": "english", "speaker": "nobody", "licence": "none"}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "transcript": transcript}))
    if audio:
        (folder / "clip.wav").write_bytes(wav(hz=hz))


def encode(reference: Reference, codes: int = 50) -> VoicePrompt:
    return VoicePrompt(
        reference.voice,
        reference.digest,
        np.arange(8, dtype=np.float32),
        np.ones((codes, 16), np.int16) if reference.transcript else None,
        reference.transcript,
        Loudness(-21.5, 0.5),
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


def test_a_directory_that_cannot_be_read_for_a_while_costs_no_voice_and_one_line(library, voices, monkeypatch, caplog):
    def stale(path):
        raise OSError(116, "Stale file handle", str(path))

    one = library()
    before = states(one)
    with monkeypatch.context() as unreadable:
        unreadable.setattr(voice_library, "voice_folders", stale)
        empty = library()
        for _ in range(3):
            one.refresh()
            empty.refresh()
        assert (states(one), states(empty)) == (before, {})
    assert len(set(map(id, caplog.records))) == 2  # a test before may have left a second handler
    empty.refresh()
    assert states(empty) == before


def test_uploads_whose_volume_comes_late_are_found(library, voices, tmp_path):
    uploads = tmp_path / "volume" / "uploads"
    late = VoiceLibrary(VoicesConfig(path=str(voices)), PromptFiles(tmp_path / "cache"), uploads)
    assert states(late) == {"austen": "pending", "makima": "unavailable"}
    add_voice(uploads, "woolf")
    late.refresh()
    assert states(late) == {"austen": "pending", "makima": "unavailable", "woolf": "pending"}


def test_a_voice_that_comes_late_is_found(tmp_path):
    late = VoiceLibrary(VoicesConfig(path=str(tmp_path / "voices")), PromptFiles(tmp_path / "cache"))
    assert late.voices() == []
    add_voice(tmp_path / "voices", "austen", audio=False)
    late.refresh()
    assert states(late) == {"austen": "unavailable"}
    add_voice(tmp_path / "voices", "austen")
    late.refresh()
    assert states(late) == {"austen": "pending"}


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
    assert prompt.transcript == SAID
    assert prompt.speaker_embedding.dtype == np.float32
    assert prompt.codes.shape == (50, 16)
    assert prompt.loudness == Loudness(-21.5, 0.5)


def test_a_prompt_of_an_earlier_version_is_encoded_again(library, tmp_path):
    first = library()
    first.put(encode(first.get("austen", MODEL, 0.0)), MODEL, 0.0)
    (file,) = (tmp_path / "cache").rglob("*.npz")
    with np.load(file) as arrays:
        older = {name: arrays[name] for name in arrays if name != "loudness"}
    np.savez(file, **older)
    assert isinstance(library().get("austen", MODEL, 0.0), Reference)


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
    add_voice(voices, "austen", transcript="Something else is said in those four seconds.")
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


def test_a_voice_of_the_service_stays_in_memory_even_where_nothing_can_be_stored(library, tmp_path):
    (tmp_path / "cache").write_text("in the way: nothing can be stored")
    one = library(ttl_s=10.0)
    one.put(encode(one.get("austen", MODEL, 0.0)), MODEL, 0.0)
    assert isinstance(one.get("austen", MODEL, 5.0), VoicePrompt)
    assert isinstance(one.get("austen", MODEL, 20.0), VoicePrompt)


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
        files.save(
            VoicePrompt("austen", f"digest-{number}", np.zeros(8, np.float32), None, None, Loudness(-21.5, 0.5)), MODEL
        )
    assert len(list((tmp_path / MODEL).iterdir())) == 3
    assert files.has(MODEL, "digest-4")


def test_a_clip_that_vanished_after_the_scan_is_a_refusal(library, voices):
    one = library()
    (voices / "austen" / "clip.wav").unlink()
    assert isinstance(one.get("austen", MODEL, 0.0), VoiceRefusal)
    assert states(one)["austen"] == "unavailable"


def test_without_a_directory_there_are_no_voices(tmp_path):
    empty = VoiceLibrary(VoicesConfig(path=str(tmp_path / "nowhere")), PromptFiles(tmp_path))
    assert empty.voices() == []
    assert "nowhere" in empty.get("austen", MODEL, 0.0).message


def upload(text=SAID, hz=300.0, name="Woolf"):
    """What an ingress hands over: an id, a manifest and the clip as it is to be encoded."""
    audio = wav(hz=hz)
    reference = read_reference("v", audio, text)
    record = UploadRecord(digest=reference.digest, at="2026-01-01T00:00:00Z", report=reference.report)
    given = VoiceUpload(name=name, transcript=text, language="english", consent="The speaker agreed in writing.")
    return given.voice, given.manifest(record), reference.wav()


def encoded(library, voice, now_s=0.0):
    prompt = encode(library.get(voice, MODEL, now_s))
    library.put(prompt, MODEL, now_s)
    return prompt


def test_an_uploaded_voice_is_there_with_its_report_and_consent_and_can_be_encoded(library):
    one = library()
    status = one.add(*upload())
    assert (status.voice, status.state, status.report.verdict) == ("woolf", "pending", "accept")
    assert status.manifest.consent == "The speaker agreed in writing."
    encoded(one, "woolf")
    assert states(one)["woolf"] == "ready"


def test_an_uploaded_voice_and_its_prompt_survive_a_restart(library):
    first = library()
    first.add(*upload())
    prompt = encoded(first, "woolf")
    second = library()
    assert second.pending(MODEL) == ["austen"]
    again = second.get("woolf", MODEL, 0.0)
    np.testing.assert_array_equal(again.codes, prompt.codes)
    assert again.transcript == SAID
    assert second.voices()[-1].report.verdict == "accept"
    assert second.version == first.version
    assert isinstance(second.get("woolf", "model-2", 0.0), Reference), "another model encodes it again"


def test_uploading_again_costs_nothing_and_another_clip_of_that_name_is_refused(library):
    one = library()
    voice, manifest, audio = upload()
    one.add(voice, manifest, audio)
    encoded(one, voice)
    assert one.known(voice, manifest.upload.digest).state == "ready"
    assert one.add(voice, manifest, audio).state == "ready"
    assert one.pending(MODEL) == ["austen"]
    for taken in (voice, "austen"):
        refusal = one.known(taken, "0" * 32)
        assert refusal.code == "VOICE_CONFLICT"
        assert taken in refusal.message


def test_a_removed_voice_is_gone_with_everything_made_of_it(library, voices):
    one = library()
    one.add(*upload())
    before = one.version
    encoded(one, "woolf")
    assert one.remove("woolf", 0.0) is None
    assert one.version != before
    assert "woolf" not in states(one)
    assert isinstance(one.get("woolf", MODEL, 0.0), VoiceRefusal)
    assert not [file for file in (voices / ".uploaded").rglob("*") if file.is_file()]
    assert states(library()) == {"austen": "pending", "makima": "unavailable"}
    assert one.remove("woolf", 0.0).code == "VOICE_NOT_FOUND"


def test_an_utterance_that_had_begun_goes_on_with_a_removed_voice_and_no_other_does(library):
    one = library()
    one.add(*upload())
    prompt = encoded(one, "woolf")
    one.remove("woolf", 100.0)
    assert isinstance(one.get("woolf", MODEL, 101.0), VoiceRefusal)
    again = one.get("woolf", MODEL, 101.0, "b", prompt.digest)
    np.testing.assert_array_equal(again.codes, prompt.codes)
    assert isinstance(one.get("woolf", "model-2", 101.0, "b", prompt.digest), VoiceRefusal)
    assert isinstance(one.get("woolf", MODEL, 101.0, "b", "0" * 32), VoiceRefusal)
    assert states(one) == {"austen": "pending", "makima": "unavailable"}


def test_a_removed_voice_is_gone_for_everybody_after_a_while_however_often_it_is_asked_for(library):
    one = library()
    one.add(*upload())
    digest = encoded(one, "woolf").digest
    one.remove("woolf", 100.0)
    for second in range(100, 1901, 100):
        assert isinstance(one.get("woolf", MODEL, float(second), "b", digest), VoicePrompt)
    assert isinstance(one.get("woolf", MODEL, 1901.0, "b", digest), VoiceRefusal)
    assert len(one._removed) == 0


def test_what_was_removed_is_forgotten_without_being_asked_for_and_takes_so_much_memory_and_no_more(
    library, monkeypatch
):
    monkeypatch.setattr(voice_library, "REMOVED_MAX_BYTES", 5000)
    one = library()
    digests = []
    for name in ("One", "Two"):
        one.add(*upload(name=name, hz=300.0 + len(digests)))
        digests.append(encode(one.get(name.lower(), MODEL, 0.0), codes=100).digest)
        one.put(encode(one.get(name.lower(), MODEL, 0.0), codes=100), MODEL, 0.0)
        one.remove(name.lower(), 0.0)
    assert isinstance(one.get("one", MODEL, 1.0, "b", digests[0]), VoiceRefusal)
    assert isinstance(one.get("two", MODEL, 1.0, "b", digests[1]), VoicePrompt)
    one.refresh(5000.0)
    assert len(one._removed) == 0


def test_another_clip_under_the_id_of_a_removed_voice_is_not_mixed_into_its_utterances(library):
    one = library()
    one.add(*upload())
    before = encoded(one, "woolf").digest
    one.remove("woolf", 0.0)
    one.add(*upload(hz=500.0))
    assert one.get("woolf", MODEL, 1.0, "b", before).digest == before, "also while the new clip waits to be encoded"
    after = encoded(one, "woolf").digest
    assert after != before
    assert one.get("woolf", MODEL, 1.0, "b", before).digest == before
    assert one.get("woolf", MODEL, 1.0, "b", after).digest == one.get("woolf", MODEL, 1.0).digest == after


def test_an_utterance_goes_on_with_a_clip_of_the_service_that_was_replaced(library, voices):
    one = library()
    before = encoded(one, "austen").digest
    add_voice(voices, "austen", hz=400.0)
    one.refresh()
    assert isinstance(one.get("austen", MODEL, 1.0), Reference)
    assert one.get("austen", MODEL, 1.0, "b", before).digest == before
    assert library().get("austen", MODEL, 1.0, "b", before).digest == before, "it lies on disk"


def test_a_prompt_that_two_voices_share_outlives_the_first(library):
    one = library()
    one.add(*upload())
    one.add(*upload(name="Virginia"))
    encoded(one, "woolf")
    assert states(one)["virginia"] == "ready"
    one.remove("woolf", 0.0)
    assert isinstance(library().get("virginia", MODEL, 0.0), VoicePrompt)


def test_a_voice_of_the_service_is_not_removed(library, voices):
    refusal = library().remove("austen", 0.0)
    assert refusal.code == "VOICE_CONFLICT"
    assert (voices / "austen" / "clip.wav").exists()


def test_a_clip_that_the_service_lacks_can_be_uploaded_and_gives_way_to_one_on_disk(library, voices):
    one = library()
    assert one.add(*upload(name="Makima")).state == "pending"
    add_voice(voices, "makima", hz=400.0)
    one.refresh()
    assert one.remove("makima", 0.0).code == "VOICE_CONFLICT"
    (voices / "makima" / "clip.wav").unlink()
    one.refresh()
    assert states(one)["makima"] == "pending"
    assert one.remove("makima", 0.0) is None
    assert states(one)["makima"] == "unavailable"


def test_no_more_voices_are_kept_than_may_be(library):
    one = library(max_uploaded=1)
    one.add(*upload())
    assert one.add(*upload(name="Other", hz=500.0)).code == "CAPACITY"
    one.remove("woolf", 0.0)
    assert one.add(*upload(name="Other", hz=500.0)).voice == "other"


def test_a_disk_that_takes_nothing_is_a_refusal_and_leaves_nothing(voices, tmp_path):
    (tmp_path / "file").write_text("in the way")
    one = VoiceLibrary(VoicesConfig(path=str(voices)), PromptFiles(tmp_path / "cache"), tmp_path / "file" / "uploads")
    assert one.add(*upload()).code == "SYNTHESIS_ERROR"
    assert "woolf" not in states(one)


def test_a_voice_that_another_process_has_stored_is_the_same_upload_again_or_a_conflict(library):
    """So it is when a store dies between storing a voice and saying so, and the next one has looked before."""
    one, other = library(), library()
    voice, manifest, audio = upload()
    one.add(voice, manifest, audio)
    assert other.add(voice, manifest, audio).voice == "woolf"
    assert states(other)["woolf"] == "pending"
    late = library()
    one.add(*upload(name="Virginia"))
    assert late.add(*upload(name="Virginia", hz=500.0)).code == "VOICE_CONFLICT"
    assert late.known("virginia", encode(one.get("virginia", MODEL, 0.0)).digest).voice == "virginia"


def test_a_voice_that_another_process_has_removed_is_gone(library):
    one = library()
    one.add(*upload())
    other = library()
    one.remove("woolf", 0.0)
    assert other.remove("woolf", 0.0).code == "VOICE_NOT_FOUND"
    assert "woolf" not in states(other)
    assert other.add(*upload(hz=500.0)).state == "pending", "its id is free"


def test_what_a_disk_has_lost_of_a_voice_is_in_nobodys_way(library, voices):
    one = library()
    one.add(*upload())
    (voices / ".uploaded" / "woolf" / "manifest.json").unlink()
    second = library()
    assert "woolf" not in states(second)
    assert second.add(*upload()).state == "pending"
    assert isinstance(second.get("woolf", MODEL, 0.0), Reference)


def test_a_disk_that_removes_nothing_is_a_refusal_and_the_voice_stays(library, monkeypatch):
    one = library()
    one.add(*upload())

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(voice_library.tempfile, "mkdtemp", full)
    assert one.remove("woolf", 0.0).code == "SYNTHESIS_ERROR"
    assert states(one)["woolf"] == "pending"


def test_what_a_process_left_half_done_is_cleared_up(library, voices):
    one = library()
    one.add(*upload())
    left = voices / ".uploaded" / ".part-1234"
    left.mkdir()
    (left / "manifest.json").write_text("{}")
    assert set(states(library())) == {"austen", "makima", "woolf"}
    assert not left.exists()


def test_uploads_leave_the_memory_by_time_and_never_drive_out_the_services_own(library, voices):
    one = library(ttl_s=10.0, max_bytes=1 << 20)
    encoded(one, "austen")
    one.add(*upload())
    one.put(encode(one.get("woolf", MODEL, 0.0), codes=32_000), MODEL, 0.0)
    shutil.rmtree(voices.parent / "cache")
    shutil.rmtree(voices / ".uploaded" / ".prompts")
    assert isinstance(one.get("austen", MODEL, 9.0), VoicePrompt)
    assert isinstance(one.get("woolf", MODEL, 9.0), VoicePrompt)
    assert isinstance(one.get("austen", MODEL, 30.0), VoicePrompt)
    assert isinstance(one.get("woolf", MODEL, 30.0), Reference)


def test_one_replica_encodes_a_voice_and_the_others_wait_for_it(library):
    one = library()
    reference = one.get("austen", MODEL, 0.0, "a")
    assert isinstance(reference, Reference)
    assert one.get("austen", MODEL, 1.0, "b") == VoiceInProgress()
    assert isinstance(one.get("austen", MODEL, 1.0, "a"), Reference), "the one that has it in work may ask again"
    assert one.unassigned(MODEL, 1.0) is None
    one.put(encode(reference), MODEL, 2.0)
    assert isinstance(one.get("austen", MODEL, 3.0, "b"), VoicePrompt)


def test_a_voice_whose_replica_is_gone_or_gave_up_is_encoded_by_another(library):
    one = library()
    reference = one.get("austen", MODEL, 0.0, "a")
    assert one.unassigned(MODEL, 61.0) == "austen"
    assert isinstance(one.get("austen", MODEL, 61.0, "b"), Reference)
    one.give_up(reference.digest, MODEL)
    assert one.unassigned(MODEL, 62.0) is None, "it would fail again, every second"
    assert isinstance(one.get("austen", MODEL, 62.0, "c"), Reference)
    one.put(encode(reference), MODEL, 63.0)
    assert states(one)["austen"] == "ready"


def test_a_prompt_of_a_voice_removed_meanwhile_is_not_kept_on_disk(library, voices):
    one = library()
    one.add(*upload())
    prompt = encode(one.get("woolf", MODEL, 0.0))
    one.remove("woolf", 0.0)
    one.put(prompt, MODEL, 0.0)
    assert not list((voices / ".uploaded").rglob("*.npz"))
    assert isinstance(one.get("woolf", MODEL, 1.0), VoiceRefusal)
    assert isinstance(one.get("woolf", MODEL, 1.0, "a", prompt.digest), VoicePrompt), (
        "who waited for it speaks to the end"
    )


def test_the_directory_is_looked_at_again_after_a_while_and_not_before(library, voices):
    one = library()
    one.refresh(0.0)
    add_voice(voices, "woolf")
    before = one.version
    one.refresh(1.0)
    assert "woolf" not in states(one)
    one.refresh(3.0)
    assert states(one)["woolf"] == "pending"
    assert one.version != before
    shutil.rmtree(voices / "woolf")
    one.refresh(6.0)
    assert "woolf" not in states(one)
    assert one.version == before


@pytest.mark.parametrize("voice", ["../austen", "..", ".uploaded", "a/b", "", "/etc/passwd", "austen/../austen"])
def test_no_id_leads_out_of_the_directory(library, voice):
    one = library()
    assert isinstance(one.get(voice, MODEL, 0.0), VoiceRefusal)
    assert isinstance(one.wav(voice), VoiceRefusal)
    assert isinstance(one.remove(voice, 0.0), VoiceRefusal)


@given(st.text(max_size=120), st.one_of(st.none(), st.text(max_size=80)))
def test_an_upload_has_a_plain_id_or_none(name, given_id):
    try:
        voice = VoiceUpload(name=name, id=given_id, consent="yes").voice
    except (ValidationError, InvalidMessageError):
        return
    assert re.fullmatch(VOICE_ID, voice)


def test_the_clip_comes_back_as_it_is_encoded(library):
    one = library()
    _, _, audio = upload()
    one.add(*upload())
    assert one.wav("woolf") == audio
    assert one.wav("austen")[:4] == b"RIFF"


ENCODERS = "0123456789abcdef0123"


def exported(library, voice="austen", now_s=0.0):
    """A voice of a library whose generators run ``MODEL``, as a file."""
    library.serve(MODEL, ENCODERS)
    if library.pending(MODEL):
        encoded(library, voice)
    content = library.exported(voice, now_s)
    assert isinstance(content, bytes)
    return content


def imported(content, name="Guest"):
    """What an ingress hands over of an exported voice."""
    file = read_voice_file(content)
    given = VoiceUpload.model_validate({**file.fields, "name": name, "id": None, "consent": "yes"})
    record = UploadRecord(digest=file.digest, at="2026-01-01T00:00:00Z")
    return given.voice, given.manifest(record, VOICE_FILE), content


def accepted(library, voice, now_s=0.0):
    """What a generator does with an imported voice."""
    reference = library.get(voice, MODEL, now_s)
    assert isinstance(reference, ImportedVoice)
    library.put(reference.prompt, MODEL, now_s)
    return reference.prompt


@pytest.fixture
def elsewhere(tmp_path):
    """The library of another service, with the same checkpoint."""

    def make():
        config = VoicesConfig(path=str(tmp_path / "elsewhere"))
        return VoiceLibrary(config, PromptFiles(tmp_path / "cache" / "elsewhere"))

    (tmp_path / "elsewhere").mkdir()
    made = make()
    made.serve(MODEL, ENCODERS)
    made.make_again = make
    return made


def test_an_exported_voice_is_the_same_voice_elsewhere_and_after_a_restart(library, elsewhere):
    one = library()
    content = exported(one)
    original = one.get("austen", MODEL, 0.0)
    status = elsewhere.add(*imported(content))
    assert (status.voice, status.state, status.report) == ("guest", "pending", None)
    accepted(elsewhere, "guest")
    again = elsewhere.make_again()
    again.serve(MODEL, ENCODERS)
    for there in (elsewhere, again):
        assert states(there) == {"guest": "ready"}
        prompt = there.get("guest", MODEL, 0.0)
        np.testing.assert_array_equal(prompt.codes, original.codes)
        np.testing.assert_array_equal(prompt.speaker_embedding, original.speaker_embedding)
        assert (prompt.voice, prompt.transcript, prompt.loudness) == ("guest", SAID, original.loudness)
        assert there.voices()[0].manifest.consent == "yes"
        assert "without its clip" in there.wav("guest").message
    assert read_voice_file(elsewhere.exported("guest", 0.0)).digest == read_voice_file(content).digest


def test_importing_again_costs_nothing_and_another_voice_of_that_name_is_refused(library, elsewhere):
    content = exported(library())
    voice, manifest, _ = imported(content)
    elsewhere.add(voice, manifest, content)
    prompt = accepted(elsewhere, voice)
    assert elsewhere.add(voice, manifest, content).state == "ready"
    assert elsewhere.known(voice, "0" * 32).code == "VOICE_CONFLICT"
    assert elsewhere.remove(voice, 0.0) is None
    assert elsewhere.voices() == []
    assert isinstance(elsewhere.get(voice, MODEL, 1.0, "b", prompt.digest), VoicePrompt), "an utterance finishes"


def test_a_voice_of_another_checkpoint_is_refused_and_one_that_was_there_before_says_why(library, elsewhere):
    content = exported(library())
    elsewhere.add(*imported(content))
    accepted(elsewhere, "guest")
    elsewhere.serve("model-2", "f" * 20)
    refusal = elsewhere.add(*imported(content, "Another"))
    assert refusal.code == "VOICE_INVALID"
    assert "other encoders" in refusal.message
    (status,) = elsewhere.voices()
    assert (status.state, "other encoders" in status.reason) == ("unavailable", True)
    assert elsewhere.unassigned("model-2", 0.0) is None
    elsewhere.serve(MODEL, ENCODERS)
    assert states(elsewhere) == {"guest": "ready"}


def test_nothing_travels_before_a_generator_has_said_which_checkpoint_it_runs(library, elsewhere):
    one = library()
    content = exported(library())
    for answer in (one.exported("austen", 0.0), elsewhere.make_again().add(*imported(content))):
        assert (answer.code, "no generator has reported" in answer.message) == ("TTS_UNAVAILABLE", True)
    one.serve("model-2", ENCODERS)
    assert "has not been encoded yet" in one.exported("austen", 0.0).message
    assert one.exported("makima", 0.0).code == one.exported("../austen", 0.0).code == "VOICE_NOT_FOUND"


def test_a_damaged_imported_voice_is_unavailable_and_hides_no_other(library):
    one = library()
    one.serve(MODEL, ENCODERS)
    content = exported(one)
    one.add(*imported(content))
    (file,) = one._uploads.rglob(VOICE_FILE)
    file.write_bytes(content[:100])
    assert states(library()) == {"austen": "pending", "guest": "unavailable", "makima": "unavailable"}
