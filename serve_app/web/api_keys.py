"""API keys, their hashes in a file, and their limits. No I/O, no clock.

A key is 256 random bits and cannot be guessed, so a single SHA-256 is enough. A slow hash protects passwords that
people choose, but it would slow down every request.
"""

import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, cast
from urllib.parse import parse_qsl, urlencode

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from serve_app.config import MAX_LEXICON_ENTRIES, LexiconEntries, Settings
from serve_app.errors import KeysFileError, RateLimitedError

Scope = Literal["speak", "voices"]
"""What a key allows: speaking; or changing voices, reading their metadata and downloading their clips."""

SCOPES: tuple[Scope, ...] = ("speak", "voices")

KEY_PREFIX = "tts_"
"""Makes a leaked key recognizable."""

KEY_BYTES = 32

QUERY_NAME = "api_key"
SUBPROTOCOL = "tts.v1"
"""A browser that sends its key as a subprotocol also offers this one; the server selects it, never the key."""
KEY_SUBPROTOCOL = "tts-key."

SCHEMES = ("bearer", "token", "api-key")
"""Schemes of ``Authorization`` that precede a key: those of OpenAI's, Deepgram's and Baseten's clients."""
KEY_HEADERS = ("x-api-key", "xi-api-key")
"""Headers with a key alone; the second one is that of ElevenLabs' clients."""

MAX_KEY_CHARACTERS = 512
MAX_KEYS = 1000
"""Every request's key is compared with all keys; with this many, that takes a tenth of a millisecond."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Key(Settings):
    """One entry of the file of keys; it does not contain the key itself."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Name of the key's owner; appears in logs.")
    sha256: Digest = Field(description="SHA-256 of the key's UTF-8, in hexadecimal; `tts-keys` prints it.")
    scopes: tuple[Scope, ...] = Field(default=("speak",), min_length=1, description="`speak`, `voices`.")
    per_minute: float | None = Field(
        default=None, gt=0, le=1e6, description="Utterances and changes of voices per minute. None: no limit."
    )
    max_sessions: int | None = Field(
        default=None,
        ge=1,
        description="Concurrent sockets and speech requests in one ingress replica. None: no limit.",
    )
    lexicon: LexiconEntries = Field(
        default={},
        max_length=MAX_LEXICON_ENTRIES,
        description="What is spoken for a written word, in addition to `text.lexicon`.",
    )


_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Libyaml's loader, where PyYAML has it. Keys are read on the event loop, and with a large file the other loader would
block it for seconds."""

_KEYS: TypeAdapter[list[Key]] = TypeAdapter(Annotated[list[Key], Field(max_length=MAX_KEYS)])


class KeyTable:
    """The known keys."""

    def __init__(self, keys: list[Key]) -> None:
        self._keys = {key.name: key for key in keys}

    def find(self, given: str) -> Key | None:
        """Return the entry of a key, in a time that does not depend on how similar a wrong key is to a right one."""
        digest = digest_of(given)
        found = None
        for key in self._keys.values():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def holds(self, key: Key) -> bool:
        """Return whether the file still has a key that was found earlier; the key's limits may have changed."""
        now = self._keys.get(key.name)
        return now is not None and hmac.compare_digest(now.sha256, key.sha256)

    def named(self, name: str) -> Key | None:
        """Return the entry with this name."""
        return self._keys.get(name)


def read_keys(text: str) -> KeyTable:
    """Read a file of keys: a YAML list with a mapping of :class:`Key` for each key.

    Raises:
        KeysFileError: the file is invalid, or has a name or a key twice; the message says where, but does not quote it.
    """
    try:
        document = yaml.load(text, Loader=_SAFE_LOADER)  # noqa: S506 - both loaders are safe
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise KeysFileError(f"it is not valid YAML{where}") from None
    try:
        keys = _KEYS.validate_python(document if document is not None else [])
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise KeysFileError(f"{where}: {fault['msg']}; allowed: a list of keys as `tts-keys` prints them") from None
    for values, what in (([key.name for key in keys], "name"), ([key.sha256 for key in keys], "key")):
        if len(set(values)) != len(values):
            raise KeysFileError(f"it has the same {what} twice; allowed: once")
    return KeyTable(keys)


def new_key() -> str:
    """Return a new random key."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: str) -> str:
    """Return the hash of a key, which may be stored; of an overlong key, only the beginning is hashed."""
    return hashlib.sha256(key[: MAX_KEY_CHARACTERS + 1].encode(errors="surrogatepass")).hexdigest()


def given_key(headers: Mapping[str, str], query: str) -> str:
    """Return the key of a request, or an empty string.

    The key is read from ``Authorization`` with one of :data:`SCHEMES`, from one of :data:`KEY_HEADERS`, from the
    WebSocket subprotocol ``tts-key.KEY`` or from the query's ``api_key``; the first one present counts.

    Args:
        headers: with names in lower case, or a case-insensitive mapping.
        query: the URL's query, undecoded.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() in SCHEMES and token.strip():
        return token.strip()
    for name in KEY_HEADERS:
        if headers.get(name):
            return headers[name].strip()
    for protocol in subprotocols(headers):
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
    return next((value for name, value in parse_qsl(query) if name == QUERY_NAME), "")


def subprotocols(headers: Mapping[str, str]) -> list[str]:
    """Return the WebSocket subprotocols that a client offers."""
    return [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]


def without_key(query: str) -> str:
    """Return a query without its ``api_key``, so that it can be logged."""
    if QUERY_NAME not in query and "%" not in query:
        return query
    items = parse_qsl(query, keep_blank_values=True)
    kept = [item for item in items if item[0] != QUERY_NAME]
    return urlencode(kept) if len(kept) < len(items) else query


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket for the requests of one key.

    Attributes:
        tokens: number of tokens at ``at_s``.
        at_s: when they were counted.
    """

    tokens: float
    at_s: float


BURST_S = 10.0
"""A burst may have as many requests as the rate allows in this many seconds, and at least one."""


def spent(bucket: Bucket | None, per_minute: float, now_s: float) -> Bucket:
    """Return the bucket after one more request; ``bucket`` is None before the first.

    Raises:
        RateLimitedError: the bucket has no token; the error says when to retry.
    """
    per_s = per_minute / 60
    size = max(1.0, per_s * BURST_S)
    tokens = size if bucket is None else min(size, bucket.tokens + max(0.0, now_s - bucket.at_s) * per_s)
    # The tolerance keeps rounding from refusing a request after exactly the right wait.
    if tokens < 1 - 1e-9:
        limit = f"the limit of this key is {per_minute:g} utterances or changes of voices per minute"
        raise RateLimitedError(limit, retry_after_ms=math.ceil((1 - tokens) / per_s * 1000))
    return Bucket(max(0.0, tokens - 1), now_s)


def listed_scopes(text: str) -> tuple[Scope, ...]:
    """Parse a list of scopes, such as ``speak,voices``.

    Raises:
        ValueError: a word is not a scope.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in words if word not in SCOPES]
    if unknown or not words:
        raise ValueError(f"{', '.join(unknown) or 'nothing'} is not a scope; allowed: {', '.join(SCOPES)}")
    return cast("tuple[Scope, ...]", words)
