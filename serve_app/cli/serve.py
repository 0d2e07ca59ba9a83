"""``tts-serve CONFIG``: runs the whole service on one machine as one program.

This process never imports Ray. It validates the configuration, prepares the environment that Ray and Serve read when
they are imported, runs :mod:`serve_app.cli.cluster` in it, and cleans up afterwards.
"""

import argparse
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.cli import processes
from serve_app.cli.environment import RAY_DID_NOT_START, free_ports, serve_environment, write_haproxy
from serve_app.cli.haproxy import LOOPBACK
from serve_app.config import AppConfig
from serve_app.errors import KeysFileError
from serve_app.hosts import PROXY_HOST
from serve_app.paths import found
from serve_app.web.auth import read_keys_file

_TRIES = 3
"""Ray gives up if its node does not start within 30 s, which no setting changes; a loaded host may need longer."""

_LONGEST_DIRECTORY = 22
"""Maximum length of the run directory's path: Ray's and HAProxy's sockets add 80 characters, and 107 are allowed."""

_ROUTE_PREFIX = r"/|(/[^/{}?#\s]+)+"


MAX_PORT = 65535


class StartError(Exception):
    """The service cannot be started; the message says why and what to do."""


def main() -> None:
    """Run the command."""
    arguments = _parse()
    _handle_interrupts()
    processes.become_subreaper()
    try:
        sys.exit(run(arguments.config, arguments.port, arguments.metrics_port, arguments.host))
    except StartError as error:
        sys.exit(f"tts-serve: {error}")
    except KeyboardInterrupt:
        print("\ntts-serve: stopped")


def run(config: Path, port: int | None, metrics_port: int | None = None, host: str | None = None) -> int:
    """Start the service and wait for its end; leaves no processes or files behind.

    Args:
        config: a file that ``serve run`` accepts as well.
        port: overrides the file's.
        host: overrides the file's.
        metrics_port: port of the Prometheus metrics; None for a free one.

    Returns:
        The exit status of the cluster's process.

    Raises:
        StartError: the file is invalid, or the port is taken.
        KeyboardInterrupt: the user or a signal stopped it.
    """
    document = read_config(config, port, host)
    if metrics_port is not None:
        _check_free("127.0.0.1", metrics_port, "--metrics-port")
    directory = Path(tempfile.mkdtemp(prefix="tts-"))
    try:
        if len(str(directory)) > _LONGEST_DIRECTORY:
            raise StartError(f"{directory} is too long a path for unix sockets in it; set TMPDIR=/tmp")
        deployed = directory / "serve.yaml"
        environment = _environment(directory, document)
        # Serve binds each ingress and its own proxy to this address as well; clients reach only HAProxy.
        document["http_options"]["host"] = LOOPBACK
        deployed.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "serve_app.cli.cluster", str(deployed)]
        if metrics_port is not None:
            command.append(f"--metrics-port={metrics_port}")
        print("… starting Ray", flush=True)
        return started(lambda: _run_cluster(command, directory, environment))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def started(start: Callable[[], int], tries: int = _TRIES) -> int:
    """Start Ray, at most ``tries`` times in total if it does not come up.

    Args:
        start: runs the cluster to its end, and returns its exit status.
        tries: maximum number of calls of ``start``.

    Returns:
        The last exit status.
    """
    status = start()
    for _ in range(tries - 1):
        if status != RAY_DID_NOT_START:
            break
        print("… Ray did not start, trying again", flush=True)
        status = start()
    return status


def _run_cluster(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> int:
    """Start the cluster's process and wait for its end; leaves only the configuration file that it was given."""
    _handle_interrupts()
    with subprocess.Popen(command, env=environment, start_new_session=True) as cluster:  # noqa: S603 - our own
        try:
            return _exit_status(cluster.wait())
        finally:
            # A second Ctrl-C must not interrupt the cleanup.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            processes.end_descendants(processes.PATIENCE_S)
            shutil.rmtree(directory / "ray", ignore_errors=True)


def _exit_status(returned: int) -> int:
    if returned < 0:
        print(f"tts-serve: Ray's process was killed by {signal.Signals(-returned).name}", file=sys.stderr)
    return 1 if returned < 0 else returned


def read_config(path: Path, port: int | None, host: str | None = None) -> dict[str, Any]:
    """Read and validate a configuration before anything is started.

    Returns:
        The document with one application, an explicit host and an explicit port.

    Raises:
        StartError: the file is invalid; the message says why.
    """
    try:
        document: Any = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise StartError(f"cannot read {path}: {error}") from error
    try:
        (application,) = document["applications"]
        config = AppConfig.model_validate(application.get("args") or {})
        _report_missing_files(application)
        if config.access.keys_file is not None:
            read_keys_file(found(config.access.keys_file, Path.cwd()))
    except KeysFileError as error:
        raise StartError(f"{path}: access.keys_file: {error}") from error
    except (TypeError, KeyError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise StartError(f"{path}: args: {error}") from error
        raise StartError(f"{path} must have exactly one application, as configs/local.yaml does") from error
    prefix: Any = application.get("route_prefix", "/")
    if not isinstance(prefix, str) or not re.fullmatch(_ROUTE_PREFIX, prefix):
        raise StartError(
            f"{path}: route_prefix is {prefix!r}; allowed: / or a path like /tts, without a trailing slash"
        )
    http: dict[str, Any] = document.setdefault("http_options", {})
    http["host"] = host or http.get("host", "127.0.0.1")
    http["port"] = http.get("port", 8000) if port is None else port
    _check_free(http["host"], http["port"], f"--port or in {path} (http_options.port)")
    return document


def _report_missing_files(application: dict[str, Any]) -> None:
    """Report missing files at once, since the user waits for this command, unless the file sets a startup wait."""
    args = application["args"] = application.get("args") or {}
    args["generator"] = {"startup_wait_s": 0, **(args.get("generator") or {})}


def _check_free(host: str, port: object, where: str) -> None:
    if not (isinstance(port, int) and 1 <= port <= MAX_PORT):
        raise StartError(f"{port!r} is not a port; allowed: 1 to {MAX_PORT}. Set it with {where}")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"cannot listen on {host}:{port} ({error.strerror}). Stop the program that uses it, or choose another "
                f"port with {where}"
            ) from error


MAX_CONNECTIONS = 4096
"""Connections that HAProxy serves if there are enough files."""


def connections_for(files: int) -> int:
    """Return how many connections HAProxy may serve with a hard limit on open files.

    HAProxy does not start unless it may open all the files that it might need: two for each connection, the two ends of
    a pipe for every fourth connection, and some for itself.
    """
    return (
        MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(100, min(MAX_CONNECTIONS, (files - 200) * 2 // 5))
    )


def _environment(directory: Path, document: dict[str, Any]) -> dict[str, str]:
    connections = connections_for(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    config = AppConfig.model_validate(document["applications"][0].get("args") or {})
    return {
        **os.environ,
        **serve_environment(directory, free_ports(), write_haproxy(directory), connections, config.ingress),
        PROXY_HOST: document["http_options"]["host"],
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
    }


def _handle_interrupts() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # background jobs of a script ignore SIGINT by default
        signal.signal(number, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tts-serve", description="Run the speech service on this machine.")
    parser.add_argument("config", type=Path, help="configuration file as in configs/, also valid for `serve run`")
    parser.add_argument("--port", type=int, help="port to listen on; default: the file's")
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 for all; default: the file's")
    parser.add_argument("--metrics-port", type=int, help="port of the Prometheus metrics; default: a free port")
    return parser.parse_args()


if __name__ == "__main__":
    main()
