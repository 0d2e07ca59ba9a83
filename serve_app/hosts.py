"""Which ``Host`` headers are served: a page of any site must not reach a service that listens on loopback.

A page whose DNS name is rebound to 127.0.0.1 sends its own name as ``Host`` and as ``Origin``, so the two agree and
comparing them finds nothing. Only the name itself tells. Pure: nothing here knows of sockets or resolves a name.
"""

import re
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import inet_aton, inet_ntoa

ANY = "*"

PROXY_HOST = "TTS_HAPROXY_HOST"
"""Environment variable: the address that HAProxy listens on, where it is not the one that Serve was given."""

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]*)?")


_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost", "ip6-loopback", "localhost4", "localhost6"})
"""Names of one label that hosts files give to loopback, and that no page can have."""


def is_served(host: str, listening: str | None, allowed: Collection[str], *, keys_required: bool) -> bool:
    """Whether a request with this ``Host`` is served.

    Every name is, where the service asks for API keys or listens on more than loopback, unless ``allowed`` names some:
    then those, loopback's, and addresses, which cannot be rebound and are what probes use.

    Args:
        host: the header's value. A request without one is no browser's, and needs no question; an empty one neither.
        listening: address or name that the service listens on, with or without a port; None where it is not known.
        allowed: names beside loopback's, in lower case and without ports; ``*`` allows any.
        keys_required: every request needs an API key.
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
    """An address to bind may leave out zeros or be one number (``127.1``), which no ``Host`` may."""
    found = _HOST.fullmatch(listening)
    name = found["name"].removesuffix(".") if found else listening
    if found and not name.startswith("["):
        with suppress(OSError):
            name = inet_ntoa(inet_aton(name))
    return _is_loopback(name)


def _is_loopback(name: str) -> bool:
    address = _address(name)
    if address is None:
        # RFC 6761: localhost and all below it are loopback, and no resolver asks the DNS for them.
        return name in _LOOPBACK_NAMES or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _address(name: str) -> IPv4Address | IPv6Address | None:
    """An address in its usual form, IPv6 with or without brackets; None for a name, and for ``2130706433``."""
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
