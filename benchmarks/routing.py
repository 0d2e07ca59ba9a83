"""Compares the generators' router with Serve's own under skewed voices: time to first audio.

    python benchmarks/routing.py                    # about four minutes

Three generators of the tiny checkpoint, each with the smallest allowed voice cache, serve twelve voices: copies of the
shipped one under other names. Sessions arrive at random, each with one short text; about a third of them use the
most popular voice (Zipf). Both routers get the same arrivals, each in its own service. A generator without a voice's
state decodes the voice's reference before the first frame, while its other streams wait.
"""

import argparse
import asyncio
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from listener import Heard, open_socket, speak
from service import ROOT, Service, started

TEXT = "It is good to hear you."
VOICES = 12
CACHE_BYTES = 1 << 20
"""The smallest allowed bound; with four times as much, all twelve voices fit and there is no difference to see."""
SKEW = 1.1
ROUTERS = {
    "ours": "serve_app.deployments.router.VoiceRouter",
    "Serve's default": "ray.serve._private.request_router.pow_2_router.PowerOfTwoChoicesRequestRouter",
}


def copies(folder: Path) -> Path:
    """Copies of the shipped voice, each cut a little later: for a generator, equal clips are one voice."""
    source = ROOT / "voices" / "austen"
    pcm, rate_hz = soundfile.read(source / "reference.wav", dtype="int16")
    for number in range(VOICES):
        voice = folder / f"voice{number:02}"
        voice.mkdir()
        shutil.copy(source / "manifest.json", voice)
        soundfile.write(voice / "reference.wav", pcm[number * rate_hz // 50 :], rate_hz)
    return folder


def arrivals(seconds: float, rate_hz: float) -> list[tuple[float, str]]:
    """Time of arrival and voice of each session."""
    chance = random.Random(1)  # noqa: S311 - no secret
    weights = 1.0 / np.arange(1, VOICES + 1) ** SKEW
    at_s, all_of_them = 0.0, []
    while (at_s := at_s + chance.expovariate(rate_hz)) < seconds:
        all_of_them.append((at_s, f"voice{chance.choices(range(VOICES), weights)[0]:02}"))
    return all_of_them


async def load(service: Service, coming: list[tuple[float, str]]) -> list[Heard]:
    """Run all sessions; each speaks one text."""
    began_s = time.monotonic()

    async def session(at_s: float, voice: str) -> Heard:
        await asyncio.sleep(began_s + at_s - time.monotonic())
        async with open_socket(service.address) as socket:
            return await speak(socket, TEXT, voice=voice, seed=1)

    return await asyncio.gather(*(session(*each) for each in coming))


def measure(name: str, seconds: float, rate_hz: float, folder: Path) -> dict[str, Any]:
    """Measure one router, in its own service."""
    overrides = {
        "model": {"source": "tiny"},
        "engine": {"voice_cache_bytes": CACHE_BYTES, "slots": 4},
        "generator": {"min_replicas": 3, "max_replicas": 3, "num_cpus": 0.3},
        "voices": {"path": str(folder), "default": "voice00"},
    }
    router = {"request_router_config": {"request_router_class": ROUTERS[name], "request_routing_stats_period_s": 2}}
    with started(ROOT / "configs" / "local.yaml", overrides, generator=router) as service:
        assert service.observer is not None
        while service.observer.ready() < 3:
            time.sleep(0.5)
        asyncio.run(load(service, arrivals(10.0, rate_hz)))  # until caches and routers have settled
        before = service.logged("computed its state")
        heard = asyncio.run(load(service, arrivals(seconds, rate_hz)))
        computed = service.logged("computed its state") - before
    waits_s = sorted(each.wait_s for each in heard)
    return {
        "texts": len(heard),
        "not complete": sum(each.end["type"] != "complete" for each in heard),
        "states computed, of 100 texts": round(100 * computed / len(heard), 1),
        "first audio, ms": {
            "median": round(1000 * statistics.median(waits_s)),
            "p95": round(1000 * waits_s[int(0.95 * len(waits_s))]),
            "worst": round(1000 * waits_s[-1]),
        },
    }


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=4.0, metavar="HZ", help="texts per second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voices-") as folder:
        voices = copies(Path(folder))
        figures = {name: measure(name, arguments.seconds, arguments.rate, voices) for name in ROUTERS}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
