"""Measures the cost of a voice: a stream with a known voice, and listeners while a new voice is encoded.

Run::

    python benchmarks/voices.py                       # tiny, a minute and a half
    python benchmarks/voices.py --model full-random --threads 2 --streams 1 --rounds 40 --seconds 0

``prefill`` is the time for one text, with the voice's constant prefix computed or taken from the cache, in turn.
``before prefill`` is the time from a call of the generator's ``speak`` to the start of its prefill on an idle engine:
prompt from the cache, tokens, and the way to the engine's thread. ``encoding``, which is omitted for 0 seconds, is the
effect on listeners of clips that are encoded one after the other without a pause: audio chunks that arrived after the
previous one had been played, and the resulting silence.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import numpy as np

from serve_app.config import AppConfig, EngineConfig, ModelConfig, PromptLayout
from serve_app.deployments.generator import Generator, lower_priority
from serve_app.engine.engine import Stream
from serve_app.engine.interface import Prepared
from serve_app.model.factory import LoadedModel, load_model
from serve_app.model.runner import ModelInput
from serve_app.observability.generator_metrics import GeneratorMetrics
from serve_app.observability.metrics import NoRecorder
from serve_app.speech import FRAME_S, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voices.voice import BoundedCache, Reference, VoicePrompt, scan

TEXT = "She was not handsome enough to be noticed, and too proud to care, as he was to learn. " * 3
RAY_NICENESS = 15
"""Default niceness of Ray's workers, including the engine's thread; RAY_worker_niceness changes it."""


def main() -> None:
    """Measure and print."""
    arguments = parse()
    os.setpriority(os.PRIO_PROCESS, 0, arguments.niceness)
    model = ModelConfig(source=arguments.model, device=arguments.device, threads=arguments.threads or None)
    config = AppConfig(model=model, engine=EngineConfig(slots=max(2, arguments.streams)))
    loaded = load_model(config)
    reference = next(voice.reference for voice in scan(Path("voices")) if voice.reference is not None)
    began_s = time.perf_counter()
    voice = loaded.encode(reference)
    first_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    voice = loaded.encode(reference)
    encode_s = time.perf_counter() - began_s
    loaded.runner.preload(dataclasses.replace(voice, digest="warm"))
    began_s = time.perf_counter()
    loaded.runner.preload(voice)
    state_s = time.perf_counter() - began_s
    figures: dict[str, object] = {
        "model": arguments.model,
        "clip_s": len(reference.pcm) / reference.sample_rate_hz,
        "prompt_bytes": voice.nbytes,
        "first_encode_s": first_s,
        "encode_s": encode_s,
        "state_s": state_s,
    }
    print(f"{loaded.description}; a clip of {figures['clip_s']:.1f} s")
    print(f"encoded alone in {encode_s:.2f} s (the first time {first_s:.2f} s) into {voice.nbytes} bytes")
    print(f"its state on the device, computed by the first prefill that needs it: {1e3 * state_s:.0f} ms")
    figures["prefill"] = prefill(loaded, voice, arguments.rounds, "streaming")
    figures["prefill_whole"] = prefill(loaded, voice, arguments.rounds, "whole")
    loaded.engine.start()
    figures["before_prefill"] = asyncio.run(before_prefill(config, loaded, voice, arguments.rounds))
    for name, pool in [
        ("no encoding", None),
        ("encoding, same priority", ThreadPoolExecutor(1)),
        ("encoding, lowest priority", ThreadPoolExecutor(1, initializer=lower_priority)),
    ]:
        if not arguments.seconds:
            break
        figures[name] = listen(loaded, voice, reference, name, pool, arguments)
    loaded.engine.stop()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="playback time of each of three runs, or 0")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--niceness", type=int, default=RAY_NICENESS, help="niceness of the process; default: Ray's")
    parser.add_argument("--json")
    return parser.parse_args()


def prefill(loaded: LoadedModel, voice: VoicePrompt, rounds: int, layout: PromptLayout) -> dict[str, float]:
    """Milliseconds of a prefill without the voice's cached prefix and with it, in turn; the engine does not run yet."""
    runner = loaded.runner
    request = SpeechRequest("It is alive, and it is well.", voice.voice, "english", prompt=layout)
    prepared = runner.prepare(request, voice)
    assert isinstance(prepared.model_input, ModelInput), "the runner makes it"
    constant = prepared.model_input.constant_positions
    took_ms: dict[str, list[float]] = {"computed": [], "reused": []}
    for _ in range(rounds + 2):  # the first two warm up
        for key in list(runner._prefixes):  # noqa: SLF001 - there is no other way to compute it again
            runner._prefixes.drop(key)  # noqa: SLF001
        for taken_ms in took_ms.values():
            began_s = time.perf_counter()
            runner.prefill([0], [prepared])
            taken_ms.append(1e3 * (time.perf_counter() - began_s))
            runner.release(0)
    computed, reused = (float(np.median(taken_ms[2:])) for taken_ms in took_ms.values())
    ratios = np.array(took_ms["computed"][2:]) / np.array(took_ms["reused"][2:])
    print(
        f"layout {layout}: prefill of {constant} constant positions and {prepared.prefill_positions} more:"
        f" median {computed:.2f} ms computed, {reused:.2f} ms with the prefix reused; ratio {np.median(ratios):.2f}"
        f" (median of {rounds} pairs)"
    )
    return {"computed_ms": computed, "reused_ms": reused, "ratio": float(np.median(ratios))}


async def before_prefill(config: AppConfig, loaded: LoadedModel, voice: VoicePrompt, rounds: int) -> dict[str, float]:
    """Milliseconds from the call of ``speak`` to the prefill, over ``rounds`` consecutive calls."""
    generator = Generator.__new__(Generator)  # only its speak method, without Serve
    generator._config, generator._model, generator._fetching = config, loaded, {}  # noqa: SLF001
    generator._metrics = GeneratorMetrics(NoRecorder(), config.engine.slots)  # noqa: SLF001
    generator._prompts = BoundedCache(1 << 20, lambda prompt: prompt.nbytes)  # noqa: SLF001
    generator._prompts.put(voice.digest, voice, time.monotonic())  # noqa: SLF001
    generator._digests = {voice.voice: voice.digest}  # noqa: SLF001
    began: list[float] = []
    prefill = loaded.runner.prefill

    def noted(slots: Sequence[int], prepared: Sequence[Prepared]) -> None:
        began.append(time.perf_counter())
        prefill(slots, prepared)

    loaded.runner.prefill = noted  # pyright: ignore[reportAttributeAccessIssue]
    waits_ms: list[float] = []
    for number in range(rounds):
        called_s = time.perf_counter()
        request = SpeechRequest("It is alive, and it is well.", voice.voice, "english", seed=number)
        async with aclosing(generator.speak(request)) as events:
            await anext(events)
        waits_ms.append(1e3 * (began[-1] - called_s))
        while loaded.engine.load.running:  # noqa: ASYNC110 - a slot is freed within a frame, without a notification
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
    loaded.runner.prefill = prefill  # pyright: ignore[reportAttributeAccessIssue]
    figures = {
        name: float(np.percentile(waits_ms, share)) for name, share in [("median", 50), ("p95", 95), ("p99", 99)]
    }
    print("before prefill: " + ", ".join(f"{name} {value:.2f} ms" for name, value in figures.items()))
    return figures


class Listener:
    """A listener who plays audio as it arrives, and requests the next utterance when one ends."""

    def __init__(self, loaded: LoadedModel, voice: VoicePrompt, number: int) -> None:
        self._loaded, self._voice, self._number = loaded, voice, number
        self._stream: Stream | None = None
        self._asked_s = self._plays_until_s = 0.0
        self.over = False
        self.stopped = threading.Event()
        self.firsts_s: list[float] = []
        self.slacks_s: list[float] = []
        self._begin()

    def _begin(self) -> None:
        self._number += 100
        request = SpeechRequest(TEXT, self._voice.voice, "english", seed=self._number)
        prepared = self._loaded.runner.prepare(request, self._voice)
        self._asked_s, self._plays_until_s = time.perf_counter(), 0.0
        self._stream = self._loaded.engine.submit(prepared, self._deliver)

    def _deliver(self, event: SpeechEvent) -> None:
        """Called on the engine's thread."""
        now_s = time.perf_counter()
        if isinstance(event, SpeechEnd):
            if self.over:
                self.stopped.set()
            else:
                threading.Timer(max(0.0, self._plays_until_s - now_s), self._begin).start()
            return
        if self._plays_until_s:
            self.slacks_s.append(self._plays_until_s - now_s)
        else:
            self.firsts_s.append(now_s - self._asked_s)
        self._plays_until_s = max(self._plays_until_s, now_s) + len(event.codes) * FRAME_S
        if self._stream is not None:
            self._stream.consumed(len(event.codes))


def listen(
    loaded: LoadedModel,
    voice: VoicePrompt,
    reference: Reference,
    name: str,
    pool: ThreadPoolExecutor | None,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Let listeners play for a while, with clips encoded on ``pool``, and measure their playback."""
    listeners = [Listener(loaded, voice, number) for number in range(arguments.streams)]
    end_s = time.perf_counter() + arguments.seconds
    encodes_s: list[float] = []
    while time.perf_counter() < end_s:
        if pool is None:
            time.sleep(0.05)
            continue
        began_s = time.perf_counter()
        pool.submit(loaded.encode, reference).result()
        encodes_s.append(time.perf_counter() - began_s)
    for listener in listeners:
        listener.over = True
    for listener in listeners:
        listener.stopped.wait(60)
    slacks_s = [slack_s for listener in listeners for slack_s in listener.slacks_s]
    firsts_ms = [1e3 * first_s for listener in listeners for first_s in listener.firsts_s]
    figures = {
        "audio_chunks": float(len(slacks_s)),
        "late_chunks": float(sum(slack_s < 0 for slack_s in slacks_s)),
        "silence_s": -sum(min(0.0, slack_s) for slack_s in slacks_s),
        "ttfa_median_ms": float(np.median(firsts_ms)),
        "encodes": float(len(encodes_s)),
        "encode_median_s": float(np.median(encodes_s)) if encodes_s else 0.0,
    }
    print(
        f"{len(listeners)} listeners, {name}: {figures['late_chunks']:.0f} of {len(slacks_s)} audio chunks late, with"
        f" {figures['silence_s']:.2f} s of silence; first audio after {figures['ttfa_median_ms']:.0f} ms;"
        f" {len(encodes_s)} clips encoded, {figures['encode_median_s']:.2f} s each"
    )
    return figures


if __name__ == "__main__":
    main()
