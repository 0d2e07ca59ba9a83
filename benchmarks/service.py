"""Starts a service for a benchmark: its launcher, its processes and their memory, its generators.

This module does not handle sockets or audio; clients measure elsewhere.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self

import yaml

from serve_app.cli.processes import descendants

ROOT = Path(__file__).parents[1]
READY = "Ctrl-C stops everything."
START_TIMEOUT_S = 300.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Observer:
    """Queries the generators from inside Ray, which needs a separate process. See ``observer.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def streams(self) -> int:
        """Streams that run or wait on all generators, as last reported; up to a second old."""
        return self._ask({"ask": "streams"})["streams"]

    def ready(self) -> int:
        """Generators that serve, as last reported; up to a second old."""
        return self._ask({"ask": "ready"})["ready"]

    def load(self) -> dict[str, int]:
        """Number of ``ready`` generators, ``running`` streams and ``waiting`` text chunks; up to a second old."""
        return self._ask({"ask": "load"})

    def engine_first_audio_s(self, text: str, voice: str, seed: int) -> float:
        """Speak without a socket; returns the engine's own time from its queue to the first audio."""
        return self._ask({"ask": "speak", "text": text, "voice": voice, "seed": seed})["first_audio"]

    def _ask(self, question: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # Ray also prints messages there, such as the loss of a node
                return json.loads(line)
        raise RuntimeError(f"the observer exited with status {self._process.wait()}")


class Host:
    """Sends commands to the process of ``nodes.py``."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: Path) -> None:
        self._process = process
        self._output = output
        self._told = 0

    def tell(self, **wish: Any) -> None:  # noqa: ANN401 - JSON
        """Execute one command, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish).encode() + b"\n")
        self._process.stdin.flush()
        self._told += 1
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self._output.read_text().count('{"done": ') < self._told:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{wish} was not done:\n{self._output.read_text()[-2000:]}")
            time.sleep(0.05)


@dataclass(frozen=True)
class Service:
    """A running service; its internals are known only if it was started here.

    Attributes:
        address: host and port.
        pid: the launcher's process id; its descendants are the service.
        observer: see :class:`Observer`.
        host: command interface of ``nodes.py``, for a cluster of several nodes.
        logs: directory of Ray's session logs, which contains Serve's; deleted with the service.
    """

    address: str
    pid: int | None = None
    observer: Observer | None = None
    host: Host | None = None
    logs: Path | None = None

    def sessions(self) -> int:
        """Open sessions of the ingress replica that answers."""
        return self._get("/health")["sessions"]

    def logged(self, words: str) -> int:
        """Number of lines in the replicas' logs that contain ``words``."""
        assert self.logs is not None
        return sum(log.read_text(errors="replace").count(words) for log in (self.logs / "serve").glob("replica_*.log"))

    def default_voice(self) -> str:
        """The voice for clients that do not name one."""
        return self._get("/v1/audio/voices")["default"]

    def _get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        connection = HTTPConnection(self.address, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())


@contextlib.contextmanager
def started(
    config: Path, overrides: dict[str, dict[str, Any]], *, nodes: int = 0, generator: dict[str, Any] | None = None
) -> Iterator[Service]:
    """Start a service on a free port, with some ``args`` of a file replaced; it ends with the context.

    Args:
        config: the file.
        overrides: replacements, by section of ``args``.
        nodes: worker nodes of a cluster, with one logical GPU each; 0 to use the launcher's single node.
        generator: options that replace those of the generator deployment.

    Raises:
        SystemExit: it did not start; the message contains its output.
    """
    document = yaml.safe_load(config.read_text())
    for section, values in overrides.items():
        document["applications"][0]["args"].setdefault(section, {}).update(values)
    if generator:
        document["applications"][0]["deployments"] = [{"name": "Generator", **generator}]
    port, token = free_port(), secrets.token_hex(32)
    program = ["benchmarks/nodes.py", "--workers", str(nodes)] if nodes else ["-m", "serve_app.cli.serve"]
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        changed, output = Path(directory) / "service.yaml", Path(directory) / "output"
        changed.write_text(yaml.safe_dump(document))
        with output.open("wb") as printed:
            process = subprocess.Popen(  # noqa: S603 - our own launcher
                [sys.executable, *program, str(changed), "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": token},
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
        try:
            address, logs = _wait_until_ready(process, output)
            with _observer(address, token) as observer:
                host = Host(process, output) if nodes else None
                yield Service(f"127.0.0.1:{port}", process.pid, observer, host, logs)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _wait_until_ready(process: "subprocess.Popen[bytes]", output: Path) -> tuple[str, Path]:
    """Wait for the launcher's last line; returns the address of its Ray, and Ray's log directory."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while READY not in (printed := output.read_text()):
        if process.poll() is not None or time.monotonic() > deadline_s:
            sys.exit(f"the service did not start:\n{printed}")
        time.sleep(0.1)
    (line,) = [line for line in printed.splitlines() if line.startswith("  Ray  ")]
    words = line.split()
    return words[1].rstrip(","), Path(words[-1])


@contextlib.contextmanager
def _observer(address: str, token: str) -> Iterator[Observer]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, str(Path(__file__).with_name("observer.py")), address],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        observer = Observer(process)
        observer.streams()  # an answer means that it has joined
        try:
            yield observer
        finally:
            process.stdin.close()


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Memory:
    """Resident bytes of one process over a run; the kernel's socket buffers count as one process."""

    name: str
    start_bytes: int
    end_bytes: int = 0
    maximum_bytes: int = 0
    seen: int = field(default=0, repr=False)

    def saw(self, resident_bytes: int) -> None:
        """Record one sample."""
        self.end_bytes = resident_bytes
        self.maximum_bytes = max(self.maximum_bytes, resident_bytes)
        self.seen += 1


class MemoryWatch:
    """Samples, on its own thread, the memory of all descendants of a process, and of all TCP sockets of the machine."""

    def __init__(self, root: int, period_s: float = 0.5) -> None:
        self._root = root
        self._period_s = period_s
        self._memories: dict[int, Memory] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def figures(self) -> list[dict[str, Any]]:
        """Results for processes that lived for most of the run, the largest first."""
        longest = max(memory.seen for memory in self._memories.values())
        lasting = [memory for memory in self._memories.values() if memory.seen > longest / 2]
        return [dataclasses.asdict(each) for each in sorted(lasting, key=lambda memory: -memory.maximum_bytes)]

    def _watch(self) -> None:
        while not self._over.wait(self._period_s):
            self._sample(0, "TCP buffers of the kernel, whole machine", _tcp_bytes())
            for pid in [self._root, *descendants(self._root)]:
                with contextlib.suppress(OSError, IndexError):  # the process has ended
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    self._sample(pid, _name(pid), pages * PAGE_BYTES)

    def _sample(self, pid: int, name: str, resident_bytes: int) -> None:
        self._memories.setdefault(pid, Memory(name, resident_bytes)).saw(resident_bytes)


def open_files(root: int) -> dict[str, int]:
    """File descriptors of all descendants of a process, in total by kind of process."""
    counts: dict[str, int] = {}
    for pid in descendants(root):
        with contextlib.suppress(OSError, IndexError):  # the process has ended
            name = _name(pid)
            counts[name] = counts.get(name, 0) + len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return counts


def _tcp_bytes() -> int:
    """Bytes that the kernel holds in TCP buffers."""
    (line,) = [line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:")]
    words = line.split()
    return int(words[words.index("mem") + 1]) * PAGE_BYTES


def _name(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    if "-m" in words:
        return words[words.index("-m") + 1]
    return " ".join([Path(words[0]).name or "?", *(Path(word).name for word in words[1:3] if word.endswith(".py"))])
