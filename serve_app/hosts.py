"""Decides which ``Host`` headers are served. Web pages must not reach a service that listens on loopback.

A page whose DNS name was rebound to 127.0.0.1 sends its own name in both ``Host`` and ``Origin``. The two are equal, so
comparing them does not help; only the name itself reveals the attack. These are pure functions: they do not use sockets
and do not resolve names.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import inet_aton, inet_ntoa

ANY = "*"

PROXY_HOST = "TTS_HAPROXY_HOST"
"""Environment variable with the address that HAProxy listens on, if it differs from the address given to Serve."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?")


_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback", "localhost4", "localhost6"})
"""One-label names of loopback in hosts files; no page can have them."""


def is_served(host: str, listening: str | None, allowed: Collection[str], *, keys_required: bool) -> bool:
    """Return whether a request with this ``Host`` is served.

    Without ``allowed``, a service that requires API keys or does not listen on loopback serves every name. Otherwise
    the allowed names and the names of loopback are served. A service that does not listen on loopback also serves IP
    addresses: they cannot be rebound, and probes use them.

    Args:
        host: the header's value; an empty one is served. A request without the header does not come from a browser
            and needs no check.
        listening: address or name that the service listens on, with or without a port; None if it is unknown.
        allowed: names in addition to those of loopback, in lower case and without ports; ``*`` allows any.
        keys_required: whether every request needs an API key.
    """
    on_loopback = listening is not None and _listens_on_loopback(listening.strip().lower())
    if ANY in allowed or host == "" or (not allowed and (keys_required or not on_loopback)):
        return True
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found["name"].removesuffix(".")
    return name in allowed or _is_loopback(name) or (not on_loopback and _address(name) is not None)


def _listens_on_loopback(listening: str) -> bool:
    """Return whether an address to bind is loopback; unlike a ``Host``, it may leave out zeros (``127.1``)."""
    found = _HOST.fullmatch(listening)
    name = found["name"].removesuffix(".") if found else listening
    if found and not name.startswith("["):
        with suppress(OSError):
            name = inet_ntoa(inet_aton(name))
    return _is_loopback(name)


def _is_loopback(name: str) -> bool:
    address = _address(name)
    if address is None:
        # RFC 6761: localhost and all names below it are loopback, and resolvers do not look them up in the DNS.
        return name in _LOOPBACK_NAMES or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """Parse an address in its usual form, IPv6 with or without brackets; None for a name and for ``2130706433``."""
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
