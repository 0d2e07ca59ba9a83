"""Authenticates callers by API key and enforces the limits of each key, in one ingress replica.

:mod:`serve_app.web.api_keys` decides what a key may do; this module reads the file and the clock, and keeps the counts.
The keys themselves stay in this module and the request; other modules know callers by name.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from serve_app.config import AccessConfig
from serve_app.errors import KeysFileError, RateLimitedError, UnauthorizedError
from serve_app.web.api_keys import SCOPES, Bucket, Key, KeyTable, Scope, given_key, read_keys, spent, without_key

log = logging.getLogger(__name__)

SESSIONS_RETRY_MS = 1000
"""When to retry with a key that has its maximum number of sessions."""

MAX_FILE_BYTES = 4 << 20

_GIVEN = "serve_app.given_key"

_READING = ("GET", "HEAD")

_WHERE = "Authorization: Bearer (or Token, Api-Key), X-API-Key, xi-api-key, the subprotocol tts-key.KEY, or ?api_key="


@dataclass(frozen=True, slots=True)
class Caller:
    """An admitted caller.

    Attributes:
        name: identifies the caller when streams are counted; empty without a key.
        spend: called with the time in seconds to count one request; raises a :class:`SpeechError` if the caller is over
            a limit.
        max_sessions: maximum number of concurrent sessions; None for no limit.
        scopes: the key's scopes; all of them if the service requires no keys.
        lexicon: the key's own entries.
    """

    name: str
    spend: Callable[[float], None]
    max_sessions: int | None = None
    scopes: tuple[Scope, ...] = SCOPES
    lexicon: Mapping[str, str] = field(default_factory=dict[str, str])


class Authenticator:
    """The authenticator of one ingress replica, on its event loop."""

    def __init__(self, config: AccessConfig, clock: Callable[[], float]) -> None:
        """Read the file of keys, if one is configured.

        Raises:
            KeysFileError: the file cannot be used, so the service must not start.
        """
        self._path = None if config.keys_file is None else Path(config.keys_file)
        self._reload_s = config.reload_s
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}
        self._sessions: Counter[str] = Counter()
        self._looked_s = clock()
        self._table: KeyTable | None = None
        self._stamp: tuple[int, ...] = ()
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._table = read_keys_file(self._path)

    def check(self, connection: HTTPConnection, scope: Scope | None) -> Caller:
        """Return the caller, if the key allows the request.

        A change of voices counts towards the key's rate here. Utterances are counted by their session when they begin.

        Args:
            connection: the request, which carries the key.
            scope: the scope that the key must have; None accepts any key of the file.

        Raises:
            UnauthorizedError: there is no key, the key is unknown, or it lacks the scope.
            RateLimitedError: the key is over its rate limit.
        """
        given = _given(connection.scope)
        if self._path is None:
            return Caller(_anonymous_name(given), _unlimited)
        key = self._known(given, scope)
        caller = Caller(key.name, lambda now_s: self._spend(key, now_s), key.max_sessions, key.scopes, key.lexicon)
        if scope == "voices" and connection.scope["method"] not in _READING:
            caller.spend(self._clock())
        return caller

    @contextmanager
    def admit(self, connection: HTTPConnection) -> Generator[Caller]:
        """Admit a caller to speak, and count the session while the context manager is open.

        Raises:
            UnauthorizedError: see :meth:`check`.
            RateLimitedError: the key has its maximum number of sessions.
        """
        caller = self.check(connection, "speak")
        most = caller.max_sessions
        if most is not None and self._sessions[caller.name] >= most:
            limit = f"this key already has {most} sessions, which is its limit"
            raise RateLimitedError(limit, retry_after_ms=SESSIONS_RETRY_MS)
        self._sessions[caller.name] += 1
        try:
            yield caller
        finally:
            self._sessions[caller.name] -= 1
            if not self._sessions[caller.name]:
                del self._sessions[caller.name]

    def _known(self, given: str, scope: Scope | None) -> Key:
        if not given:
            raise UnauthorizedError(f"an API key is required; allowed: {_WHERE}")
        key = self._current().find(given)
        if key is None:
            raise UnauthorizedError("unknown API key")
        if scope is not None and scope not in key.scopes:
            raise UnauthorizedError(f"the API key lacks the scope {scope}; it has: {', '.join(key.scopes)}")
        return key

    def _spend(self, key: Key, now_s: float) -> None:
        """Count one request against the key's current limits in the file."""
        table = self._current()
        present = table.named(key.name)
        if present is None or not table.holds(key):
            raise UnauthorizedError("the API key is no longer valid")
        if present.per_minute is not None:
            self._buckets[key.name] = spent(self._buckets.get(key.name), present.per_minute, now_s)

    def _current(self) -> KeyTable:
        """Return the keys; read the file again if it has changed."""
        assert self._path is not None
        assert self._table is not None
        now_s = self._clock()
        if now_s - self._looked_s >= self._reload_s:
            self._looked_s = now_s
            stamp = self._stamp
            try:
                stamp = _stamp(self._path)
                if stamp != self._stamp:
                    self._table, self._stamp = read_keys_file(self._path), stamp
                    self._buckets = {
                        name: bucket for name, bucket in self._buckets.items() if self._table.named(name) is not None
                    }
                    log.info("the API keys were reloaded")
            except KeysFileError as error:
                log.error("the API keys were not reloaded: %s", error)  # noqa: TRY400 - the file is wrong, not the code
                if not isinstance(error.__cause__, OSError):
                    self._stamp = stamp  # a file with a mistake is read again only when it has changed
        return self._table


class RedactedKeys:
    """ASGI middleware that removes the key from the query, so that it cannot reach a log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] in ("http", "websocket"):
            query = scope.get("query_string", b"").decode("latin-1")
            scope[_GIVEN] = given_key(Headers(scope=scope), query)
            scope["query_string"] = without_key(query).encode("latin-1")
        await self._app(scope, receive, send)


def _given(scope: AsgiScope) -> str:
    return scope.get(_GIVEN, "")


def _anonymous_name(given: str) -> str:
    """Return a name for an unchecked key, so that the streams of different keys can be counted separately."""
    return hashlib.sha256(given.encode(errors="surrogatepass")).hexdigest()[:16] if given else ""


def _unlimited(now_s: float) -> None:
    del now_s


def _stamp(path: Path) -> tuple[int, ...]:
    """Return a value that changes when a file changes or when a mounted secret is replaced.

    Raises:
        KeysFileError: there is no file.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise KeysFileError(f"the file of API keys cannot be read: {error.strerror}") from error
    return state.st_ino, state.st_dev, state.st_mtime_ns, state.st_size


def read_keys_file(path: Path) -> KeyTable:
    """Read the keys of a file.

    Raises:
        KeysFileError: the file cannot be used; the message does not quote it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeysFileError(f"the file of API keys cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise KeysFileError(f"the file of API keys is larger than {MAX_FILE_BYTES} bytes")
    try:
        return read_keys(content.decode())
    except UnicodeDecodeError:
        raise KeysFileError("the file of API keys is not UTF-8") from None
    except KeysFileError as error:
        raise KeysFileError(f"the file of API keys: {error}") from error
