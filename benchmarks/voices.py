"""What a voice costs: a stream that speaks in a known one, and those who listen while a new one is encoded.

Run::

    python benchmarks/voices.py                       # tiny, seconds
    python benchmarks/voices.py --model full-random --streams 1

``before prefill`` is the time from a call of the generator's ``speak`` to the beginning of its prefill, the engine
being idle: prompt from the cache, tokens, the way onto the engine's thread. ``encoding`` is what listeners notice of
clips that are encoded one after the other on the encoder's thread: audio chunks that came late, and the least that a
listener had left to play once he was past his first two seconds.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import numpy as np

from serve_app.config import AppConfig, EngineConfig, ModelConfig
from serve_app.deployments.generator import Generator, be_nice
from serve_app.engine.engine import Stream
from serve_app.model.factory import Speaker, load_speaker
from serve_app.speech import FRAME_S, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voices import BoundedCache, Reference, VoicePrompt, scan

TEXT = "She was not handsome enough to be noticed, and too proud to care, as he was to learn. " * 3
SETTLED_S = 2.0
RAY_NICENESS = 15
"""Of Ray's workers, unless RAY_worker_niceness says otherwise: the engine's thread has it too."""


def main() -> None:
    """Measure and print."""
    arguments = parse()
    os.setpriority(os.PRIO_PROCESS, 0, RAY_NICENESS)
    model = ModelConfig(source=arguments.model, device=arguments.device, threads=arguments.threads or None)
    config = AppConfig(model=model, engine=EngineConfig(slots=max(2, arguments.streams)))
    speaker = load_speaker(config)
    reference = next(voice.reference for voice in scan(Path("voices")) if voice.reference is not None)
    began_s = time.perf_counter()
    voice = speaker.encode(reference)
    first_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    voice = speaker.encode(reference)
    encode_s = time.perf_counter() - began_s
    speaker.runner.learn(voice)
    speaker.engine.start()
    figures: dict[str, object] = {
        "model": arguments.model,
        "clip_s": len(reference.pcm) / reference.sample_rate_hz,
        "prompt_bytes": voice.nbytes,
        "first_encode_s": first_s,
        "encode_s": encode_s,
    }
    print(f"{speaker.description}; a clip of {figures['clip_s']:.1f} s")
    print(f"encoded alone in {encode_s:.2f} s (the first time {first_s:.2f} s) into {voice.nbytes} bytes")
    figures["before_prefill"] = asyncio.run(before_prefill(config, speaker, voice, arguments.rounds))
    for name, pool in [
        ("nobody encodes", None),
        ("encoding, same priority", ThreadPoolExecutor(1)),
        ("encoding, lowest priority", ThreadPoolExecutor(1, initializer=be_nice)),
    ]:
        figures[name] = listen(speaker, voice, reference, name, pool, arguments)
    speaker.engine.stop()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--frames", type=int, default=150, help="of a stream; 12.5 are a second")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json")
    return parser.parse_args()


async def before_prefill(config: AppConfig, speaker: Speaker, voice: VoicePrompt, rounds: int) -> dict[str, float]:
    """Milliseconds from the call of ``speak`` to the prefill, over ``rounds`` calls one after the other."""
    generator = Generator.__new__(Generator)  # its own speak, without Serve around it
    generator._config, generator._speaker, generator._fetching = config, speaker, {}  # noqa: SLF001
    generator._prompts = BoundedCache(1 << 20, lambda prompt: prompt.nbytes)  # noqa: SLF001
    generator._prompts.put(voice.voice, voice, time.monotonic())  # noqa: SLF001
    began: list[float] = []
    prefill = speaker.runner.prefill

    def noted(slot: int, prepared: object) -> None:
        began.append(time.perf_counter())
        prefill(slot, prepared)  # pyright: ignore[reportArgumentType]

    speaker.runner.prefill = noted  # pyright: ignore[reportAttributeAccessIssue]
    waits_ms: list[float] = []
    for number in range(rounds):
        called_s = time.perf_counter()
        request = SpeechRequest("It is alive, and it is well.", voice.voice, "english", seed=number)
        async with aclosing(generator.speak(request)) as events:
            await anext(events)
        waits_ms.append(1e3 * (began[-1] - called_s))
        await asyncio.sleep(0.02)  # the stream's slot is freed within a frame
    speaker.runner.prefill = prefill  # pyright: ignore[reportAttributeAccessIssue]
    figures = {
        name: float(np.percentile(waits_ms, share)) for name, share in [("median", 50), ("p95", 95), ("p99", 99)]
    }
    print("before prefill: " + ", ".join(f"{name} {value:.2f} ms" for name, value in figures.items()))
    return figures


@dataclasses.dataclass
class Listener:
    """One who plays audio as it comes."""

    plays_until_s: float = 0.0
    began_s: float = 0.0
    late: int = 0
    slack_s: float = float("inf")
    ended: bool = False
    stream: Stream | None = None

    def deliver(self, event: SpeechEvent) -> None:
        """Called on the engine's thread."""
        now_s = time.perf_counter()
        if isinstance(event, SpeechEnd):
            self.ended = True
            return
        self.began_s = self.began_s or now_s
        if self.plays_until_s:
            self.late += now_s > self.plays_until_s
            if now_s - self.began_s > SETTLED_S:
                self.slack_s = min(self.slack_s, self.plays_until_s - now_s)
        self.plays_until_s = max(self.plays_until_s, now_s) + len(event.codes) * FRAME_S
        if self.stream is not None:
            self.stream.consumed(len(event.codes))


def listen(
    speaker: Speaker,
    voice: VoicePrompt,
    reference: Reference,
    name: str,
    pool: ThreadPoolExecutor | None,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Let so many listeners play their streams while clips are encoded on ``pool``, and say how they fared."""
    listeners = [Listener() for _ in range(arguments.streams)]
    began_s = time.perf_counter()
    for number, listener in enumerate(listeners):
        request = SpeechRequest(TEXT, voice.voice, "english", seed=number)
        prepared = dataclasses.replace(speaker.runner.prepare(request, voice), max_frames=arguments.frames)
        listener.stream = speaker.engine.submit(prepared, listener.deliver)
    encodes_s: list[float] = []
    while not all(listener.ended for listener in listeners):
        if pool is None:
            time.sleep(0.05)
            continue
        encode_began_s = time.perf_counter()
        pool.submit(speaker.encode, reference).result()
        encodes_s.append(time.perf_counter() - encode_began_s)
    figures = {
        "seconds": time.perf_counter() - began_s,
        "late_chunks": float(sum(listener.late for listener in listeners)),
        "least_slack_s": min(listener.slack_s for listener in listeners),
        "encodes": float(len(encodes_s)),
        "encode_median_s": float(np.median(encodes_s)) if encodes_s else 0.0,
    }
    print(
        f"{len(listeners)} listeners, {name}: {figures['late_chunks']:.0f} audio chunks late, least slack"
        f" {figures['least_slack_s']:.2f} s, {len(encodes_s)} clips encoded, {figures['encode_median_s']:.2f} s each"
    )
    return figures


if __name__ == "__main__":
    main()
