"""Measures one GPU: the engine alone, then the whole service under load, and after the loss of a generator.

    python benchmarks/gpu.py                    # about 20 minutes; random weights at the size of the released model
    python benchmarks/gpu.py --model Qwen/Qwen3-TTS-12Hz-0.6B-Base
    python benchmarks/gpu.py --try              # the same steps in two minutes, on a CPU too, with tiny random weights

1. The engine alone, 1 to 32 streams: our kernels and torch's, the 0.6B and the 1.7B shapes (``benchmarks/engine.py``).
2. The service: Ray, an ingress and generators on shares of the GPU. Clients arrive at random (Poisson), at 1 to 40
   utterances a second, each on its own socket, and speak with a cloned voice whose prompt is cached. The results are
   the time to the first audible sound, underruns, audio seconds per second, and memory.
3. The same load while one generator is killed.

What does not fit into ``--minutes`` is left out, and the report says what. Each service still has its first load and
the loss.

Prints tables, and writes ``bench-gpu.json`` and ``bench-gpu.svg`` to ``--out``. The loads come from the same machine as
the service, so they take a part of its processors.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service import MemoryWatch, Service, started

from serve_app.cli.load.arrivals import Arrival, Speech, poisson
from serve_app.cli.load.client import Target, load
from serve_app.cli.load.figures import Summary, summarize
from serve_app.cli.load.knee import parse_slo
from serve_app.cli.load.picture import check, draw_steps
from serve_app.cli.processes import descendants

ROOT = Path(__file__).parents[1]
TEXTS = (
    "It is good to hear you.",
    "The next train to the coast leaves from platform four in about ten minutes.",
    "I have found three hotels near the station, and two of them have a free room for tonight.",
    "Please hold the line while I look up your order.",
)
GENERATOR = "ServeReplica:tts:Generator"
WARM_UP = 1.0, 3.0
"""Utterances a second, and seconds, before the first load."""

ENGINE_SHARE = 0.5
"""Share of the time for the engine alone; the service has the rest."""

KILL_AFTER = 0.4
"""Share of the last load after which a generator is killed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """Time to first audio as others publish it, or as this project wants it.

    Attributes:
        name: whose.
        rate_hz: utterances a second.
        p50_ms: median; None if it is not known.
        p95_ms: 95th percentile; None if it is not known.
    """

    name: str
    rate_hz: float
    p50_ms: float | None
    p95_ms: float | None


PUBLISHED = (
    Published("SGLang-Omni, 1.7B Base, cloning, one H100", 1, 58, None),
    Published("SGLang-Omni, 1.7B Base, cloning, one H100", 20, 103, 178),
    Published("SGLang-Omni, 1.7B CustomVoice, fixed speakers, one H100", 20, 33, 47.5),
    Published("nari, fixed speaker, FP8, audible", 1, None, 26.5),
    Published("nari, fixed speaker, FP8, audible", 10, None, 34.1),
    Published("nari, fixed speaker, FP8, audible", 20, None, 77),
    Published("goal of this project: cloning, audible", 10, None, 35),
    Published("goal of this project: cloning, audible", 20, None, 60),
)
"""Figures of autumn 2026, to compare with. The machines and the texts differ."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        engines: (model, weight format) of each run of the engine alone.
        streams: streams of these runs.
        frames: frames of each stream.
        model: the model of the service.
        device: ``cuda`` or ``cpu``.
        generators: numbers of generators; each is a service of its own.
        rates_hz: utterances a second.
        seconds: length of each load.
    """

    engines: Sequence[tuple[str, str]]
    streams: str
    frames: int
    model: str
    device: str
    generators: Sequence[int]
    rates_hz: Sequence[float]
    seconds: float


WHOLE = Plan(
    engines=(
        ("full-random", "plain"),
        ("full-random", "torch"),
        ("full-random-1.7b", "plain"),
        ("full-random-1.7b", "torch"),
    ),
    streams="1,2,4,8,16,32",
    frames=60,
    model="full-random",
    device="cuda",
    generators=(2, 4),
    rates_hz=(1, 5, 10, 20, 30, 40),
    seconds=30,
)
TRIAL = Plan((("tiny", "plain"), ("tiny-1.7b", "plain")), "1,2", 10, "tiny", "auto", (2,), (1, 2), 5)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--try", dest="trial", action="store_true", help="tiny random weights, on any device")
    parser.add_argument(
        "--model", help="model of the service; default: random weights at the size of the released model"
    )
    parser.add_argument("--voice", default="austen")
    parser.add_argument("--minutes", type=float, default=20, help="after which no load is begun")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for bench-gpu.json and bench-gpu.svg")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file, plot = options.out / "bench-gpu.json", options.out / "bench-gpu.svg"
    check(plot)
    plan = TRIAL if options.trial else WHOLE
    if options.model is not None:
        plan = dataclasses.replace(plan, model=options.model)
    began_s = time.monotonic()
    until_s = began_s + 60 * options.minutes
    figures: dict[str, Any] = {"gpu": gpu(), "engine": [], "service": []}
    for model, weights in plan.engines:
        run = engine(plan, model, weights, began_s + 60 * options.minutes * ENGINE_SHARE)
        figures["engine"].append(run)
        write(figures, file)
    for index, generators in enumerate(plan.generators):
        shared_s = (until_s - time.monotonic()) / (len(plan.generators) - index)
        service_until_s = time.monotonic() + shared_s
        with started(ROOT / "configs" / "gpu.yaml", overrides(plan, generators, options.voice)) as service:
            result = measure(service, plan, options.voice, service_until_s)
        figures["service"].append({"generators": generators, **result})
        write(figures, file)
    figures["beside"] = beside(figures["service"], plan.model)
    figures["minutes"] = round((time.monotonic() - began_s) / 60, 1)
    report(figures)
    write(figures, file)
    steps = [(row["rate_hz"], Summary(**row["summary"])) for row in figures["service"][-1]["loads"]]
    draw_steps(steps, parse_slo("audible_ttfa_p95_ms=60,underruns=0.01,errors=0.01"), plot)


def write(figures: dict[str, Any], file: Path) -> None:
    """Write what has been measured so far."""
    file.write_text(json.dumps(figures, indent=2, default=dict) + "\n")


def gpu() -> dict[str, str] | None:
    """Name, driver and used memory of the first GPU; None without one."""
    asked = "name", "driver_version", "memory.total", "memory.used"
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - no input
    except (OSError, subprocess.CalledProcessError):
        return None
    return dict(zip(asked, (each.strip() for each in answer.split(",")), strict=True))


def engine(plan: Plan, model: str, weights: str, until_s: float) -> dict[str, Any]:
    """Results of the engine alone, measured in a process of its own, whose memory is then free again.

    Args:
        plan: what is measured.
        model: of this run.
        weights: format of this run.
        until_s: when the process is ended, on the clock of ``time.monotonic``.

    Returns:
        What the script writes. If it fails or does not end in time, ``engine`` is empty and ``left_out`` says why.
    """
    file = Path(f".gpu-engine-{os.getpid()}.json")
    command = [sys.executable, "benchmarks/engine.py", "--model", model, "--weights", weights, "--json", str(file)]
    command += ["--streams", plan.streams, "--frames", str(plan.frames), "--device", plan.device]
    try:
        timeout_s = max(0.0, until_s - time.monotonic())
        subprocess.run(command, cwd=ROOT, check=True, timeout=timeout_s)  # noqa: S603 - our own script
        return {"model": model, "weights": weights, **json.loads((ROOT / file).read_text())}
    except subprocess.TimeoutExpired:
        return {"model": model, "weights": weights, "engine": [], "left_out": "it did not end in time"}
    except subprocess.CalledProcessError as error:
        return {"model": model, "weights": weights, "engine": [], "left_out": str(error)}
    finally:
        (ROOT / file).unlink(missing_ok=True)


def overrides(plan: Plan, generators: int, voice: str) -> dict[str, dict[str, Any]]:
    """Settings that replace those of configs/gpu.yaml: a fixed number of generators on equal shares of the GPU."""
    on_gpu = plan.device == "cuda"
    changed: dict[str, dict[str, Any]] = {
        "model": {"source": plan.model, "device": plan.device, "dtype": "bfloat16" if on_gpu else "auto"},
        "generator": {
            "min_replicas": generators,
            "max_replicas": generators,
            "num_gpus": 1 / generators if on_gpu else 0,
            "num_cpus": 1 if on_gpu else 0.5,
        },
        "voices": {"default": voice},
    }
    if "random" in plan.model or "tiny" in plan.model:  # such weights seldom end a stream by themselves
        changed["engine"] = {"budget_frames_per_character": 0.8, "budget_min_frames": 10}
    return changed


def measure(service: Service, plan: Plan, voice: str, until_s: float) -> dict[str, Any]:
    """Results of one service: the loads that end before ``until_s``, and one with the loss of a generator.

    The first load and the loss are always measured. ``until_s`` is on the clock of ``time.monotonic``.
    """
    assert service.pid is not None
    target = Target(f"ws://{service.address}/api/v1/speak", "", 1000, 60.0, 0.1)
    speech = Speech(list(TEXTS), voice, "english")
    asyncio.run(load(poisson(*WARM_UP, speech, 0), target))  # the first utterances compute what is cached later
    with MemoryWatch(service.pid) as memory:
        loads: list[dict[str, Any]] = []
        longest_s = plan.seconds
        for rate_hz in plan.rates_hz:
            began_s = time.monotonic()
            if loads and began_s + 2 * longest_s > until_s:  # this load, and the loss
                break
            loads.append({**one_load(poisson(rate_hz, plan.seconds, speech, 1), target, rate_hz), "gpu": gpu()})
            longest_s = max(longest_s, time.monotonic() - began_s)
    rate_hz = plan.rates_hz[len(plan.rates_hz) // 2]
    (victim, *_) = generators_of(service.pid)
    killer = threading.Timer(KILL_AFTER * plan.seconds, os.kill, [victim, signal.SIGKILL])
    killer.start()
    loss = one_load(poisson(rate_hz, plan.seconds, speech, 2), target, rate_hz)
    killer.join()
    assert victim not in generators_of(service.pid), "the generator was not killed"
    left_out = list(plan.rates_hz[len(loads) :])
    return {"loads": loads, "loss": loss, "left_out_hz": left_out, "memory": memory.figures()}


def one_load(arrivals: Sequence[Arrival], target: Target, rate_hz: float) -> dict[str, Any]:
    """Results of one load."""
    began_s = time.monotonic()
    summary = summarize(asyncio.run(load(arrivals, target)))
    took_s = time.monotonic() - began_s
    return {"rate_hz": rate_hz, "summary": dataclasses.asdict(summary), "audio_s_per_s": summary.audio_s / took_s}


def generators_of(launcher: int) -> list[int]:
    """Process ids of a service's generators."""
    return [pid for pid in descendants(launcher) if GENERATOR in command_of(pid)]


def command_of(pid: int) -> str:
    """A process's command line; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def report(figures: dict[str, Any]) -> None:
    """Print the tables."""
    print(f"\nGPU: {figures['gpu'] or 'none'}; {figures['minutes']} minutes\n")
    print("engine alone         weights  streams  ms/frame  audio s/s  TTFA ms")
    for run in figures["engine"]:
        for row in run["engine"]:
            print(
                f"{run['model']:20s} {run['weights']:7s}  {row['streams']:7d}  {row['ms_per_frame']:8.1f}"
                f"  {row['audio_s_per_s']:9.1f}  {1e3 * row['ttfa_s']:7.0f}"
            )
        if not run["engine"]:
            print(f"{run['model']:20s} {run['weights']:7s}  left out: {run['left_out']}")
    print("\ngenerators  utterances/s   complete  audible TTFA ms: p50  p95  p99  underruns  audio s/s")
    for service in figures["service"]:
        for each in service["loads"]:
            print(load_row(service["generators"], f"{each['rate_hz']:g}", each))
        print(load_row(service["generators"], f"{service['loss']['rate_hz']:g}, one lost", service["loss"]))
        for rate_hz in service["left_out_hz"]:
            print(f"{service['generators']:10d}  {rate_hz:>12g}  left out: no time was left")
    print("\ngenerators  GPU memory in use after the last load; largest resident memory of processes, GB")
    for service in figures["service"]:
        print(f"{service['generators']:10d}  {memory_of(service)}")
    print("\nutterances/s  time to first audio, ms: p50  p95")
    for row in figures["beside"]:
        waits = "  ".join("   –" if row[each] is None else f"{row[each]:4.0f}" for each in ("p50_ms", "p95_ms"))
        print(f"{row['rate_hz']:12g}  {waits:>34s}  {row['name']}")


def memory_of(service: dict[str, Any]) -> str:
    """The GPU's memory in use after the last load, if there is a GPU, and that of the five largest processes in GB."""
    on_gpu = [each["gpu"]["memory.used"] for each in service["loads"] if each["gpu"] is not None]
    processes = [f"{each['name']} {each['maximum_bytes'] / 1e9:.1f}" for each in service["memory"][:5]]
    return "; ".join([*(f"GPU {each}" for each in on_gpu[-1:]), *processes])


def beside(services: Sequence[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Published figures by rate, each rate followed by what was measured here: the time to the first audible sound."""
    here = [
        {
            "name": f"here, {model}, {service['generators']} generators, audible",
            "rate_hz": each["rate_hz"],
            "p50_ms": each["summary"]["figures"].get("audible_ttfa_p50_ms"),
            "p95_ms": each["summary"]["figures"].get("audible_ttfa_p95_ms"),
        }
        for service in services
        for each in service["loads"]
    ]
    published = [dataclasses.asdict(each) for each in PUBLISHED]
    rates = {row["rate_hz"] for row in published}
    rows = published + [row for row in here if row["rate_hz"] in rates]
    return sorted(rows, key=lambda row: row["rate_hz"])


def load_row(generators: int, name: str, result: dict[str, Any]) -> str:
    """One row of the table of loads."""
    summary = result["summary"]
    found: dict[str, float] = summary["figures"]
    waits = "  ".join(f"{found.get(f'audible_ttfa_{each}_ms', float('nan')):4.0f}" for each in ("p50", "p95", "p99"))
    complete = f"{summary['complete']}/{summary['arrivals']}"
    underruns = found.get("underruns", float("nan"))
    return (
        f"{generators:10d}  {name:>12s}  {complete:>9s}  {waits:>32s}  {underruns:9.1%}  {result['audio_s_per_s']:9.1f}"
    )


if __name__ == "__main__":
    main()
