"""The web application over a real server and a backend that yields known PCM."""

import asyncio
import contextlib
import io
import json
import logging
import time

import httpx
import pytest
import pytest_asyncio
import soundfile as sf
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from known_backend import (
    KnownBackend,
    audio_of,
    expected,
    hear,
    idle,
    say,
    served,
    socket_to,
    until_sessions,
)
from starlette.datastructures import Headers
from until import until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from written_lines import written

from serve_app.audio.mark import DIGITAL_SOURCE_TYPE
from serve_app.cluster.registry import Readiness
from serve_app.config import AdmissionConfig, AppConfig, EngineConfig, IngressConfig, SessionConfig, TextConfig
from serve_app.errors import TtsUnavailableError
from serve_app.protocol.messages import Speak
from serve_app.web.auth import Caller
from serve_app.web.context import VOICES_REFETCH_S, IngressContext

BACKEND = KnownBackend()


@pytest_asyncio.fixture(scope="session")
async def shared_host():
    async with served(BACKEND, AppConfig()) as host:
        yield host


@pytest.fixture
def backend():
    BACKEND.reset()
    return BACKEND


@pytest.fixture
def host(shared_host, backend):
    return shared_host


async def test_speak_on_a_fresh_socket_is_heard(host, backend):
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="Hello.", utterance_id="a")
        heard = await hear(ws)
    assert [message["type"] for message in heard] == ["segment", *["audio_chunk"] * 7, "complete"]
    assert audio_of(heard) == expected(backend, "Hello.")
    assert [message["final"] for message in heard[1:-1]] == [False] * 6 + [True]
    assert heard[-1]["duration_ms"] == 480


async def test_base64_and_float_are_the_same_audio(host, backend):
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="start", transport="base64", encoding="pcm_f32")
        ready = (await hear(ws, until=("ready",)))[0]
        assert (ready["transport"], ready["encoding"], ready["sample_rate"]) == ("base64", "pcm_f32", 24000)
        await say(ws, type="speak", text="Hello.")
        heard = await hear(ws)
    assert audio_of(heard) == backend.pcm("Hello.").astype("<f4").tobytes()


async def test_a_query_presets_the_fields_of_start(host, backend):
    query = "language=German&seed=7&temperature=0.5&transport=base64"
    async with socket_to(host, f"/api/v1/speak?{query}") as ws:
        await say(ws, type="speak", text="Hallo.")
        heard = await hear(ws)
    assert heard[-1]["seed"] == 7
    assert "data" in heard[1]
    request = backend.requests[0]
    assert (request.language, request.seed, request.sampling.temperature) == ("german", 7, 0.5)


async def test_a_voice_that_came_to_another_replica_is_known_when_it_is_named(backend):
    now_s = 0.0
    async with served(backend, AppConfig(), clock=lambda: now_s) as host:
        async with socket_to(host, "/api/v1/speak") as ws:
            await say(ws, type="speak", text="One.", voice="woolf")
            assert (await hear(ws, until=("error",)))[-1]["code"] == "VOICE_NOT_FOUND"
            backend.uploaded.append("woolf")
            now_s += VOICES_REFETCH_S
            await say(ws, type="speak", text="One.", voice="woolf")
            assert (await hear(ws))[-1]["type"] == "complete"
        async with socket_to(host, "/api/v1/speak?voice=woolf") as ws:
            await say(ws, type="speak", text="One.")
            assert (await hear(ws))[-1]["type"] == "complete"


async def test_a_wrong_preset_is_an_error_and_the_socket_stays(host):
    async with socket_to(host, "/api/v1/speak?language=Klingon") as ws:
        assert (await hear(ws, until=("error",)))[0]["code"] == "UNSUPPORTED_LANGUAGE"
        await say(ws, type="speak", text="Hello.")
        await hear(ws)


async def test_cancel_reaches_the_generator_within_a_frame(host, backend):
    backend.frame_delay_s, backend.frames = 0.02, 10_000
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="Hello.", utterance_id="a")
        await hear(ws, until=("audio_chunk",))
        await ws.recv()
        asked = time.monotonic()
        await say(ws, type="cancel", utterance_id="a")
        heard = await hear(ws, until=("cancelled",))
        await idle(backend)
        assert backend.closed[-1] - asked < 0.08
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ws.recv()
    assert heard[-1]["duration_ms"] % 80 == 0


async def test_stop_finishes_then_closes(host):
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="One.")
        await say(ws, type="speak", text="Two.")
        await say(ws, type="stop")
        heard = await hear(ws, until=("stopped",))
        assert [message["type"] for message in heard].count("complete") == 2
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize("gentle", [True, False])
async def test_a_client_that_goes_frees_its_stream(host, backend, gentle):
    backend.frame_delay_s, backend.frames = 0.01, 10_000
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="Hello.")
        await hear(ws, until=("audio_chunk",))
        if not gentle:
            ws.transport.abort()
    await idle(backend)


async def test_a_generator_that_raises_is_an_answer_and_the_socket_stays(host, backend, caplog):
    backend.raises = RuntimeError("secret detail")
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="Hello.", utterance_id="a")
        error = (await hear(ws, until=("error",)))[0]
        assert (error["code"], error["utterance_id"], error["fatal"]) == ("SYNTHESIS_ERROR", "a", False)
        assert "secret" not in error["message"]
        backend.raises = TtsUnavailableError("none is ready", retry_after_ms=100)
        await say(ws, type="speak", text="Hello.", utterance_id="b")
        error = (await hear(ws, until=("error",)))[0]
        assert (error["code"], error["retry_after_ms"]) == ("TTS_UNAVAILABLE", 100)
        backend.raises = None
        await say(ws, type="speak", text="Hello.", utterance_id="c")
        await hear(ws)
    assert "Traceback" in caplog.text


async def test_log_lines_carry_ids_and_never_text(host):
    with written(logging.DEBUG) as lines:
        async with socket_to(host, "/api/v1/speak") as ws:
            await say(ws, type="speak", text="Confidential words.", utterance_id="the-id")
            await hear(ws)
            await say(ws, type="speak", text="Confidential", unknown="Confidential")
            await hear(ws, until=("error",))
    (complete,) = [line for line in lines() if line.get("finish_reason")]
    assert (complete["utterance_id"], complete["finish_reason"], complete["characters"]) == ("the-id", "eos", 19)
    assert {line["session_id"] for line in lines()} == {complete["session_id"]}
    assert "onfidential" not in json.dumps(lines())


async def test_wrong_frames_are_answered_and_the_socket_stays(host):
    async with socket_to(host, "/api/v1/speak") as ws:
        for frame in (b"\x00\xff", "[]", "{", "x" * (1 << 20) + "x", '{"type": "sing"}'):
            await ws.send(frame)
            assert (await hear(ws, until=("error",)))[0]["code"] == "INVALID_MESSAGE"
        await say(ws, type="speak", text="Hello.")
        await hear(ws)


async def test_text_that_is_not_utf8_closes_with_its_own_code(host):
    async with socket_to(host, "/api/v1/speak") as ws:
        await ws.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await hear(ws)
    assert closed.value.rcvd.code == 1007


async def test_a_broken_session_closes_with_a_frame(host, monkeypatch, caplog):
    def broken(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("serve_app.session.session.Session.receive", broken)
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="Hello.")
        assert (await hear(ws, until=("error",)))[0]["fatal"] is True
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd.code == 1011
    assert "a bug" in caplog.text


async def test_raw_framing_is_bare_audio_and_an_end(host, backend):
    async with socket_to(host, "/api/v1/speak?framing=raw") as ws:
        await say(ws, type="speak", text="Hello.", voice="makima")
        frames = [await ws.recv() for _ in range(7)]
        assert b"".join(frames[:-1]) == expected(backend, "Hello.")
        assert json.loads(frames[-1]) == {"type": "audio_end"}
        await say(ws, type="speak", text="")
        assert json.loads(await ws.recv())["code"] == "TEXT_EMPTY"
        backend.frame_delay_s, backend.frames = 0.01, 1000
        await say(ws, type="speak", text="Hello.")
        assert isinstance(await ws.recv(), bytes)
        await say(ws, type="cancel")
        while isinstance(frame := await ws.recv(), bytes):
            pass
        assert json.loads(frame) == {"type": "audio_end"}
        await say(ws, type="stop")
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd.code == 1000


async def frames_until(ws, kind):
    """All frames up to a message of this type: messages as mappings, audio as bytes."""
    frames = []
    async with asyncio.timeout(20):
        while not frames or isinstance(frames[-1], bytes) or frames[-1]["type"] != kind:
            frame = await ws.recv()
            frames.append(frame if isinstance(frame, bytes) else json.loads(frame))
    return frames


async def test_the_speech_stream_speaks_several_texts_on_one_socket(host, backend):
    async with socket_to(host, "/v1/audio/speech/stream") as ws:
        await say(ws, type="session.config", voice="makima", response_format="pcm", stream_audio=True)
        for words in ("Hello.", "Again."):
            await say(ws, type="input.text", text=words)
            await say(ws, type="input.done")
            frames = await frames_until(ws, "session.done")
            assert b"".join(frame for frame in frames if isinstance(frame, bytes)) == expected(backend, words)
        await say(ws, type="session.close")
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd.code == 1000


async def test_a_flood_of_frames_without_a_message_blocks_nobody(host, backend):
    async with socket_to(host, "/v1/audio/speech/stream") as flooding, socket_to(host, "/api/v1/speak") as other:
        for _ in range(2000):
            await say(flooding, type="input.text", text=" ")
        await say(other, type="speak", text="Hello.")
        assert audio_of(await hear(other, timeout_s=5)) == expected(backend, "Hello.")
        await say(flooding, type="input.done")
        assert await frames_until(flooding, "session.done") == [
            {"type": "session.done", "utterance_index": 0, "total_sentences": 0}
        ]


async def test_deepgrams_socket_speaks_and_clears(host, backend):
    async with socket_to(host, "/v1/speak?model=makima&encoding=linear16&sample_rate=24000&mip_opt_out=false") as ws:
        assert json.loads(await ws.recv())["type"] == "Metadata"
        await say(ws, type="Speak", text="Hello.")
        await say(ws, type="Flush")
        *audio, flushed = await frames_until(ws, "Flushed")
        assert b"".join(audio) == expected(backend, "Hello.")
        backend.frame_delay_s, backend.frames = 0.01, 1000
        await say(ws, type="Speak", text="Hello.")
        await say(ws, type="Flush")
        assert isinstance(await ws.recv(), bytes)
        await say(ws, type="Clear")
        cleared = (await frames_until(ws, "Cleared"))[-1]
        assert cleared["sequence_id"] == flushed["sequence_id"] + 1
        await idle(backend)
        await say(ws, type="Close")
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [("model=nobody", 404, "nobody"), ("encoding=alaw", 400, "linear16, mulaw"), ("speed=3", 400, "from 0.5 to 2")],
)
async def test_a_wrong_query_of_deepgrams_is_refused_as_deepgram_does(host, query, status, reason):
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(host, f"/v1/speak?{query}"):
            pass
    assert refused.value.response.status_code == status
    assert reason in refused.value.response.headers["dg-error"]


async def test_deepgrams_request_is_answered_with_audio_or_its_error(host, backend):
    async with httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as client:
        query = {"model": "makima", "encoding": "linear16", "container": "none", "sample_rate": 24_000}
        answer = await client.post("/v1/speak", params=query, json={"text": "Hello."})
        assert (answer.status_code, answer.content) == (200, expected(backend, "Hello."))
        for params, body, status in (
            ({"encoding": "alaw"}, {"text": "a"}, 400),
            ({}, {}, 400),
            (query, {"text": ""}, 400),
        ):
            answer = await client.post("/v1/speak", params=params, json=body)
            assert answer.status_code == status
            assert set(answer.json()) == {"err_code", "err_msg"}
            assert answer.headers["dg-error"] == answer.json()["err_msg"]


async def test_research_requests_are_answered_in_order(host, backend):
    async with socket_to(host, "/ws/tts") as ws:
        await say(ws, type="synthesize", text="One.", unknown=1)
        await say(ws, text="Two.")
        await say(ws, type="synthesize", text="")
        await say(ws, type="synthesize", text="Three.", stream=False)
        first, second = await hear(ws), await hear(ws)
        error = await hear(ws, until=("error",))
        whole = await hear(ws)
    assert audio_of(first) == expected(backend, "One.")
    assert audio_of(second) == expected(backend, "Two.")
    assert [message["final"] for message in first[:-1]] == [False] * 4 + [True]
    assert first[-1] == {"type": "complete", "duration_ms": 320}
    assert set(first[0]) == {"type", "data", "sample_rate", "final"}
    assert error == [{"type": "error", "code": "TEXT_EMPTY", "message": error[0]["message"]}]
    assert [message["type"] for message in whole] == ["audio", "complete"]
    assert whole[0]["final"] is True
    assert audio_of(whole) == expected(backend, "Three.")
    assert {request.language for request in backend.requests} == {"english"}
    assert backend.most_running == 1


@pytest.mark.parametrize("text", ["...", "👍 👍", r"\ud83d"])
async def test_nothing_to_pronounce_ends_well_in_every_dialect(host, backend, text):
    async with socket_to(host, "/ws/tts") as ws:
        for stream in ("true", "false"):
            await ws.send(f'{{"text": "{text}", "stream": {stream}}}')
            audio, done = [json.loads(await ws.recv()) for _ in range(2)]
            assert (audio["final"], audio["data"], done) == (True, "", {"type": "complete", "duration_ms": 0})
    async with socket_to(host, "/api/v1/speak?framing=raw") as ws:
        await ws.send(f'{{"type": "speak", "text": "{text}"}}')
        assert json.loads(await ws.recv()) == {"type": "audio_end"}
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        answer = await client.post("/api/tts", content=f'{{"text": "{text}"}}')
    samples, rate_hz = sf.read(io.BytesIO(answer.content), dtype="int16")
    assert (answer.status_code, rate_hz, len(samples), samples.any()) == (200, 24_000, 2400, False)
    assert backend.requests == []


@pytest.mark.parametrize("encoding", ["pcm16", "pcm_f32", "mulaw", "opus"])
async def test_a_break_is_silence_in_every_encoding(host, backend, encoding):
    async with socket_to(host, f"/api/v1/speak?encoding={encoding}&sample_rate=48000") as ws:
        await say(ws, type="speak", text="One.<break time='2.5s'/>Two.")
        messages = []
        while not messages or messages[-1]["type"] != "complete":
            frame = await ws.recv()
            if isinstance(frame, str):
                messages.append(json.loads(frame))
    segments = [message["start_ms"] for message in messages if message["type"] == "segment"]
    assert segments == [0, 320 + 2500]
    assert messages[-1]["duration_ms"] == 320 + 2500 + 320
    assert [request.text for request in backend.requests] == ["One.", "Two."]


async def test_post_answers_a_wav_file(host, backend):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        answer = await client.post("/api/tts", json={"text": "Hello.", "voice": "makima", "language": "English"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
    samples, rate_hz = sf.read(io.BytesIO(answer.content), dtype="int16")
    assert rate_hz == 24_000
    assert samples.astype("<i2").tobytes() == expected(backend, "Hello.")
    assert backend.requests[0].listening is False


async def test_speech_over_http_and_every_socket_say_that_a_machine_speaks(host):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        asked = [
            ("/api/tts", {"text": "Hello."}),
            ("/v1/audio/speech", {"input": "Hello."}),
            ("/v1/audio/speech", {"input": "Hello.", "stream_format": "sse"}),
            ("/v1/speak", {"text": "Hello."}),
        ]
        for path, body in asked:
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.headers["ai-disclosure"]) == (200, "mode=machine-generated")
        for refused in (await client.post("/v1/audio/speech", json={}), await client.get("/v1/audio/voices")):
            assert "ai-disclosure" not in refused.headers
    for path in ("/ws/tts", "/api/v1/speak", "/api/v1/speak?framing=raw", "/v1/audio/speech/stream", "/v1/speak"):
        async with socket_to(host, path) as ws:
            assert ws.response.headers["ai-disclosure"] == "mode=machine-generated"
    async with socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="start")
        ready = (await hear(ws, until=("ready",)))[0]
    assert ready["digital_source_type"] == DIGITAL_SOURCE_TYPE


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "INVALID_MESSAGE"),
        (b"\xff", 400, "INVALID_MESSAGE"),
        (b'{"text": ""}', 400, "TEXT_EMPTY"),
        (json.dumps({"text": "x" * 20_001}).encode(), 400, "TEXT_TOO_LONG"),
        (b"x" * (2 << 20), 400, "INVALID_MESSAGE"),
        (b'{"text": "x", "voice": "nobody"}', 404, "VOICE_NOT_FOUND"),
        (b'{"text": "x", "language": "Klingon"}', 400, "UNSUPPORTED_LANGUAGE"),
    ],
)
async def test_post_answers_errors_by_status_and_code(host, body, status, code):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        answer = await client.post("/api/tts", content=body)
    assert answer.status_code == status
    assert answer.json()["code"] == code
    assert answer.json()["message"]


async def test_post_says_when_to_try_again(host, backend):
    backend.raises = TtsUnavailableError("none is ready", retry_after_ms=1500)
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        answer = await client.post("/api/tts", json={"text": "x"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


async def test_a_post_whose_client_goes_frees_its_stream(host, backend):
    backend.frame_delay_s, backend.frames = 0.01, 10_000
    async with httpx.AsyncClient(base_url=f"http://{host}", timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/api/tts", json={"text": "x"})
    await idle(backend)


async def test_health_counts_the_sessions_that_are_open(backend):
    async with served(backend, AppConfig()) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
        async with socket_to(host, "/api/v1/speak"), socket_to(host, "/ws/tts"):
            assert (await client.get("/health")).json() == {"status": "ok", "sessions": 2}
        await until_sessions(client, 0)


async def test_probes_and_voices(host, backend):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        assert (await client.get("/health")).json()["status"] == "ok"
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["weights"], ready.json()["random_weights"]) == (200, "random", True)
        assert "noise, not speech" in ready.json()["notice"]
        backend.ready = Readiness(ready=True, model="demo", weights="demo")
        ready = (await client.get("/ready")).json()
        assert (ready["weights"], ready["random_weights"]) == ("demo", False)
        assert "demonstration voice" in ready["notice"]
        backend.ready = Readiness(ready=False, detail="loading")
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["detail"], ready.json()["notice"]) == (503, "loading", "")
        assert (ready.json()["model"], ready.json()["weights"]) == ("", None)
        voices = (await client.get("/v1/audio/voices")).json()
    assert voices["default"] == "makima"
    assert [(voice["id"], voice["state"]) for voice in voices["voices"]] == [
        ("makima", "ready"),
        ("power", "unavailable"),
    ]
    assert "not there yet" in voices["voices"][1]["reason"]


async def test_the_playground_is_served_once(host):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        page = await client.get("/")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        again = await client.get("/", headers={"if-none-match": page.headers["etag"]})
        assert again.status_code == 304
        for name in ("playground.js", "playground.css"):
            assert name in page.text
            assert (await client.get(f"/playground/{name}")).status_code == 200
        worklet = await client.get("/playground/player_worklet.js")
        assert (worklet.status_code, worklet.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert (await client.get("/playground/../web.py")).status_code == 404
    assert "http://" not in page.text
    assert "https://" not in page.text


async def test_a_foreign_page_is_refused(host):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        for origin in ("http://evil.example", "null", f"http://{host}.evil.example"):
            with pytest.raises(InvalidStatus) as refused:
                async with socket_to(host, "/api/v1/speak", origin=origin):
                    pass
            assert refused.value.response.status_code == 403
            answer = await client.post("/api/tts", json={"text": "x"}, headers={"origin": origin})
            assert answer.status_code == 403
    async with socket_to(host, "/api/v1/speak", origin=f"http://{host}"):
        pass


async def test_an_allowed_origin_is_let_in(backend):
    config = AppConfig(ingress=IngressConfig(allowed_origins=("https://app.example",)))
    async with served(backend, config) as host, socket_to(host, "/ws/tts", origin="https://app.example"):
        pass


async def test_a_page_of_an_allowed_origin_may_use_http_as_well(backend):
    config = AppConfig(ingress=IngressConfig(allowed_origins=("https://app.example",)))
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
        for origin, status in (("https://app.example", 200), ("https://evil.example", 400)):
            asked = await client.options("/v1/audio/speech", headers={"origin": origin, **asks})
            assert asked.status_code == status
            assert asked.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
        answer = await client.post("/api/tts", json={"text": "x"}, headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_full_server_says_when_to_try_again(backend):
    async with served(backend, AppConfig(ingress=IngressConfig(max_sessions=1))) as host:
        async with socket_to(host, "/api/v1/speak"):
            with pytest.raises(InvalidStatus) as refused:
                async with socket_to(host, "/api/v1/speak"):
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["retry-after"] == "5"
            assert json.loads(refused.value.response.body)["code"] == "CAPACITY"
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            await until_sessions(client, 0)
        async with socket_to(host, "/api/v1/speak"):
            pass


async def test_an_idle_socket_is_closed(backend):
    config = AppConfig(session=SessionConfig(idle_timeout_s=0.2))
    async with served(backend, config) as host, socket_to(host, "/api/v1/speak") as ws:
        error = (await hear(ws, until=("error",)))[0]
        assert (error["code"], error["fatal"]) == ("SESSION_TIMEOUT", True)
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd.code == 1008


async def test_text_is_cut_and_cleaned_as_configured(backend):
    text = TextConfig(first_chunk_characters=8, chunk_budget_characters=20, longest_chunk_characters=20, markdown=False)
    async with served(backend, AppConfig(text=text)) as host, socket_to(host, "/api/v1/speak") as ws:
        await say(ws, type="speak", text="One, **two**, three and four and five.", language="english")
        heard = await hear(ws)
    texts = [message["text"] for message in heard if message["type"] == "segment"]
    assert (
        texts == [request.text for request in backend.requests] == ["One,", "**two**,", "three and four", "and five."]
    )


async def test_the_configuration_decides_about_numbers_for_clients_that_do_not_say(backend):
    config = AppConfig(text=TextConfig(normalize=True))
    async with served(backend, config) as host:
        async with socket_to(host, "/api/v1/speak?language=english") as ws:
            await say(ws, type="speak", text="It is 5.")
            heard = await hear(ws)
            await say(ws, type="speak", text="It is 6.", normalize=False)
            await hear(ws)
        async with socket_to(host, "/api/v1/speak?language=english&normalize=false") as ws:
            await say(ws, type="start")
            assert (await hear(ws, until=("ready",)))[0]["normalize"] is False
        async with socket_to(host, "/ws/tts") as ws:
            await say(ws, text="It is 7.")
            await hear(ws)
    assert heard[0]["text"] == "It is 5."
    assert [request.text for request in backend.requests] == ["It is five.", "It is 6.", "It is seven."]


async def test_numbers_of_clients_without_a_language_are_in_the_configured_one(backend):
    text = TextConfig(normalize=True, auto_language="english")
    async with (
        served(backend, AppConfig(text=text)) as host,
        httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http,
        socket_to(host, "/v1/speak") as deepgram,
        socket_to(host, "/api/v1/speak?language=german") as german,
    ):
        (await http.post("/v1/audio/speech", json={"input": "It is 5."})).raise_for_status()
        await say(deepgram, type="Speak", text="It is 6.")
        await say(deepgram, type="Flush")
        await hear_bare(deepgram)
        await say(german, type="speak", text="Genau 7.")
        await hear(german)
        await say(german, type="speak", text="今天是8号。", language="auto")
        await hear(german)
    assert [request.text for request in backend.requests] == [
        "It is five.",
        "It is six.",
        "Genau sieben.",
        "今天是八号。",
    ]


async def hear_bare(ws):
    """Wait for Deepgram's ``Flushed``; audio has no announcement there."""
    async with asyncio.timeout(20):
        while isinstance(frame := await ws.recv(), bytes) or json.loads(frame)["type"] != "Flushed":
            pass


async def standstill(backend):
    """Wait until the generator is no longer asked for more."""
    async with asyncio.timeout(5):
        before = None
        while backend.yielded != before:
            before = backend.yielded
            await asyncio.sleep(0.3)


async def until_closed(ws):
    while True:
        await asyncio.wait_for(ws.recv(), 5)


async def test_a_client_that_does_not_read_stalls_neither_cancel_nor_memory(backend):
    backend.frames, backend.chunk_frames = 40_000, 25
    config = AppConfig(session=SessionConfig(max_unsent_audio_s=5, slow_client_timeout_s=60))
    async with served(backend, config) as host, socket_to(host, "/api/v1/speak", max_queue=1) as ws:
        await say(ws, type="speak", text="Hello.", utterance_id="a")
        await standstill(backend)
        assert 0 < backend.yielded < 10_000
        await say(ws, type="cancel")
        await idle(backend)
        assert (await hear(ws, until=("cancelled",)))[-1]["utterance_id"] == "a"


async def test_a_client_that_reads_nothing_for_long_is_closed(backend, monkeypatch):
    monkeypatch.setattr("serve_app.web.session_runner.CLOSE_GRACE_S", 0.1)
    backend.frames, backend.chunk_frames = 40_000, 25
    config = AppConfig(session=SessionConfig(max_unsent_audio_s=5, slow_client_timeout_s=0.4))
    socket_options = {"max_queue": 1, "close_timeout": 0.1}
    async with served(backend, config) as host, socket_to(host, "/api/v1/speak", **socket_options) as ws:
        await say(ws, type="speak", text="Hello.", utterance_id="a")
        await standstill(backend)
        await idle(backend)
        assert backend.yielded < 10_000
        with pytest.raises(ConnectionClosed):
            await until_closed(ws)


class SilentConnection:
    """Reads nothing, takes everything, keeps its close code."""

    sent_bytes = 0

    def __init__(self):
        self.code = None

    async def receive(self):
        await asyncio.Event().wait()

    async def answer(self, messages):
        async for _ in messages:
            pass

    async def close(self, last):
        self.code = self.code or last.code


async def test_a_server_that_stops_closes_its_streams_and_says_so(backend):
    backend.frame_delay_s, backend.frames = 0.01, 10_000
    connection = SilentConnection()
    runner = await IngressContext(backend, AppConfig(), time.monotonic).runner(
        connection, Caller("", lambda now_s: None), Headers(), dialect="full"
    )
    running = asyncio.create_task(runner.run([Speak(text="Hello.")]))
    await until(lambda: backend.running == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert backend.running == 0
    assert connection.code == 1012


FRAMES = st.one_of(
    st.text(max_size=60),
    st.binary(max_size=60),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8) | st.none(), max_size=4).map(json.dumps),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["start", "speak", "flush", "cancel", "sing", 7])},
        optional={
            "text": st.text(max_size=12) | st.integers(),
            "utterance_id": st.sampled_from(["a", "b", "", 7]),
            "final": st.booleans() | st.text(max_size=3),
            "voice": st.sampled_from(["makima", "power", "nobody", 7]),
            "seed": st.integers() | st.floats(allow_nan=False),
            "sampling": st.dictionaries(st.sampled_from(["top_k", "top_p", "x"]), st.floats(allow_nan=False)),
        },
    ).map(json.dumps),
)


async def test_whatever_is_sent_is_answered_by_type_and_the_socket_stays(host, caplog):
    frames = []

    @examples(400, database=None, suppress_health_check=list(HealthCheck))
    @given(FRAMES)
    def collect(frame):
        frames.append(frame)

    collect()
    for path, probe in (("/api/v1/speak", {"type": "speak", "utterance_id": "probe"}), ("/ws/tts", {})):
        async with socket_to(host, path) as ws:
            for start in range(0, len(frames), 20):
                for frame in frames[start : start + 20]:
                    await ws.send(frame)
                if path == "/api/v1/speak":
                    await say(ws, type="cancel")
                await say(ws, text="Still here.", **probe)
                heard = await hear(ws, timeout_s=10)
                while path == "/api/v1/speak" and heard[-1].get("utterance_id") != "probe":
                    heard = await hear(ws, timeout_s=10)
                codes = {message["code"] for message in heard if message["type"] == "error"}
                assert "SYNTHESIS_ERROR" not in codes
    assert "Traceback" not in caplog.text


async def test_a_client_that_finds_no_free_stream_waits_or_is_refused_at_once_with_a_retry_time(backend):
    backend.frame_delay_s, backend.frames, backend.capacity = 0.01, 60, 1
    settings = AppConfig(engine=EngineConfig(slots=1), admission=AdmissionConfig(max_waiting=1))
    async with served(backend, settings) as host, contextlib.AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(socket_to(host, "/api/v1/speak")) for _ in range(3)]
        await say(first, type="speak", text="Hello.")
        await until(lambda: backend.running == 1)
        await say(second, type="speak", text="Hello.")
        await say(second, type="start")
        await hear(second, until=("ready",))  # its text was read before
        await say(third, type="speak", text="Hello.")
        (refused,) = await hear(third, until=("error",))
        assert len(backend.requests) == 1, "told while the first is spoken for"
        assert (refused["code"], refused["fatal"]) == ("CAPACITY", False)
        assert refused["retry_after_ms"] >= 500
        await hear(first)
        await hear(second)
        assert backend.most_running == 1
        await say(third, type="speak", text="Hello.")
        await hear(third)


async def test_an_api_key_is_held_to_its_streams(backend):
    backend.frame_delay_s, backend.frames = 0.01, 10
    settings = AppConfig(admission=AdmissionConfig(max_streams_per_key=1))
    async with served(backend, settings) as host:

        async def speak(headers):
            async with socket_to(host, "/api/v1/speak", additional_headers=headers) as ws:
                await say(ws, type="speak", text="Hello.")
                await hear(ws)

        await asyncio.gather(*(speak({"authorization": "Bearer ours"}) for _ in range(4)))
        assert backend.most_running == 1
        await asyncio.gather(*(speak({"x-api-key": key}) for key in ("one", "two", "three")), speak({}), speak({}))
        assert backend.most_running == 5
