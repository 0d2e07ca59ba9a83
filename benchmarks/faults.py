"""Injects faults into the whole service under mixed load, and measures what listeners lose and what is left behind.

    python benchmarks/faults.py                              # kill -9 of a generator, twenty times
    python benchmarks/faults.py --fault scale-in             # twenty scale-ins under load
    python benchmarks/faults.py --fault ingress,store,controller,node,freeze,redeploy --times 12
    python benchmarks/faults.py --minutes 30 --every 60 --times 30 --fault generator,store --mixed        # a soak

Starts a cluster of three nodes on this machine (``nodes.py``) with ``configs/local.yaml``, on the tiny checkpoint in
float32: the head with two ingresses, and two workers with one logical GPU each for two generators of half a GPU. Every
text is first spoken once without load or faults; under load, each listener's samples are compared with these. A
listener whose socket breaks opens another one and sends the same text again, as ``tts-say`` does. ``--mixed`` adds
clients that cancel, clients that disconnect in mid-utterance, one that never reads, and one that uploads a voice,
speaks with it and removes it. Prints the results and, with ``--json FILE``, writes them.

The faults are:

* ``generator``, ``store``, ``ingress``, ``controller``, ``proxy``: kill -9 of a random process of that kind;
* ``node``: kill -9 of everything on a worker node; a new one joins ten seconds later;
* ``freeze``: a generator is stopped (SIGSTOP) and killed a minute later: Ray does not end a process that is stopped;
* ``scale-in``: from two generators to one, and back when one is gone;
* ``redeploy``: ``serve deploy`` with a changed configuration, which replaces all generators.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
from listener import DeafClient, Heard, open_socket, speak, speak_to_the_end
from service import ROOT, MemoryWatch, Service, open_files, started
from websockets.exceptions import WebSocketException

from serve_app.cli.processes import descendants

TEXTS = [
    "It is good to hear you, and to speak to you again after such a long time. Tell me how you have been.",
    "The sea was calm that night. Nobody spoke, and the lamps along the shore went out one by one until it was dark.",
    "Bring the boxes to the second floor, please, and leave the door open.",
]
PROCESSES = {
    "generator": "ray::ServeReplica:tts:Generator",
    "ingress": "ray::ServeReplica:tts:Ingress",
    "store": "ray::Coordinator",
    "controller": "ray::ServeController",
    "proxy": "ray::HAProxyManager",
}
GENERATORS = 2
NODE_RETURNS_S = 10.0
FROZEN_S = 60.0
RECOVERY_TIMEOUT_S = 240.0
OVERRIDES = {
    "engine": {"budget_frames_per_character": 1.0, "budget_min_frames": 2},
    "generator": {"min_replicas": GENERATORS, "max_replicas": GENERATORS, "num_cpus": 0, "num_gpus": 0.5},
    "ingress": {"replicas": 2},
}


@dataclass
class Tally:
    """Counts and measurements of a run.

    Attributes:
        ends: utterances by how they ended.
        errors: by error code, or by the name of the exception that broke a socket.
        off_by: for each complete utterance, the largest difference of a sample from the undisturbed one; 16-bit steps.
        wrong_length: complete utterances with too many or too few samples.
        late_s: how much longer each complete utterance took than the undisturbed one.
        silent_s: seconds in which a player had nothing to play, by utterance.
        faults: by kind.
        recovered_s: time from each fault until all generators served.
        sockets_lost: listeners' sockets that broke and were replaced.
        over: set when the last fault is over; all clients then finish their utterance.
    """

    ends: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    off_by: list[int] = field(default_factory=list[int])
    wrong_length: int = 0
    late_s: list[float] = field(default_factory=list[float])
    silent_s: list[float] = field(default_factory=list[float])
    faults: Counter[str] = field(default_factory=Counter[str])
    recovered_s: list[float] = field(default_factory=list[float])
    sockets_lost: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def compare(self, heard: Heard, peaceful: Heard) -> None:
        """Compare one complete utterance with the undisturbed one."""
        samples, expected = (np.frombuffer(bytes(each.pcm), "<i2").astype(int) for each in (heard, peaceful))
        if len(samples) != len(expected):
            self.wrong_length += 1
            return
        self.off_by.append(int(np.abs(samples - expected).max(initial=0)))
        self.late_s.append(heard.ended_s - peaceful.ended_s)
        self.silent_s.append(heard.playback().silent_s)

    def figures(self) -> dict[str, Any]:
        """All results as numbers."""
        return {
            "ends": dict(self.ends),
            "errors": dict(self.errors),
            "faults": dict(self.faults),
            "until all generators serve again, s": spread(self.recovered_s),
            "listeners' sockets lost": self.sockets_lost,
            "compared": len(self.off_by),
            "equal to the last bit": sum(off == 0 for off in self.off_by),
            "largest difference, 16-bit steps": max(self.off_by, default=0),
            "wrong length": self.wrong_length,
            "silence of a player, s": spread(self.silent_s),
            "later than undisturbed, s": spread(self.late_s),
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
    with started(arguments.config, OVERRIDES, nodes=2) as service:
        figures = asyncio.run(measure(service, arguments))
    print(json.dumps(figures, indent=2))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/local.yaml"))
    parser.add_argument("--fault", default="generator", help=f"any of {','.join(FAULTS)}, in turn")
    parser.add_argument("--times", type=int, default=20, help="most faults")
    parser.add_argument("--every", type=float, default=15.0, metavar="S", help="least seconds between faults")
    parser.add_argument("--minutes", type=float, help="length of the run; default: until the last fault is over")
    parser.add_argument("--listeners", type=int, default=4, help="listeners that speak without a pause and compare")
    parser.add_argument("--mixed", action="store_true", help="add clients that cancel, disconnect, or never read")
    parser.add_argument("--seed", type=int, default=1, help="seed of random choices: fault targets, times of cancels")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()
    arguments.soak = arguments.minutes is not None
    arguments.minutes = arguments.minutes or 24 * 60
    return arguments


async def measure(service: Service, arguments: argparse.Namespace) -> dict[str, Any]:
    """Speak without faults, then with faults until the run is over, then check what is left."""
    assert service.pid is not None
    assert service.observer is not None
    await asyncio.to_thread(until_all_serve, service)
    chance = random.Random(arguments.seed)  # noqa: S311 - no secret
    async with open_socket(service.address) as socket:
        peaceful = [await speak(socket, text, seed=number) for number, text in enumerate(TEXTS)]
    tally = Tally()
    files_before = open_files(service.pid)
    work = [listen(service, tally, peaceful, chance) for _ in range(arguments.listeners)]
    if arguments.mixed:
        work += [interrupt(service, tally, chance, leave=leave) for leave in (False, True)]
        work += [never_read(service, tally), upload(service, tally, chance)]
    began_s = time.monotonic()
    with MemoryWatch(service.pid, period_s=2.0) as memory:
        await asyncio.gather(strike(service, tally, chance, arguments), *work)
    lasted_s = time.monotonic() - began_s
    await asyncio.sleep(5.0)
    return {
        "minutes": round(lasted_s / 60, 1),
        **tally.figures(),
        "streams that were interrupted and resumed": service.logged("a stream was interrupted after"),
        "streams left": service.observer.streams(),
        "sessions left, of one ingress": service.sessions(),
        "open files, all processes": {"before": files_before, "after": open_files(service.pid)},
        "memory": memory.figures()[:8],
    }


async def listen(service: Service, tally: Tally, peaceful: list[Heard], chance: random.Random) -> None:
    """Speak one text after the other, each on its own socket, and compare the audio."""
    while not tally.over.is_set():
        with told(tally):
            number = chance.randrange(len(TEXTS))
            speaking = speak_to_the_end(service.address, TEXTS[number], seed=number)
            heard, lost = await asyncio.wait_for(speaking, 300)
            tally.sockets_lost += lost
            tally.ends[heard.end["type"]] += 1
            if heard.end["type"] == "complete":
                tally.compare(heard, peaceful[number])
            else:
                tally.errors[heard.end.get("code", "?")] += 1
                print(f"not complete: {heard.end}", flush=True)
                await asyncio.sleep(heard.end.get("retry_after_ms", 1000) / 1000)


async def interrupt(service: Service, tally: Tally, chance: random.Random, *, leave: bool) -> None:
    """Speak and cancel in mid-utterance, or disconnect in mid-utterance."""
    while not tally.over.is_set():
        with told(tally):
            async with open_socket(service.address, ping_timeout=None) as socket:
                speaking = asyncio.create_task(speak(socket, TEXTS[0]))
                await asyncio.sleep(chance.uniform(0.0, 3.0))
                if leave:
                    speaking.cancel()
                    await asyncio.gather(speaking, return_exceptions=True)
                    socket.transport.abort()
                    tally.ends["left"] += 1
                else:
                    await socket.send(json.dumps({"type": "cancel"}))
                    heard = await asyncio.wait_for(speaking, 180)
                    tally.ends["cancelled in time" if heard.end["type"] == "cancelled" else "cancelled late"] += 1


async def never_read(service: Service, tally: Tally) -> None:
    """Request much audio and read nothing, again and again, until the server closes the connection."""
    while not tally.over.is_set():
        with told(tally):
            deaf = await asyncio.to_thread(DeafClient, service.address)
            for number in range(20):
                deaf.speak(" ".join(TEXTS * 4), seed=number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(tally.over.wait(), 90)
            _, code = await asyncio.to_thread(deaf.read_all, 20.0)
            tally.ends[f"never read, closed with {code}"] += 1


async def upload(service: Service, tally: Tally, chance: random.Random) -> None:
    """Upload a new clip each time, so that it is encoded each time, with pauses as between uploads of people."""
    pcm, rate_hz = soundfile.read(ROOT / "voices" / "austen" / "reference.wav", dtype="int16")
    while not tally.over.is_set():
        clip = io.BytesIO()
        soundfile.write(clip, pcm[chance.randrange(rate_hz) :], rate_hz, format="WAV")
        with told(tally):
            async with httpx.AsyncClient(base_url=f"http://{service.address}", timeout=60) as client:
                form = {"name": "Soak", "consent": "The reader dedicated it to the public domain."}
                answer = await client.post("/v1/audio/voices", data=form, files={"audio": clip.getvalue()})
                tally.ends[f"upload answered with {answer.status_code}"] += 1
                if not answer.is_success:
                    print(f"upload refused: {answer.status_code} {answer.text[:300]}", flush=True)
                if answer.is_success:
                    heard, _ = await speak_to_the_end(service.address, TEXTS[2], voice=answer.json()["id"])
                    tally.ends[f"with an uploaded voice: {heard.end['type']}"] += 1
                    if heard.end["type"] == "error":
                        tally.errors[f"with an uploaded voice: {heard.end['code']}"] += 1
                    answer = await client.delete(f"/v1/audio/voices/{answer.json()['id']}")
                    tally.ends[f"removal answered with {answer.status_code}"] += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tally.over.wait(), chance.uniform(5, 15))


@contextlib.contextmanager
def told(tally: Tally) -> Any:  # noqa: ANN401 - a context
    """Count exceptions that break a socket."""
    try:
        yield
    except (WebSocketException, httpx.HTTPError, OSError, TimeoutError) as error:
        tally.errors[type(error).__name__] += 1


async def strike(service: Service, tally: Tally, chance: random.Random, arguments: argparse.Namespace) -> None:
    """Inject one fault after the other, kinds in turn; waits for at least ``--every`` seconds and all generators."""
    assert service.observer is not None
    over_s = time.monotonic() + 60 * arguments.minutes
    kinds = arguments.fault.split(",")
    number = 0
    while number < arguments.times and time.monotonic() + arguments.every < over_s:
        kind = kinds[number % len(kinds)]
        began_s = time.monotonic()
        await asyncio.to_thread(FAULTS[kind], service, chance)
        tally.faults[kind] += 1
        number += 1
        await asyncio.sleep(5.0)  # reported statuses may be that old
        if not await asyncio.to_thread(until_all_serve, service):
            tally.errors["generators that did not come back"] += 1
        tally.recovered_s.append(time.monotonic() - began_s)
        print(f"{number}: {kind}, all generators back after {tally.recovered_s[-1]:.0f} s", flush=True)
        await asyncio.sleep(max(0.0, began_s + arguments.every - time.monotonic()))
    if arguments.soak:
        await asyncio.sleep(max(0.0, over_s - time.monotonic()))
    tally.over.set()


def until_all_serve(service: Service) -> bool:
    """Wait until all generators serve; False if they do not."""
    assert service.observer is not None
    until_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while service.observer.ready() < GENERATORS:
        if time.monotonic() > until_s:
            return False
        time.sleep(0.5)
    return True


def end_one(kind: str) -> Callable[[Service, random.Random], None]:
    """Kill -9 of one process of a kind."""

    def fault(service: Service, chance: random.Random) -> None:
        os.kill(chance.choice(named(service, kind)), signal.SIGKILL)

    return fault


def end_node(service: Service, chance: random.Random) -> None:
    """Kill a worker node as in a power failure, then add another one."""
    assert service.host is not None
    service.host.tell(do="kill", node=chance.randrange(2))
    time.sleep(NODE_RETURNS_S)
    service.host.tell(do="add")


def freeze(service: Service, chance: random.Random) -> None:
    """Stop a generator for a minute."""
    pid = chance.choice(named(service, "generator"))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    os.kill(pid, signal.SIGKILL)


def scale_in(service: Service, _chance: random.Random) -> None:
    """Remove one generator, wait until it has left, then restore the previous number."""
    assert service.host is not None
    before = len(named(service, "generator"))
    service.host.tell(do="deploy", generator={"num_replicas": before - 1})
    began_s = time.monotonic()
    while len(named(service, "generator")) >= before and time.monotonic() - began_s < RECOVERY_TIMEOUT_S:
        time.sleep(0.1)
    service.host.tell(do="deploy", generator={"num_replicas": before})


def redeploy(service: Service, chance: random.Random) -> None:
    """Deploy with other arguments, which replaces all generators."""
    assert service.host is not None
    old = set(named(service, "generator"))
    service.host.tell(do="deploy", args={"engine": {"max_waiting_streams": chance.randrange(20, 1000)}})
    until_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while old & set(named(service, "generator")) and time.monotonic() < until_s:
        time.sleep(0.5)


FAULTS: dict[str, Callable[[Service, random.Random], None]] = {
    **{kind: end_one(kind) for kind in PROCESSES},
    "node": end_node,
    "freeze": freeze,
    "scale-in": scale_in,
    "redeploy": redeploy,
}


def named(service: Service, kind: str) -> list[int]:
    """Live processes of a kind."""
    assert service.pid is not None
    found: list[int] = []
    for pid in descendants(service.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(PROCESSES[kind].encode()):
                found.append(pid)
    return found


if __name__ == "__main__":
    main()
