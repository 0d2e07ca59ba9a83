"""Treats a path with a trailing slash like the path without it, on every route and for every method."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """ASGI middleware that drops trailing slashes; a redirect would not work for every client's POST.

    The page is the exception, because its relative addresses need the slash. Under a prefix, a request without the
    slash is redirected.
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
