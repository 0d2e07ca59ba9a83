"""Limits how long a client may take to send the body of a request, because the servers below do not."""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import InvalidMessageError

BODY_PATIENCE_S = 10.0
"""Time for a request's body, in addition to the time for its bytes."""

LEAST_BYTES_PER_S = 8192
"""A body that arrives more slowly is given up. An upload of a voice also has a limit of its own."""

LINGER_S = 10.0
"""How long the rest of a body is read and dropped after the response; a client that is cut off would not read it."""


class TimelyBody:
    """ASGI middleware that answers 408 if a request's body does not arrive in time.

    No layer below does this: uvicorn waits forever. HAProxy's timeout covers only the head of a request, because it
    would have to buffer bodies to wait for them. A response before the end of the body closes the connection, because
    the rest of the body could hold it open. It closes ``LINGER_S`` later, so that a client that sends its whole body
    first can read the response.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; to the application, a body that was given up looks like a disconnected client."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._clock)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, clock: Callable[[], float]) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._clock = clock
        self._left_s = BODY_PATIENCE_S
        self._unread = _has_body(scope)
        self._answered = False
        self._given_up = False

    async def receive(self) -> Message:
        """Return the client's next message, or a disconnect if it is late."""
        asked_s = self._clock()
        try:
            async with asyncio.timeout(None if self._left_s == math.inf else max(0.0, self._left_s)):
                message = await self._receive()
        except TimeoutError:
            self._left_s, self._given_up = math.inf, True
            if not self._answered:
                await _too_slow(self._scope, self._receive, self._send)
            return {"type": "http.disconnect"}
        if message.get("more_body", False):
            # Only the waiting time counts, not the application's work between two pieces.
            self._left_s += len(message.get("body", b"")) / LEAST_BYTES_PER_S - (self._clock() - asked_s)
        else:
            self._left_s, self._unread = math.inf, False
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response, unless the request was given up."""
        if self._given_up:
            return
        self._answered = True
        if self._unread and message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drop_the_rest()
            message = {"type": "http.response.body"}
        await self._send(message)

    async def _drop_the_rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while self._unread and (await self.receive())["type"] == "http.request":
                    pass


def _has_body(scope: Scope) -> bool:
    """Return whether the head of a request announces a body."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _too_slow(scope: Scope, receive: Receive, send: Send) -> None:
    said = f"the body did not arrive in time; allowed: {BODY_PATIENCE_S:g} s, and 1 s more for each 8 KiB"
    body = {"code": InvalidMessageError.code, "message": said}
    await JSONResponse(body, status_code=408, headers={"connection": "close"})(scope, receive, send)
