"""Gives what a client sends a bound where Serve gives it none.

Serve (2.60, ``ASGIDIReceiveProxy``) reads a client's messages for the application into a queue without a limit, whether
or not the application takes them, so that a flood fills the replica's memory although the server beneath would pause.
"""

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

MAX_INBOUND_MESSAGES = 16
"""Messages of one connection that may wait for the application; beyond them its socket is not read."""


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
