"""Formats, OpenAI's own client and API keys against the real service."""

import asyncio
import base64
import io
import json
import re

import av
import httpx
import numpy as np
import openai
import pytest
import websockets
from running_service import Log, speak, wait_until
from service_keys import APP
from websockets.exceptions import InvalidStatus

from serve_app.audio.pcm import WAV_HEADER_BYTES

TEXT = "It is good to hear you."
LONG = "It is good to hear you, and to speak to you again after such a long time. " * 5
CONTAINERS = {"mp3": "mp3", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav"}


def seconds(data: bytes, container: str) -> float:
    with av.open(io.BytesIO(data), format=container) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.fixture
async def client(service):
    async with openai.AsyncOpenAI(base_url=f"http://{service.address}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_openais_client_speaks_every_format(service, client):
    async with service.connect() as connection:
        known_s = (await speak(connection, TEXT, seed=3)).duration_s
    for encoding, container in CONTAINERS.items():
        answer = await client.audio.speech.create(
            model="tts-1", voice="austen", input=TEXT, response_format=encoding, extra_body={"seed": 3}
        )
        assert known_s <= seconds(answer.content, container) + 0.001 < known_s + 0.3


@pytest.mark.slow
async def test_openais_client_hears_the_first_audio_before_the_last_is_made(service, client):
    arrived_s, size = [], 0
    loop = asyncio.get_running_loop()
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="austen", input=LONG, response_format="pcm", extra_body={"seed": 1}
    ) as answer:
        async for part in answer.iter_bytes():
            size += len(part)
            arrived_s.append(loop.time())
    async with service.connect() as connection:
        spoken = await speak(connection, LONG, seed=1)
    assert size == len(spoken.pcm)
    assert len(arrived_s) > 10


def utterances(service, reason):
    """How many utterances ended for this reason."""
    samples = service.metrics().get("ray_tts_utterances_total", [])
    return sum(sample.value for sample in samples if sample.labels["finish_reason"] == reason)


@pytest.mark.slow
async def test_a_batch_has_the_audio_of_single_requests_and_an_error_for_a_bad_text(service, client):
    items = [{"input": TEXT, "seed": 3}, {"input": ""}, {"input": LONG, "seed": 1, "response_format": "pcm"}]
    async with httpx.AsyncClient(base_url=f"http://{service.address}", timeout=60) as http:
        body = {"items": items, "voice": "austen"}
        results = (await http.post("/v1/audio/speech/batch", json=body)).json()["results"]
    assert [result.get("code", result["status"]) for result in results] == ["success", "TEXT_EMPTY", "success"]
    for item, result in (pair for pair in zip(items, results, strict=True) if pair[0]["input"]):
        single = await client.audio.speech.create(
            model="tts-1", voice="austen", input=item["input"], response_format="pcm", extra_body={"seed": item["seed"]}
        )
        header = 0 if "response_format" in item else WAV_HEADER_BYTES
        samples = np.frombuffer(base64.b64decode(result["audio_data"])[header:], "<i2").astype(int)
        other = np.frombuffer(single.content, "<i2").astype(int)
        assert len(samples) == len(other)
        assert np.abs(samples - other).max() <= 4, "the codes are the same, and the codec's sums are rounded"


async def test_a_client_that_leaves_a_batch_ends_its_streams(service, running):
    before = utterances(service, "disconnected")
    body = {"items": [{"input": LONG * 10, "voice": "austen"}] * 3}
    address = f"http://{service.address}/v1/audio/speech/batch"
    async with httpx.AsyncClient(timeout=60) as http, http.stream("POST", address, json=body) as answer:
        async for _ in answer.aiter_raw():
            break
        wait_until(lambda: service.sessions() == 3, 10, "all texts are spoken")
    wait_until(lambda: service.sessions() == 0, 10, "sessions end")
    await asyncio.to_thread(wait_until, lambda: running() == 0, 10, "streams end")
    wait_until(lambda: utterances(service, "disconnected") >= before + 3, 20, "none was spoken to its end")


async def test_events_arrive_one_by_one_and_end(client):
    deltas, last = b"", None
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="austen", input=TEXT, response_format="wav", stream_format="sse"
    ) as answer:
        async for line in answer.iter_lines():
            if line.startswith("data: "):
                last = json.loads(line.removeprefix("data: "))
                deltas += base64.b64decode(last.get("audio", ""))
    assert last["type"] == "speech.audio.done"
    assert abs(seconds(deltas, "wav") - last["usage"]["output_tokens"] * 0.08) < 0.001


async def test_models_and_errors_are_those_of_openai(client):
    assert [model.id async for model in client.models.list()] == ["tiny"]
    with pytest.raises(openai.NotFoundError):
        await client.audio.speech.create(model="tts-1", voice="nobody", input=TEXT)


async def test_a_client_that_hangs_up_frees_its_slot(client, running):
    wait_until(lambda: running() == 0, 10, "nobody is spoken for")
    async with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="austen", input=LONG * 20, response_format="pcm"
    ) as answer:
        parts = answer.iter_bytes()
        await anext(parts)
        await asyncio.to_thread(wait_until, lambda: running() == 1, 10, "the stream runs")
    await asyncio.to_thread(wait_until, lambda: running() == 0, 4, "its slot is free")


@pytest.mark.parametrize(("encoding", "rate_hz"), [("pcm16", 48_000), ("pcm_f32", 16_000), ("mulaw", 8000)])
async def test_a_socket_speaks_at_other_rates(service, encoding, rate_hz):
    sample_bytes = {"pcm16": 2, "pcm_f32": 4, "mulaw": 1}[encoding]
    async with service.connect() as connection:
        plain = await speak(connection, TEXT, seed=3)
        spoken = await speak(connection, TEXT, seed=3, encoding=encoding, sample_rate=rate_hz)
    assert spoken.end["duration_ms"] == plain.end["duration_ms"]
    assert len(spoken.pcm) // sample_bytes == round(plain.duration_s * rate_hz)


async def test_the_payloads_of_an_opus_utterance_are_one_ogg_file(service):
    async with service.connect() as connection:
        plain = await speak(connection, TEXT, seed=3)
        spoken = await speak(connection, TEXT, seed=3, encoding="opus")
        again = await speak(connection, TEXT, seed=3, encoding="opus", transport="base64")
    assert seconds(spoken.pcm, "ogg") == pytest.approx(plain.duration_s, abs=1e-3)
    assert seconds(again.pcm, "ogg") == pytest.approx(plain.duration_s, abs=1e-3)
    assert len(spoken.pcm) < len(plain.pcm) / 4
    with av.open(io.BytesIO(spoken.pcm), format="ogg") as file:
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in file.decode(audio=0)])
    loud = np.frombuffer(plain.pcm, "<i2").astype(float).std() / 32768
    assert 0.3 * loud < heard.std() < 3 * loud


async def test_a_rebound_page_is_refused_and_the_names_of_this_machine_are_served(service):
    port = int(service.address.rpartition(":")[2])

    def named(name, path):
        options = {"origin": f"http://{name}:{port}", "host": "127.0.0.1", "port": port}
        return websockets.connect(f"ws://{name}:{port}{path}", **options)

    rebound = {"host": f"evil.example:{port}", "origin": f"http://evil.example:{port}"}
    async with httpx.AsyncClient(base_url=f"http://{service.address}") as client:
        for path in ("/", "/v1/models", "/v1/audio/voices", "/health"):
            refused = await client.get(path, headers=rebound)
            assert (refused.status_code, refused.json()["code"]) == (403, "HOST_NOT_ALLOWED")
        for name in ("localhost", "127.0.0.1", "tts.localhost", "[::1]"):
            headers = {"host": f"{name}:{port}", "origin": f"http://{name}:{port}"}
            assert (await client.get("/v1/models", headers=headers)).status_code == 200
            async with named(name, "/api/v1/speak") as connection:
                assert (await speak(connection, TEXT)).end["type"] == "complete"
    for path in ("/api/v1/speak", "/ws/tts"):
        with pytest.raises(InvalidStatus) as denied:
            async with named("evil.example", path):
                pass
        assert denied.value.response.status_code == 403
        assert b"ingress.allowed_hosts" in denied.value.response.body


async def test_below_a_prefix_keys_are_asked_for_and_stand_in_no_log(guarded, keys_file):
    printed = guarded.launched.printed
    assert all(f"{scheme}://{guarded.address}/tts/" in printed for scheme in ("http", "ws"))
    assert f"{guarded.address}/api" not in printed
    assert guarded.get("/")[1].startswith(b"<!doctype html>")
    paths = ("", "/ready", "/ready/", "/playground/playground.js")
    assert [guarded.get(path)[0] for path in paths] == [307, 200, 200, 200]
    assert any(name.startswith("ray_tts_") for name in guarded.metrics())
    with pytest.raises(InvalidStatus) as refused:
        async with guarded.connect():
            pass
    assert refused.value.response.status_code == 401
    async with guarded.connect(f"/api/v1/speak?api_key={APP}&seed=3") as connection:
        assert (await speak(connection, TEXT)).end["type"] == "complete"
    async with guarded.connect(subprotocols=["tts.v1", f"tts-key.{APP}"]) as connection:
        assert connection.subprotocol == "tts.v1"
        assert (await speak(connection, TEXT)).end["type"] == "complete"
    base_url = f"http://{guarded.address}/tts/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=APP, max_retries=0) as client:
        assert (await client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)).content

    def status() -> int:
        return guarded.get(f"/v1/models?api_key={APP}")[0]

    assert status() == 200
    keys = keys_file.read_text()
    keys_file.write_text("[]")
    try:
        await asyncio.to_thread(wait_until, lambda: status() == 401, 10, "a removed key is refused")
    finally:
        keys_file.write_text(keys)
    await asyncio.to_thread(wait_until, lambda: status() == 200, 10, "the key is accepted again")
    log = Log(guarded)
    log._before.clear()
    await asyncio.to_thread(wait_until, lambda: "/v1/models" in log.text(), 15, "its requests are logged")
    assert APP not in log.text() + guarded.launched.printed


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_an_answer_to_http_10_has_no_framing_inside_its_audio(service, connection):
    body = json.dumps({"input": TEXT, "response_format": "wav", "seed": 3, "voice": "nova"}).encode()
    head = f"POST /v1/audio/speech/ HTTP/1.0\r\nConnection: {connection}\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = service.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    async with asyncio.timeout(60):
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        (length,) = re.findall(r"content-length: (\d+)", answer)
        audio = await reader.readexactly(int(length))
    writer.close()
    assert "chunked" not in answer
    assert "x-voice: austen" in answer
    assert "ai-disclosure: mode=machine-generated" in answer
    assert "x-request-id: " in answer
    async with service.connect() as plain:
        assert plain.response.headers["ai-disclosure"] == "mode=machine-generated"
        pcm = (await speak(plain, TEXT, seed=3)).pcm
    # Another number of frames at a time may round a sample's last bit in another way.
    heard, known = (np.frombuffer(data, "<i2").astype(int) for data in (audio[WAV_HEADER_BYTES:], pcm))
    assert len(heard) == len(known)
    assert np.abs(heard - known).max() <= 2
