"""Measures the cost of decoding a frame on a CPU, here and in qwen-tts, in one run, as ratios; both in float32.

The language model does not run. The decoder has the released shapes, and random weights that keep the signal's
variance.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import serve_app.model  # noqa: F401 - before torch, so that its threads wait for each other as in a replica

# isort: split
import torch
from torch import Tensor, nn

from serve_app.model.backends.cpu.cpu_backend import CpuBackend
from serve_app.model.backends.cpu.tiles import WeightFormat
from serve_app.model.codec import Codec
from serve_app.model.random_weights import CODEC_RULES, random_tensor
from serve_app.model.upstream import import_qwen_tts

CODEBOOK_SIZE = 2048
# (streams in the batch, frames in the audio chunk)
SHAPES = ((1, 1), (1, 2), (1, 4), (1, 8), (4, 1), (4, 4), (10, 1), (10, 4))


@dataclass(frozen=True)
class Timing:
    """Time of one way of decoding, per frame of audio of one stream.

    Attributes:
        ratio: relative to upstream's decode of all frames at once, in the same run.
    """

    name: str
    ms_per_frame: float
    ratio: float


@dataclass(frozen=True)
class Accuracy:
    """Difference of samples from upstream's float32 decode of all frames at once, with the same weights and codes."""

    name: str
    max_difference: float
    snr_db: float


def build_decoder() -> nn.Module:
    """Make upstream's decoder in float32 with the released shapes."""
    import_qwen_tts()
    upstream: Any = importlib.import_module("qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2")
    shapes = json.loads(resources.files("serve_app.model").joinpath("shapes.json").read_text(encoding="utf-8"))
    config = shapes["full-random"]["speech_tokenizer"]["decoder_config"]
    decoder = upstream.Qwen3TTSTokenizerV2Decoder(upstream.Qwen3TTSTokenizerV2DecoderConfig(**config)).eval()
    with torch.no_grad():
        for name, tensor in decoder.state_dict().items():
            tensor.copy_(random_tensor(CODEC_RULES, f"decoder.{name}", tensor.shape, 12))
            # With these weights, upstream's float32 is itself within 1e-6 of float64. The rules' own weights amplify
            # rounding twentyfold, which would hide a difference between two float32 decoders.
            if name.endswith("layer_scale.scale"):
                tensor.mul_(0.3)
            elif name.endswith(".alpha"):
                tensor.sub_(1.0)
    return decoder


def codes_of(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Draw random codes [B, T, 16]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, CODEBOOK_SIZE, (batch, frames, 16), generator=generator)


def whole(decoder: nn.Module, codes: Tensor) -> Tensor:
    """Upstream's decode of all frames at once: [1, T, Q] -> [1, T * 1920] float32."""
    with torch.inference_mode():
        return decoder(codes.transpose(1, 2))[:, 0].float()


def in_chunks(codec: Codec, codes: Tensor, sizes: list[int]) -> Tensor:
    """Our decode, split into audio chunks of the given sizes; the last size is repeated."""
    codec.reset(0)
    samples: list[Tensor] = []
    start = 0
    while start < codes.shape[1]:
        size = sizes[min(len(samples), len(sizes) - 1)]
        samples.append(codec.decode(codes[:, start : start + size], slice(0, 1)))
        start += size
    return torch.cat(samples, dim=1)


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        frames: frames of upstream's decode.
        rounds: how often upstream and each of our shapes run, in turn; the best round counts.
        clock_s: wall time, or the process's CPU time, which is fair with one thread on a loaded machine.
    """

    frames: int
    rounds: int
    clock_s: Callable[[], float]

    def elapsed_ms(self, run: Callable[[], object]) -> float:
        """Time one call."""
        start_s = self.clock_s()
        run()
        return 1e3 * (self.clock_s() - start_s)


def make_codec(decoder: nn.Module, rows: int) -> Codec:
    """Make our codec, for some streams."""
    backend = CpuBackend(WeightFormat.FLOAT32)
    return Codec(decoder, backend, rows=rows, dtype=torch.float32, device=torch.device("cpu"))


def time_decoders(decoder: nn.Module, plan: Plan) -> list[Timing]:
    """Time upstream and each of our shapes."""
    codec = make_codec(decoder, rows=10)
    whole_codes = codes_of(1, plan.frames)
    runs: list[tuple[str, int, Callable[[], object]]] = [
        (f"qwen-tts, whole decode of {plan.frames}", plan.frames, lambda: whole(decoder, whole_codes))
    ]
    for batch, size in SHAPES:
        codes, calls = codes_of(batch, size), max(1, 8 // (batch * size))
        runs.append(
            (
                f"ours, batch {batch}, {size} at a time",
                batch * size * calls,
                lambda codes=codes, calls=calls: [codec.decode(codes, slice(0, len(codes))) for _ in range(calls)],
            )
        )
    for _, _, run in runs:
        run()
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(plan.rounds):
        for times, (_, n_frames, run) in zip(spent, runs, strict=True):
            times.append(plan.elapsed_ms(run) / n_frames)
    best = [min(times) for times in spent]
    return [Timing(name, ms, ms / best[0]) for (name, _, _), ms in zip(runs, best, strict=True)]


def measure_accuracy(decoder: nn.Module, frames: int) -> list[Accuracy]:
    """Compare our decode of codes that are split in several ways with upstream's decode."""
    codes = codes_of(1, frames)
    golden = whole(decoder, codes)
    codec = make_codec(decoder, rows=1)
    results = {
        f"ours, cut into {sizes}": in_chunks(codec, codes, sizes)
        for sizes in ([frames], [1], [4], [1, 2, 3, 5, 8, 13, 21, 34])
    }
    return [_accuracy(name, samples, golden) for name, samples in results.items()]


def _accuracy(name: str, samples: Tensor, golden: Tensor) -> Accuracy:
    error = samples - golden
    snr_db = 10.0 * torch.log10(golden.square().sum() / error.square().sum())
    return Accuracy(name, error.abs().max().item(), snr_db.item())


def main() -> None:
    """Measure, print a table, and write the same results as JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=48, help="frames of upstream's decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--exact-frames", type=int, default=120, help="frames to compare; 0 compares nothing")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time; for a loaded host, with --threads 1")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report: dict[str, object] = {"threads": args.threads, "torch": torch.__version__}
    plan = Plan(args.frames, args.rounds, time.process_time if args.cpu_time else time.perf_counter)
    decoder = build_decoder()
    timings = time_decoders(decoder, plan)
    for timing in timings:
        print(f"{timing.name:34} {timing.ms_per_frame:8.2f} ms a frame  x{timing.ratio:.2f}")
    report["state_bytes_per_row"] = make_codec(decoder, rows=1).state_bytes_per_row
    print(f"state of a row: {report['state_bytes_per_row']:,} bytes")
    accuracies = measure_accuracy(decoder, args.exact_frames) if args.exact_frames else []
    for accuracy in accuracies:
        print(f"{accuracy.name:48} max difference {accuracy.max_difference:.2e}  SNR {accuracy.snr_db:6.1f} dB")
    report |= {"timings": [asdict(t) for t in timings], "accuracies": [asdict(a) for a in accuracies]}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
