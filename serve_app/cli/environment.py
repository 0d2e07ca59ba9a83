"""The environment variables with which `tts-serve` starts Ray: Serve's mode, private ports, loopback addresses.

Ray and Serve read most of them once, when they are imported, so this module prepares them for a new process.
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
"""Maximum age of a socket when the proxy reloads, which any change in the number of ingress replicas causes."""

SILENT_CLIENT_S = 60
"""A client's connection is closed after this time without traffic.

A client that does not read holds megabytes in the kernel's buffers and its socket in the ingress, although its session
ended long before, since data that is already queued there cannot be withdrawn. A client that reads answers a ping
every 20 s.
"""

NOWHERE = "127.0.0.1:9"
"""An address that discards UDP packets."""

RAY_DID_NOT_START = os.EX_TEMPFAIL
"""Exit status of the process that starts Ray, if another attempt may succeed."""

_SPAN = 1000
"""Number of ports reserved for ingress replicas, starting at the first one."""

_BIND_ATTEMPTS = 100
_KERNEL_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")

_HAPROXY = """\
#!/bin/sh
exec '{python}' -m serve_app.cli.haproxy "$@"
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of one run except the public one, all on the loopback interface.

    Attributes:
        metrics: Prometheus exporter of HAProxy.
        stats: statistics page of HAProxy.
        fallback: Serve's own proxy, which answers while no ingress replica is up.
        ingress: first port of the ingress replicas, behind HAProxy.
    """

    metrics: int
    stats: int
    fallback: int
    ingress: int


def free_ports() -> Ports:
    """Ports that are free now and that the kernel will not assign to other processes later.

    Ports from the kernel's own range would soon be taken: while Ray starts, many processes connect and listen.
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
    """The range from which the kernel picks a port for a process that does not ask for a specific one."""
    try:
        first, last = map(int, _KERNEL_RANGE_FILE.read_text().split())
    except (OSError, ValueError):
        first, last = 32768, 60999
    return range(first, last + 1)


def _outside(kernels: range) -> range:
    """The larger range of unprivileged ports below or above the kernel's; all of them if the kernel's leaves few."""
    below, above = range(10_000, kernels.start - _SPAN), range(kernels.stop, 65536 - _SPAN)
    return max(below, above, key=len) or range(10_000, 65536 - _SPAN)


def write_haproxy(directory: Path) -> Path:
    """Write the executable that Serve starts in place of HAProxy: `tts-haproxy`, whether it is installed or not."""
    haproxy = directory / "haproxy"
    haproxy.write_text(_HAPROXY.format(python=sys.executable))
    haproxy.chmod(0o700)
    return haproxy


def ingress_environment(ingress: IngressConfig) -> dict[str, str]:
    """Variables that depend on the ingress configuration; the same for one machine and for each node of a cluster."""
    most = ingress.max_connections_per_address
    return {
        # Serve closes the sockets of a draining ingress after this, ignoring the deployment's shutdown timeout.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": f"{ingress.graceful_shutdown_timeout_s:g}",
        CONNECTIONS_PER_ADDRESS: "" if most is None else str(most),
    }


def serve_environment(
    directory: Path, ports: Ports, haproxy: Path, max_connections: int, ingress: IngressConfig
) -> dict[str, str]:
    """Variables to add to the environment of the process that starts Ray.

    Args:
        directory: private to this run; its path must be short, since a unix socket's path has at most 107 bytes.
        ports: free ports.
        haproxy: executable to start as HAProxy.
        max_connections: connections that the proxy accepts.
        ingress: the application's ingress configuration.
    """
    proxy = directory / "h"
    return {
        # HAProxy in front, user code and router in the replica's own event loop, gRPC between replicas: the fastest
        # mode, and the only one in which a client that does not read slows down its own stream and fills no memory.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_SESSION_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(SILENT_CLIENT_S),
        "RAY_SERVE_HAPROXY_MAXCONN": str(max_connections),
        **ingress_environment(ingress),
        # A dead proxy is detected after three checks; with the default of 10 s the service is down for half a minute.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # On a loaded host the proxy takes longer to start than the default of 5 s, after which Serve would kill it.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # Serve's access log contains whole queries, including API keys, so it is discarded unless a target is set.
        "RAY_SERVE_HAPROXY_LOG_TARGET": os.environ.get("RAY_SERVE_HAPROXY_LOG_TARGET", NOWHERE),
        # Two services on one machine must not interfere.
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
        # Ray's setting for "this node is only reachable from itself": its servers bind to 127.0.0.1.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
