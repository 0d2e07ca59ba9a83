"""An answer to HTTP/1.0 is sent whole, with its length: such a client takes the framing of chunks for audio.

uvicorn sends an answer without a length in chunks whatever version it was asked in, and HAProxy passes them on.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OLD = "1.0"
"""As the version stands in an ASGI scope."""

_WITHOUT_BODY = frozenset({204, 304})


class WholeForHttp10:
    """ASGI middleware: gathers the parts of an answer to HTTP/1.0; the application bounds what it answers with."""

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
    """The headers, with the body's length where they do not say it; that of an answer to HEAD is said already."""
    if status in _WITHOUT_BODY or any(name.lower() == b"content-length" for name, _ in headers):
        return headers
    return [*headers, (b"content-length", str(length).encode())]
