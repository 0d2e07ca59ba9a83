"""Simulates autoscaling: a fleet under 100 to 10,000 sessions.

    python benchmarks/scaling.py                  # the table, some minutes
    python benchmarks/scaling.py --only steady    # scenarios whose name contains the word
    python benchmarks/scaling.py --docs           # also writes table and picture into docs/

fleet_simulation.py models the replicas, their GPU and the listeners. serve_app.cluster.autoscaling.desired_replicas
decides, with the defaults of serve_app.config.ScalingConfig.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
from fleet_simulation import Door, Fleet, Machine, Outcome, clairvoyant
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from serve_app.cluster.autoscaling import Bounds
from serve_app.config import ScalingConfig

DOCS = Path(__file__).parents[1] / "docs"
DRAWN = ("day, 10,000", "spike, 500 to 10,000")
BEGIN, END = "<!-- benchmarks/scaling.py -->", "<!-- end -->"

THINK_S, SPEAK_S, SPREAD = 25.0, 6.0, 0.6
"""A session alternates between thinking (exponential with this mean) and speaking (log-normal with this spread)."""

DAY_H = 6.0
"""A day is run in a quarter of its time, so its slopes are four times as steep as real ones."""

CROWD_AT_S, CROWD_RAMP_S, CROWD_STAYS_S, CROWD_LEAVES_S = 1800, 30, 900, 300
ONSET_S = 90
"""A spike's own row covers texts that arrive within this time after its start."""


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes:
        name: name in the table.
        sessions: number of sessions at each second.
        machine, bounds, config: the fleet and its scaling.
        onset_s: when a spike starts, if there is one.
        deadline_s: how long a text waits for its start.
    """

    name: str
    sessions: NDArray
    machine: Machine = field(default_factory=Machine)
    bounds: Bounds = field(default_factory=lambda: Bounds(1, 240))
    config: ScalingConfig = field(default_factory=ScalingConfig)
    onset_s: float | None = None
    deadline_s: float = 15.0


@dataclass
class Result:
    """A scenario, its outcome, and the optimum."""

    scenario: Scenario
    arrive_s: NDArray
    outcome: Outcome
    best_s: float
    best: NDArray
    took_s: float
    rows: list[str] = field(default_factory=list)


def steady(sessions: int, hours: float = 1.0) -> NDArray:
    """A constant number of sessions."""
    return np.full(round(hours * 3600), float(sessions))


def day(peak: int) -> NDArray:
    """A night at a tenth, a morning, and an evening above it."""
    hour = np.linspace(0, 24, round(DAY_H * 3600), endpoint=False)
    shape = 0.75 * np.exp(-(((hour - 11) / 3.5) ** 2)) + np.exp(-(((hour - 19.5) / 2.5) ** 2))
    return peak * (0.1 + 0.9 * shape / shape.max())


def crowd(before: int, times: int) -> NDArray:
    """A sudden multiple of the sessions, for a quarter of an hour."""
    at = np.arange(5400) - CROWD_AT_S
    share = np.clip(at / CROWD_RAMP_S, 0, 1) - np.clip((at - CROWD_RAMP_S - CROWD_STAYS_S) / CROWD_LEAVES_S, 0, 1)
    return before * (1 + (times - 1) * share)


def visits() -> NDArray:
    """Five sessions for ten minutes of every hour and none otherwise, over a quarter of a day."""
    return np.where(np.arange(6 * 3600) % 3600 // 600 == 2, 5.0, 0.0)


def utterances(sessions: NDArray, seed: int) -> tuple[NDArray, NDArray]:
    """When texts are requested, and the length of each one's audio, in seconds.

    Session k of n exists while there are more than k sessions. It thinks, requests a text, plays it to the end, and
    thinks again; a new session requests a text at once. Waiting does not delay later requests: the load does not depend
    on the fleet, so that the optimum can be computed.
    """
    rng = np.random.default_rng(seed)
    most, seconds = int(np.ceil(sessions.max())), len(sessions)
    joined = rng.poisson(np.maximum(0.0, np.diff(sessions, prepend=sessions[0])))
    times = [np.repeat(np.arange(seconds), joined) + rng.uniform(0, 1, joined.sum())]
    lengths = [_lengths(rng, joined.sum())]
    cycles = math.ceil(1.3 * (seconds + 300) / (THINK_S + SPEAK_S)) + 20
    for first in range(0, most, 500):
        who = np.arange(first, min(first + 500, most))[:, None]
        length = _lengths(rng, (len(who), cycles))
        at = np.cumsum(rng.exponential(THINK_S, length.shape) + length, axis=1) - length - rng.uniform(100, 300)
        there = (at >= 0) & (at < seconds)
        there[there] = sessions[at[there].astype(int)] > np.broadcast_to(who, at.shape)[there]
        times.append(at[there])
        lengths.append(length[there])
    when = np.concatenate(times)
    order = np.argsort(when)
    return when[order], np.concatenate(lengths)[order]


def _lengths(rng: np.random.Generator, shape: int | tuple[int, ...]) -> NDArray:
    return np.clip(rng.lognormal(math.log(SPEAK_S) - SPREAD**2 / 2, SPREAD, shape), 0.5, 40.0)


def scenarios() -> list[Scenario]:
    """All scenarios of the table."""
    slow_gpus = Machine(gpu_start_s=90.0)
    patient = ScalingConfig(cold_start_s=slow_gpus.start_s + slow_gpus.gpu_start_s)
    return [
        *(Scenario(f"steady, {sessions:,}", steady(sessions)) for sessions in (100, 1000, 10_000)),
        *(Scenario(f"day, {sessions:,}", day(sessions)) for sessions in (100, 1000, 10_000)),
        Scenario("day, 1,000; a GPU takes 90 s more", day(1000), machine=slow_gpus, config=patient),
        Scenario("5 for 10 minutes of each hour, from zero", visits(), bounds=Bounds(0, 240), deadline_s=60.0),
        Scenario("spike, 50 to 1,000", crowd(50, 20), onset_s=CROWD_AT_S),
        Scenario("spike, 500 to 10,000", crowd(500, 20), onset_s=CROWD_AT_S),
    ]


def simulate(scenario: Scenario, seed: int) -> Result:
    """Run one scenario, and compute the optimum."""
    began_s = time.process_time()
    until_s = float(len(scenario.sessions))
    arrive_s, length_s = utterances(scenario.sessions, seed)
    best_s, best = clairvoyant(arrive_s, length_s, until_s, scenario.machine, scenario.bounds)
    door = Door(200 * math.ceil(scenario.sessions.max() / 1000), scenario.deadline_s)
    streams = best[0] * scenario.machine.slots
    start = math.ceil((streams + scenario.config.headroom * math.sqrt(streams)) / scenario.machine.slots)
    fleet = Fleet(scenario.machine, door, scenario.config, scenario.bounds, start=start)
    outcome = fleet.run(arrive_s, length_s, until_s)
    return Result(scenario, arrive_s, outcome, best_s, best, time.process_time() - began_s)


COLUMNS = (
    *("sessions", "p50", "p95", "p99", "p95 of the worst 10 minutes", "refused", "underruns"),
    *("replica-hours", "optimum", "times the optimum", "GPU-hours", "changes an hour"),
)
HEAD = "\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS)))


def rows(result: Result) -> list[str]:
    """Rows of the table; the start of a spike has its own row."""
    scenario, out = result.scenario, result.outcome
    onset = np.zeros(len(out.waits_s), bool)
    if scenario.onset_s is not None:
        onset = (result.arrive_s >= scenario.onset_s) & (result.arrive_s < scenario.onset_s + ONSET_S)
    hours = len(scenario.sessions) / 3600
    dry = 100 * out.underruns / max(1, int((~np.isnan(out.waits_s)).sum()))
    cells = [
        scenario.name + (f"; without its first {ONSET_S} s" if onset.any() else ""),
        *_waits(out.waits_s[~onset], result.arrive_s[~onset]),
        f"{dry:.2f} %",
        f"{out.replica_s / 3600:.1f}",
        f"{result.best_s / 3600:.1f}",
        f"**{out.replica_s / result.best_s:.2f}**",
        f"{out.gpu_s / 3600:.1f}",
        f"{out.changes / hours:.0f}",
    ]
    lines = [cells]
    if onset.any():
        lines.append([f"its first {ONSET_S} s", *_waits(out.waits_s[onset], result.arrive_s[onset]), *[""] * 6])
    return [f"| {' | '.join(line)} |" for line in lines]


def _waits(waits_s: NDArray, arrive_s: NDArray) -> list[str]:
    served = ~np.isnan(waits_s)
    parts = np.split(waits_s, np.searchsorted(arrive_s, np.arange(600, arrive_s.max(), 600)))
    worst = max(np.nanquantile(part, 0.95) for part in parts if np.isfinite(part).sum() >= 20)
    middle, most, nearly_all = (f"{np.quantile(waits_s[served], share):.2f} s" for share in (0.5, 0.95, 0.99))
    return [middle, f"**{most}**", nearly_all, f"{worst:.2f} s", f"{100 * (1 - served.mean()):.2f} %"]


def draw(results: Sequence[Result], path: Path) -> None:
    """A day and a crowd: replicas that serve, those that are paid for, and the fewest that would have done."""
    mpl.rcParams.update({"svg.hashsalt": "scaling", "svg.fonttype": "none", "font.size": 9})
    figure, panels = plt.subplots(len(results), 1, figsize=(8, 3 * len(results)), layout="constrained")
    for panel, result in zip(np.atleast_1d(panels), results, strict=True):
        out, scenario = result.outcome, result.scenario
        step = max(1, len(out.seconds) // 540)
        minutes = np.array(out.seconds[::step]) / 60
        streams = np.array(out.streams[::step]) / scenario.machine.slots
        panel.step(np.arange(len(result.best)), result.best, "C7", where="post", lw=1, label="the optimum")
        panel.plot(minutes, out.ordered[::step], "C1", lw=1, label="ready or starting")
        panel.plot(minutes, out.ready[::step], "C0", lw=1, label="ready")
        panel.plot(minutes, streams, "C2", lw=0.6, label="streams / slots")
        panel.set(title=scenario.name + " sessions", xlabel="minutes", ylabel="replicas", ylim=(0, None))
        if scenario.onset_s is not None:
            panel.set_xlim(scenario.onset_s / 60 - 5, scenario.onset_s / 60 + 30)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def write(document: Path, table: str) -> None:
    """Put the table where the last one was."""
    text = document.read_text()
    before, rest = text.split(BEGIN)
    document.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="scenarios whose name holds this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", action="store_true", help="every decision in words")
    parser.add_argument("--docs", action="store_true", help="write table and picture into docs/")
    arguments = parser.parse_args()
    print(HEAD, flush=True)
    results: list[Result] = []
    for scenario in scenarios():
        if arguments.only not in scenario.name:
            continue
        results.append(simulate(scenario, arguments.seed))
        results[-1].rows = rows(results[-1])
        print("\n".join(results[-1].rows), flush=True)
        if arguments.log:
            print("\n".join(results[-1].outcome.log), flush=True)
    print(f"\n{sum(result.took_s for result in results):.0f} s of one CPU")
    if arguments.docs:
        write(DOCS / "scaling.md", "\n".join([HEAD, *(row for result in results for row in result.rows)]))
        draw(
            [result for result in results if result.scenario.name in ("day, 10,000", "spike, 500 to 10,000")],
            DOCS / "scaling.svg",
        )


if __name__ == "__main__":
    main()
