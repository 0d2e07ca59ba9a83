"""The whole service under mixed load while its processes are killed: what listeners lose, and what is left behind.

    python benchmarks/faults.py                                        # twenty kills of a generator; ten minutes
    python benchmarks/faults.py --minutes 30 --every 60 --kill generator,store --mixed      # a soak

Starts ``configs/local.yaml`` on a free port with two generators, on the tiny checkpoint in float32. Every text is
spoken once in peace; under load each listener's samples are compared with those. ``--mixed`` adds clients that cancel,
that go away in the middle, and one that never reads. Prints figures and, with ``--json FILE``, writes them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from listener import DeafClient, Heard, open_socket, speak
from service import MemoryWatch, Service, open_files, started
from websockets.exceptions import WebSocketException

from serve_app.cli.processes import descendants

TEXTS = [
    "It is good to hear you, and to speak to you again after such a long time. Tell me how you have been.",
    "The sea was calm that night. Nobody spoke, and the lamps along the shore went out one by one until it was dark.",
    "Bring the boxes to the second floor, please, and leave the door open.",
]
PROCESSES = {"generator": "ray::ServeReplica:tts:Generator", "store": "ray::VoiceStore"}
OVERRIDES = {
    "engine": {"budget_frames_per_character": 1.0, "budget_min_frames": 2},
    "generator": {"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.5},
}


@dataclass
class Tally:
    """What happened to everybody.

    Attributes:
        ends: utterances by how they ended.
        errors: by code, and by the name of what broke a socket.
        off_by: of complete utterances, the largest difference of a sample from the one spoken in peace; 16-bit steps.
        wrong_length: complete utterances with samples too many or too few.
        late_s: how much longer than in peace each complete utterance took.
        silent_s: seconds in which a player had nothing to play, by utterance.
        kills: by process.
    """

    ends: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    off_by: list[int] = field(default_factory=list[int])
    wrong_length: int = 0
    late_s: list[float] = field(default_factory=list[float])
    silent_s: list[float] = field(default_factory=list[float])
    kills: Counter[str] = field(default_factory=Counter[str])

    def compare(self, heard: Heard, peaceful: Heard) -> None:
        """Take one complete utterance and what it should have been."""
        samples, expected = (np.frombuffer(bytes(each.pcm), "<i2").astype(int) for each in (heard, peaceful))
        if len(samples) != len(expected):
            self.wrong_length += 1
            return
        self.off_by.append(int(np.abs(samples - expected).max(initial=0)))
        self.late_s.append(heard.ended_s - peaceful.ended_s)
        self.silent_s.append(heard.playback().silent_s)

    def figures(self) -> dict[str, Any]:
        """Everything in numbers."""
        return {
            "ends": dict(self.ends),
            "errors": dict(self.errors),
            "kills": dict(self.kills),
            "compared": len(self.off_by),
            "equal to the last bit": sum(off == 0 for off in self.off_by),
            "largest difference, 16-bit steps": max(self.off_by, default=0),
            "wrong length": self.wrong_length,
            "silence of a player, s": spread(self.silent_s),
            "later than in peace, s": spread(self.late_s),
        }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst."""
    if not values:
        return {}
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"median": round(statistics.median(ordered), 2), "p95": round(p95, 2), "worst": round(ordered[-1], 2)}


def main() -> None:
    """Measure and print."""
    arguments = parse()
    with started(arguments.config, OVERRIDES) as service:
        figures = asyncio.run(measure(service, arguments))
    print(json.dumps(figures, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/local.yaml"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=25.0, metavar="S", help="seconds between kills")
    parser.add_argument("--kills", type=int, default=20, help="at most")
    parser.add_argument("--kill", default="generator", help=f"any of {','.join(PROCESSES)}, in turn")
    parser.add_argument("--listeners", type=int, default=4, help="that speak without a pause and compare")
    parser.add_argument("--mixed", action="store_true", help="others cancel, go away, or never read")
    parser.add_argument("--seed", type=int, default=1, help="of who is killed and when somebody cancels")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args()


async def measure(service: Service, arguments: argparse.Namespace) -> dict[str, Any]:
    """Speak in peace, then under fire until the time is over, then look at what is left."""
    assert service.pid is not None
    assert service.observer is not None
    chance = random.Random(arguments.seed)  # noqa: S311 - no secret
    async with open_socket(service.address) as socket:
        peaceful = [await speak(socket, text, seed=number) for number, text in enumerate(TEXTS)]
    tally = Tally()
    over_s = time.monotonic() + 60 * arguments.minutes
    files_before = open_files(service.pid)
    work = [listen(service, tally, peaceful, chance, over_s) for _ in range(arguments.listeners)]
    if arguments.mixed:
        work += [interrupt(service, tally, chance, over_s, leave=leave) for leave in (False, True)]
        work.append(never_read(service, tally, over_s))
    with MemoryWatch(service.pid, period_s=2.0) as memory:
        await asyncio.gather(kill(service.pid, tally, chance, arguments, over_s), *work)
    await asyncio.sleep(5.0)
    return {
        "minutes": arguments.minutes,
        **tally.figures(),
        "streams left": service.observer.streams(),
        "sessions left": service.sessions(),
        "open files, all processes": {"before": files_before, "after": open_files(service.pid)},
        "memory": memory.figures()[:6],
    }


async def listen(service: Service, tally: Tally, peaceful: list[Heard], chance: random.Random, over_s: float) -> None:
    """Speak one text after the other and compare."""
    while time.monotonic() < over_s:
        with told(tally):
            async with open_socket(service.address, ping_timeout=None) as socket:
                while time.monotonic() < over_s:
                    number = chance.randrange(len(TEXTS))
                    heard = await asyncio.wait_for(speak(socket, TEXTS[number], seed=number), 180)
                    tally.ends[heard.end["type"]] += 1
                    if heard.end["type"] == "complete":
                        tally.compare(heard, peaceful[number])
                    else:
                        tally.errors[heard.end.get("code", "?")] += 1
                        await asyncio.sleep(heard.end.get("retry_after_ms", 1000) / 1000)


async def interrupt(service: Service, tally: Tally, chance: random.Random, over_s: float, *, leave: bool) -> None:
    """Speak and cancel in the middle, or go away in the middle."""
    while time.monotonic() < over_s:
        with told(tally):
            async with open_socket(service.address, ping_timeout=None) as socket:
                speaking = asyncio.create_task(speak(socket, TEXTS[0]))
                await asyncio.sleep(chance.uniform(0.0, 3.0))
                if leave:
                    speaking.cancel()
                    socket.transport.abort()
                    tally.ends["left"] += 1
                else:
                    await socket.send(json.dumps({"type": "cancel"}))
                    heard = await asyncio.wait_for(speaking, 180)
                    tally.ends[heard.end["type"]] += 1


async def never_read(service: Service, tally: Tally, over_s: float) -> None:
    """Ask for much and read nothing, again and again, until the server has had enough each time."""
    while time.monotonic() < over_s:
        with told(tally):
            deaf = await asyncio.to_thread(DeafClient, service.address)
            for number in range(20):
                deaf.speak(" ".join(TEXTS * 4), seed=number)
            await asyncio.sleep(90)
            _, code = await asyncio.to_thread(deaf.read_all, 20.0)
            tally.ends[f"never read, closed with {code}"] += 1


@contextlib.contextmanager
def told(tally: Tally) -> Any:  # noqa: ANN401 - a context
    """Count what breaks a socket."""
    try:
        yield
    except (WebSocketException, OSError, TimeoutError) as error:
        tally.errors[type(error).__name__] += 1


async def kill(root: int, tally: Tally, chance: random.Random, arguments: argparse.Namespace, over_s: float) -> None:
    """End a process now and then, the kinds in turn, the individual by chance."""
    kinds = arguments.kill.split(",")
    for number in range(arguments.kills):
        if time.monotonic() + arguments.every > over_s:
            return
        await asyncio.sleep(arguments.every)
        kind = kinds[number % len(kinds)]
        if pids := named(root, PROCESSES[kind]):
            os.kill(chance.choice(pids), signal.SIGKILL)
            tally.kills[kind] += 1


def named(root: int, name: str) -> list[int]:
    """Processes below one whose command begins with a name."""
    found: list[int] = []
    for pid in descendants(root):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(name.encode()):
                found.append(pid)
    return found


if __name__ == "__main__":
    main()
