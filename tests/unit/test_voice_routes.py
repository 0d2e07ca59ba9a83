"""Voices over HTTP and within a session, over a real server, a real library and a backend without generators."""

import asyncio
import base64
import contextlib
import io
import json
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
import pytest_asyncio
import soundfile as sf
from clips import ffmpeg, wav
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from known_backend import served
from websockets.asyncio.client import connect

from serve_app.audio.loudness import Loudness
from serve_app.cluster.registry import Readiness
from serve_app.config import AccessConfig, AppConfig, VoicesConfig
from serve_app.errors import error_of_code
from serve_app.speech import AudioChunk, SpeechEnd
from serve_app.voices.decoding import MAX_CLIP_BYTES, decode
from serve_app.voices.library import PromptFiles, VoiceLibrary, VoiceRefusal
from serve_app.voices.voice import Reference, VoicePrompt
from serve_app.voices.voice_file import read_voice_file
from serve_app.web import clips, voice_routes
from serve_app.web.api_keys import digest_of

TEXT = "Some words that may well be said in four seconds."
CONSENT = "The speaker agreed in writing on the 1st of May."
CODES = {"INVALID_MESSAGE", "VOICE_INVALID", "VOICE_NOT_FOUND", "VOICE_CONFLICT", "CAPACITY"}


class LibraryBackend:
    """Keeps voices in a library, and says one frame for each request."""

    def __init__(self, library):
        self.library = library
        self.requests = []

    async def speak(self, request):
        self.requests.append(request)
        yield AudioChunk(0, np.zeros((1, 16), np.int16), np.zeros(1920, np.float32))
        yield SpeechEnd("eos", 1)

    async def share_load(self, backlog):
        return 100

    async def readiness(self):
        return Readiness(ready=True, model="none", weights="random")

    async def voices(self):
        return self.library.voices()

    async def known_voice(self, voice, digest):
        return given_or_raised(self.library.known(voice, digest))

    async def add_voice(self, voice, manifest, wav):
        return given_or_raised(self.library.add(voice, manifest, wav))

    async def remove_voice(self, voice):
        given_or_raised(self.library.remove(voice, 0.0))

    async def voice_wav(self, voice):
        return given_or_raised(self.library.wav(voice))

    async def exported_voice(self, voice):
        return given_or_raised(self.library.exported(voice, 0.0))


def given_or_raised(answer):
    if isinstance(answer, VoiceRefusal):
        raise error_of_code(answer.code, answer.message)
    return answer


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("voices")
    folder = path / "austen"
    folder.mkdir()
    manifest = {
        "name": "A",
        "audio": "a.wav",
        "language": "english",
        "speaker": "s",
        "licence": "CC0",
        "transcript": TEXT,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "a.wav").write_bytes(wav(hz=150.0))
    return AppConfig(
        voices=VoicesConfig(path=str(path), default="austen", max_inline_bytes=1 << 20, aliases={"echo": "austen"})
    )


@pytest.fixture(scope="module")
def backend(config, tmp_path_factory):
    return LibraryBackend(VoiceLibrary(config.voices, PromptFiles(tmp_path_factory.mktemp("cache"))))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def host(backend, config):
    async with served(backend, config) as host:
        yield host


@pytest_asyncio.fixture(loop_scope="session")
async def client(host, backend):
    async with httpx.AsyncClient(base_url=f"http://{host}", timeout=30) as client:
        yield client
    for status in backend.library.voices():
        backend.library.remove(status.voice, 0.0)


async def add(client, audio=None, **fields):
    given = {"name": "Woolf", "transcript": TEXT, "language": "english", "consent": CONSENT, **fields}
    form = {name: value for name, value in given.items() if value is not None}
    return await client.post("/v1/audio/voices", data=form, files={"audio": ("clip.wav", audio or wav())})


async def test_a_key_that_may_only_speak_sees_the_voices_but_nothing_about_their_speakers(backend, config, tmp_path):
    keys = [{"name": name, "sha256": digest_of(name), "scopes": [name]} for name in ("speak", "voices")]
    (tmp_path / "keys").write_text(json.dumps(keys))
    guarded = config.model_copy(update={"access": AccessConfig(keys_file=str(tmp_path / "keys"))})
    to_choose = {"id", "name", "language", "state", "reason", "mode"}
    private = {"transcript", "speaker", "licence", "source", "consent", "uploaded", "verdict", "report"}
    async with served(backend, guarded) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:

        async def get(path, key):
            return await client.get("/v1/audio/voices" + path, headers={"x-api-key": key})

        for key, fields in (("speak", to_choose), ("voices", to_choose | private)):
            (listed,) = (await get("", key)).json()["voices"]
            assert listed.keys() == fields
            assert (await get("/austen", key)).json() == listed
        refused = await get("/austen/audio", "speak")
        assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHORIZED")
        assert "scope voices" in refused.json()["message"]
        assert (await get("/austen/audio", "voices")).content[:4] == b"RIFF"


async def test_a_voice_is_added_listed_shown_played_and_removed(client):
    answer = await add(client, licence="CC0-1.0", source="a test", loudness_lufs="-20")
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["id"], body["state"], body["verdict"], body["mode"]) == ("woolf", "pending", "accept", "in_context")
    assert (body["consent"], body["licence"], body["source"]) == (CONSENT, "CC0-1.0", "a test")
    assert {"name", "verdict", "measured", "limit", "advice", "over"} == set(body["report"][0])
    assert body["uploaded"]
    assert body["loudness_lufs"] == -20.0
    listed = (await client.get("/v1/audio/voices")).json()["voices"]
    assert [voice["id"] for voice in listed] == ["austen", "woolf"]
    assert listed[1] == body
    assert listed[0]["uploaded"] is None
    assert (await client.get(answer.headers["location"])).json() == body
    audio = await client.get("/v1/audio/voices/woolf/audio")
    samples, rate_hz = sf.read(io.BytesIO(audio.content))
    assert (audio.headers["content-type"], rate_hz) == ("audio/wav", 24_000)
    assert abs(len(samples) / rate_hz - 4.4) < 0.3
    assert (await client.delete("/v1/audio/voices/woolf")).status_code == 204
    for gone in (client.get, client.delete):
        answer = await gone("/v1/audio/voices/woolf")
        assert (answer.status_code, answer.json()["code"]) == (404, "VOICE_NOT_FOUND")


ENCODERS = "0123456789abcdef0123"


@pytest.fixture
def austens_file(backend):
    """``austen`` as another service exports it; this one runs the same checkpoint."""
    library = backend.library
    library.serve("model", ENCODERS)
    reference = library.get("austen", "model", 0.0)
    if isinstance(reference, Reference):
        codes = np.ones((50, 16), np.int16)
        prompt = VoicePrompt("austen", reference.digest, np.ones(8, np.float32), codes, TEXT, Loudness(-20.0, 0.5))
        library.put(prompt, "model", 0.0)
    return library.exported("austen", 0.0)


async def import_(client, content, **fields):
    return await client.post("/v1/audio/voices", data=fields, files={"voice": ("voice", content)})


async def test_a_voice_is_exported_and_imported_under_another_name(client, austens_file):
    answer = await client.get("/v1/audio/voices/A/file")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert read_voice_file(answer.content).digest == read_voice_file(austens_file).digest
    assert answer.headers["content-disposition"] == 'attachment; filename="austen.safetensors"'
    assert (await client.get("/v1/audio/voices/nobody/file")).status_code == 404
    answer = await import_(client, austens_file, name="Guest", consent=CONSENT)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["id"], body["name"], body["state"], body["mode"]) == ("guest", "Guest", "pending", "in_context")
    assert (body["transcript"], body["licence"], body["consent"], body["speaker"]) == (TEXT, "CC0", CONSENT, "s")
    assert "verdict" not in body
    assert (await client.get(answer.headers["location"])).json() == body
    assert (await import_(client, austens_file, id="guest", consent=CONSENT)).status_code == 200
    audio = await client.get("/v1/audio/voices/guest/audio")
    assert (audio.status_code, audio.json()["code"]) == (404, "VOICE_NOT_FOUND")
    assert (await client.delete("/v1/audio/voices/guest")).status_code == 204


@pytest.mark.parametrize(
    ("change", "fields", "status", "reason"),
    [
        (None, {}, 400, "consent is missing"),
        (None, {"consent": "yes"}, 409, "exists already"),
        (None, {"consent": "yes", "name": "Echo"}, 409, "is an alias"),
        (None, {"consent": "yes", "id": "../austen"}, 400, "id is wrong"),
        (None, {"consent": "yes", "licence": "mine"}, 400, "unknown field 'licence' of an import; allowed: voice, id"),
        ({"encoders": "f" * 20}, {"consent": "yes", "id": "guest"}, 422, "other encoders"),
        ({"fields": {"transcript": TEXT, "name": "x" * 101}}, {"consent": "yes"}, 400, "name is wrong"),
        ({"fields": {"transcript": TEXT, "name": "x", "owner": "x"}}, {"consent": "yes"}, 400, "unknown field 'owner'"),
        (b"RIFF and so on", {"consent": "yes"}, 422, "damaged, or not a safetensors file"),
        (bytes(1 << 20), {"consent": "yes"}, 422, "the limit is 131072"),
    ],
)  # fmt: skip
async def test_an_import_is_refused_with_its_reason(client, austens_file, change, fields, status, reason):
    if isinstance(change, dict):
        austens_file = replace(read_voice_file(austens_file), **change).to_bytes()
    elif change is not None:
        austens_file = change
    answer = await import_(client, austens_file, **fields)
    assert (answer.status_code, answer.json()["code"] in CODES) == (status, True)
    assert reason in answer.json()["message"]
    assert [voice["id"] for voice in (await client.get("/v1/audio/voices")).json()["voices"]] == ["austen"]


async def test_the_same_clip_again_is_not_even_decoded(client, monkeypatch):
    assert (await add(client)).status_code == 201
    monkeypatch.setattr(clips, "decode_apart", lambda _: pytest.fail("it was decoded"))
    again = await add(client)
    assert (again.status_code, again.json()["id"]) == (200, "woolf")


async def test_another_clip_of_that_name_is_a_conflict_and_a_shipped_voice_stays(client):
    await add(client)
    other = await add(client, wav(hz=400.0))
    assert (other.status_code, other.json()["code"]) == (409, "VOICE_CONFLICT")
    for answer in [await add(client, name="Austen"), await client.delete("/v1/audio/voices/austen")]:
        assert (answer.status_code, answer.json()["code"]) == (409, "VOICE_CONFLICT")


async def test_a_bad_clip_is_refused_with_the_whole_report(client, backend):
    answer = await add(client, wav(seconds=2.0, level=0.0005))
    assert answer.status_code == 422
    body = answer.json()
    assert body["code"] == "VOICE_INVALID"
    verdicts = {check["name"]: check["verdict"] for check in body["report"]}
    assert verdicts["duration_s"] == verdicts["level_dbfs"] == "refuse"
    assert verdicts["channels"] == "accept"
    assert "duration_s" in body["message"]
    assert [status.voice for status in backend.library.voices()] == ["austen"]


async def test_what_a_telephone_records_is_taken_and_without_transcript_only_the_timbre(client):
    answer = await add(client, ffmpeg("mp4", "aac", 44_100), transcript=None, language=None)
    assert answer.status_code == 201, answer.text
    assert (answer.json()["mode"], answer.json()["verdict"], answer.json()["language"]) == ("x_vector", "warn", "auto")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"consent": None}, "consent is missing"),
        ({"consent": "  "}, "consent is missing"),
        ({"name": None}, "name is missing"),
        ({"name": "!!!"}, "no id can be made"),
        ({"name": "a\nb"}, "name is wrong"),
        ({"id": "../../etc"}, "id is wrong"),
        ({"id": ".uploaded"}, "id is wrong"),
        ({"transcript": "x" * 2001}, "transcript is wrong"),
        ({"loudness_lufs": "loud"}, "loudness_lufs is wrong: level of its speech in LUFS, -40 to -10"),
        ({"loudness_lufs": "-9"}, "loudness_lufs is wrong"),
        ({"loudness_lufs": "nan"}, "loudness_lufs is wrong"),
        ({"path": "/etc/passwd"}, "unknown field 'path'"),
        ({"url": "http://127.0.0.1/"}, "unknown field 'url'"),
    ],
)
async def test_a_wrong_field_is_named_with_what_is_allowed(client, fields, says):
    answer = await add(client, **fields)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_MESSAGE")
    assert says in answer.json()["message"]


@pytest.mark.parametrize("voice", ["..%2F..%2Fetc", "%2e%2e", ".uploaded", "a%00b", "x" * 300])
async def test_no_address_leads_out_of_the_voices(client, voice):
    for answer in [
        await client.get(f"/v1/audio/voices/{voice}/audio"),
        await client.get(f"/v1/audio/voices/{voice}"),
        await client.delete(f"/v1/audio/voices/{voice}"),
    ]:
        assert answer.status_code == 404


async def test_the_form_needs_one_clip_and_is_a_form(client):
    for sent in [
        {"data": {"name": "x", "consent": "y"}, "files": {"other": wav()}},
        {"data": {"name": "x", "consent": "y", "audio": "no file"}},
        {"json": {"name": "x"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data"}},
        {"files": [("audio", wav()), ("audio_sample", wav())]},
    ]:
        answer = await client.post("/v1/audio/voices", **sent)
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_MESSAGE")


async def test_a_large_body_is_refused_before_it_is_read_and_while_it_is(client, host):
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(
        b"POST /v1/audio/voices HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        b"content-length: 99999999999\r\n\r\n"
    )
    assert b" 422 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()

    async def endless():
        yield b'--x\r\ncontent-disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(1 << 20)

    with contextlib.suppress(httpx.WriteError):
        answer = await client.post(
            "/v1/audio/voices", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code == 422
        assert str(MAX_CLIP_BYTES) in answer.json()["message"]


async def test_a_page_of_another_origin_changes_nothing(client, backend):
    headers = {"origin": "https://elsewhere.example"}
    assert (await client.delete("/v1/audio/voices/austen", headers=headers)).status_code == 403
    assert (await client.post("/v1/audio/voices", files={"audio": wav()}, headers=headers)).status_code == 403


async def test_too_many_concurrent_uploads_get_a_retry_time(client, monkeypatch):
    monkeypatch.setattr(clips, "MAX_CLIPS", 1)
    answers = await asyncio.gather(*(add(client, name=f"voice {n}", audio=wav(hz=200.0 + n)) for n in range(4)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes[0] == 201
    assert codes[-1] == 503
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "CAPACITY"
    assert refused.headers["retry-after"]


async def test_an_upload_that_trickles_is_ended(host, monkeypatch):
    monkeypatch.setattr(voice_routes, "READ_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection(*host.split(":"))
    head = "POST /v1/audio/voices HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    writer.write(f"{head}content-length: 1000\r\n\r\n--x".encode())
    assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Starlette leaves a part without its end to the GC
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b'--x\r\ncontent-disposition: form-data; name="audio"; filename="a"\r\n\r\n']),
)
async def test_no_body_is_answered_by_anything_but_a_typed_error(client, body, head):
    with pytest.MonkeyPatch.context() as patch:  # a decoder in a process for each example would take minutes
        patch.setattr(clips, "decode_apart", decode)
        answer = await client.post(
            "/v1/audio/voices", content=head + body, headers={"content-type": "multipart/form-data; boundary=x"}
        )
    assert answer.status_code in {400, 422}
    assert answer.json()["code"] in CODES


# A voice for one session.


async def say(socket, **message):
    await socket.send(json.dumps(message))
    while True:
        answer = await asyncio.wait_for(socket.recv(), 20)
        if isinstance(answer, str):
            answer = json.loads(answer)
            if answer["type"] in {"ready", "complete", "error"}:
                return answer


def base64_of(audio):
    return base64.b64encode(audio).decode()


async def test_an_inline_voice_belongs_to_its_session_only(host, backend):
    audio = base64_of(wav(hz=310.0))
    async with connect(f"ws://{host}/api/v1/speak") as one, connect(f"ws://{host}/api/v1/speak") as other:
        ready = await say(one, type="start", voice_audio=audio, voice_transcript=TEXT, language="english")
        assert (ready["type"], ready["voice"]) == ("ready", "inline"), ready
        assert (await say(one, type="speak", text="Hello."))["type"] == "complete"
        request = backend.requests[-1]
        assert (request.voice, request.clip.transcript, request.clip.pcm16.dtype) == ("inline", TEXT, np.int16)
        assert (await say(one, type="speak", text="Hello.", voice="austen"))["type"] == "complete"
        assert backend.requests[-1].clip is None
        assert (await say(one, type="speak", text="Hello.", voice="inline"))["type"] == "complete"
        assert backend.requests[-1].clip is not None
        assert (await say(other, type="speak", text="Hello.", voice="inline"))["code"] == "VOICE_NOT_FOUND"
        again = await say(one, type="start", voice_audio=audio, voice_transcript=TEXT)
        assert again["type"] == "ready"
        second = await say(one, type="start", voice_audio=base64_of(wav(hz=320.0)))
        assert "already" in second["message"]
    assert [status.voice for status in backend.library.voices()] == ["austen"]


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"voice_audio": "not base64!"}, "INVALID_MESSAGE", "base64"),
        ({"voice_audio": "/etc/passwd"}, "INVALID_MESSAGE", "base64"),
        ({"voice_audio": base64_of(b"no audio")}, "VOICE_INVALID", "decoded"),
        ({"voice_audio": base64_of(wav(seconds=1.0))}, "VOICE_INVALID", "duration_s"),
        ({"voice_audio": ""}, "INVALID_MESSAGE", "base64"),
        ({"voice_audio": base64_of(wav()), "voice": "austen"}, "INVALID_MESSAGE", "one of them"),
        ({"voice_audio": 5}, "INVALID_MESSAGE", "base64"),
    ],
)
async def test_a_wrong_inline_voice_gets_an_error_and_the_session_goes_on(host, fields, code, says):
    async with connect(f"ws://{host}/api/v1/speak") as socket:
        answer = await say(socket, type="start", **fields)
        assert answer["code"] == code, answer
        assert says in answer["message"]
        assert (await say(socket, type="speak", text="Hello."))["type"] == "complete"


async def test_a_query_brings_no_voice(host):
    async with connect(f"ws://{host}/api/v1/speak?voice_audio=abcd") as socket:
        answer = json.loads(await socket.recv())
        assert answer["code"] == "INVALID_MESSAGE"


async def test_what_sessions_hold_is_bounded_and_given_back(host):
    audio = base64_of(wav(seconds=10.0, rate_hz=24_000, hz=330.0))  # about 500 KB of int16 each, of 1 MiB
    async with contextlib.AsyncExitStack() as stack:
        answers = []
        for _ in range(3):
            socket = await stack.enter_async_context(connect(f"ws://{host}/api/v1/speak"))
            answers.append(await say(socket, type="start", voice_audio=audio))
        assert [answer["type"] for answer in answers] == ["ready", "ready", "error"]
        assert answers[2]["code"] == "CAPACITY"
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        async with connect(f"ws://{host}/api/v1/speak") as socket:
            answer = await say(socket, type="start", voice_audio=audio)
            if answer["type"] == "ready":
                return
    pytest.fail("what the first sessions held was not given back")


@pytest.mark.parametrize("language", ["English", "en", "EN_us", "eng"])
async def test_the_forms_language_is_any_name_of_it(client, language):
    answer = await add(client, language=language)
    assert (answer.status_code, answer.json()["language"]) == (201, "english")


async def test_blank_fields_an_integral_float_and_url_safe_base64_are_taken_from_a_socket(host):
    async with connect(f"ws://{host}/api/v1/speak?voice=&language=&seed=5.0") as socket:
        clip = base64_of(wav()).translate(str.maketrans("+/", "-_")).rstrip("=")
        ready = await say(socket, type="start", voice="", language=" ", voice_audio=clip, voice_transcript=TEXT)
        assert (ready["type"], ready["voice"], ready["language"]) == ("ready", "inline", "auto")
        assert (await say(socket, type="speak", text="Hello."))["seed"] == 5


async def test_the_forms_language_is_refused_by_its_own_code(client):
    answer = await add(client, language="klingon")
    assert (answer.status_code, answer.json()["code"]) == (400, "UNSUPPORTED_LANGUAGE")
    assert "german" in answer.json()["message"]


async def test_a_voice_is_shown_and_removed_by_its_name_and_never_removed_by_an_alias(client):
    await add(client, name="Virginia Woolf")
    assert (await client.get("/v1/audio/voices/VIRGINIA%20woolf")).json()["id"] == "virginia-woolf"
    refused = await client.delete("/v1/audio/voices/alloy")
    assert (refused.status_code, refused.json()["code"]) == (404, "VOICE_NOT_FOUND")
    assert (await client.delete("/v1/audio/voices/virginia%20Woolf")).status_code == 204


async def test_no_upload_changes_what_an_alias_means(client):
    answer = await add(client, name="Echo")
    assert (answer.status_code, answer.json()["code"]) == (409, "VOICE_CONFLICT")
    assert (await client.get("/v1/audio/voices/echo")).json()["id"] == "austen"
