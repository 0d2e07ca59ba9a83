"""Measures the whole service through its sockets: first audio, many speakers, a client that never reads, barge-in.

    python benchmarks/sockets.py                              # all of it; ten minutes
    python benchmarks/sockets.py first-audio cancels          # some of it
    python benchmarks/sockets.py --url 127.0.0.1:8000         # a service that is already running

Starts ``configs/local.yaml`` on a free port: the tiny checkpoint, a proxy, an ingress and a generator, all on this
machine next to the clients. Random weights never draw an end of speech, so a text gets one frame per character, which
is about the length of real speech. Prints the results and, with ``--json FILE``, writes them. Timings on a shared
machine are noisy; the two sides of a comparison take turns.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from listener import DeafClient, Heard, open_socket, speak
from service import MemoryWatch, Service, started
from websockets.asyncio.client import ClientConnection

Figures = dict[str, Any]
SHORT = "It is good to hear you."
MIDDLE = "It is good to hear you, and to speak to you again after such a long time."
LONG = " ".join([MIDDLE] * 30)
MUCH = 30
"""Utterances of :data:`LONG` that the slow client requests: more than it receives in any run."""

OVERRIDES = {"engine": {"budget_frames_per_character": 1.0, "budget_min_frames": 2}}


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if arguments.url:
        figures = asyncio.run(measure(Service(arguments.url.removeprefix("ws://").rstrip("/")), arguments))
    else:
        with started(arguments.config, OVERRIDES) as service:
            figures = asyncio.run(measure(service, arguments))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--url", help="host and port of a running service, instead of starting one")
    parser.add_argument("--config", type=Path, default=Path("configs/local.yaml"))
    parser.add_argument("--utterances", type=int, default=60, help="utterances per result of first-audio")
    parser.add_argument("--idle", type=int, default=100, help="idle sockets of first-audio")
    parser.add_argument("--sockets", type=int, default=50, help="sockets of crowd that speak concurrently")
    parser.add_argument("--turns", type=int, default=4, help="utterances per socket of crowd")
    parser.add_argument("--players", type=int, default=10, help="players next to the client that never reads")
    parser.add_argument("--seconds", type=float, default=70.0, help="length of each third of slow-client")
    parser.add_argument("--cancels", type=int, default=100)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if unknown := set(arguments.cases) - set(CASES):
        parser.error(f"unknown case: {', '.join(sorted(unknown))}; allowed: {', '.join(CASES)}")
    return arguments


async def measure(service: Service, arguments: argparse.Namespace) -> Figures:
    """Run the requested cases, one after the other."""
    figures: Figures = {"machine": {"processors": os.cpu_count(), "python": platform.python_version()}}
    async with open_socket(service.address) as connection:
        await speak(connection, SHORT)  # complete all one-time work
    for name in arguments.cases or CASES:
        print(f"\n{name}: {CASES[name].__doc__}", flush=True)
        figures[name] = await CASES[name](service, arguments)
    return figures


# First audio.


async def first_audio(service: Service, arguments: argparse.Namespace) -> Figures:
    """Time to first audio of one speaker, compared with the engine's own time, and next to idle sockets."""
    figures: Figures = {}
    waits_s, engine_s = await beside_engine(service, arguments.utterances)
    figures["socket_ms"] = spread(waits_s)
    show("speak to first audio, socket", figures["socket_ms"])
    if engine_s:
        figures["engine_ms"] = spread(engine_s)
        figures["beyond_engine_ms"] = figures["socket_ms"]["median"] - figures["engine_ms"]["median"]
        show("the engine's own, same text and seed", figures["engine_ms"])
        print(f"  more than the engine's own, at the median: {figures['beyond_engine_ms']:.1f} ms (target: 20)")
    alone_s, beside_s = await beside_idle_sockets(service, arguments)
    figures["alone_ms"], figures["beside_idle_ms"] = spread(alone_s), spread(beside_s)
    figures["idle_ratio"] = figures["beside_idle_ms"]["median"] / figures["alone_ms"]["median"]
    show("without idle sockets", figures["alone_ms"])
    show(f"with {arguments.idle} idle sockets", figures["beside_idle_ms"])
    print(f"  ratio of the medians: {figures['idle_ratio']:.3f} (target: 1.1)")
    return figures


async def beside_engine(service: Service, count: int) -> tuple[list[float], list[float]]:
    """Time to first audio over the socket, and the engine's own time for the same requests, in turn."""
    waits_s: list[float] = []
    engine_s: list[float] = []
    voice = service.default_voice()
    async with open_socket(service.address) as connection:
        for seed in range(count):
            waits_s.append((await speak(connection, SHORT, seed=seed)).wait_s)
            if service.observer is not None:
                ask = service.observer.engine_first_audio_s
                engine_s.append(await asyncio.to_thread(ask, SHORT, voice, seed))
    return waits_s, engine_s


async def beside_idle_sockets(service: Service, arguments: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Time to first audio without and with idle sockets, in alternating blocks."""
    block = 10
    alone_s: list[float] = []
    beside_s: list[float] = []
    async with open_socket(service.address) as connection:

        async def ask(into: list[float]) -> None:
            for _ in range(block):
                heard = await speak(connection, SHORT, seed=len(into))
                into.append(heard.wait_s)

        while len(alone_s) < arguments.utterances:
            await ask(alone_s)
            async with contextlib.AsyncExitStack() as idle:
                for _ in range(arguments.idle):
                    await idle.enter_async_context(open_socket(service.address, ping_interval=None))
                await asyncio.sleep(1)
                await ask(beside_s)
            await asyncio.sleep(1)
    return alone_s, beside_s


# Many speakers.


async def crowd(service: Service, arguments: argparse.Namespace) -> Figures:
    """Many sockets, each of which speaks several short utterances; refused requests are sent again."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = [
            await stack.enter_async_context(open_socket(service.address, open_timeout=60))
            for _ in range(arguments.sockets)
        ]
        began_s = time.perf_counter()
        results = await asyncio.gather(*(talk(connection, arguments.turns) for connection in sockets))
    waits_s = [wait_s for waits, _ in results for wait_s in waits]
    figures = {
        "sockets": arguments.sockets,
        "turns": arguments.turns,
        "wait_ms": spread(waits_s),
        "capacity_answers": sum(refused for _, refused in results),
        "took_s": time.perf_counter() - began_s,
    }
    figures["worst_over_median"] = figures["wait_ms"]["worst"] / figures["wait_ms"]["median"]
    show(f"{len(waits_s)} waits for first audio", figures["wait_ms"])
    print(f"  worst ÷ median: {figures['worst_over_median']:.2f} (target: 3)")
    print(f"  CAPACITY errors: {figures['capacity_answers']}; {figures['took_s']:.0f} s in total")
    return figures


async def talk(connection: ClientConnection, turns: int) -> tuple[list[float], int]:
    """Time to first audio of one speaker's utterances, including retries, and the number of refusals."""
    waits_s: list[float] = []
    refused = 0
    for _ in range(turns):
        asked_s = time.perf_counter()
        while (heard := await speak(connection, SHORT)).end["type"] == "error":
            if heard.end["code"] != "CAPACITY":
                raise SystemExit(f"an utterance failed: {heard.end}")
            refused += 1
            await asyncio.sleep(heard.end.get("retry_after_ms", 1000) / 1000)
        waits_s.append(heard.arrivals[0][0] - asked_s)
    return waits_s, refused


# A client that never reads.


async def slow_client(service: Service, arguments: argparse.Namespace) -> Figures:
    """Players alone, next to a client that requests and reads much audio, and next to one that never reads."""
    figures: Figures = {"players": arguments.players, "seconds": arguments.seconds}
    figures["alone"] = await players(service, arguments)
    show_players("players alone", figures["alone"])
    reading = asyncio.create_task(read_much(service))
    figures["beside_reader"] = await players(service, arguments)
    reading.cancel()
    show_players("next to one that reads", figures["beside_reader"])
    await asyncio.sleep(2)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(MemoryWatch(service.pid)) if service.pid is not None else None
        await asyncio.sleep(2)
        deaf = await asyncio.to_thread(DeafClient, service.address)
        for _ in range(MUCH):
            deaf.speak(LONG)
        ended = asyncio.create_task(session_ended(service, arguments))
        figures["beside_deaf"] = await players(service, arguments)
        figures["session_ended_after_s"] = await ended
    show_players("next to one that never reads", figures["beside_deaf"])
    figures["waiting_bytes"], figures["close_code"] = await asyncio.to_thread(deaf.read_all, 20)
    show_end_of_deaf(figures)
    if memory is not None:
        figures["memory"] = memory.figures()
        show_memory(figures["memory"])
    return figures


async def read_much(service: Service) -> None:
    """Request the same audio as the slow client, and discard it as it arrives."""
    async with open_socket(service.address) as connection:
        for _ in range(MUCH):
            await connection.send(json.dumps({"type": "speak", "text": LONG}))
        async for _ in connection:
            pass


def show_end_of_deaf(figures: Figures) -> None:
    """How the connection of the client that never reads was closed, as it sees when it finally reads."""
    code, after_s = figures["close_code"], figures["session_ended_after_s"]
    how = {None: "none came", 1008: "SLOW_CLIENT", 1011: "the server's ping was not answered"}.get(code, "?")
    when = "not while the players played" if after_s is None else f"after {after_s:.1f} s"
    print(f"  its session ended {when}; close code {code}: {how}")
    print(f"  {figures['waiting_bytes'] / 1e6:.1f} MB had been buffered for it in the kernel and the proxy")


def show_memory(memories: list[Figures]) -> None:
    """Print one line per process."""
    print("  resident memory meanwhile, MB               start  maximum      end")
    for one in memories:
        start, most, end = (one[name] / 1e6 for name in ("start_bytes", "maximum_bytes", "end_bytes"))
        print(f"    {one['name'][:38]:38s} {start:8.1f} {most:8.1f} {end:8.1f}")


async def session_ended(service: Service, arguments: argparse.Namespace) -> float | None:
    """Seconds until one session fewer is open than players and slow client had; None if none ends."""
    began_s, most = time.perf_counter(), 0
    while time.perf_counter() - began_s < arguments.seconds - 1:
        sessions = await asyncio.to_thread(service.sessions)
        most = max(most, sessions)
        if most > arguments.players and sessions == most - 1:
            return round(time.perf_counter() - began_s, 1)
        await asyncio.sleep(0.25)
    return None


async def players(service: Service, arguments: argparse.Namespace) -> Figures:
    """Listeners that play each utterance to its end before they request the next one."""
    until_s = time.perf_counter() + arguments.seconds

    async def play(number: int) -> list[Heard]:
        heard: list[Heard] = []
        async with open_socket(service.address) as connection:
            await asyncio.sleep(number * 0.3)  # players do not start at the same time
            while time.perf_counter() < until_s:
                heard.append(await speak(connection, MIDDLE))
                if heard[-1].end["type"] != "complete":
                    raise SystemExit(f"an utterance failed: {heard[-1].end}")
                await asyncio.sleep(max(0.0, min(heard[-1].played_at_s, until_s) - time.perf_counter()))
        return heard

    played = await asyncio.gather(*(play(number) for number in range(arguments.players)))
    heard = [one for utterances in played for one in utterances]
    playbacks = [one.playback() for one in heard]
    return {
        "utterances": len(heard),
        "wait_ms": spread([one.wait_s for one in heard]),
        "underruns": sum(playback.underruns for playback in playbacks),
        "silent_s": sum(playback.silent_s for playback in playbacks),
        "audio_s": sum(playback.duration_s for playback in playbacks),
        "worst_gap_ms": 1000 * max(playback.worst_gap_s for playback in playbacks),
    }


def show_players(name: str, figures: Figures) -> None:
    """Print two lines."""
    show(f"first audio, {name}", figures["wait_ms"])
    print(
        f"    {figures['utterances']} utterances, {figures['audio_s']:.0f} s of audio: {figures['underruns']} underruns"
        f" with {figures['silent_s']:.2f} s of silence, worst gap {figures['worst_gap_ms']:.0f} ms"
    )


# Barge-in.


@dataclass
class Cancels:
    """Times, on the clock of :func:`time.perf_counter`, of what happened to the utterances of one socket."""

    connection: ClientConnection
    spoken_s: dict[str, float] = field(default_factory=dict[str, float])
    heard_s: dict[str, float] = field(default_factory=dict[str, float])
    last_heard_s: dict[str, float] = field(default_factory=dict[str, float])
    cancelled_s: dict[str, float] = field(default_factory=dict[str, float])
    answered_s: dict[str, float] = field(default_factory=dict[str, float])

    async def speak(self, name: str) -> None:
        """Request an utterance."""
        self.spoken_s[name] = time.perf_counter()
        await self.connection.send(json.dumps({"type": "speak", "text": MIDDLE, "utterance_id": name}))

    async def cancel(self, name: str) -> None:
        """Cancel an utterance."""
        self.cancelled_s[name] = time.perf_counter()
        await self.connection.send(json.dumps({"type": "cancel", "utterance_id": name}))

    async def next(self) -> str:
        """Receive one message, including its audio; returns the id of its utterance."""
        message = json.loads(await self.connection.recv())
        name = message["utterance_id"]
        if message["type"] == "audio_chunk":
            await self.connection.recv()
            self.last_heard_s[name] = time.perf_counter()
            self.heard_s.setdefault(name, self.last_heard_s[name])
        elif message["type"] == "cancelled":
            self.answered_s[name] = time.perf_counter()
        elif message["type"] != "segment":
            raise SystemExit(f"a cancelled utterance ended with another message: {message}")
        return name

    def figures(self) -> Figures:
        """Time to the answers and to the last audio, and time to first audio of utterances that were heard."""
        answers_s = [self.answered_s[name] - at_s for name, at_s in self.cancelled_s.items()]
        late_s = [at_s - self.cancelled_s[name] for name, at_s in self.last_heard_s.items()]
        late_s = [each for each in late_s if each > 0]
        figures: Figures = {"answer_ms": spread(answers_s), "audio_after_cancel": len(late_s)}
        if late_s:
            figures["last_audio_ms"] = spread(late_s)
        if self.heard_s:
            figures["wait_ms"] = spread([at_s - self.spoken_s[name] for name, at_s in self.heard_s.items()])
        return figures


async def burst(cancels: Cancels, count: int) -> None:
    """Speak and cancel without waiting in between."""

    async def say() -> None:
        for number in range(count):
            await cancels.speak(f"burst-{number}")
            await cancels.cancel(f"burst-{number}")

    saying = asyncio.create_task(say())
    while len(cancels.answered_s) < count:
        await cancels.next()
    await saying


async def barge_in(cancels: Cancels, count: int) -> None:
    """Cancel an utterance at its first audio, and request the next one at once."""
    await cancels.speak("turn-0")
    for number in range(count):
        name = f"turn-{number}"
        while name not in cancels.heard_s:
            await cancels.next()
        await cancels.cancel(name)
        if number + 1 < count:
            await cancels.speak(f"turn-{number + 1}")
    while len(cancels.answered_s) < count:
        await cancels.next()


async def cancel_often(service: Service, arguments: argparse.Namespace) -> Figures:
    """Cancel and speak in quick succession on one socket: in one burst, then each at its first audio."""
    figures: Figures = {}
    for way in (burst, barge_in):
        async with open_socket(service.address) as connection:
            cancels = Cancels(connection)
            await way(cancels, arguments.cancels)
            figures[way.__name__] = found = cancels.figures()
            show(f"{way.__name__}, cancel to cancelled", found["answer_ms"])
            if "wait_ms" in found:
                show("  speak to first audio", found["wait_ms"])
            print(f"    audio arrived after its cancel {found['audio_after_cancel']} times", end="")
            print(f", {found['last_audio_ms']['worst']:.1f} ms after it at worst" if "last_audio_ms" in found else "")
            if service.observer is not None:
                found["streams_gone_after_s"] = await streams_gone(service)
                print(f"    no stream is left, as reported {found['streams_gone_after_s']} s later")
            if (await speak(connection, SHORT)).end["type"] != "complete":
                raise SystemExit("the socket does not work after the cancels")
    return figures


async def streams_gone(service: Service) -> float:
    """Seconds until three consecutive reports of the generators show no stream; they report every second."""
    assert service.observer is not None
    began_s, idle = time.perf_counter(), 0
    while idle < 3:
        if time.perf_counter() - began_s > 60:
            raise SystemExit("streams are still running a minute after their cancel")
        idle = idle + 1 if await asyncio.to_thread(service.observer.streams) == 0 else 0
        if idle == 1:
            gone_s = round(time.perf_counter() - began_s, 1)
        await asyncio.sleep(1)
    return gone_s


# Results.


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: median, 95th percentile, worst; and the number of values."""
    ordered = sorted(1000 * each for each in seconds)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "worst": ordered[-1],
        "count": len(ordered),
    }


def show(name: str, figures: dict[str, float]) -> None:
    """Print one line."""
    print(
        f"  {name:42s} median {figures['median']:7.1f}  p95 {figures['p95']:7.1f}  worst {figures['worst']:7.1f} ms"
        f"  ({figures['count']:.0f})",
        flush=True,
    )


CASES: dict[str, Callable[[Service, argparse.Namespace], Awaitable[Figures]]] = {
    "first-audio": first_audio,
    "cancels": cancel_often,
    "crowd": crowd,
    "slow-client": slow_client,
}


if __name__ == "__main__":
    main()
