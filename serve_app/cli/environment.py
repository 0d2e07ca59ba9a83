"""The environment in which `tts-serve` starts Ray: Serve's mode, and everything that must not collide or be seen.

Ray and Serve read most of these once, when they are imported, so they are set for a process that has not done so.
"""

import os
import secrets
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from serve_app.cli.haproxy import BINARY_PATH, CONNECTIONS_PER_ADDRESS, LOOPBACK, METRICS_HOST
from serve_app.config import IngressConfig

LONGEST_SESSION_S = 3600
"""A socket older than this is cut when the proxy is reloaded, which any change of ingress replicas brings about."""

SILENT_CLIENT_S = 60
"""A client's connection on which nothing moves for so long is cut.

One that does not read holds megabytes in the kernel's buffers, and its socket in the ingress, where the session has
ended long before: what it was not sent cannot be taken back there. Whoever reads answers a ping every 20 s.
"""

NOWHERE = "127.0.0.1:9"
"""Where what is sent by UDP is discarded."""

RAY_DID_NOT_START = os.EX_TEMPFAIL
"""Exit status of the process that holds Ray where it may come up at another try."""

_SPAN = 1000
"""Ports that ingress replicas may take from their first on."""

_BIND_ATTEMPTS = 100
_KERNEL_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_HAPROXY = """\
#!/bin/sh
exec '{python}' -m serve_app.cli.haproxy "$@"
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of one run beside the public one, all of them on the loopback interface.

    Attributes:
        metrics: Prometheus exporter of HAProxy.
        stats: statistics page of HAProxy.
        fallback: Serve's own proxy, which answers while no ingress replica is up.
        ingress: first of the ports of the ingress replicas, behind HAProxy.
    """

    metrics: int
    stats: int
    fallback: int
    ingress: int


def free_ports() -> Ports:
    """Ports that nobody listens on at this moment, and that the kernel hands out to nobody later.

    Those of its own range are gone as soon as anybody connects or listens anywhere: while Ray starts, many do.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        metrics, stats, fallback, ingress = (_bind_to_free(one) for one in sockets)
        return Ports(metrics, stats, fallback, ingress)


def _bind_to_free(one: socket.socket) -> int:
    for _ in range(_BIND_ATTEMPTS):
        port = secrets.choice(_outside(_kernel_range()))
        with suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    one.bind(("127.0.0.1", 0))
    return one.getsockname()[1]


def _kernel_range() -> range:
    """The ports that the kernel chooses from, for whoever connects or listens and names none."""
    try:
        first, last = map(int, _KERNEL_RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        first, last = 32768, 60999
    return range(first, last + 1)


def _outside(kernels: range) -> range:
    """The larger span of unprivileged ports below or above the kernel's; all of them where it leaves few."""
    below, above = range(10_000, kernels.start - _SPAN), range(kernels.stop, 65536 - _SPAN)
    return max(below, above, key=len) or range(10_000, 65536 - _SPAN)


def write_haproxy(directory: Path) -> Path:
    """Write the executable that Serve starts in HAProxy's place: `tts-haproxy`, installed or not."""
    haproxy = directory / "haproxy"
    haproxy.write_text(_HAPROXY.format(python=sys.executable))
    haproxy.chmod(0o700)
    return haproxy


def ingress_environment(ingress: IngressConfig) -> dict[str, str]:
    """What follows from the configuration; the same on one machine and on each node of a cluster."""
    most = ingress.max_connections_per_address
    return {
        # Serve closes a leaving ingress's sockets after this, whatever the deployment's graceful shutdown timeout.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{ingress.graceful_shutdown_timeout_s:g}",
        CONNECTIONS_PER_ADDRESS: "" if most is None else str(most),
    }


def serve_environment(
    directory: Path, ports: Ports, haproxy: Path, max_connections: int, ingress: IngressConfig
) -> dict[str, str]:
    """What to add to the environment of the process that starts Ray.

    Args:
        directory: private to this run, with a short path: unix sockets in it may have 107 bytes.
        ports: free ones.
        haproxy: executable that is started as HAProxy.
        max_connections: sockets that the proxy takes.
        ingress: the application's.
    """
    proxy = directory / "h"
    return {
        # HAProxy in front, user code and router in the replica's own loop, gRPC between replicas: the fastest mode,
        # and the only one in which a client that does not read slows its own stream down instead of filling memory.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_SESSION_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(SILENT_CLIENT_S),
        "RAY_SERVE_HAPROXY_MAXCONN": str(max_connections),
        **ingress_environment(ingress),
        # A dead proxy is missed after three checks; the default of 10 s leaves the door shut for half a minute.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # On a busy machine it needs longer than the default of 5 s to start, and would be killed for it.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # Its access log has whole queries, keys in them too: it goes nowhere unless somebody says where.
        "RAY_SERVE_HAPROXY_LOG_TARGET": os.environ.get("RAY_SERVE_HAPROXY_LOG_TARGET", NOWHERE),
        # Two services on one machine keep out of each other's way.
        BINARY_PATH: str(haproxy),
        METRICS_HOST: LOOPBACK,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.fallback),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports.ingress),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(min(ports.ingress + _SPAN, 65535)),
        # Ray's name for "this node is reachable from itself alone": its servers bind to 127.0.0.1.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
