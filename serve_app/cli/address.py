"""Where a running service is, as every command is told it: ``--url`` and ``--api-key``.

The service prints several addresses: of its page, of its sockets, of OpenAI's API. Any of them says where it is.
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

_ROUTES = re.compile(r"/(api/v1/speak|ws/tts|api/tts|v1(/(models|audio|audio/speech|audio/voices))?|health|ready)$")
"""Routes of the service at the end of a path; what stands before one is the prefix that it is served under."""

_BARE_IPV6 = re.compile(r"([A-Za-z]+://)?[^/?#@\[\]]*:[^/?#@\[\]]*:")

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}
_SHOWN_CHARACTERS = 200
_FORMS = "http://HOST:PORT, with https, ws or wss, and with the path that the service is served under"


class AddressError(ValueError):
    """What is no address of a service, and what one looks like."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service is.

    Attributes:
        secure: by TLS.
        authority: host, and port where one was given.
        prefix: path that it is served under, without a slash at its end; empty at the root.
        query: of the socket, such as ``voice=austen``; without a key.
        key: API key that stood in the query; empty without one.
    """

    secure: bool
    authority: str
    prefix: str = ""
    query: str = ""
    key: str = ""

    @property
    def url(self) -> str:
        """The service itself; it has no key in it, and may be printed."""
        return f"http{'s' if self.secure else ''}://{self.authority}{self.prefix}"

    def socket(self, route: str = SPEAK) -> str:
        """A WebSocket of it."""
        query = f"?{self.query}" if self.query else ""
        return f"ws{'s' if self.secure else ''}://{self.authority}{self.prefix}{route}{query}"


def address_of(given: str) -> Address:
    """Read what a person gives as the address of a service.

    Args:
        given: a URL with any of the service's own routes or none, or a host with or without a port.

    Raises:
        AddressError: it is none; says why.
    """
    text = given.strip()
    is_bare = "://" not in text and not text.lower().startswith(tuple(f"{scheme}:" for scheme in _SECURE))
    if _BARE_IPV6.match(text):
        raise AddressError(f"{_shown(text)}: an IPv6 address stands in brackets, as http://[::1]:8000")
    try:
        parts = urlsplit(f"http://{text}" if is_bare else text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressError(f"{_shown(text)}: {error}; allowed: {_FORMS}") from error
    if parts.scheme not in _SECURE:
        raise AddressError(f"{_shown(text)}: {parts.scheme!r} is not served; allowed: {_FORMS}")
    if not host or port == 0 or re.search(r"[\s\\]", text):
        raise AddressError(f"{_shown(text)} names no host; allowed: {_FORMS}")
    if "@" in parts.netloc:
        raise AddressError(f"{_shown(text)}: a name and a password are not used; give an API key as --api-key")
    fields = parse_qsl(parts.query, keep_blank_values=True)
    key = next((value for name, value in fields if name == KEY_IN_QUERY), "")
    query = urlencode([field for field in fields if field[0] != KEY_IN_QUERY])
    path = re.sub(r"/+", "/", parts.path).rstrip("/")
    return Address(_SECURE[parts.scheme], parts.netloc.rstrip(":"), _ROUTES.sub("", path).rstrip("/"), query, key)


def _shown(text: str) -> str:
    """What was given, without what may be secret in it."""
    without_user = re.sub(r"//[^/?#]*@", "//…@", text.partition("?")[0])
    return without_user[:_SHOWN_CHARACTERS] or "an empty address"


def add_options(
    parser: argparse.ArgumentParser, key_names: Sequence[str] = ("--api-key",), *, again: bool = False
) -> None:
    """Give a parser the options of every command that asks a service.

    Args:
        parser: it gets them.
        key_names: of the option for the API key.
        again: they are options of the whole command already, and set nothing here unless they are given.
    """
    url, key = (argparse.SUPPRESS, argparse.SUPPRESS) if again else (address_of(DEFAULT_URL), "")
    words = f"of the service, with any of its paths or none; default: {DEFAULT_URL}"
    parser.add_argument("--url", type=_url, default=url, help=words)
    words = f"if the service asks for one; default: ${KEY_VARIABLE}"
    parser.add_argument(*key_names, dest="api_key", default=key, metavar="KEY", help=words)


def given_address(arguments: argparse.Namespace) -> Address:
    """The service that was given, with the key that counts: the option's, the URL's, the environment's."""
    address: Address = arguments.url
    return replace(address, key=arguments.api_key or address.key or os.environ.get(KEY_VARIABLE, ""))


def unreachable(address: Address, error: BaseException) -> str:
    """What to tell a person where nothing answers."""
    if isinstance(error, ConnectionRefusedError):
        return f"{address.url}: nothing listens there; start a service with tts-serve, or name another with --url"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{address.url}: its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{address.url}: what listens there speaks no TLS; try http:// or ws://"
    if isinstance(error, TimeoutError):
        return f"{address.url} does not answer in time"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{address.url}: {reason}"


def refusal(status: int, answer: bytes) -> str:
    """What an answer that refuses says: its code and its message, in whichever shape, else its beginning."""
    try:
        said: Any = json.loads(answer)
    except ValueError:
        said = None
    if isinstance(said, dict):
        fields = cast("dict[str, Any]", said.get("error") if isinstance(said.get("error"), dict) else said)
        if "message" in fields:
            return f"{fields.get('code') or f'HTTP {status}'}: {fields['message']}"
    if not answer:
        return f"HTTP {status} without a reason; is the service served under this path?"
    return f"HTTP {status} {answer[:_SHOWN_CHARACTERS].decode(errors='replace')}".strip()


def _url(words: str) -> Address:
    try:
        return address_of(words)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
