"""``POST /v1/audio/speech/batch`` over a real server: each text answered or refused by itself, listeners first."""

import asyncio
import base64
import io
import json

import av
import httpx
import numpy as np
import pytest
from clips import wav
from examples import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from known_backend import hear, idle, say, served, served_by, socket_to
from recorded import Recorded
from test_auth import GOOD, guarded, write
from until import until

from serve_app.audio.encoders import CONTENT_TYPES, encoder_for
from serve_app.audio.pcm import pcm16_bytes, wav_file
from serve_app.config import AdmissionConfig, AppConfig, EngineConfig, SessionConfig, VoicesConfig
from serve_app.errors import TtsUnavailableError
from serve_app.protocol.messages import MAX_BATCH_ITEMS, Refusal, read_batch, read_batch_item
from serve_app.web.batch import MAX_AT_ONCE
from serve_app.web.routes import build_web

PATH = "/v1/audio/speech/batch"


async def batch(http, *items, headers=None, **defaults):
    texts = [{"input": item} if isinstance(item, str) else item for item in items]
    answer = await http.post(PATH, content=json.dumps({"items": texts, **defaults}), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["ai-disclosure"] == "mode=machine-generated"
    body = answer.json()
    assert [result["index"] for result in body["results"]] == list(range(len(items)))
    spoken = sum(result["status"] == "success" for result in body["results"])
    assert (body["total"], body["succeeded"], body["failed"]) == (len(items), spoken, len(items) - spoken)
    return body["results"]


def codes(results):
    return [result.get("code", "success") for result in results]


def file_of(pcm, form, rate_hz=24_000):
    encoder = encoder_for("pcm" if form == "wav" else form, rate_hz)
    content = encoder.push(pcm) + encoder.flush()
    return wav_file(content, rate_hz) if form == "wav" else content


def audio(result):
    return base64.b64decode(result["audio_data"], validate=True)


async def test_each_text_is_answered_in_its_place_with_its_own_fields(http, backend):
    backend.uploaded = ["power2"]
    results = await batch(
        http,
        "Hello.",
        {"input": "Good day.", "voice": "POWER2", "seed": 7, "response_format": "pcm", "language": "German"},
        seed=3,
    )
    first, second = results
    assert audio(first) == wav_file(pcm16_bytes(backend.pcm("Hello.")))
    assert audio(second) == pcm16_bytes(backend.pcm("Good day."))
    usage = {"input_tokens": 6, "output_tokens": 6, "total_tokens": 12}
    del first["audio_data"]
    assert first == {
        "index": 0,
        "status": "success",
        "media_type": "audio/wav",
        "usage": usage,
        "duration_ms": 480,
        "finish_reason": "eos",
        "seed": 3,
        "voice": "makima",
    }
    assert (second["seed"], second["voice"], second["media_type"]) == (7, "power2", "audio/pcm")
    asked = {request.text: request for request in backend.requests}
    assert (asked["Hello."].language, asked["Good day."].language) == ("auto", "german")


async def test_texts_have_low_priority_and_no_listener_whatever_they_ask_for(http, backend):
    await batch(http, {"input": "Hello.", "priority": "high"}, "Hello.", priority="normal")
    assert [(request.priority, request.listening) for request in backend.requests] == [(1, False)] * 2


async def test_every_format_is_what_its_encoder_makes(http, backend):
    asked = [(form, rate_hz) for form in CONTENT_TYPES for rate_hz in (24_000, 8000)]
    items = [{"input": "Hello there.", "response_format": form, "sample_rate": rate_hz} for form, rate_hz in asked]
    for (form, rate_hz), result in zip(asked, await batch(http, *items), strict=True):
        assert result["media_type"] == CONTENT_TYPES[form]
        if form == "opus":  # its pages have a random serial number
            with av.open(io.BytesIO(audio(result)), format="ogg") as file:
                assert sum(frame.samples for frame in file.decode(audio=0)) == 12 * 1920 * 2
        else:
            assert audio(result) == file_of(backend.pcm("Hello there."), form, rate_hz)


async def test_nothing_to_pronounce_is_a_tenth_of_a_second_of_silence(http, backend):
    results = await batch(http, *({"input": "👍 ...", "response_format": form} for form in CONTENT_TYPES))
    for form, result in zip(CONTENT_TYPES, results, strict=True):
        assert result["duration_ms"] == 0
        assert len(audio(result)) == len(file_of(np.zeros(2400, dtype=np.float32), form)), form
    assert backend.requests == []


BAD = [
    ({"input": ""}, "TEXT_EMPTY"),
    ({"input": "x" * 20_001}, "TEXT_TOO_LONG"),
    ({"input": "Hi.", "voice": "nobody"}, "VOICE_NOT_FOUND"),
    ({"input": "Hi.", "voice": "power"}, "VOICE_NOT_FOUND"),
    ({"input": "Hi.", "voice": "\ud83d"}, "VOICE_NOT_FOUND"),
    ({"input": "Hi.", "seed": "\udc00"}, "INVALID_MESSAGE"),
    ({"input": "Hi.", "language": "Klingon"}, "UNSUPPORTED_LANGUAGE"),
    ({"input": "Hi.", "response_format": "ogg"}, "UNSUPPORTED_ENCODING"),
    ({"input": "Hi.", "speed": 9}, "INVALID_MESSAGE"),
    ({"input": "Hi.", "ref_audio": "/etc/passwd"}, "INVALID_MESSAGE"),
    ({"input": "Hi.", "ref_audio": base64.b64encode(b"no audio").decode()}, "VOICE_INVALID"),
    ({"input": 7}, "INVALID_MESSAGE"),
    ({}, "INVALID_MESSAGE"),
    ([], "INVALID_MESSAGE"),
    (None, "INVALID_MESSAGE"),
]


async def test_a_bad_text_is_refused_alone_and_counted(backend):
    recorder = Recorded()
    async with (
        served_by(build_web(backend, AppConfig(), recorder=recorder)) as host,
        httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http,
    ):
        results = await batch(http, "First.", *(item for item, _ in BAD), "Last.")
    assert codes(results) == ["success", *(code for _, code in BAD), "success"]
    assert all(result["error"] for result in results[1:-1])
    for code in {code for _, code in BAD}:
        assert recorder.counters[f"errors {code}"] == sum(code == other for _, other in BAD), code
    assert recorder.counters["sessions_opened batch"] >= 2
    assert recorder.counters["audio_seconds wav"] == pytest.approx(11 * 0.08)
    assert recorder.counters["utterances eos"] == 2


NO_BATCHES = [
    ("{", "JSON"),
    ("[]", "a JSON object"),
    ("{}", "needs 'items'"),
    ('{"items": []}', "1 to 64"),
    ('{"items": {"input": "a"}}', "1 to 64"),
    (json.dumps({"items": [{"input": "a"}] * 65}), "has 65 items; allowed: an array of 1 to 64"),
    (json.dumps({"items": [{"input": "a" * (1 << 20)}]}), "1048576 bytes"),
]


async def test_a_body_that_is_no_batch_is_refused_as_a_whole(http, backend):
    for content, part in NO_BATCHES:
        answer = await http.post(PATH, content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_MESSAGE")
        assert part in answer.json()["error"]["message"]
    assert backend.requests == []


async def test_a_foreign_page_is_refused(http, backend):
    answer = await http.post(PATH, json={"items": [{"input": "Hi."}]}, headers={"origin": "http://evil.example"})
    assert (answer.status_code, backend.requests) == (403, [])


async def test_only_a_few_texts_of_a_batch_run_at_a_time(http, backend):
    backend.frame_delay_s, backend.frames = 0.005, 5
    results = await batch(http, *(f"Text {number}." for number in range(MAX_BATCH_ITEMS)))
    assert codes(results) == ["success"] * MAX_BATCH_ITEMS
    assert backend.most_running == MAX_AT_ONCE


@pytest.mark.parametrize(("capacity", "reserved", "running"), [(3, 1, 2), (3, 0, 3), (1, 1, 1), (2, 5, 1)])
async def test_a_batch_leaves_the_reserved_streams_free(backend, capacity, reserved, running):
    backend.frame_delay_s, backend.frames, backend.capacity = 0.005, 5, capacity
    config = AppConfig(engine=EngineConfig(slots=capacity), admission=AdmissionConfig(reserved_streams=reserved))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        assert codes(await batch(http, *["Hello."] * 12)) == ["success"] * 12
    assert backend.most_running == running


async def test_a_listener_starts_at_once_beside_a_batch(backend):
    backend.frame_delay_s, backend.frames, backend.capacity = 0.01, 50, 3
    config = AppConfig(engine=EngineConfig(slots=3))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        speaking = asyncio.create_task(batch(http, *["Hello."] * 6))
        await until(lambda: backend.running == 2)
        async with socket_to(host, "/api/v1/speak") as ws:
            await say(ws, type="speak", text="Live.")
            await hear(ws, until=("audio_chunk",))
            assert backend.running == 3
        assert codes(await speaking) == ["success"] * 6


@pytest.mark.slow
async def test_white_space_is_sent_while_a_text_waits_for_longer_than_a_listener_would(backend, monkeypatch):
    monkeypatch.setattr("serve_app.web.batch.KEEP_ALIVE_S", 0.05)
    backend.frame_delay_s, backend.frames, backend.capacity = 0.01, 60, 1
    config = AppConfig(engine=EngineConfig(slots=1), admission=AdmissionConfig(start_deadline_s=0.1))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        async with socket_to(host, "/api/v1/speak") as ws:
            await say(ws, type="speak", text="Live.")
            await hear(ws, until=("audio_chunk",))
            answer = await http.post(PATH, json={"items": [{"input": "Hello."}]})
        assert codes(answer.json()["results"]) == ["success"]
        assert answer.text.count("\n") > 3


async def test_texts_that_may_not_wait_are_refused_with_a_time_to_retry(backend):
    backend.frame_delay_s, backend.frames, backend.capacity = 0.01, 60, 2
    config = AppConfig(engine=EngineConfig(slots=2), admission=AdmissionConfig(max_waiting=0))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        first = asyncio.create_task(batch(http, "Hello."))
        await until(lambda: backend.running == 1)
        (refused,) = await batch(http, "Hello.")
        assert (refused["code"], refused["retry_after_ms"] >= 500) == ("CAPACITY", True)
        assert codes(await first) == ["success"]


async def test_no_generator_is_an_error_of_each_text(http, backend):
    backend.raises = TtsUnavailableError("none is ready", retry_after_ms=1500)
    results = await batch(http, "One.", "Two.")
    assert [(result["code"], result["error"], result["retry_after_ms"]) for result in results] == [
        ("TTS_UNAVAILABLE", "none is ready", 1500)
    ] * 2


async def test_results_are_sent_in_order_while_later_texts_are_spoken(http, backend):
    backend.frame_delay_s = 0.01
    body = {"items": [{"input": "Short."}, {"input": "A text that is much longer than the first one."}]}
    async with http.stream("POST", PATH, json=body) as answer:
        received = ""
        async for part in answer.aiter_text():
            received += part
            if '"index":0' in received and "}" in received:
                break
        assert '"index":1' not in received
        assert backend.running == 1


async def test_a_client_that_goes_ends_all_texts(http, backend):
    backend.frame_delay_s, backend.frames = 0.01, 100_000
    async with http.stream("POST", PATH, json={"items": [{"input": "Hello."}] * 64}) as answer:
        async for _ in answer.aiter_raw():
            break
        await until(lambda: backend.running == MAX_AT_ONCE)
    await idle(backend)
    assert len(backend.requests) == MAX_AT_ONCE, "none of the others began"
    for _ in range(500):
        if (await http.get("/health")).json()["sessions"] == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail("sessions are left")


async def test_a_client_that_does_not_read_is_cut_off(backend):
    backend.frames, backend.chunk_frames = 10_000, 50
    recorder = Recorded()
    config = AppConfig(session=SessionConfig(slow_client_timeout_s=0.3))
    async with served_by(build_web(backend, config, recorder=recorder)) as host:
        reader, writer = await asyncio.open_connection(*host.split(":"), limit=1024)
        body = json.dumps({"items": [{"input": "Hello."}], "sample_rate": 48_000}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readline()
        await until(lambda: recorder.counters["errors SLOW_CLIENT"] == 1, timeout_s=20)
        writer.close()


async def test_the_audio_of_a_batch_is_bounded_and_what_was_refused_makes_space_again(backend):
    config = AppConfig(session=SessionConfig(max_whole_audio_s=2), admission=AdmissionConfig(reserved_streams=9))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        ten, twenty = "x" * 9 + ".", "x" * 19 + "."  # 0.8 s, 1.6 s
        results = await batch(http, "x" * 29 + ".", ten, twenty, ten, ten)
        assert codes(results) == ["TEXT_TOO_LONG", "success", "TEXT_TOO_LONG", "success", "TEXT_TOO_LONG"]
        assert "the audio is longer than 2 s" in results[0]["error"]
        assert "all texts together is longer than 2 s" in results[2]["error"]
        assert "another request" in results[2]["error"]


async def test_http_10_gets_the_same_answer_with_its_length(host, backend):
    reader, writer = await asyncio.open_connection(*host.split(":"))
    body = json.dumps({"items": [{"input": "Hello."}]}).encode()
    writer.write(f"POST {PATH} HTTP/1.0\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert f"content-length: {len(content)}".encode() in head.lower()
    assert audio(json.loads(content)["results"][0]) == wav_file(pcm16_bytes(backend.pcm("Hello.")))


async def test_a_clip_for_all_texts_is_read_once_and_given_back(backend):
    clip = base64.b64encode(wav()).decode()
    config = AppConfig(voices=VoicesConfig(max_inline_bytes=300_000))  # one clip has 192,000 bytes
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        for _ in range(3):
            results = await batch(http, *["Hello."] * 5, {"input": "Hello.", "voice": "makima"}, ref_audio=clip)
            assert [result["voice"] for result in results] == ["inline"] * 5 + ["makima"], results
        assert [request.clip is None for request in backend.requests].count(True) == 3


async def test_a_key_keeps_its_limits(backend, tmp_path):
    backend.frame_delay_s, backend.frames = 0.005, 5
    path = write(tmp_path / "keys", good={"max_sessions": 2}, brief={"per_minute": 12}, painter={"scopes": ("voices",)})

    def key(name):
        return {"authorization": f"Bearer tts_{name}-and-secret"}

    async with served(backend, guarded(path)) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        assert key("good")["authorization"].endswith(GOOD)
        assert codes(await batch(http, *["Hello."] * 9, headers=key("good"))) == ["success"] * 9
        assert backend.most_running == 2
        results = await batch(http, *["Hello."] * 5, headers=key("brief"))  # two at once
        assert codes(results) == ["success"] * 2 + ["RATE_LIMITED"] * 3
        assert all(result["retry_after_ms"] > 0 for result in results[2:])
        for refused in (key("painter"), {}):
            answer = await http.post(PATH, json={"items": [{"input": "Hi."}]}, headers=refused)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "UNAUTHORIZED")


async def test_each_text_counts_as_a_session_of_the_server(backend):
    backend.frame_delay_s, backend.frames = 0.01, 30
    config = AppConfig().model_copy(update={"ingress": AppConfig().ingress.model_copy(update={"max_sessions": 3})})
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as http:
        results = await batch(http, *["Hello."] * 4)
        assert codes(results) == ["success"] * 3 + ["CAPACITY"]
        assert results[3]["retry_after_ms"] == 5000
        assert (await http.get("/health")).json()["sessions"] == 0


FIELDS = st.dictionaries(
    st.sampled_from(["voice", "speaker", "ref_audio", "ref_text", "seed", "language", "response_format"]),
    st.sampled_from(["", "  ", "a", "b", None]),
)


@given(FIELDS, FIELDS)
def test_an_item_gets_the_defaults_that_it_leaves_out_and_no_part_of_another_voice(defaults, item):
    (merged,) = read_batch(json.dumps({"items": [item], **defaults}))
    stated = {name for name, value in item.items() if value is not None}
    for name in stated:
        if not (name in ("voice", "language") and not item[name].strip()):
            assert merged[name] == item[name]
    own_voice = any((item.get(name) or "").strip() for name in ("voice", "speaker", "ref_audio"))
    if own_voice:
        voice_fields = {"voice", "speaker", "ref_audio", "ref_text"}
        assert {name: merged[name] for name in voice_fields & merged.keys()}.items() <= item.items()
    for name in ("seed", "language", "response_format"):
        if not (item.get(name) or "").strip() and name not in stated and defaults.get(name) is not None:
            assert merged[name] == defaults[name]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["input", "voice", "x"]), inner),
    max_leaves=8,
)


@examples(200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["items", "voice", "response_format", "input"]), JSON))
def test_any_json_is_a_batch_or_a_refusal(body):
    items = read_batch(json.dumps(body))
    if not isinstance(items, Refusal):
        for item in items:
            asked = read_batch_item(item)
            assert isinstance(asked, Refusal) or asked.speak_in_batch("makima").priority == "low"


async def test_a_traceparent_is_passed_to_every_text(http, backend):
    parent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    await batch(http, "One.", "Two.", headers={"traceparent": parent})
    assert {request.trace.context.traceparent for request in backend.requests} == {parent}
