"""A path with a slash at its end means what it means without, on every route and for every method."""

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class TrailingSlash:
    """ASGI middleware: drops slashes at a path's end, which a redirect would not do for every client's POST.

    The page is the exception: its relative addresses need the slash. Without one, under a prefix, it is redirected.
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
                    # Relative: how the server is reached from outside is not known here.
                    query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
                    await RedirectResponse(prefix.rpartition("/")[2] + "/" + query)(scope, receive, send)
                    return
                path = prefix + "/"
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)
