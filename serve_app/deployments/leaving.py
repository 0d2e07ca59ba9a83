"""Tells the sessions of an ingress replica that Serve is replacing it, while there is time to end them properly.

Serve (2.60, ``replica.py``, ``_perform_graceful_shutdown``) tells user code nothing before its destructor. In HAProxy
mode the replica waits for ``RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S``; then uvicorn closes every WebSocket with
1012 and no reason, in the middle of a word. What Serve does tell, from the first moment on, is whoever asks for the
replica's health as HAProxy does: ``/-/healthz`` on its own port answers 503, ``DRAINING``. So the replica asks itself.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.session import Drain

log = logging.getLogger(__name__)

ASK_PERIOD_S = 1.0
ASK_TIMEOUT_S = 2.0
HEALTH_PATH = "/-/healthz"
DRAINING = b"DRAINING"
"""What Serve answers there; an unhealthy replica says something else."""

MAX_ADDRESSES = 4
"""Addresses by which a replica was reached that are remembered; there is one for each network that HAProxy comes by."""

SETTLE_S = 2.0
"""How long a socket without a text keeps its place: HAProxy knows the new replicas by then, none comes back."""

SPREAD_MS = 1500
"""Clients are told to come back at moments that lie within this, so that a thousand do not come at once."""

LEAST_WAIT_MS = 250

FAREWELL_S = 5.0
"""So long before Serve cuts the sockets, what still speaks is told: a client's time to read it, and one period."""


class Drained(Protocol):
    """A running session."""

    def drain(self, drain: Drain) -> None:
        """See :meth:`serve_app.session.Session.drain`."""
        ...


class Leaving:
    """Whether this replica is being replaced; lives on its event loop.

    Attributes:
        began_s: since when it is known; None while it is not.
    """

    def __init__(self, grace_s: float, clock: Callable[[], float]) -> None:
        """Take the seconds from the beginning of a drain until sockets are cut."""
        self.began_s: float | None = None
        self._grace_s = grace_s
        self._clock = clock
        self._sessions: set[Drained] = set()

    @contextmanager
    def told(self, session: Drained) -> Generator[None]:
        """Count a session among those that are told; one that begins on a leaving replica is told at once."""
        self._sessions.add(session)
        if self.began_s is not None:
            session.drain(self._drain(self.began_s))
        try:
            yield
        finally:
            self._sessions.discard(session)

    def begin(self) -> None:
        """The replica is being replaced; to be called once."""
        self.began_s = self._clock()
        log.info("this replica is being replaced; %d sessions are told", len(self._sessions))
        for session in list(self._sessions):
            session.drain(self._drain(self.began_s))

    def _drain(self, began_s: float) -> Drain:
        until_s = began_s + max(0.0, self._grace_s - FAREWELL_S)
        from_s = min(self._clock() + SETTLE_S, until_s)
        return Drain(from_s, until_s, LEAST_WAIT_MS + secrets.randbelow(SPREAD_MS))


class HealthWatch:
    """ASGI middleware: asks the replica's own port for its health while it has connections, and tells ``leaving``.

    Where a replica listens is known from its connections: Serve gives it no other way that is public.
    """

    def __init__(self, app: ASGIApp, leaving: Leaving) -> None:
        self._app = app
        self._leaving = leaving
        self._addresses: dict[tuple[str, int], None] = {}
        self._connections = 0
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        server = scope.get("server")
        if scope["type"] not in ("http", "websocket") or server is None or server[1] is None:
            await self._app(scope, receive, send)
            return
        self._reached_by(server[0], server[1])
        self._connections += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._connections -= 1
            if self._connections == 0 and self._asking is not None:
                self._asking.cancel()
                self._asking = None

    def _reached_by(self, host: str, port: int) -> None:
        self._addresses.pop((host, port), None)
        self._addresses[host, port] = None
        if len(self._addresses) > MAX_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]
        if self._asking is None and self._leaving.began_s is None:
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        while self._leaving.began_s is None:
            try:
                for host, port in list(self._addresses):
                    if self._leaving.began_s is None and await asyncio.to_thread(is_draining, host, port):
                        self._leaving.begin()
            except Exception:
                log.exception("this replica could not ask for its own health; it does again")
            await asyncio.sleep(ASK_PERIOD_S)


def is_draining(host: str, port: int) -> bool:
    """Whether the replica that listens there says that it is being replaced; blocks for two seconds at most."""
    with closing(HTTPConnection(host, port, timeout=ASK_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", HEALTH_PATH)
            answer = connection.getresponse()
            return answer.status == 503 and answer.read(64) == DRAINING
        except (OSError, HTTPException):  # too busy to answer now; it is asked again
            return False
