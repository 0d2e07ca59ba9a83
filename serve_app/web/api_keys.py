"""Who may come in, and how often: API keys, their hashes in a file, their limits. No I/O, no clock.

A key is 256 random bits, so one SHA-256 of it is enough: there is nothing to guess, and a slow hash, which protects
passwords that people choose, would cost every request its time.
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

from serve_app.config import Settings
from serve_app.errors import KeysFileError, RateLimitedError

Scope = Literal["speak", "voices"]
"""What a key may be for: speaking; or changing voices, reading what is said of them, and hearing their clips."""

SCOPES: tuple[Scope, ...] = ("speak", "voices")

KEY_PREFIX = "tts_"
"""So that a key is known for one where it lies in a place that it should not be in."""

KEY_BYTES = 32

QUERY_NAME = "api_key"
SUBPROTOCOL = "tts.v1"
"""What a browser that gives its key as a subprotocol asks for as well; the answer names it, never the key."""
KEY_SUBPROTOCOL = "tts-key."

MAX_KEY_CHARACTERS = 512
MAX_KEYS = 1000
"""All are compared for every request: so many take a tenth of a millisecond."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Key(Settings):
    """One line of the file of keys; the key itself is not in it."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Whose key it is; stands in logs.")
    sha256: Digest = Field(description="Of the key's UTF-8, in hexadecimal; `tts-keys` prints it.")
    scopes: tuple[Scope, ...] = Field(default=("speak",), min_length=1, description="`speak`, `voices`.")
    per_minute: float | None = Field(
        default=None, gt=0, le=1e6, description="Utterances and changes of voices a minute. None: no limit."
    )
    max_sessions: int | None = Field(
        default=None,
        ge=1,
        description="Sockets and requests that speak, at a time, in one ingress replica. None: any.",
    )


_KEYS: TypeAdapter[list[Key]] = TypeAdapter(Annotated[list[Key], Field(max_length=MAX_KEYS)])


class KeyTable:
    """The keys that are known."""

    def __init__(self, keys: list[Key]) -> None:
        self._keys = {key.name: key for key in keys}

    def find(self, given: str) -> Key | None:
        """The key that was given; as long on its way for a wrong one, whatever it has in common with a right one."""
        digest = digest_of(given)
        found = None
        for key in self._keys.values():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def holds(self, key: Key) -> bool:
        """Whether a key that was found earlier is still the one of its name, whatever became of its limits."""
        now = self._keys.get(key.name)
        return now is not None and hmac.compare_digest(now.sha256, key.sha256)

    def named(self, name: str) -> Key | None:
        """The key of that name."""
        return self._keys.get(name)


def read_keys(text: str) -> KeyTable:
    """Read a file of keys: a YAML list with one mapping of :class:`Key` for each.

    Raises:
        KeysFileError: it is not one, or a name or a key is in it twice; says where, and nothing of what stands there.
    """
    try:
        document = yaml.safe_load(text)
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
    """A key that nobody guesses."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: str) -> str:
    """What of a key may be written down; a key that is far too long is no key."""
    return hashlib.sha256(key[: MAX_KEY_CHARACTERS + 1].encode(errors="surrogatepass")).hexdigest()


def given_key(headers: Mapping[str, str], query: str) -> str:
    """The key that a request carries, empty without one.

    Looked for in ``Authorization: Bearer``, ``X-API-Key``, the WebSocket subprotocol ``tts-key.KEY`` and the query's
    ``api_key``; the first that is there counts.

    Args:
        headers: names in lower case, or a mapping that does not tell cases apart.
        query: of the URL, undecoded.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if headers.get("x-api-key"):
        return headers["x-api-key"].strip()
    for protocol in subprotocols(headers):
        if protocol.startswith(KEY_SUBPROTOCOL):
            return protocol.removeprefix(KEY_SUBPROTOCOL)
    return next((value for name, value in parse_qsl(query) if name == QUERY_NAME), "")


def subprotocols(headers: Mapping[str, str]) -> list[str]:
    """The WebSocket subprotocols that a client offers."""
    return [each.strip() for each in headers.get("sec-websocket-protocol", "").split(",")]


def without_key(query: str) -> str:
    """A query without its ``api_key``, as it may be written into a log."""
    if QUERY_NAME not in query and "%" not in query:
        return query
    items = parse_qsl(query, keep_blank_values=True)
    kept = [item for item in items if item[0] != QUERY_NAME]
    return urlencode(kept) if len(kept) < len(items) else query


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket: what one key may still ask for.

    Attributes:
        tokens: at ``at_s``.
        at_s: when they were counted.
    """

    tokens: float
    at_s: float


BURST_S = 10.0
"""What a key leaves unused of so many seconds it may ask for at once; one request in any case."""


def spent(bucket: Bucket | None, per_minute: float, now_s: float) -> Bucket:
    """The bucket after one more request; None before the first.

    Raises:
        RateLimitedError: there is no token for it; says when there will be.
    """
    per_s = per_minute / 60
    size = max(1.0, per_s * BURST_S)
    tokens = size if bucket is None else min(size, bucket.tokens + max(0.0, now_s - bucket.at_s) * per_s)
    # What a second of waiting gives must not be lost to rounding.
    if tokens < 1 - 1e-9:
        limit = f"this key may ask for {per_minute:g} utterances or changes of voices a minute"
        raise RateLimitedError(limit, retry_after_ms=math.ceil((1 - tokens) / per_s * 1000))
    return Bucket(max(0.0, tokens - 1), now_s)


def listed_scopes(text: str) -> tuple[Scope, ...]:
    """``speak,voices`` as scopes.

    Raises:
        ValueError: a word is no scope.
    """
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    unknown = [word for word in words if word not in SCOPES]
    if unknown or not words:
        raise ValueError(f"{', '.join(unknown) or 'nothing'} is not a scope; allowed: {', '.join(SCOPES)}")
    return cast("tuple[Scope, ...]", words)
