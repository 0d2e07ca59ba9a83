"""A service started by its launcher, as tests see it: its processes, its output, its sockets."""

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import websockets
from prometheus_client.parser import text_string_to_metric_families

from serve_app.cli.processes import descendants
from serve_app.speech import SAMPLES_PER_FRAME

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 240.0
READY = "Ctrl-C stops everything."


@dataclass
class Launched:
    """A launcher's process and what it prints."""

    process: subprocess.Popen
    output: Path
    token: str

    @property
    def printed(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, timeout_s: float = START_TIMEOUT_S) -> None:
        wait_until(lambda: text in self.printed or self.process.poll() is not None, timeout_s, f"{text!r} is printed")
        assert text in self.printed, self.printed

    def directory(self) -> Path:
        """The directory of this run, which ends with the service; named on the command line of its cluster."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):  # it has ended
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"serve_app.cli.cluster" in command:
                    return Path(command.split(b"\0")[-2].decode()).parent
        raise AssertionError("the launcher has no cluster")

    def stop(self, number: signal.Signals = signal.SIGINT) -> list[int]:
        """Send a signal, wait for the end; returns the processes that it had and that are still there."""
        started = descendants(self.process.pid)
        self.process.send_signal(number)
        self.process.wait(30)
        return [pid for pid in started if Path(f"/proc/{pid}").exists()]


@dataclass
class Service:
    """A running service, as its clients and its operator see it."""

    address: str
    launched: Launched
    prefix: str = ""

    def url(self, path: str) -> str:
        return f"ws://{self.address}{self.prefix}{path}"

    def connect(self, path: str = "/api/v1/speak", **options):
        return websockets.connect(self.url(path), compression=None, max_size=None, **options)

    def get(self, path: str) -> tuple[int, bytes]:
        connection = HTTPConnection(self.address, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", self.prefix + path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def metrics(self) -> dict[str, list]:
        """Samples of the metrics port by name, as Prometheus reads them."""
        url = re.search(r"http://\S+/metrics", self.launched.printed)[0]
        with urlopen(url, timeout=20) as answer:
            text = answer.read().decode()
        found: dict[str, list] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    def sessions(self) -> int:
        """Open sessions of the one ingress replica."""
        return json.loads(self.get("/health")[1])["sessions"]

    def pid_of(self, name: str) -> int:
        """Process id of the Ray worker of that name."""
        (pid,) = self.pids_of(name)
        return pid

    def pids_of(self, name: str) -> list[int]:
        """Process ids of the Ray workers of that name."""
        found = []
        for pid in descendants(self.launched.process.pid):
            with contextlib.suppress(OSError):  # it has ended
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"ray::{name}".encode()):
                    found.append(pid)
        return found

    def redeploy(self, **changes) -> None:
        """What ``serve deploy`` does with a changed file: sections of ``args``, and ``deployments``."""
        commands = (Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(self.launched.process.pid))
        (cluster,) = [command for command in commands if b"serve_app.cli.cluster" in command]
        (address,) = [line.split()[1].rstrip(",") for line in self.launched.printed.splitlines() if "Ray  " in line]
        own = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.launched.token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
        here = Path(__file__).parent
        path = cluster.split(b"\0")[-2].decode()
        subprocess.run(
            [sys.executable, "-W", "ignore", here / "redeploy.py", address, path, json.dumps(changes)],
            env={**os.environ, **own, "PYTHONPATH": os.pathsep.join([str(ROOT), str(here)])},
            check=True,
            timeout=60,
        )

    def printed_by_generators(self, words: str) -> int:
        """Lines of the generators' logs with some words in them."""
        folder = Path(re.search(r"its logs in (\S+)", self.launched.printed)[1])
        return sum(log.read_text().count(words) for log in (folder / "serve").glob("replica_*_Generator_*.log"))


class Log:
    """What the processes of a service have written since this was made."""

    def __init__(self, service: Service) -> None:
        self._folder = Path(re.search(r"its logs in (\S+)", service.launched.printed)[1]).resolve()
        self._before = {file: file.stat().st_size for file in self._files()}

    def text(self) -> str:
        return "\n".join(self._written().values())

    def tracebacks(self) -> list[str]:
        """The beginning of what each replica's and actor's file has from its first traceback on, after its name.

        Ray's daemons have some of their own: its agent, of a dashboard that is off, once a disk is 95 % full.
        """
        return [
            f"{file.name}: {text[at:][:4000]}"
            for file, text in self._written().items()
            if file.parent.name == "serve" or file.name.startswith("worker-")
            if (at := text.find("Traceback")) >= 0
        ]

    def _written(self) -> dict[Path, str]:
        written = {}
        for file in self._files():
            with file.open("rb") as stream:
                stream.seek(self._before.get(file, 0))
                written[file] = stream.read().decode(errors="replace")
        return written

    def _files(self) -> list[Path]:
        return [file for file in self._folder.rglob("*") if file.is_file() and file.suffix in {".log", ".out", ".err"}]


@dataclass
class Spoken:
    """What one utterance of dialect B brought."""

    messages: list[dict] = field(default_factory=list)
    pcm: bytes = b""
    audio_at_s: list[float] = field(default_factory=list)
    audio_bytes: list[int] = field(default_factory=list)
    ended_s: float = 0.0

    @property
    def end(self) -> dict:
        return self.messages[-1]

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / 2 / SAMPLES_PER_FRAME * 0.08


async def speak(connection, text: str, *, patience_s: float = 60, **fields) -> Spoken:
    """Say one utterance on an open socket of dialect B and take everything up to its end."""
    spoken, began_s = Spoken(), time.monotonic()
    await connection.send(json.dumps({"type": "speak", "text": text, **fields}))
    while True:
        # Not wait_for: in Python 3.11 it loses a cancellation that comes together with a message.
        async with asyncio.timeout(patience_s):
            message = await connection.recv()
        if isinstance(message, str):
            spoken.messages.append(json.loads(message))
            message = base64.b64decode(spoken.end.get("data", ""))
        if message:
            spoken.pcm += message
            spoken.audio_at_s.append(time.monotonic() - began_s)
            spoken.audio_bytes.append(len(message))
        if spoken.messages and spoken.end["type"] in ("complete", "cancelled", "error"):
            spoken.ended_s = time.monotonic() - began_s
            return spoken


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def processor_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run_command(*command: str, cwd: Path, environment: dict[str, str], timeout_s: float) -> tuple[int, str]:
    """Run a command to its end; its status, and what it printed to both streams."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, printed.decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
