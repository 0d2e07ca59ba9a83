"""``POST /v1/audio/speech`` over a real server, and by OpenAI's own client."""

import asyncio
import base64
import gzip
import io
import json
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest
from clips import wav
from known_backend import KnownBackend, idle, served
from until import until

from serve_app.audio.encoders import CONTENT_TYPES, encoder_for
from serve_app.config import AdmissionConfig, AppConfig, EngineConfig, SessionConfig, VoicesConfig
from serve_app.errors import TtsUnavailableError
from serve_app.speech import SpeechEnd
from serve_app.voices.voice import OPENAI_VOICES

REQUESTS = Path(__file__).parents[1] / "data" / "requests"
TEXT = "Hello there."


@pytest.fixture
async def client(host):
    async with openai.AsyncOpenAI(base_url=f"http://{host}/v1", api_key="unused", max_retries=0) as client:
        yield client


def speech(http, **body):
    return http.post("/v1/audio/speech", json={"model": "tts-1", "voice": "makima", "input": TEXT} | body)


def encoded(pcm, encoding, rate_hz=24_000):
    encoder = encoder_for(encoding, rate_hz)
    return encoder.push(pcm) + encoder.flush()


@pytest.mark.parametrize("rate_hz", [24_000, 8000])
@pytest.mark.parametrize("encoding", ["wav", "pcm", "mp3", "flac", "aac"])
async def test_every_format_is_what_its_encoder_makes(http, backend, encoding, rate_hz):
    answer = await speech(http, response_format=encoding, sample_rate=rate_hz)
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPES[encoding])
    assert answer.content == encoded(backend.pcm(TEXT), encoding, rate_hz)


async def test_opus_is_ogg_to_its_last_sample(http):
    answer = await speech(http, response_format="opus")
    with av.open(io.BytesIO(answer.content), format="ogg") as file:
        assert sum(frame.samples for frame in file.decode(audio=0)) == len(TEXT) * 1920 * 2


@pytest.mark.parametrize("encoding", sorted(CONTENT_TYPES))
async def test_nothing_to_pronounce_is_a_tenth_of_a_second_of_silence(http, backend, encoding):
    text = "👍 ..."
    answer = await speech(http, input=text, response_format=encoding)
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPES[encoding])
    silence = np.zeros(2400, dtype=np.float32)
    if encoding != "opus":  # its pages carry a serial number of their own
        assert answer.content == encoded(silence, encoding)
    assert len(answer.content) == len(encoded(silence, encoding))
    events = await speech(http, input=text, response_format=encoding, stream_format="sse")
    *deltas, done = [json.loads(part.removeprefix("data: ")) for part in events.text.strip().split("\n\n")]
    assert sum(len(base64.b64decode(event["audio"])) for event in deltas) == len(answer.content)
    assert done["type"] == "speech.audio.done"
    assert backend.requests == []


@pytest.mark.parametrize("encoding", ["pcm", "wav"])
@pytest.mark.parametrize("mark", ["<break time='300ms'/>", "[pause 0.3s]"])
async def test_a_pause_is_silence_of_exactly_its_length(http, backend, encoding, mark):
    answer = await speech(http, input=f"One.{mark}Two.", response_format=encoding)
    pcm = np.concatenate([backend.pcm("One."), np.zeros(7200, dtype=np.float32), backend.pcm("Two.")])
    assert answer.content == encoded(pcm, encoding)
    only = await speech(http, input=mark, response_format=encoding)
    assert only.content == encoded(np.zeros(7200, dtype=np.float32), encoding)


async def test_halves_of_a_character_alone_are_dropped(http, backend):
    content = r'{"input": "Hi \ud83d you \ud83d\ude00 \ude00.", "response_format": "pcm"}'
    assert (await http.post("/v1/audio/speech", content=content)).status_code == 200
    assert backend.requests[0].text == "Hi you."


async def test_mp3_is_what_comes_where_nothing_is_said(http, backend):
    answer = await http.post("/v1/audio/speech", json={"input": TEXT, "unknown": 1, "instructions": "Cheerful."})
    assert answer.content == encoded(backend.pcm(TEXT), "mp3")
    assert backend.requests[0].voice == "makima"


async def test_our_own_fields_reach_the_model(http, backend):
    await speech(http, language="German", seed=7, sampling={"top_k": 3}, voice={"id": "makima"}, speed=1)
    await speech(http, lexicon={"there": "they're"})
    request, other = backend.requests
    assert other.text == "Hello they're."
    assert (request.language, request.seed, request.sampling.top_k) == ("german", 7, 3)


@pytest.mark.parametrize("speed", [0.5, 1, 2])
async def test_speed_changes_the_length_of_the_audio(http, backend, speed):
    answer = await speech(http, response_format="pcm", speed=speed)
    plain = backend.pcm(TEXT)
    assert len(answer.content) // 2 == pytest.approx(len(plain) / speed, abs=1024)
    assert (answer.content == encoded(plain, "pcm")) is (speed == 1)
    assert backend.requests[0].speed == speed


async def test_audio_comes_while_it_is_made(http, backend):
    backend.frame_delay_s, backend.frames = 0.02, 40
    body = {"input": TEXT, "response_format": "pcm"}
    async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
        async for _ in answer.aiter_raw():
            break
        assert backend.yielded < 10


@pytest.mark.parametrize("encoding", ["wav", "mp3"])
async def test_events_carry_the_same_audio_and_an_end(http, backend, encoding):
    answer = await speech(http, stream_format="sse", response_format=encoding)
    assert answer.headers["content-type"] == "text/event-stream"
    events = [json.loads(part.removeprefix("data: ")) for part in answer.text.strip().split("\n\n")]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == encoded(backend.pcm(TEXT), encoding)
    usage = {"input_tokens": len(TEXT), "output_tokens": len(TEXT), "total_tokens": 2 * len(TEXT)}
    assert done == {"type": "speech.audio.done", "usage": usage}


@pytest.mark.parametrize(
    ("body", "status", "code", "part"),
    [
        ({"response_format": "ogg"}, 400, "UNSUPPORTED_ENCODING", "mp3, opus, aac, flac, wav, pcm"),
        ({"sample_rate": 44100}, 400, "UNSUPPORTED_ENCODING", "48000"),
        ({"voice": "nobody"}, 404, "VOICE_NOT_FOUND", "makima"),
        ({"voice": {"name": "x"}}, 400, "INVALID_MESSAGE", "voice must be"),
        ({"input": ""}, 400, "TEXT_EMPTY", "20000"),
        ({"input": "x" * 20_001}, 400, "TEXT_TOO_LONG", "20000"),
        ({"speed": 2.5}, 400, "INVALID_MESSAGE", "speed must be a number from 0.5 to 2; given: 2.5"),
        ({"speed": 0.25}, 400, "INVALID_MESSAGE", "speed must be a number from 0.5 to 2; given: 0.25"),
        ({"speed": "2"}, 400, "INVALID_MESSAGE", "speed must be a number from 0.5 to 2"),
        ({"input": 7}, 400, "INVALID_MESSAGE", "input must be a string"),
        ({"stream_format": "ws"}, 400, "INVALID_MESSAGE", "sse"),
        ({"language": "Klingon"}, 400, "UNSUPPORTED_LANGUAGE", "german"),
        ({"sampling": {"top_q": 1}}, 400, "INVALID_MESSAGE", "top_k"),
    ],
)
async def test_errors_have_openais_shape(http, body, status, code, part):
    answer = await speech(http, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert part in error["message"]


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"x" * (2 << 20), b"{}"])
async def test_a_body_that_is_none_is_refused(http, content):
    answer = await http.post("/v1/audio/speech", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_MESSAGE")


async def test_a_foreign_page_is_refused(http, backend):
    answer = await http.post("/v1/audio/speech", json={"input": TEXT}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
    assert backend.requests == []


async def test_a_failure_before_the_first_audio_has_its_status(http, backend):
    backend.raises = TtsUnavailableError("none is ready", retry_after_ms=1500)
    answer = await speech(http)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["error"] == {
        "message": "none is ready",
        "type": "server_error",
        "param": None,
        "code": "TTS_UNAVAILABLE",
    }


class FailsLater(KnownBackend):
    async def speak(self, request):
        async for event in super().speak(request):
            if isinstance(event, SpeechEnd):
                yield SpeechEnd("error", 3, "SYNTHESIS_ERROR", "the step failed")
            else:
                yield event


async def test_a_failure_in_the_middle_is_seen_as_one():
    async with served(FailsLater(), AppConfig()) as host, httpx.AsyncClient(base_url=f"http://{host}") as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await speech(http, response_format="pcm")
        answer = await speech(http, response_format="pcm", stream_format="sse")
        *_, last = answer.text.strip().split("\n\n")
        kind, data = last.split("\n")
        assert kind == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"]["code"] == "SYNTHESIS_ERROR"


async def test_a_client_that_goes_frees_its_stream(http, backend):
    backend.frame_delay_s, backend.frames = 0.01, 10_000
    body = {"input": TEXT, "response_format": "pcm"}
    async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
        async for _ in answer.aiter_raw():
            break
        assert backend.running == 1
    await idle(backend)
    assert (await http.get("/health")).json()["sessions"] == 0


async def test_a_client_that_does_not_read_stalls_its_own_stream(backend):
    backend.frames, backend.chunk_frames = 40_000, 25
    config = AppConfig(session=SessionConfig(max_unsent_audio_s=5, max_lead_s=10_000, slow_client_timeout_s=0.5))
    async with served(backend, config) as host:
        reader, writer = await asyncio.open_connection(*host.split(":"), limit=1024)
        body = json.dumps({"input": TEXT, "response_format": "pcm"}).encode()
        head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readline()
        await idle(backend)
        assert 0 < backend.yielded < 10_000
        writer.close()


async def test_the_error_of_a_full_server_has_openais_shape(backend):
    backend.frame_delay_s, backend.frames, backend.capacity = 0.02, 50, 1
    config = AppConfig(engine=EngineConfig(slots=1), admission=AdmissionConfig(max_waiting=0))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as http:
        first = asyncio.create_task(speech(http, response_format="pcm"))
        await until(lambda: backend.running == 1)
        answer = await speech(http)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "CAPACITY")
        assert (await first).status_code == 200


async def test_openais_client_speaks(client, backend):
    answer = await client.audio.speech.create(model="tts-1", voice="makima", input=TEXT, response_format="wav")
    assert answer.content == encoded(backend.pcm(TEXT), "wav")


async def test_openais_client_streams(client, backend):
    backend.frame_delay_s, backend.frames = 0.02, 30
    heard, early = b"", 0
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="makima", input=TEXT, response_format="pcm"
    ) as answer:
        async for part in answer.iter_bytes():
            early = early or backend.yielded
            heard += part
    assert early < 10
    assert heard == encoded(backend.pcm(TEXT, 30), "pcm")


async def test_openais_client_lists_models_and_reads_errors(client):
    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("tiny")).owned_by == "qwen"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("Qwen/other")
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.audio.speech.create(model="tts-1", voice="nobody", input=TEXT)
    assert unknown.value.code == "VOICE_NOT_FOUND"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.audio.speech.create(model="tts-1", voice="makima", input="")
    assert wrong.value.code == "TEXT_EMPTY"


async def test_samples_are_exact_whatever_their_size(http, backend):
    backend.chunk_frames = 5
    answer = await speech(http, response_format="pcm")
    assert np.array_equal(np.frombuffer(answer.content, "<i2"), np.frombuffer(encoded(backend.pcm(TEXT), "pcm"), "<i2"))


@pytest.mark.parametrize("voice", [*sorted(OPENAI_VOICES), "Nova", None, {"id": "alloy"}, {"id": None}])
async def test_openais_own_voices_are_the_default_one_and_the_answer_says_which(http, backend, voice):
    answer = await speech(http, voice=voice)
    assert (answer.status_code, answer.headers["x-voice"]) == (200, "makima")
    assert backend.requests[-1].voice == "makima"


async def test_an_alias_and_another_case_are_the_voice_that_they_mean(backend):
    backend.uploaded = ["nova", "austen"]
    config = AppConfig(voices=VoicesConfig(default="makima", aliases={"Echo": "austen", "nova": "makima"}))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as http:
        for given, voice in (("echo", "austen"), ("AUSTEN", "austen"), ("Nova", "nova"), ("sage", "makima")):
            assert (await speech(http, voice=given)).headers["x-voice"] == voice
            whole = await http.post("/api/tts", json={"text": TEXT, "voice": given})
            assert (whole.status_code, whole.headers["x-voice"]) == (200, voice)
        assert (await http.get("/v1/audio/voices")).json()["aliases"] == {"echo": "austen", "nova": "makima"}
        assert (await http.get("/v1/audio/voices/ECHO")).json()["id"] == "austen"


async def test_an_alias_of_no_voice_is_warned_of_once_and_is_not_found(backend, caplog):
    config = AppConfig(voices=VoicesConfig(aliases={"echo": "gone"}))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as http:
        for _ in range(2):
            answer = await speech(http, voice="echo")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "VOICE_NOT_FOUND")
    (warning,) = [record for record in caplog.records if "voices.aliases" in record.getMessage()]
    assert "'gone'" in warning.getMessage()


def clip(**changes):
    return base64.b64encode(wav(**changes)).decode()


async def test_a_reference_is_cloned_whatever_the_voice_says_and_nothing_of_it_is_kept(http, backend):
    said = "Some words that may well be said in four seconds."
    fields = {"ref_audio": f"data:audio/wav;base64,{clip()}", "ref_text": said, "task_type": "Base", "language": "en"}
    answer = await speech(http, voice="nobody", **fields)
    assert (answer.status_code, answer.headers["x-voice"]) == (200, "inline")
    assert (backend.requests[-1].clip.transcript, backend.requests[-1].language) == (said, "english")
    await speech(http, **fields, x_vector_only_mode=True)
    assert backend.requests[-1].clip.transcript is None
    await speech(http)
    assert (backend.requests[-1].clip, backend.requests[-1].voice) == (None, "makima")


@pytest.mark.parametrize(
    ("reference", "status", "code", "part"),
    [
        ("http://127.0.0.1:1/a.wav", 400, "INVALID_MESSAGE", "data URL"),
        ("file:///etc/passwd", 400, "INVALID_MESSAGE", "data URL"),
        ("/etc/passwd", 400, "INVALID_MESSAGE", "base64"),
        ("", 400, "INVALID_MESSAGE", "base64"),
        (clip(seconds=1.0), 422, "VOICE_INVALID", "duration_s"),
        (base64.b64encode(b"no audio").decode(), 422, "VOICE_INVALID", ""),
    ],
)
async def test_a_reference_is_checked_as_that_of_a_session_is(http, backend, reference, status, code, part):
    answer = await speech(http, ref_audio=reference)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert part in answer.json()["error"]["message"]
    assert backend.requests == []


async def test_references_are_given_back_when_their_answers_are_through(backend):
    held = 300_000  # bytes; one of them has 4.5 s of 48,000
    config = AppConfig(voices=VoicesConfig(max_inline_bytes=held))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        for _ in range(3):
            assert (await speech(http, ref_audio=clip())).status_code == 200


@pytest.mark.parametrize("file", sorted(REQUESTS.glob("*.json")), ids=lambda file: file.stem)
async def test_a_recorded_request_of_a_shipped_client_is_answered(http, file):
    recorded = json.loads(file.read_text())
    answer = await http.post(recorded["path"], json=recorded["body"], headers=recorded["headers"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/json; charset=utf-8", "application/octet-stream"]
)
async def test_the_body_is_json_whatever_it_is_called(http, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    body = b'\xef\xbb\xbf{"input": "Hi", "speed": null, "response_format": null, "stream": true}'
    assert (await http.post("/v1/audio/speech", content=body, headers=headers)).status_code == 200
    research = b'\xef\xbb\xbf{"text": "Hi", "voice": null, "language": null, "stream": null}'
    assert (await http.post("/api/tts", content=research, headers=headers)).status_code == 200


async def test_a_compressed_body_is_refused_by_its_name(http):
    content = gzip.compress(b'{"input": "Hi"}')
    answer = await http.post("/v1/audio/speech", content=content, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_MESSAGE")
    assert "content-encoding 'gzip'" in answer.json()["error"]["message"]
