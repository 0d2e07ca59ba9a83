"""Bodies of requests that do not come in time."""

import asyncio

import pytest
from known_backend import KnownBackend, served

from serve_app.config import AppConfig
from serve_app.web import middleware

HEAD = "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n\r\n"
MULTIPART = "multipart/form-data; boundary=b"
PART = '--b\r\ncontent-disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n'


@pytest.fixture
async def host(monkeypatch):
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(middleware, "LEAST_BYTES_PER_S", 100_000)
    async with served(KnownBackend(), AppConfig()) as host:
        yield host


async def posted(host, path, piece, pause_s, kind="application/json", size=1_000_000):
    """Send a body piece by piece until it is answered; the head of the answer, and after how many seconds."""
    began_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*host.split(":"))
        head = HEAD.format(path=path, host=host, kind=kind, size=size)
        writer.write((head + PART * (kind == MULTIPART)).encode())
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        for _ in range(size // len(piece)):
            writer.write(piece)
            await asyncio.wait([answer], timeout=pause_s)
            if answer.done():
                break
        head = (await answer).decode()
        writer.close()
    return head, asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/tts", "application/json"),
        ("/v1/audio/speech", "application/json"),
        ("/v1/audio/voices", MULTIPART),
    ],
)
async def test_a_body_that_drips_is_answered_with_408_and_cut(host, path, kind):
    answer, took_s = await posted(host, path, b"x", 0.05, kind)
    assert answer.startswith("HTTP/1.1 408 ")
    assert "connection: close" in answer.lower()
    assert took_s < 2


async def test_a_body_that_comes_fast_enough_is_taken_however_long_it_takes(host):
    answer, took_s = await posted(host, "/api/tts", b" " * 30_000, 0.1, size=300_000)
    assert answer.startswith("HTTP/1.1 400 ")  # read to its end, which is no JSON
    assert took_s > 0.9
