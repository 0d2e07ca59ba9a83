"""Reads the address of a running service: the options ``--url`` and ``--api-key`` of every command.

The service prints several addresses: of its page, its WebSockets and its OpenAI API. ``--url`` accepts any of them.
"""

import argparse
import json
import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

KEY_VARIABLE = "TTS_API_KEY"
KEY_IN_QUERY = "api_key"
DEFAULT_URL = "http://127.0.0.1:8000"

SPEAK = "/api/v1/speak"

_ROUTES = re.compile(
    r"/(api/v1/speak|ws/tts|api/tts|v1(/(models|audio|audio/speech|audio/speech/batch|audio/voices))?|health|ready)$"
)
"""Routes of the service at the end of a path; anything before the route is the service's route prefix."""

_BARE_IPV6 = re.compile(r"([A-Za-z]+://)?[^/?#@\[\]]*:[^/?#@\[\]]*:")

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}
_SHOWN_CHARACTERS = 200
_FORMS = "http://HOST:PORT (or https, ws, wss), followed by the service's route prefix if it has one"


class AddressError(ValueError):
    """The text is not an address of a service; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a service.

    Attributes:
        secure: whether to use TLS.
        authority: host, with the port if one was given.
        prefix: route prefix without a trailing slash; empty at the root.
        query: query string for the WebSocket, such as ``voice=austen``; without an API key.
        key: API key from the query; empty if there was none.
    """

    secure: bool
    authority: str
    prefix: str = ""
    query: str = ""
    key: str = ""

    @property
    def url(self) -> str:
        """URL of the service; it contains no API key and may be printed."""
        return f"http{'s' if self.secure else ''}://{self.authority}{self.prefix}"

    def socket(self, route: str = SPEAK) -> str:
        """URL of one of the service's WebSockets."""
        query = f"?{self.query}" if self.query else ""
        return f"ws{'s' if self.secure else ''}://{self.authority}{self.prefix}{route}{query}"


def address_of(given: str) -> Address:
    """Parse the address of a service as a user types it.

    Args:
        given: a URL with or without one of the service's routes, or a host with or without a port.

    Raises:
        AddressError: it is not an address; the message says why.
    """
    text = given.strip()
    is_bare = "://" not in text and not text.lower().startswith(tuple(f"{scheme}:" for scheme in _SECURE))
    if _BARE_IPV6.match(text):
        raise AddressError(f"{_shown(text)}: an IPv6 address needs brackets, as in http://[::1]:8000")
    try:
        parts = urlsplit(f"http://{text}" if is_bare else text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressError(f"{_shown(text)}: {error}; allowed: {_FORMS}") from error
    if parts.scheme not in _SECURE:
        raise AddressError(f"{_shown(text)}: unknown scheme {parts.scheme!r}; allowed: {_FORMS}")
    if not host or port == 0 or re.search(r"[\s\\]", text):
        raise AddressError(f"{_shown(text)} has no host; allowed: {_FORMS}")
    if "@" in parts.netloc:
        raise AddressError(f"{_shown(text)}: user names and passwords are not used; pass an API key with --api-key")
    fields = parse_qsl(parts.query, keep_blank_values=True)
    key = next((value for name, value in fields if name == KEY_IN_QUERY), "")
    query = urlencode([field for field in fields if field[0] != KEY_IN_QUERY])
    path = re.sub(r"/+", "/", parts.path).rstrip("/")
    return Address(_SECURE[parts.scheme], parts.netloc.rstrip(":"), _ROUTES.sub("", path).rstrip("/"), query, key)


def _shown(text: str) -> str:
    """The given text, without parts that may be secret."""
    without_user = re.sub(r"//[^/?#]*@", "//…@", text.partition("?")[0])
    return without_user[:_SHOWN_CHARACTERS] or "an empty address"


def add_options(
    parser: argparse.ArgumentParser, key_names: Sequence[str] = ("--api-key",), *, again: bool = False
) -> None:
    """Add the options that every client command has.

    Args:
        parser: the parser to extend.
        key_names: names of the option for the API key.
        again: the main command has these options already, so a subcommand sets them only if they are given.
    """
    url, key = (argparse.SUPPRESS, argparse.SUPPRESS) if again else (address_of(DEFAULT_URL), "")
    words = f"address of the service, with or without a path; default: {DEFAULT_URL}"
    parser.add_argument("--url", type=_url, default=url, help=words)
    words = f"API key, if the service requires one; default: ${KEY_VARIABLE}"
    parser.add_argument(*key_names, dest="api_key", default=key, metavar="KEY", help=words)


def given_address(arguments: argparse.Namespace) -> Address:
    """The address, with the API key from the option, else from the URL, else from the environment."""
    address: Address = arguments.url
    return replace(address, key=arguments.api_key or address.key or os.environ.get(KEY_VARIABLE, ""))


def unreachable(address: Address, error: BaseException) -> str:
    """Error message for a service that cannot be reached."""
    if isinstance(error, ConnectionRefusedError):
        return f"{address.url}: connection refused; start a service with tts-serve, or name another one with --url"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{address.url}: its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{address.url}: the server does not use TLS; try http:// or ws://"
    if isinstance(error, TimeoutError):
        return f"{address.url} did not answer in time"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{address.url}: {reason}"


def refusal(status: int, answer: bytes) -> str:
    """Error message from an HTTP error response: code and message of any known format, else the start of the body."""
    try:
        said: Any = json.loads(answer)
    except ValueError:
        said = None
    if isinstance(said, dict):
        fields = cast("dict[str, Any]", said.get("error") if isinstance(said.get("error"), dict) else said)
        if "message" in fields:
            return f"{fields.get('code') or f'HTTP {status}'}: {fields['message']}"
    if not answer:
        return f"HTTP {status} without a message; is the service really under this path?"
    return f"HTTP {status} {answer[:_SHOWN_CHARACTERS].decode(errors='replace')}".strip()


def _url(words: str) -> Address:
    try:
        return address_of(words)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
