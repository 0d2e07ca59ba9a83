"""Tells the sessions of an ingress replica that Serve is replacing it, while there is time to end them properly.

Serve (2.60, ``replica.py``, ``_perform_graceful_shutdown``) tells user code nothing before its destructor. In HAProxy
mode the replica waits for ``RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S``; then uvicorn closes every WebSocket with
1012 and no reason, in the middle of a word. Only health checks are told at once: ``/-/healthz`` on the replica's own
port answers 503, ``DRAINING``. So the replica asks itself.
"""

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.session.session import Drain

log = logging.getLogger(__name__)

ASK_PERIOD_S = 1.0
ASK_TIMEOUT_S = 2.0
HEALTH_PATH = "/-/healthz"
DRAINING = b"DRAINING"
"""What Serve answers there; an unhealthy replica says something else."""

LISTENING = "0A"
"""The kernel's number for a socket that listens."""

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
        """See :meth:`serve_app.session.session.Session.drain`."""
        ...


class Draining:
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

    Serve tells user code its port nowhere, and connections do not show it: those that come while HAProxy does not know
    the replica yet come by Serve's own proxy. So it is looked for among what this process listens on.
    """

    def __init__(self, app: ASGIApp, leaving: Draining, ports: range) -> None:
        """Take the ports that Serve gives to ingress replicas, one to each."""
        self._app = app
        self._leaving = leaving
        self._ports = ports
        self._address: tuple[str, int] | None = None
        self._connections = 0
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        self._connections += 1
        if self._asking is None and self._leaving.began_s is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            await self._app(scope, receive, send)
        finally:
            self._connections -= 1
            if self._connections == 0 and self._asking is not None:
                self._asking.cancel()
                self._asking = None

    async def _ask(self) -> None:
        while self._leaving.began_s is None:
            try:
                if await asyncio.to_thread(self._is_draining):
                    self._leaving.begin()
            except Exception:
                log.exception("this replica could not ask for its own health; it does again")
            await asyncio.sleep(ASK_PERIOD_S)

    def _is_draining(self) -> bool:
        if self._address is None:
            self._address = listening(self._ports)
        return self._address is not None and is_draining(*self._address)


def is_draining(host: str, port: int) -> bool:
    """Whether the replica that listens there says that it is being replaced; blocks for two seconds at most."""
    with closing(HTTPConnection(host, port, timeout=ASK_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", HEALTH_PATH)
            answer = connection.getresponse()
            return answer.status == 503 and answer.read(64) == DRAINING
        except (OSError, HTTPException):  # too busy to answer now; it is asked again
            return False


def listening(ports: range) -> tuple[str, int] | None:
    """Where this process listens with one of ``ports``, as it reaches itself; None where it does not. Linux only.

    Source: proc(5), /proc/pid/net/tcp and tcp6: hexadecimal, addresses in words of four bytes, the least byte first.
    """
    inodes = set[str]()
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            inodes.add(str(handle.readlink()))
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            words, port = fields[1].split(":")
            if fields[3] == LISTENING and int(port, 16) in ports and f"socket:[{fields[9]}]" in inodes:
                packed = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
                host = ip_address(socket.inet_ntop(family, packed))
                # Bound to all addresses: this machine's own one among them.
                own = {4: "127.0.0.1", 6: "::1"}[host.version]
                return own if host.is_unspecified else str(host), int(port, 16)
    return None
