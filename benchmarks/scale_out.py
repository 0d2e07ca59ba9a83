"""Replicas that follow an open-loop load on a real cluster: what listeners heard, and each scaling decision.

    python benchmarks/scale_out.py                  # 1 to 4 generators and back; about eight minutes
    python benchmarks/scale_out.py --docs           # also writes docs/scale_out.svg

Starts a cluster of two nodes on this machine (``nodes.py``) with the tiny checkpoint: the head with the ingress, and a
worker with one logical GPU, of which each generator has a quarter. Sessions arrive at random, whether earlier ones were
served or not, first more and more of them, then fewer. Each speaks one text and plays it in real time. scaling.py
simulates fleets of many replicas.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from listener import Heard, open_socket, speak
from matplotlib import pyplot as plt
from service import ROOT, Service, started

TEXT = "It is good to hear you, and to speak to you again after such a long time. Tell me how you have been."
QUICK = {"look_back_s": 20, "react_s": 6, "cold_start_s": 20, "downscale_delay_s": 25, "headroom": 3.0}
"""Settings that shorten a run from an hour to minutes, and one for what two cores can do while a replica starts."""
OVERRIDES = {
    "model": {"source": "tiny"},
    # With a lead of 5 s, most listeners play through a replica's start, which takes one of two cores for 15 s.
    "engine": {"slots": 2, "budget_frames_per_character": 1.0, "budget_min_frames": 2, "max_lead_s": 5.0},
    "generator": {"min_replicas": 1, "max_replicas": 4, "num_cpus": 0, "num_gpus": 0.25},
    "scaling": QUICK,
    "admission": {"start_deadline_s": 30},
}
GRACE_S = 1.0
"""The first second of an utterance; after it, underruns count."""
EMPTY_TIMEOUT_S = 240.0


@dataclass
class Course:
    """Observations of a run.

    Attributes:
        began_s: start, on the clock of :func:`time.perf_counter`.
        samples: time, generators that serve, streams in slots, text chunks that wait, smallest slack of a listener.
        heard: all utterances.
        failed: codes and exceptions of those that were not completed.
    """

    began_s: float = field(default_factory=time.perf_counter)
    samples: list[tuple[float, int, int, int, float | None]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list[Heard])
    failed: list[str] = field(default_factory=list[str])


class Listening:
    """Current listeners, with the audio that each still has to play."""

    def __init__(self) -> None:
        self.now: set[Heard] = set()

    def least_slack_s(self) -> float | None:
        """Smallest slack of listeners past their first second whose audio has not all arrived; None without one."""
        now_s = time.perf_counter()
        listeners = [each for each in self.now if each.arrivals and now_s - each.arrivals[0][0] > GRACE_S]
        return min((each.slack_s(now_s) for each in listeners), default=None)


async def listen(service: Service, course: Course, listening: Listening, seed: int) -> None:
    """One session: connects, speaks its text, plays it, and disconnects."""
    heard = Heard(time.perf_counter())
    listening.now.add(heard)
    try:
        async with open_socket(service.address) as socket:
            await speak(socket, TEXT, heard=heard, seed=seed)
    except OSError as error:
        course.failed.append(repr(error))
        return
    finally:
        listening.now.discard(heard)
    if heard.end["type"] == "complete":
        course.heard.append(heard)
    else:
        course.failed.append(heard.end.get("code", heard.end["type"]))


def rate_hz(at_s: float, minutes: float, peak_hz: float) -> float:
    """Sessions per second: a fifth of the peak, a rise, the peak, and a fall, each for a quarter of the time."""
    quarter_s = 15.0 * minutes
    rise = min(1.0, max(0.0, at_s / quarter_s - 1.0)) - min(1.0, max(0.0, at_s / quarter_s - 3.0))
    return peak_hz * (0.2 + 0.8 * rise)


async def sample(service: Service, course: Course, listening: Listening, over: asyncio.Event) -> None:
    """Sample twice a second."""
    assert service.observer is not None
    began_s = time.monotonic()
    while not over.is_set():
        load = await asyncio.to_thread(service.observer.load)
        at_s = time.monotonic() - began_s
        course.samples.append((at_s, load["ready"], load["running"], load["waiting"], listening.least_slack_s()))
        await asyncio.sleep(0.5)


async def show(service: Service, arguments: argparse.Namespace) -> Course:
    """Run the load, and wait until one generator is left."""
    course, listening, over = Course(), Listening(), asyncio.Event()
    chance = random.Random(1)  # noqa: S311 - no secret
    watching = asyncio.create_task(sample(service, course, listening, over))
    began_s, sessions = time.monotonic(), []
    while (at_s := time.monotonic() - began_s) < 60 * arguments.minutes:
        await asyncio.sleep(chance.expovariate(rate_hz(at_s, arguments.minutes, arguments.peak)))
        sessions.append(asyncio.create_task(listen(service, course, listening, len(sessions))))
    await asyncio.gather(*sessions)
    await asyncio.to_thread(until_one_is_left, course)
    over.set()
    await watching
    return course


def until_one_is_left(course: Course) -> None:
    """Wait for the last scale-in, and some seconds more."""
    quiet_s = time.monotonic()
    while course.samples[-1][1] > 1 and time.monotonic() - quiet_s < EMPTY_TIMEOUT_S:
        time.sleep(0.5)
    time.sleep(5.0)


def decisions(service: Service, began_s: float) -> list[tuple[float, dict[str, Any]]]:
    """The policy's log lines in Serve's controller, with seconds since ``began_s`` of the wall clock."""
    assert service.logs is not None
    said: list[tuple[float, dict[str, Any]]] = []
    for log in (service.logs / "serve").glob("controller_*.log"):
        for line in log.read_text().splitlines():
            if "scaling {" in line:
                at_s = time.mktime(time.strptime(" ".join(line.split()[1:3]), "%Y-%m-%d %H:%M:%S,%f"))
                said.append((at_s - began_s, json.loads(line[line.index("{") :])))
    return sorted(said, key=lambda each: each[0])


def tell(course: Course, said: list[tuple[float, dict[str, Any]]]) -> None:
    """Print the results."""
    playbacks = [heard.playback(after_s=GRACE_S) for heard in course.heard]
    waits_s = sorted(heard.wait_s for heard in course.heard)
    path = [course.samples[0][1]]
    for _, ready, *_ in course.samples:
        if ready != path[-1]:
            path.append(ready)
    figures = {
        "sessions": len(course.heard) + len(course.failed),
        "complete": len(course.heard),
        "not complete": course.failed,
        "underruns after their first second": sum(playback.underruns > 0 for playback in playbacks),
        "their arrivals, s": sorted(
            round(heard.asked_s - course.began_s)
            for heard, playback in zip(course.heard, playbacks, strict=True)
            if playback.underruns
        ),
        "first audio, s": {
            "median": round(statistics.median(waits_s), 3),
            "p95": round(waits_s[int(0.95 * len(waits_s))], 3),
            "worst": round(waits_s[-1], 3),
        },
        "generators that served": path,
    }
    print(json.dumps(figures, indent=2))
    for at_s, decision in said:
        print(f"{at_s:+5.0f} s: {decision['from']} to {decision['to']}: {decision['reason']}")


def draw(course: Course, said: list[tuple[float, dict[str, Any]]], path: Path) -> None:
    """Plot replicas, queue and slack over time, with the times of the decisions."""
    mpl.rcParams.update({"svg.hashsalt": "scale_out", "svg.fonttype": "none", "font.size": 9})
    times_s, ready, running, waiting, slacks_s = zip(*course.samples, strict=True)
    figure, (replicas, queue, slack) = plt.subplots(3, 1, figsize=(8, 6), sharex=True, layout="constrained")
    replicas.step(times_s, ready, where="post", label="serve")
    ordered = [(0.0, ready[0]), *((at_s, decision["to"]) for at_s, decision in said), (times_s[-1], said[-1][1]["to"])]
    replicas.step(*zip(*ordered, strict=True), where="post", linestyle=":", label="decided")
    replicas.set(ylabel="generators", ylim=(0, 4.5))
    queue.plot(times_s, running, label="streams in slots")
    queue.plot(times_s, waiting, label="text chunks that wait")
    queue.set(ylabel="queue")
    heard = [(at_s, least) for at_s, least in zip(times_s, slacks_s, strict=True) if least is not None]
    slack.plot(*zip(*heard, strict=True), ".", markersize=3, label="smallest slack of a listener past the first second")
    slack.set(ylabel="s", xlabel="s", ylim=(0, None))
    for panel in (replicas, queue, slack):
        panel.legend(loc="upper right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="length of the load")
    parser.add_argument("--peak", type=float, default=1.0, metavar="HZ", help="most sessions per second")
    parser.add_argument("--docs", action="store_true", help="write docs/scale_out.svg")
    arguments = parser.parse_args()
    with started(ROOT / "configs" / "local.yaml", OVERRIDES, nodes=1) as service:
        began_s = time.time()
        course = asyncio.run(show(service, arguments))
        said = decisions(service, began_s)
    tell(course, said)
    if arguments.docs:
        draw(course, said, ROOT / "docs" / "scale_out.svg")


if __name__ == "__main__":
    main()
