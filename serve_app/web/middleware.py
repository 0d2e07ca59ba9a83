"""ASGI middleware of the ingress: what every request passes through before its route.

Each class does one thing. :func:`serve_app.web.routes.build_web` puts them in order.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from serve_app.config import AppConfig
from serve_app.errors import HostNotAllowedError, InvalidMessageError, SpeechError
from serve_app.hosts import is_served
from serve_app.web.responses import error_response

BODY_TIMEOUT_S = 10.0
"""Time for a request's body, in addition to the time for its bytes."""

LEAST_BYTES_PER_S = 8192
"""A request whose body arrives more slowly is refused. An upload of a voice also has a limit of its own."""

LINGER_S = 10.0
"""How long the rest of a body is read and dropped after the response; a client whose connection is reset would not read
it."""

HTTP10 = "1.0"
"""The version of HTTP/1.0 in an ASGI scope."""

_SHOWN_CHARACTERS = 100
_WITHOUT_BODY = frozenset({204, 304})


class TrailingSlash:
    """Serves a path with a trailing slash like the path without it, on every route and for every method.

    A redirect would not work for every client's POST. The page is the exception, because its relative addresses need
    the slash. Under a prefix, a request without the slash is redirected.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] in ("http", "websocket"):
            prefix = scope.get("root_path", "").rstrip("/")
            path = scope["path"].rstrip("/")
            if path == prefix:
                if scope["type"] == "http" and scope["path"] == prefix and prefix:
                    # Relative, because the server's external address is not known here.
                    query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
                    await RedirectResponse(prefix.rpartition("/")[2] + "/" + query)(scope, receive, send)
                    return
                path = prefix + "/"
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


class AllowedHosts:
    """Refuses requests with a ``Host`` that :mod:`serve_app.hosts` does not allow, on every route."""

    def __init__(
        self, app: ASGIApp, config: AppConfig, listening: str | None, refused: Callable[[SpeechError], None]
    ) -> None:
        """Wrap ``app``; ``refused`` is called with the error of each refused request."""
        self._app = app
        self._refused = refused
        self._is_served = partial(
            is_served,
            listening=listening,
            allowed=frozenset(name.lower().removesuffix(".") for name in config.ingress.allowed_hosts),
            keys_required=config.access.keys_file is not None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or answer 403; a WebSocket handshake is denied with the same status."""
        hosts = Headers(scope=scope).getlist("host") if scope["type"] in ("http", "websocket") else []
        wrong = next((host for host in hosts if not self._is_served(host)), None)
        if wrong is None:
            await self._app(scope, receive, send)
            return
        error = HostNotAllowedError(
            f"host {wrong[:_SHOWN_CHARACTERS]!r} is not served; allowed: localhost, 127.0.0.1, [::1] and the names in"
            " ingress.allowed_hosts"
        )
        self._refused(error)
        if scope["type"] == "http":
            await error_response(error)(scope, receive, send)
        elif "websocket.http.response" in scope.get("extensions", {}):
            await WebSocket(scope, receive, send).send_denial_response(error_response(error))
        else:
            await WebSocket(scope, receive, send).close()  # before accept: a plain 403


class BodyTimeout:
    """Answers 408 if a request's body does not arrive in time.

    No layer below does this: uvicorn waits forever. HAProxy's timeout covers only the head of a request, because it
    would have to buffer bodies to wait for them. A response that is sent before the end of the body closes the
    connection, because the rest of the body could hold it open. The connection closes ``LINGER_S`` later, so that a
    client that sends its whole body first can read the response.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; if the body is late, the application sees a disconnected client."""
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
        self._left_s = BODY_TIMEOUT_S
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
    said = f"the body did not arrive in time; allowed: {BODY_TIMEOUT_S:g} s, and 1 s more for each 8 KiB"
    body = {"code": InvalidMessageError.code, "message": said}
    await JSONResponse(body, status_code=408, headers={"connection": "close"})(scope, receive, send)


class BufferedForHttp10:
    """Buffers responses to HTTP/1.0 and sends them with their length; the application limits their size.

    uvicorn sends a response without a length in chunks, for any version of the request, and HAProxy passes them on. A
    client of HTTP/1.0 would read the chunks' framing as audio.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["http_version"] != HTTP10:
            await self._app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def gather(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                await send({**start, "headers": _with_length(start["status"], start["headers"], len(body))})
                await send({"type": "http.response.body", "body": bytes(body)})

        await self._app(scope, receive, gather)


def _with_length(status: int, headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """Add the body's length to the headers, unless they have it, as in a response to HEAD."""
    if status in _WITHOUT_BODY or any(name.lower() == b"content-length" for name, _ in headers):
        return headers
    return [*headers, (b"content-length", str(length).encode())]
