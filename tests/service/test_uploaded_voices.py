"""Voices uploaded to a running service: spoken with, kept over the loss of their store, removed."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import time
from http.client import HTTPConnection

import numpy as np
import pytest
from clips import ffmpeg, wav
from running_service import ROOT, speak, wait_until

from serve_app.cli.voices import VoicesError
from serve_app.voices.voice_file import read_voice_file

TEXT = "Some words that may well be said in four seconds."
AUSTEN = ROOT / "voices" / "austen"
SAID = {"transcript": TEXT, "language": "english", "consent": "The speaker agreed in writing."}


def state(voices, voice):
    return voices.show(voice)["state"]


def wait_until_ready(voices, voice):
    wait_until(lambda: state(voices, voice) == "ready", 30, f"{voice} is encoded")


def exported_digest(voices, voice):
    """The digest of a voice's prompt. A new coordinator can export nothing until a generator has reported."""
    files = []

    def exported():
        with contextlib.suppress(VoicesError):
            files.append(voices.file(voice))
        return files

    wait_until(exported, 20, f"{voice} is exported")
    return read_voice_file(files[0]).digest


def prompts_kept(service):
    """When each of the uploaded voices' prompts was written."""
    folder = service.launched.output.parent / "uploads"
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}


def same(one, other):
    """Whether the samples are; where a stream is cut into audio chunks, and so the last bit, depends on who listens."""
    first, second = (np.frombuffer(each.pcm, "<i2").astype(int) for each in (one, other))
    if len(first) != len(second) or not len(first):
        return False
    return np.sqrt(np.mean((first - second) ** 2)) <= 0.01 * np.sqrt(np.mean(first**2))


def differences(one, other):
    """The largest difference of two utterances' samples in each frame."""
    first, second = (np.frombuffer(each.pcm, "<i2").astype(int) for each in (one, other))
    if len(first) != len(second):
        return f"{len(first)} and {len(second)} samples"
    return [int(np.abs(first[at : at + 1920] - second[at : at + 1920]).max()) for at in range(0, len(first), 1920)]


async def spoken(service, **fields):
    async with service.connect() as connection:
        return await speak(connection, "It is alive.", seed=1, **fields)


async def test_an_uploaded_voice_is_encoded_by_itself_and_spoken_with(service, voices):
    added = voices.add(wav(hz=260.0), {"name": "Woolf", **SAID})
    assert (added["state"], added["verdict"]) == ("pending", "accept")
    wait_until_ready(voices, "woolf")
    as_woolf, as_austen = await asyncio.gather(spoken(service, voice="woolf"), spoken(service, voice="austen"))
    assert as_woolf.end["type"] == as_austen.end["type"] == "complete"
    assert as_woolf.pcm
    assert not same(as_woolf, as_austen)


async def test_an_exported_voice_is_imported_and_says_the_same(service, voices):
    content = voices.file("austen")
    imported = voices.add(content, {"name": "Guest", "consent": "public domain"}, part="voice")
    assert (imported["id"], imported["transcript"]) == ("guest", voices.show("austen")["transcript"])
    wait_until_ready(voices, "guest")
    as_guest, as_austen = await spoken(service, voice="guest"), await spoken(service, voice="austen")
    assert as_guest.end["type"] == "complete"
    assert same(as_guest, as_austen), differences(as_guest, as_austen)
    with pytest.raises(VoicesError, match="without its clip"):
        voices.audio("guest")
    with pytest.raises(VoicesError, match="VOICE_INVALID"):
        voices.add(content[:-1], {"name": "Damaged", "consent": "public domain"}, part="voice")


@pytest.mark.slow
async def test_the_clip_of_another_voice_does_not_change_that_voice(service, voices):
    """Both have one prompt. A new coordinator has none in memory, and takes that of the one which is spoken first."""
    before, as_austen = exported_digest(voices, "austen"), await spoken(service, voice="austen")
    os.kill(service.pid_of("Coordinator"), signal.SIGKILL)
    manifest = json.loads((AUSTEN / "manifest.json").read_text())
    fields = {"name": "Copy", "transcript": manifest["transcript"], "consent": "public domain"}
    await asyncio.to_thread(voices.add, (AUSTEN / "reference.wav").read_bytes(), fields)
    as_copy = await spoken(service, voice="copy")
    assert same(as_copy, as_austen)
    assert await asyncio.to_thread(exported_digest, voices, "austen") == before


async def test_a_voice_can_be_spoken_with_at_once(service, voices):
    voices.add(ffmpeg("mp4", "aac"), {"name": "Telephone", "consent": "yes"})
    answer = await spoken(service, voice="telephone")
    assert answer.end["type"] == "complete"
    wait_until_ready(voices, "telephone")


@pytest.mark.slow
async def test_voices_survive_their_store_and_streams_do_not_notice(service, voices):
    voices.add(wav(hz=270.0), {"name": "Kept", **SAID})
    before = await spoken(service, voice="kept")
    kept = prompts_kept(service)

    async def kill_it():
        await asyncio.sleep(0.3)
        os.kill(service.pid_of("Coordinator"), signal.SIGKILL)

    async with service.connect() as connection:
        during, _ = await asyncio.gather(speak(connection, "It is alive. " * 8, voice="kept"), kill_it())
    assert during.end["type"] == "complete"
    after = await spoken(service, voice="kept")
    assert after.end["type"] == "complete"
    assert same(after, before)
    wait_until(lambda: "kept" in {voice["id"] for voice in voices.list()}, 20, "the store lists it again")
    wait_until_ready(voices, "kept")  # as soon as a generator has told the new store its model
    assert prompts_kept(service).items() >= kept.items() > set(), "encoded once"


@pytest.mark.slow
async def test_a_removed_voice_finishes_its_utterances_and_is_refused_then(service, voices):
    voices.add(wav(hz=280.0), {"name": "Gone", **SAID})
    await spoken(service, voice="gone")
    async with service.connect() as connection:
        # One text chunk of twelve seconds of noise, of which eight are made before its listener has played any.
        speaking = asyncio.create_task(
            speak(connection, "It is alive and it goes on and on for a while " * 2, voice="gone")
        )
        await asyncio.sleep(0.3)
        voices.remove("gone")
        assert (await speaking).end["type"] == "complete"
    deadline_s = time.monotonic() + 15
    while (answer := await spoken(service, voice="gone")).end["type"] != "error":
        assert time.monotonic() < deadline_s, "it is still spoken with"
        await asyncio.sleep(0.5)
    assert answer.end["code"] == "VOICE_NOT_FOUND"


@pytest.mark.slow
async def test_an_utterance_ends_with_the_clip_it_began_with_though_that_is_removed_replaced_and_its_generator_dies(
    service, voices
):
    voices.add(wav(hz=285.0), {"name": "Leaving", **SAID})
    asked = {"voice": "leaving", "seed": 7}
    sentences = ["It is alive and it goes on and on, for quite a while. "] * 8
    async with service.connect() as connection:
        before = await speak(connection, "".join(sentences), **asked)
        # The rest of its text is sent once the clip is replaced, so that it cannot end before.
        begun = {"utterance_id": "leaving", "final": False}
        speaking = asyncio.create_task(speak(connection, "".join(sentences[:4]), **asked, **begun))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(voices.remove, "leaving")
        assert "leaving" not in {voice["id"] for voice in voices.list()}
        await asyncio.to_thread(voices.add, wav(hz=560.0), {"name": "Leaving", **SAID})
        as_another = await spoken(service, voice="leaving")
        rest = {"utterance_id": "leaving", "text": "".join(sentences[4:]), "final": True}
        await connection.send(json.dumps({"type": "speak", **rest}))
        os.kill(service.pid_of("ServeReplica:tts:Generator"), signal.SIGKILL)
        during = await speaking
    assert during.end["type"] == as_another.end["type"] == "complete"
    assert [message["type"] for message in during.messages].count("segment") >= 3
    assert same(during, before)
    assert not same(as_another, await spoken(service, voice="austen"))


async def test_one_clip_uploaded_by_many_at_once_is_one_voice(service, voices):
    add = asyncio.to_thread
    answers = await asyncio.gather(
        *(add(voices.add, wav(hz=290.0), {"name": "Crowd", **SAID}) for _ in range(4)), return_exceptions=True
    )
    assert [answer["id"] for answer in answers] == ["crowd"] * 4
    assert [voice["id"] for voice in voices.list() if voice["uploaded"]] == ["crowd"]


@pytest.mark.slow
async def test_an_upload_whose_ingress_dies_can_be_made_again_and_is_one_voice(service, voices):
    def add():
        return voices.add(wav(hz=310.0), {"name": "Twice", **SAID})

    def added():
        with contextlib.suppress(VoicesError):  # Serve's proxy says 500, or has nobody to give it to
            return add()["id"] == "twice"

    uploading = asyncio.create_task(asyncio.to_thread(add))
    await asyncio.sleep(0.2)  # a clip is decoded for about a second
    os.kill(service.pid_of("ServeReplica:tts:Ingress"), signal.SIGKILL)
    with contextlib.suppress(VoicesError):
        await uploading
    await asyncio.to_thread(wait_until, added, 60, "another ingress takes it")
    assert [voice["id"] for voice in voices.list() if voice["uploaded"]] == ["twice"]


def test_a_large_clip_arrives_whole_and_one_of_its_equal_channels_is_used(service, voices):
    added = voices.add(wav(seconds=29.0, rate_hz=48_000, channels=2), {"name": "Large", "consent": "yes"})
    checks = {check["name"]: check for check in added["report"]}
    assert checks["duration_s"]["measured"] == pytest.approx(29, abs=0.5)
    assert (checks["channels"]["verdict"], checks["channels"]["measured"]) == ("accept", 2)
    assert voices.audio("large")[:4] == b"RIFF"


async def test_a_session_speaks_with_its_inline_voice(service, voices):
    """Nearly as long as may be: every request carries 1.4 MB of it."""
    audio = base64.b64encode(ffmpeg("mp3", "libmp3lame", seconds=29.0)).decode()
    async with service.connect() as connection:
        await connection.send(json.dumps({"type": "start", "voice_audio": audio}))
        ready = json.loads(await connection.recv())
        assert (ready["type"], ready["voice"]) == ("ready", "inline")
        own = await speak(connection, "It is alive.", seed=1)
        again = await speak(connection, "It is alive.", seed=1)
        other = await speak(connection, "It is alive.", seed=1, voice="austen")
    assert own.end["type"] == other.end["type"] == "complete"
    assert same(own, again)
    assert not same(own, other)
    assert not [voice for voice in voices.list() if voice["uploaded"]]


@pytest.mark.slow
def test_malformed_uploads_are_refused_and_the_replicas_live(service, voices):
    pids = {name: service.pid_of(name) for name in ("ServeReplica:tts:Ingress", "ServeReplica:tts:Generator")}
    seed = ffmpeg("mp4", "aac")
    for audio in (b"", b"no audio", seed[:100], seed[:40] + bytes(5000), b"ID3" + os.urandom(2000), bytes(1000)):
        with contextlib.closing(HTTPConnection(service.address, timeout=30)) as connection:
            boundary = "xyzzy"
            head = f'--{boundary}\r\ncontent-disposition: form-data; name="audio"; filename="a"\r\n\r\n'.encode()
            said = "".join(
                f'\r\n--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}'
                for name, value in {"name": "bad", "consent": "yes"}.items()
            ).encode()
            body = head + audio + said + f"\r\n--{boundary}--\r\n".encode()
            kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
            connection.request("POST", "/v1/audio/voices", body, kind)
            answer = connection.getresponse()
            assert answer.status == 422
            assert json.loads(answer.read())["code"] == "VOICE_INVALID"
    assert {name: service.pid_of(name) for name in pids} == pids
