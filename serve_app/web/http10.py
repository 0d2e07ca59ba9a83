"""Buffers responses to HTTP/1.0 and sends them with their length; such a client would read chunk framing as audio.

uvicorn sends a response without a length in chunks, for any version of the request, and HAProxy passes them on.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OLD = "1.0"
"""The version in an ASGI scope."""

_WITHOUT_BODY = frozenset({204, 304})


class WholeForHttp10:
    """ASGI middleware that joins the parts of a response to HTTP/1.0; the application limits the response's size."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["http_version"] != OLD:
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
