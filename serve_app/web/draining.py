"""Drains the sessions of an ingress replica that Serve is replacing, so that they can end properly.

Serve (2.60, ``replica.py``, ``_perform_graceful_shutdown``) does not notify user code before its destructor. In HAProxy
mode the replica waits for ``RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S``; then uvicorn closes every WebSocket with
1012 and without a reason, even in the middle of a word. Only the health check reports the drain at once: ``/-/healthz``
on the replica's own port answers 503, ``DRAINING``. The replica therefore polls its own health check.
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

POLL_PERIOD_S = 1.0
POLL_TIMEOUT_S = 2.0
HEALTH_PATH = "/-/healthz"
DRAINING = b"DRAINING"
"""The body of Serve's response while the replica drains; an unhealthy replica's response has another body."""

LISTENING = "0A"
"""The kernel's code for a listening socket."""

SETTLE_S = 2.0
"""How long an idle socket stays open. After this time HAProxy knows the new replicas, so clients do not reconnect to
this one."""

RETRY_JITTER_MS = 1500
"""The times at which clients should reconnect are spread over this period."""

RETRY_MIN_MS = 250

CLOSE_MARGIN_S = 5.0
"""Sessions that are still speaking end this long before Serve cuts their sockets: one polling period, and time for
clients to read the reason."""


class Drainable(Protocol):
    """A running session."""

    def drain(self, drain: Drain) -> None:
        """Tell the client that the replica is being replaced, and when the session ends."""
        ...


class Draining:
    """Knows whether this replica is being replaced, and drains its sessions; used on its event loop.

    Attributes:
        began_s: when the drain was noticed; None before that.
    """

    def __init__(self, grace_s: float, clock: Callable[[], float]) -> None:
        """Set the time from the beginning of a drain until Serve cuts the sockets."""
        self.began_s: float | None = None
        self._grace_s = grace_s
        self._clock = clock
        self._sessions: set[Drainable] = set()

    @contextmanager
    def registered(self, session: Drainable) -> Generator[None]:
        """Register a session while the context manager is open; drain it at once if the replica is already draining."""
        self._sessions.add(session)
        if self.began_s is not None:
            session.drain(self._drain(self.began_s))
        try:
            yield
        finally:
            self._sessions.discard(session)

    def begin(self) -> None:
        """Drain all sessions; must be called only once."""
        self.began_s = self._clock()
        log.info("this replica is being replaced; draining %d sessions", len(self._sessions))
        for session in list(self._sessions):
            session.drain(self._drain(self.began_s))

    def _drain(self, began_s: float) -> Drain:
        until_s = began_s + max(0.0, self._grace_s - CLOSE_MARGIN_S)
        from_s = min(self._clock() + SETTLE_S, until_s)
        return Drain(from_s, until_s, RETRY_MIN_MS + secrets.randbelow(RETRY_JITTER_MS))


class HealthWatch:
    """ASGI middleware that polls the replica's health check while there are connections, and begins the drain.

    Serve does not tell user code its port. Connections do not show it either, because they come through Serve's own
    proxy until HAProxy knows the replica. This class therefore searches the ports on which this process listens.
    """

    def __init__(self, app: ASGIApp, draining: Draining, ports: range) -> None:
        """Wrap ``app``; each ingress replica listens on one of ``ports``."""
        self._app = app
        self._draining = draining
        self._ports = ports
        self._address: tuple[str, int] | None = None
        self._connections = 0
        self._polling: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        self._connections += 1
        if self._polling is None and self._draining.began_s is None:
            self._polling = asyncio.create_task(self._poll())
        try:
            await self._app(scope, receive, send)
        finally:
            self._connections -= 1
            if self._connections == 0 and self._polling is not None:
                self._polling.cancel()
                self._polling = None

    async def _poll(self) -> None:
        while self._draining.began_s is None:
            try:
                if await asyncio.to_thread(self._is_draining):
                    self._draining.begin()
            except Exception:
                log.exception("this replica could not check its own health; it will try again")
            await asyncio.sleep(POLL_PERIOD_S)

    def _is_draining(self) -> bool:
        if self._address is None:
            self._address = listening(self._ports)
        return self._address is not None and is_draining(*self._address)


def is_draining(host: str, port: int) -> bool:
    """Return whether the replica at this address says that it is draining; blocks for at most two seconds."""
    with closing(HTTPConnection(host, port, timeout=POLL_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", HEALTH_PATH)
            answer = connection.getresponse()
            return answer.status == 503 and answer.read(64) == DRAINING
        except (OSError, HTTPException):  # the replica is too loaded to answer; the next poll asks again
            return False


def listening(ports: range) -> tuple[str, int] | None:
    """Return the address on which this process listens with one of ``ports``; None if there is none. Linux only.

    Source: proc(5), /proc/pid/net/tcp and tcp6: hexadecimal, addresses in words of four bytes, least significant byte
        first.
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
                # Bound to all addresses, which includes loopback.
                own = {4: "127.0.0.1", 6: "::1"}[host.version]
                return own if host.is_unspecified else str(host), int(port, 16)
    return None
