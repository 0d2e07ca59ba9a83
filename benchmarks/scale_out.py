"""Replicas that come and go on this machine: a service of its own, streams over sockets, and what the policy said.

    python benchmarks/scale_out.py                 # the tiny checkpoint, 0 to 3 generators of 4 streams, two minutes

It shows that the parts work together, from the sockets to Serve's controller and back; figures of many replicas are
those of scaling.py, which simulates them.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

import websockets
from service import ROOT, Service, started

from serve_app.cli.processes import descendants

SENTENCE = "It is good to hear you, and to speak to you again after such a long time. "
QUICK = {"look_back_s": 15, "react_s": 5, "cold_start_s": 15, "downscale_delay_s": 15, "downscale_to_zero_delay_s": 20}
"""Knobs that let a run take minutes instead of half an hour."""


async def talk(address: str, until_s: float, waits_s: list[float]) -> None:
    """One session: speaks, hears the end, speaks again."""
    async with websockets.connect(f"ws://{address}/api/v1/speak", compression=None, max_size=None) as socket:
        while time.monotonic() < until_s:
            asked_s, first_s = time.monotonic(), 0.0
            await socket.send(json.dumps({"type": "speak", "text": 4 * SENTENCE}))
            async for frame in socket:
                if isinstance(frame, bytes):
                    first_s = first_s or time.monotonic()
                elif json.loads(frame)["type"] in ("complete", "error"):
                    break
            waits_s.append(first_s - asked_s if first_s else float("nan"))


def generators(service: Service) -> int:
    """Generator replicas that have a process."""
    assert service.pid is not None
    return sum(b"Generator" in _command(pid)[:60] for pid in descendants(service.pid))


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def decisions(service: Service, began_s: float) -> list[str]:
    """The policy's lines in the log of Serve's controller, with seconds since a moment of the wall clock."""
    assert service.pid is not None
    commands = [_command(pid).split(b"\0") for pid in descendants(service.pid)]
    (config,) = [words[-2] for words in commands if b"serve_app.cli.cluster" in words]
    logs = Path(config.decode()).parent.glob("ray/session_*/logs/serve/controller_*.log")
    lines = [line for log in {log.resolve() for log in logs} for line in log.read_text().splitlines()]
    said = [line for line in lines if "scaling {" in line]
    at_s = [time.mktime(time.strptime(" ".join(line.split()[1:3]), "%Y-%m-%d %H:%M:%S,%f")) for line in said]
    return [
        f"{at - began_s:+4.0f} s: {line[line.index('scaling ') :]}" for at, line in sorted(zip(at_s, said, strict=True))
    ]


async def watch(service: Service, seconds: float, what: str) -> None:
    """Print a line whenever the number of generators changes."""
    began_s, before = time.monotonic(), -1
    while time.monotonic() - began_s < seconds:
        now = generators(service)
        if now != before:
            print(f"{what}, {time.monotonic() - began_s:4.0f} s: {now} generators", flush=True)
            before = now
        await asyncio.sleep(0.5)


async def show(service: Service, sessions: int, seconds: float) -> None:
    """A crowd, its end, and one who comes after it."""
    waits_s: list[float] = []
    began_s = time.time()
    until_s = time.monotonic() + seconds
    talking = [asyncio.create_task(talk(service.address, until_s, waits_s)) for _ in range(sessions)]
    await watch(service, seconds, f"{sessions} sessions")
    await asyncio.gather(*talking)
    await watch(service, 120, "nobody")
    last: list[float] = []
    await talk(service.address, time.monotonic() + 1.0, last)
    print(f"one who comes then hears something after {last[0]:.1f} s, with {generators(service)} generators")
    print("\n".join(decisions(service, began_s)))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=90)
    arguments = parser.parse_args()
    overrides = {
        "engine": {"slots": 4},
        "generator": {"min_replicas": 0, "max_replicas": 3, "num_cpus": 0.5},
        "scaling": QUICK,
        "admission": {"start_deadline_s": 60},
    }
    with started(ROOT / "configs" / "local.yaml", overrides) as service:
        asyncio.run(show(service, arguments.sessions, arguments.seconds))


if __name__ == "__main__":
    main()
