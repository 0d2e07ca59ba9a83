"""Requests in forms that a browser, an old player or a proxy gives them, over a real server."""

import asyncio
import json

import httpx
import pytest
from known_backend import hear, say, served, served_by, socket_to

from serve_app.config import AppConfig, IngressConfig
from serve_app.web.routes import build_web

TEXT = "Hello there."
BODY = json.dumps({"input": TEXT, "response_format": "pcm"}).encode()
ORIGIN = "https://app.example"
STAINLESS = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count"


async def raw(host, request):
    """Everything that comes back up to the end of the connection, as head and body."""
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def old_post(path, body, *headers):
    lines = [f"POST {path} HTTP/1.0", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize("headers", [(), ("Host: x", "Connection: close"), ("Host: x", "Connection: keep-alive")])
async def test_an_answer_to_http_10_is_whole_and_has_its_length(host, backend, headers):
    head, body = await raw(host, old_post("/v1/audio/speech", BODY, *headers))
    assert "chunked" not in head
    assert f"content-length: {len(body)}\r\n" in head + "\r\n"
    assert len(body) == len(TEXT) * 1920 * 2
    assert not backend.requests[0].listening, "nobody hears it while it is made"


async def test_events_and_errors_to_http_10_are_whole_too(host, backend):
    events = json.dumps({"input": TEXT, "stream_format": "sse"}).encode()
    head, body = await raw(host, old_post("/v1/audio/speech", events))
    assert ("chunked" in head, body.rstrip().endswith(b"}")) == (False, True)
    assert b"speech.audio.done" in body
    head, body = await raw(host, old_post("/v1/audio/speech", b"{}"))
    assert head.startswith("http/1.1 400")
    assert json.loads(body)["error"]["code"] == "INVALID_MESSAGE"


async def test_the_head_of_a_page_says_its_length_in_http_10(host):
    head, body = await raw(host, b"HEAD / HTTP/1.0\r\n\r\n")
    assert body == b""
    assert "content-length: 0" not in head
    assert head.count("content-length") == 1


async def test_an_answer_without_a_body_says_no_length_in_http_10(host):
    async with httpx.AsyncClient() as client:
        known = (await client.get(f"http://{host}/")).headers["etag"]
    head, body = await raw(host, f"GET / HTTP/1.0\r\nIf-None-Match: {known}\r\n\r\n".encode())
    assert head.startswith("http/1.1 304")
    assert (body, "content-length" in head) == (b"", False)


async def test_an_early_answer_to_http_10_does_not_wait_for_the_rest_of_a_body(host):
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(b"POST /v1/models HTTP/1.0\r\nContent-Length: 1000\r\n\r\nx")
    async with asyncio.timeout(5):
        assert b" 405 " in await reader.readline()
    writer.close()


@pytest.mark.parametrize("slashes", ["/", "//"])
@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/v1/models", "/v1/models/tiny", "/v1/audio/voices", "/playground/playground.js"]
)
async def test_a_slash_at_the_end_changes_nothing(host, path, slashes):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        plain, slashed = await client.get(path), await client.get(path + slashes)
        assert (slashed.status_code, slashed.content) == (plain.status_code, plain.content) == (200, plain.content)


async def test_a_slash_at_the_end_of_a_post_or_a_socket_is_not_redirected(host):
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        answer = await client.post("/v1/audio/speech/", content=BODY)
        assert (answer.status_code, len(answer.content)) == (200, len(TEXT) * 1920 * 2)
        assert (await client.post("/api/tts/", json={"text": TEXT})).status_code == 200
        assert (await client.post("/v1/audio/voices/", content=b"")).json()["code"] == "INVALID_MESSAGE"
    for path in ("/api/v1/speak/?voice=makima", "/ws/tts/"):
        async with socket_to(host, path) as ws:
            await say(ws, type="speak" if "speak" in path else "synthesize", text=TEXT)
            assert (await hear(ws))[-1]["type"] == "complete"


async def test_all_of_it_works_below_a_prefix(backend):
    web = build_web(backend, AppConfig())

    async def as_serve_calls_it(scope, receive, send):
        await web({**scope, "root_path": "/tts"}, receive, send)

    async with (
        served_by(as_serve_calls_it) as host,
        httpx.AsyncClient(base_url=f"http://{host}") as client,
    ):
        bare = await client.get("/tts")
        assert bare.headers["location"] == "tts/", "the page's relative addresses need the slash"
        assert bare.next_request.url.path == "/tts/"
        assert (await client.get("/tts?x=1")).headers["location"] == "tts/?x=1"
        assert (await client.get("/tts/")).text.startswith("<!doctype html>")
        for path in ("/tts/ready", "/tts/ready/", "/tts/playground/playground.js", "/tts/v1/models/"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.post("/tts/v1/audio/speech/", content=BODY)).status_code == 200
        async with socket_to(host, "/tts/api/v1/speak") as ws:
            await say(ws, type="speak", text=TEXT, voice="alloy")
            assert (await hear(ws))[-1]["voice"] == "makima"


@pytest.mark.parametrize(
    "asked", [STAINLESS, "x-stainless-timeout", "idempotency-key,openai-organization", "x-any-other"]
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "HEAD"])
async def test_an_allowed_page_may_send_any_header(backend, asked, method):
    config = AppConfig(ingress=IngressConfig(allowed_origins=(ORIGIN,)))
    asks = {"access-control-request-method": method, "access-control-request-headers": asked}
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
        allowed = await client.options("/v1/audio/speech", headers={"origin": ORIGIN, **asks})
        assert allowed.status_code == 200
        assert set(asked.split(",")) <= set(allowed.headers["access-control-allow-headers"].split(","))
        foreign = await client.options("/v1/audio/speech", headers={"origin": "https://evil.example", **asks})
        assert foreign.status_code == 400
        assert "access-control-allow-origin" not in foreign.headers


async def test_an_allowed_page_reads_what_its_client_library_needs(backend):
    config = AppConfig(ingress=IngressConfig(allowed_origins=(ORIGIN,)))
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
        for body in (BODY, b"{}"):
            answer = await client.post("/v1/audio/speech", content=body, headers={"origin": ORIGIN})
            exposed = set(answer.headers["access-control-expose-headers"].split(", "))
            assert {"ai-disclosure", "retry-after", "x-request-id", "x-voice"} <= exposed


async def test_a_query_with_plus_signs_names_a_voice_and_a_language(host, backend):
    async with socket_to(host, "/api/v1/speak?voice=+MAKIMA+&language=en-US") as ws:
        await say(ws, type="speak", text=TEXT)
        assert (await hear(ws))[-1]["voice"] == "makima"
    assert backend.requests[-1].language == "english"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
async def test_a_text_frame_may_begin_with_a_byte_order_mark(host, mark):
    for path, message in (
        ("/api/v1/speak", {"type": "speak", "text": TEXT, "voice": None}),
        ("/api/v1/speak?framing=raw", {"type": "speak", "text": TEXT, "voice": None}),
        ("/ws/tts", {"text": TEXT, "voice": None, "language": None}),
    ):
        async with socket_to(host, path) as ws:
            await ws.send(mark + json.dumps(message))
            if "raw" in path:
                assert isinstance(await asyncio.wait_for(ws.recv(), 5), bytes)
            else:
                assert (await hear(ws))[-1]["type"] == "complete"
