"""A proxy between clients of dialect B and a server. The first part of the path says what it does to a connection.

``/cut-NAME/…``: the first connection with this NAME is cut after some audio, without a close frame.
``/always/…``: every connection is cut like that.
``/restart-NAME/…``: as ``cut``, with the error and the close code of a server that is replaced.
``/words/…``: word times are added behind the audio of each segment, as a server with ``words`` sends them.
``/wordless/…``: word times are refused, as by a server whose checkpoint has none.
"""

import asyncio
import json
from contextlib import asynccontextmanager

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

CUT_BYTES = 12_000
"""Audio before a connection is cut: three and an eighth frames."""
NO_WORDS = {"type": "error", "code": "WORD_TIMES_UNAVAILABLE", "message": "this checkpoint has none", "fatal": False}
RESTARTS = {"type": "error", "code": "SERVICE_RESTART", "message": "it restarts", "retry_after_ms": 50, "fatal": True}


class Proxy:
    """Attributes: ``asked``, all messages of clients by path; ``connections``, their number by path."""

    def __init__(self, host):
        self._host = host
        self.asked = {}
        self.connections = {}

    async def handle(self, client):
        name = client.request.path.split("/")[1]
        deed, once, _ = name.partition("-")
        self.connections[name] = self.connections.get(name, 0) + 1
        if once and self.connections[name] > 1:
            deed = ""
        async with connect(f"ws://{self._host}/api/v1/speak", compression=None, max_queue=None) as server:
            up = asyncio.create_task(self._up(client, server, name))
            try:
                await self._down(client, server, deed)
            except ConnectionClosed as closed:
                if closed.rcvd is not None:
                    await client.close(closed.rcvd.code, closed.rcvd.reason)
            finally:
                up.cancel()
                await asyncio.wait([up])

    async def _up(self, client, server, name):
        try:
            async for frame in client:
                message = json.loads(frame)
                self.asked.setdefault(name, []).append(message)
                await server.send(json.dumps({field: message[field] for field in message if field != "words"}))
        finally:
            await server.close()

    async def _down(self, client, server, deed):
        audio_bytes, segment = 0, None
        if deed == "wordless":
            await client.send(json.dumps(NO_WORDS))
        while True:
            frame = await server.recv()
            if isinstance(frame, bytes):
                if deed in ("cut", "always", "restart") and audio_bytes + len(frame) > CUT_BYTES:
                    await self._end(client, deed)
                    return
                audio_bytes += len(frame)
            elif deed == "words" and (message := json.loads(frame))["type"] in ("segment", "complete"):
                if segment is not None:
                    await client.send(json.dumps(word_times(segment, round(audio_bytes / 48))))
                segment = message
            await client.send(frame)

    async def _end(self, client, deed):
        if deed == "restart":
            await client.send(json.dumps(RESTARTS))
            await client.close(1012, RESTARTS["code"])
        else:
            client.transport.abort()


def word_times(segment, end_ms):
    """The message ``words`` of a segment, whose words all take the same time."""
    words = segment["text"].split()
    each_ms = (end_ms - segment["start_ms"]) // len(words)
    at_ms = [segment["start_ms"] + number * each_ms for number in range(len(words) + 1)]
    times = [[word, at_ms[number], at_ms[number + 1]] for number, word in enumerate(words)]
    return {"type": "words", "utterance_id": segment["utterance_id"], "index": segment["index"], "words": times}


@asynccontextmanager
async def proxy_to(host):
    proxy = Proxy(host)
    async with serve(proxy.handle, "127.0.0.1", 0, compression=None) as running:
        yield proxy, f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
