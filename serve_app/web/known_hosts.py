"""ASGI middleware that refuses requests with a ``Host`` that :mod:`serve_app.hosts` does not allow, on every route."""

from collections.abc import Callable
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from serve_app.config import AppConfig
from serve_app.errors import HostNotAllowedError, SpeechError
from serve_app.hosts import is_served
from serve_app.web.answers import error_response

_SHOWN_CHARACTERS = 100


class KnownHosts:
    """Checks ``Host`` before all routes of one ingress replica."""

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
