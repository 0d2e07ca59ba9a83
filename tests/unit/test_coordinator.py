"""The store's own class without Ray: whose uploads are whose, and what generators are told."""

import asyncio
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clips import wav
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, ActorUnavailableError

from serve_app.audio.loudness import Loudness
from serve_app.cluster.registry import GONE_AFTER_S, GeneratorStatus
from serve_app.config import AppConfig, VoicesConfig
from serve_app.errors import TtsUnavailableError, VoiceConflictError
from serve_app.voices.library import VoiceInProgress, VoiceRefusal
from serve_app.voices.voice import Reference, UploadRecord, VoicePrompt, VoiceUpload, read_reference

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from serve_app import app
    from serve_app.deployments import coordinator
    from serve_app.deployments.coordinator import Coordinator, directory_of, namespace_of
    from serve_app.deployments.ingress import _answer_of

TEXT = "Some words that may well be said in four seconds."


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TTS_CACHE", str(tmp_path / "cache"))

    def made(application="tts", **fields):
        return Coordinator(VoicesConfig(path=str(tmp_path / "voices"), **fields), application)

    return made


def upload(name="Woolf", hz=300.0):
    audio = wav(hz=hz)
    reference = read_reference("v", audio, TEXT)
    record = UploadRecord(digest=reference.digest, at="2026-01-01T00:00:00Z", report=reference.report)
    given = VoiceUpload(name=name, transcript=TEXT, language="english", consent="yes")
    return given.voice, given.manifest(record), reference.wav()


def ready(replica="a"):
    return GeneratorStatus(replica, "ready", fingerprint="model", slots=10)


def names(store):
    return [status.voice for status in store.voices()]


def test_two_applications_share_no_upload_even_in_the_same_directory(store, tmp_path):
    one, other = store("one"), store("other")
    one.add(*upload())
    assert (names(one), names(other), names(store("one")), names(store("other"))) == (["woolf"], [], ["woolf"], [])
    elsewhere = store("one", uploads=str(tmp_path / "volume"))
    assert names(elsewhere) == []
    elsewhere.add(*upload())
    assert (tmp_path / "volume" / "one" / "woolf" / "manifest.json").is_file()
    assert namespace_of("one") != namespace_of("other")


@given(st.text(max_size=40), st.text(max_size=40))
def test_an_applications_directory_is_its_own_and_below_the_uploads(one, other):
    for name in (one, other):
        assert Path(directory_of(name)).parts == (directory_of(name),)
        assert not directory_of(name).startswith(".")
    if one and other and "default" not in (one, other):
        assert (directory_of(one) == directory_of(other)) == (one == other)


def test_an_idle_replica_gets_a_pending_voice_and_only_one_gets_it(store):
    made = store()
    before = made.report(ready("a"))
    assert before.encode is None
    made.add(*upload())
    assert made.report(GeneratorStatus("b", "loading")).encode is None, "one that loads has no model to encode with"
    bulletin = made.report(ready("a"))
    assert (bulletin.encode, bulletin.voices == before.voices) == ("woolf", False)
    reference = made.get("woolf", "model", "a")
    assert isinstance(reference, Reference)
    assert made.report(ready("b")).encode is None
    made.put(VoicePrompt("woolf", reference.digest, np.zeros(4, np.float32), None, TEXT, Loudness(-20.0, 0.5)), "model")
    after = made.report(ready("b"))
    assert (after.encode, after.voices) == (None, bulletin.voices)


def test_a_store_that_was_killed_comes_back_with_its_voices_and_the_same_version(store):
    first = store()
    first.add(*upload())
    version = first.report(ready()).voices
    assert store().report(ready()).voices == version
    assert first.remove("woolf") is None
    assert first.report(ready()).voices != version


async def answer(value):
    await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


async def test_what_the_store_refuses_is_raised_with_its_code():
    assert await _answer_of(answer(5)) == 5
    with pytest.raises(VoiceConflictError, match="taken"):
        await _answer_of(answer(VoiceRefusal("taken", "VOICE_CONFLICT")))
    with pytest.raises(TtsUnavailableError):
        await _answer_of(answer(ActorUnavailableError("gone", None)))


async def test_a_coordinator_that_is_missing_for_a_moment_is_not_an_error_of_this_service(monkeypatch):
    """Ray says so with a plain ValueError, when an actor's name is taken or freed between two looks at it."""

    class Gone:
        class add:  # noqa: N801
            @staticmethod
            async def remote(*_):
                raise ActorDiedError

    def looked_up(*_):
        raise ValueError("Failed to look up actor with name 'coordinator'")

    options = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=looked_up))
    monkeypatch.setattr(coordinator.ray, "remote", lambda _: options)
    client = coordinator.CoordinatorClient("tts", VoicesConfig())
    client._actor = Gone
    with pytest.raises(TtsUnavailableError) as refused:
        await _answer_of(client.add(*upload()))
    assert refused.value.http_status == 503


def test_the_directory_of_uploads_is_resolved_like_that_of_voices(tmp_path):
    config = AppConfig(voices=VoicesConfig(uploads="kept"))
    assert app.with_absolute_paths(config, tmp_path).voices.uploads == str(tmp_path / "kept")
    assert app.with_absolute_paths(AppConfig(), tmp_path).voices.uploads is None


def test_another_generator_gets_the_voice_that_a_lost_one_was_encoding(store, monkeypatch):
    now_s = [0.0]
    monkeypatch.setattr(coordinator, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    made = store()
    made.add(*upload())
    for replica in "ab":
        made.report(ready(replica))
    assert isinstance(made.get("woolf", "model", "a"), Reference)
    made.report(ready("b"))
    assert made.get("woolf", "model", "b") == VoiceInProgress()
    now_s[0] = GONE_AFTER_S + 1
    assert made.report(ready("b")).encode == "woolf"
    assert isinstance(made.get("woolf", "model", "b"), Reference)
