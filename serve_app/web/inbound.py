"""Gives what a client sends a bound where Serve gives it none: in messages, and in time.

Serve (2.60, ``ASGIDIReceiveProxy``) reads a client's messages for the application into a queue without a limit, whether
or not the application takes them, so that a flood fills the replica's memory although the server beneath would pause.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import InvalidMessageError

MAX_INBOUND_MESSAGES = 16
"""Messages of one connection that may wait for the application; beyond them its socket is not read."""

BODY_PATIENCE_S = 10.0
"""How long the body of a request may take beside the time for its bytes."""

LEAST_BYTES_PER_S = 8192
"""A body that comes more slowly than this is given up. An upload of a voice has a bound of its own as well."""

LINGER_S = 10.0
"""How long the rest of a body is read and dropped behind an answer, which a client that is cut off would not see."""


class TimelyBody:
    """ASGI middleware: a request whose body does not come in time is answered with 408.

    Nothing below does it: uvicorn waits for ever, and HAProxy's time for a request ends with its head, since it would
    have to hold bodies in its buffers to wait for them. An answer that comes before the end of the body ends the
    connection, since what still comes of the body would hold it for as long as it comes; but ``LINGER_S`` later, so
    that a client that sends its whole body first can read the answer.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; to the application a body that is given up is a client that went away."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._clock)
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer."""

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
        """The next message of the client, in time."""
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
            # Only the time that is spent waiting counts, not what the application does between two pieces.
            self._left_s += len(message.get("body", b"")) / LEAST_BYTES_PER_S - (self._clock() - asked_s)
        else:
            self._left_s, self._unread = math.inf, False
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, unless the request was given up."""
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
    """Whether the head of a request announces a body."""
    headers = Headers(scope=scope)
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


async def _too_slow(scope: Scope, receive: Receive, send: Send) -> None:
    said = f"the body did not come in time; allowed: {BODY_PATIENCE_S:g} s, and 1 s more for each 8 KiB"
    body = {"code": InvalidMessageError.code, "message": said}
    await JSONResponse(body, status_code=408, headers={"connection": "close"})(scope, receive, send)


class BoundedInbound:
    """ASGI middleware: the queue behind ``receive`` is bounded, so that its filler waits, and with it the client.

    Only for Serve's mode in which that filler runs on the application's own event loop: from another one it would not
    wait for room, and lose what a full queue refuses.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; what its queue holds already stays in it."""
        queue = getattr(receive, "queue", None)
        if isinstance(queue, asyncio.Queue):
            # asyncio looks at it each time that something is put; a new queue would lose what is in this one.
            queue._maxsize = MAX_INBOUND_MESSAGES  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
        await self._app(scope, receive, send)
