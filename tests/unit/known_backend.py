"""A backend that yields known PCM, the web application over a real server, and clients of it."""

import asyncio
import base64
import contextlib
import json
import socket
import time

import numpy as np
import uvicorn
from websockets.asyncio.client import connect

from serve_app.audio.pcm import pcm16_bytes
from serve_app.cluster.registry import Readiness
from serve_app.speech import AudioChunk, SpeechEnd
from serve_app.voices.voice import VoiceStatus
from serve_app.web.routes import build_web

FRAME = 1920


class KnownBackend:
    """Speaks one frame for each character, of a value that the text decides."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.frame_delay_s = 0.0
        self.frames = None
        self.chunk_frames = 1
        self.raises = None
        self.capacity = 1000
        self.uploaded = []
        self.ready = Readiness(ready=True, model="tiny", weights="random")
        self.requests = []
        self.closed = []
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.most_running = 0
        self.yielded = 0

    def pcm(self, text, frames=None):
        return np.full((frames or len(text)) * FRAME, (sum(map(ord, text)) % 97) / 100, dtype=np.float32)

    async def speak(self, request):
        self.requests.append(request)
        self.running += 1
        self.idle.clear()
        self.most_running = max(self.most_running, self.running)
        try:
            if self.raises is not None:
                raise self.raises
            frames = self.frames or len(request.text)
            for first in range(0, frames, self.chunk_frames):
                await asyncio.sleep(self.frame_delay_s)
                count = min(self.chunk_frames, frames - first)
                codes = np.zeros((count, 16), dtype=np.int16)
                self.yielded += count
                yield AudioChunk(first, codes, self.pcm(request.text, count))
            yield SpeechEnd("eos", frames)
        finally:
            self.running -= 1
            if self.running == 0:
                self.idle.set()
            self.closed.append(time.monotonic())

    async def share_load(self, backlog):
        return self.capacity

    async def voices(self):
        return [
            VoiceStatus("makima", "ready", "", None),
            VoiceStatus("power", "unavailable", "its reference audio is not there yet", None),
            *(VoiceStatus(voice, "ready", "", None) for voice in self.uploaded),
        ]

    async def readiness(self):
        return self.ready


class Server(uvicorn.Server):
    def __init__(self, options):
        super().__init__(options)
        self.is_up = asyncio.Event()

    async def startup(self, sockets=None):
        await super().startup(sockets=sockets)
        self.is_up.set()


def served(backend, config, *, access_log=False, clock=time.monotonic):
    return served_by(build_web(backend, config, clock=clock), access_log=access_log)


@contextlib.asynccontextmanager
async def served_by(web, *, access_log=False):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    options = uvicorn.Config(web, lifespan="off", log_config=None, access_log=access_log)
    server = Server(options)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.is_up.wait()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listener.close()


def socket_to(host, path, **options):
    return connect(f"ws://{host}{path}", compression=None, **options)


async def say(ws, **message):
    await ws.send(json.dumps(message))


async def hear(ws, until=("complete",), timeout_s=20.0):
    """Messages and payloads up to one of a type; payloads are put into their message as ``pcm``."""
    heard = []
    async with asyncio.timeout(timeout_s):
        while True:
            frame = await ws.recv()
            if isinstance(frame, bytes):
                heard[-1]["pcm"] = frame
                continue
            message = json.loads(frame)
            heard.append(message)
            if message["type"] in until:
                return heard


def audio_of(heard):
    return b"".join(
        message["pcm"] if "pcm" in message else base64.b64decode(message.get("data", ""))
        for message in heard
        if message["type"] in ("audio_chunk", "audio")
    )


def expected(backend, *texts):
    return b"".join(pcm16_bytes(backend.pcm(text)) for text in texts)


async def idle(backend):
    async with asyncio.timeout(2):
        await backend.idle.wait()


async def until_sessions(client, count):
    """Wait until so many sessions are open: the server learns later than the client that a socket is closed."""
    async with asyncio.timeout(20):
        while (await client.get("/health")).json()["sessions"] != count:  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.01)
