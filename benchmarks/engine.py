"""Compares the engine with qwen-tts's own ``generate``: same checkpoint, same voice, same text, same run.

    python benchmarks/engine.py                                # full shapes, bfloat16, 1 to 10 streams
    python benchmarks/engine.py --weights int8 --streams 1,2,4
    python benchmarks/engine.py --model tiny --frames 40       # a quick check that it runs, a minute less

Prints a table and, with ``--json FILE``, writes the same results. Timings on a shared machine are noisy; the ratios
come from one run, in which the two sides take turns.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import serve_app.model  # noqa: F401 - before torch, so that its threads wait for each other as in a replica

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.config import AdmissionConfig, AppConfig, EngineConfig, ModelConfig
from serve_app.model.backends.cpu import compiled_codec, compiled_transformer, team
from serve_app.model.backends.cpu.compiled_stack import PASS, CompiledStack, attend
from serve_app.model.backends.cpu.instructions import TILE, TILE_ROWS
from serve_app.model.backends.cpu.parts import array_at, float32_at
from serve_app.model.backends.cpu.team import TeamFunction
from serve_app.model.backends.cpu.tiles import PRODUCTS as PRODUCT_KIND
from serve_app.model.backends.cpu.tiles import STORE, multiply
from serve_app.model.backends.cpu.window_tiles import WINDOW_PRODUCT, window_products_at
from serve_app.model.backends.cpu.windows import multiply_windows
from serve_app.model.checkpoint import Checkpoint
from serve_app.model.factory import LoadedModel, load_model
from serve_app.model.sampling import uniforms
from serve_app.model.upstream import import_qwen_tts
from serve_app.speech import FRAME_S, AudioChunk, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voices.voice import VoicePrompt, scan

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."
PRODUCTS = (
    "linear",
    "_mm",
    "addmm",
    "bmm",
    "matmul",
    "scaled_dot_product",
    "_attend",
    "convolution",
    "conv1d",
    "_multiply_rows",
    "_multiply_windows",
)
DEVICE_PRODUCTS = ("gemm", "gemv", "nvjet", "cutlass", "splitK", "flash", "fmha", "attention", "conv", "sdpa")
FUSED_PRODUCTS = ("_multiply", "_attend")
"""Parts of the names of GPU kernels for matmuls, attention and convolutions; all that is fused into ours counts too."""


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    streams = [int(each) for each in arguments.streams.split(",")]
    loaded = load_model(
        AppConfig(
            model=ModelConfig(
                source=arguments.model,
                dtype=arguments.dtype,
                codec_dtype=arguments.codec_dtype,
                weights=arguments.weights,
                device=arguments.device,
            ),
            engine=EngineConfig(
                slots=max(streams),
                max_lead_s=1e9,
                stall_guard_s=None,
                audio_chunk_max_frames=arguments.audio_chunk_max_frames,
            ),
            admission=AdmissionConfig(stall_timeout_s=2e9),
        ),
        keep_upstream=True,
    )
    reference = next(voice.reference for voice in scan(Path("voices")) if voice.reference is not None)
    voice = loaded.encode(reference)
    loaded.runner.preload(voice)
    speak(loaded, voice, 1, 8, listening=False)  # as in a replica's warm-up: measures the cost of steps
    figures: dict[str, Any] = {
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "model": loaded.description,
            "weights": arguments.weights,
            "codec": str(loaded.checkpoint.codec_dtype),
            "audio_chunk_max_frames": arguments.audio_chunk_max_frames,
        }
    }
    print(json.dumps(figures["machine"], indent=2))
    figures["floor"] = floor(loaded)
    figures["upstream"] = upstream_figures(loaded.checkpoint, voice, arguments)
    figures["engine"] = [engine_figures(loaded, voice, count, arguments) for count in streams]
    compare(figures)
    figures["like_the_release"] = like_the_release(loaded, voice, arguments)
    figures["where"] = [where(loaded, voice, count) for count in (1, max(streams))]
    figures["bytes_per_slot"] = slot_bytes(loaded)
    print(f"memory per slot: {sum(figures['bytes_per_slot'].values()) / 1e6:.1f} MB {figures['bytes_per_slot']}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="full-random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--codec-dtype", default="auto")
    parser.add_argument("--weights", default="plain", choices=["plain", "int8", "int4", "torch"])
    parser.add_argument("--streams", default="1,2,4,8,10")
    parser.add_argument("--frames", type=int, default=62, help="frames of an utterance; 62 are five seconds")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--audio-chunk-max-frames", type=int, default=EngineConfig.model_fields["audio_chunk_max_frames"].default
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json")
    return parser.parse_args()


def processor() -> str:
    """The CPU's name, if the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def floor(loaded: LoadedModel) -> dict[str, float]:
    """Bytes of weights that a frame reads, divided by the memory bandwidth as measured now."""
    runner = loaded.runner
    weight_bytes = runner.talker.weight_bytes + runner.predictor.weight_bytes
    device = loaded.checkpoint.device
    block = torch.ones(1 << 28, device=device)  # 1 GiB of float32, far more than the caches
    seconds = [seconds_of(block.sum, device) for _ in range(5)]
    bandwidth = block.nbytes / min(seconds)
    figures = {
        "weight_bytes_per_frame": float(weight_bytes),
        "bandwidth_bytes_per_s": bandwidth,
        "floor_ms_per_frame": 1e3 * weight_bytes / bandwidth,
    }
    print(
        f"floor of the language model: {weight_bytes / 1e9:.2f} GB a frame at {bandwidth / 1e9:.1f} GB/s"
        f" = {figures['floor_ms_per_frame']:.0f} ms, for any number of streams"
    )
    return figures


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """Seconds that a step takes; on a GPU, until it has completed."""
    began_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began_s


def upstream_figures(checkpoint: Checkpoint, voice: VoicePrompt, arguments: argparse.Namespace) -> dict[str, float]:
    """Time of qwen-tts's generate_voice_clone for one utterance, including its codec."""
    item = import_qwen_tts().VoiceClonePromptItem(
        ref_code=None if voice.codes is None else torch.from_numpy(voice.codes.astype(np.int64)),
        ref_spk_embedding=torch.from_numpy(voice.speaker_embedding),
        x_vector_only_mode=voice.codes is None,
        icl_mode=voice.codes is not None,
        ref_text=voice.transcript,
    )
    rounds = []
    for seed in range(arguments.rounds):
        torch.manual_seed(seed)
        began_s = time.perf_counter()
        (pcm,), _ = checkpoint.upstream.generate_voice_clone(
            text=TEXT, language="english", voice_clone_prompt=[item], max_new_tokens=arguments.frames + 1
        )
        rounds.append((time.perf_counter() - began_s) / (len(pcm) / 1920))
    frame_s = min(rounds)
    print(f"qwen-tts, one utterance: {1e3 * frame_s:.0f} ms a frame, RTF {frame_s / FRAME_S:.2f}")
    return {
        "ms_per_frame": 1e3 * frame_s,
        "audio_s_per_s": FRAME_S / frame_s,
        "utterance_s": arguments.frames * frame_s,
    }


def speak(
    loaded: LoadedModel, voice: VoicePrompt, count: int, frames: int, *, listening: bool = True
) -> dict[str, float]:
    """Speak ``count`` concurrent utterances of ``frames`` frames, on this thread."""
    runner, engine = loaded.runner, loaded.engine
    began_s = time.perf_counter()
    firsts: dict[int, float] = {}
    ends: dict[int, SpeechEnd] = {}

    def listen(number: int) -> Callable[[SpeechEvent], None]:
        def deliver(event: SpeechEvent) -> None:
            if isinstance(event, AudioChunk):
                firsts.setdefault(number, time.perf_counter() - began_s)
            else:
                ends[number] = event

        return deliver

    for number in range(count):
        request = SpeechRequest(TEXT, voice.voice, "english", seed=number, listening=listening)
        prepared = dataclasses.replace(runner.prepare(request, voice), max_frames=frames)
        engine.submit(prepared, listen(number))
    while len(ends) < count:
        engine.step()
    total_s = time.perf_counter() - began_s
    made = sum(end.frames for end in ends.values())
    most = max(end.frames for end in ends.values())
    prefill_s = sum(end.timings_s["prefill"] for end in ends.values())
    return {
        "streams": count,
        "frames": made,
        "total_s": total_s,
        "audio_s_per_s": made * FRAME_S / total_s,
        "ms_per_frame": 1e3 * (total_s - prefill_s) / most,
        "rtf_of_a_stream": total_s / (most * FRAME_S),
        "ttfa_s": float(np.median(list(firsts.values()))),
        "prefill_s": prefill_s / count,
    }


def engine_figures(
    loaded: LoadedModel, voice: VoicePrompt, count: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """The best of a few rounds with ``count`` streams."""
    rounds = [speak(loaded, voice, count, arguments.frames) for _ in range(arguments.rounds)]
    best = max(rounds, key=lambda figures: figures["audio_s_per_s"])
    best["ttfa_s"] = min(figures["ttfa_s"] for figures in rounds)
    return best


def compare(figures: dict[str, Any]) -> None:
    """Add the ratios, and print the table."""
    upstream = figures["upstream"]
    print("streams  ms/frame  audio s/s  × qwen-tts  RTF/stream  TTFA s  qwen-tts utterance / TTFA")
    for row in figures["engine"]:
        row["times_upstream"] = row["audio_s_per_s"] / upstream["audio_s_per_s"]
        row["utterance_over_ttfa"] = upstream["utterance_s"] / row["ttfa_s"]
        print(
            f"{row['streams']:7d}  {row['ms_per_frame']:8.1f}  {row['audio_s_per_s']:9.2f}"
            f"  {row['times_upstream']:10.2f}  {row['rtf_of_a_stream']:10.3f}  {row['ttfa_s']:6.3f}"
            f"  {row['utterance_over_ttfa']:25.1f}"
        )


def like_the_release(loaded: LoadedModel, voice: VoicePrompt, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """First audio with prompts as long as with the release's tokenizer, and with this checkpoint's, in turn.

    The release's tokenizer makes about one token of a word, and the random checkpoint's several. The fewer tokens the
    transcript has, the more of the prompt depends on the text and has to be computed for each stream.
    """
    assert voice.transcript is not None
    words = voice.transcript.split()
    ends = range(1, len(voice.transcript) + 1)
    tokens = [len(loaded.runner.prompts.tokenize("", voice.transcript[:end]).reference) for end in ends]
    short = voice.transcript[: max(end for end, count in zip(ends, tokens, strict=True) if count <= len(words))]
    like_release = dataclasses.replace(voice, transcript=short, digest="like the release's")
    found: list[dict[str, float]] = []
    for count in sorted({1, loaded.runner.slots}):
        for each, name in ((voice, "this checkpoint's"), (like_release, "the release's")):
            request = SpeechRequest(TEXT, each.voice, "english", seed=1)
            positions = loaded.runner.prepare(request, each).prefill_positions
            rounds = [speak(loaded, each, count, 4)["ttfa_s"] for _ in range(arguments.rounds + 1)]
            print(f"{count} streams, {positions} positions as with {name} tokenizer: first audio {min(rounds):.3f} s")
            found.append({"streams": count, "positions": positions, "ttfa_s": min(rounds)})
    return found


def where(loaded: LoadedModel, voice: VoicePrompt, count: int) -> dict[str, float]:
    """Time of a frame by stage, and the part that is neither matmul, attention nor convolution.

    The profiler cannot look inside compiled stacks and the codec's compiled layers. In them, matmuls count with the
    time of the same matmuls with only the threads' synchronization in between, and attention with the time of the
    stacks' attention alone.
    """
    runner, device = loaded.runner, loaded.checkpoint.device
    slots = list(range(count))
    for slot in slots:
        runner.prefill([slot], [runner.prepare(SpeechRequest(TEXT, voice.voice, "english", seed=slot), voice)])
    steps: dict[str, Callable[[], object]] = {
        "predict": lambda: runner.sample_frame(slots),
        "talk": lambda: runner.talker_step(slots),
        "codec": lambda: runner.decode(slots, 1),
    }
    rounds = [[seconds_of(step, device) for step in steps.values()] for _ in range(8)]
    medians = dict(zip(steps, (1e3 * np.median(rounds, axis=0)).tolist(), strict=True))
    if device.type == "cuda":
        medians |= kernels_of(steps, sum(medians.values()), count)
        for slot in slots:
            runner.release(slot)
        return {"streams": count, **medians}
    looks = [look_into(loaded, steps, slots) for _ in range(7)]  # the machine's speed changes between runs
    products_ms, alone_ms, attention_ms, share = np.median(looks, axis=0).tolist()
    for slot in slots:
        runner.release(slot)
    medians["sampling"] = sampling_ms(loaded, count)
    print(
        f"{count} streams, one frame: code predictor {medians['predict']:.0f} ms, talker {medians['talk']:.0f} ms,"
        f" codec {medians['codec']:.0f} ms; products, attention and convolutions {products_ms:.0f} ms, in compiled"
        f" layers {alone_ms:.0f} + {attention_ms:.0f} ms; {100 * share:.0f} % are norms, activations, copies, Python"
        f" and sampling ({medians['sampling']:.1f} ms)"
    )
    return {
        "streams": count,
        **medians,
        "products": products_ms + alone_ms,
        "compiled_attention": attention_ms,
        "other_share": share,
    }


def look_into(loaded: LoadedModel, steps: dict[str, Callable[[], object]], slots: list[int]) -> tuple[float, ...]:
    """Milliseconds of a frame's matmuls outside and inside compiled layers, of stacks' attention; share of the rest."""
    activity = torch.profiler.ProfilerActivity.CPU
    with compiled_functions_seen() as windows, torch.profiler.profile(activities=[activity]) as profile:
        began_s = time.perf_counter()
        for step in steps.values():
            step()
        profiled_ms = 1e3 * (time.perf_counter() - began_s)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    products_ms = sum(time_us for key, time_us in times.items() if any(name in key for name in PRODUCTS)) / 1e3
    compiled = isinstance(loaded.runner.talker.stack, CompiledStack)
    alone_ms, attention_ms = alone(loaded, slots) if compiled else (0.0, 0.0)
    alone_ms += 1e3 * sum(windows_of(products) for products in windows)
    return products_ms, alone_ms, attention_ms, 1 - (products_ms + alone_ms + attention_ms) / profiled_ms


def kernels_of(steps: dict[str, Callable[[], object]], frame_ms: float, count: int) -> dict[str, float]:
    """Number of a frame's kernels on a GPU, their time, and how much of it is matmuls and attention."""
    frames = 3
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(frames):
            for step in steps.values():
                seconds_of(step, torch.device("cuda"))
    kernels = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    busy_ms = sum(event.self_device_time_total for event in kernels) / 1e3 / frames
    named = [event for event in kernels if any(name in event.name for name in DEVICE_PRODUCTS + FUSED_PRODUCTS)]
    products_ms = sum(event.self_device_time_total for event in named) / 1e3 / frames
    print(
        f"{count} streams, one frame: {frame_ms:.2f} ms; {len(kernels) / frames:.0f} kernels, busy {busy_ms:.2f} ms,"
        f" products, attention and convolutions {products_ms:.2f} ms of it"
    )
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in kernels:
        by_name[event.name].append(event.self_device_time_total / frames)
    for name, times_us in sorted(by_name.items(), key=lambda item: -sum(item[1]))[:12]:
        print(f"    {sum(times_us) / 1e3:6.3f} ms in {len(times_us) / frames:5.0f} x {name[:110]}")
    return {"kernels": len(kernels) / frames, "busy_ms": busy_ms, "products_ms": products_ms}


@contextlib.contextmanager
def compiled_functions_seen() -> Generator[list[NDArray[Any]]]:
    """Let torch's profiler record compiled functions on all threads; they are not torch operations.

    Yields:
        The window matmuls of each compiled function of the codec, once these functions have run.
    """
    run, windows = TeamFunction.run, list[NDArray[Any]]()

    def recorded(function: TeamFunction, job: NDArray[Any], threads: int) -> None:
        with torch.profiler.record_function(f"compiled {function.name}"):
            run(function, job, threads)
        if function is compiled_transformer.RUN_CODEC_TRANSFORMER:
            windows.append(window_products(job, 4 * int(job["layers"][0])))
        elif function is compiled_codec.RUN_CODEC_LAYERS:
            count, wide = int(job["count"][0]), int(job["wide"][0])
            narrow = np.tile(np.arange(wide, count), int(job["streams"][0] * job["frames"][0]))  # frame by frame
            made = window_products(job, count)[[*range(wide), *narrow]]
            windows.append(made[made["rows"] > 0])  # other layers have no window matmul

    TeamFunction.run = recorded
    try:
        yield windows
    finally:
        TeamFunction.run = run


def window_products(job: NDArray[Any], count: int) -> NDArray[Any]:
    """The parameters of ``count`` window matmuls that a compiled function received."""
    given = (ctypes.c_byte * (count * WINDOW_PRODUCT.itemsize)).from_address(int(job["products"][0]))
    return np.frombuffer(given, WINDOW_PRODUCT).copy()


PRODUCTS_ALONE = team.job_of("products", "count", "rows", "taken", "factors", "sums", "out", "out_bytes")
products_at, jobs_at, passes_at = array_at(PRODUCT_KIND), team.jobs_at(PRODUCTS_ALONE), team.jobs_at(PASS)


def multiply_all(address: int) -> None:
    """Multiply ``rows`` rows by one weight after the other, with only synchronization in between."""
    job = jobs_at(address, 1)[0]
    me, rows = team.thread_number(job.team), job.rows
    products = products_at(job.products, job.count)
    for each in range(job.count):
        product, factors = products[each], float32_at(job.factors, rows)
        sums, out = job.sums + 4 * TILE_ROWS * TILE * me, job.out + job.out_bytes * me
        multiply(product, job.team, job.taken, factors, sums, out, product.tiles * TILE, STORE)
        team.barrier(job.team)


def attend_all(address: int) -> None:
    """Attend in one layer after the other to the current content of the cache."""
    job = passes_at(address, 1)[0]
    me, threads = team.thread_number(job.team), team.team_size(job.team)
    for layer in range(job.layers):
        attend(job, layer, me, threads)


WINDOWS_ALONE = team.job_of("products", "count")
windows_alone_at = team.jobs_at(WINDOWS_ALONE)


def multiply_all_windows(address: int) -> None:
    """Multiply windows by one weight after the other, with nothing in between."""
    job = windows_alone_at(address, 1)[0]
    products = window_products_at(job.products, job.count)
    for each in range(job.count):
        multiply_windows(products[each], team.thread_number(job.team), team.team_size(job.team))


MULTIPLY_ALL, ATTEND_ALL = TeamFunction(multiply_all), TeamFunction(attend_all)
MULTIPLY_ALL_WINDOWS = TeamFunction(multiply_all_windows)


def alone(loaded: LoadedModel, slots: list[int]) -> tuple[float, float]:
    """Milliseconds of a frame's matmuls in compiled stacks, with synchronization in between, and of its attention.

    They alternate with computing a whole frame, so that the caches have the same content as in a frame.
    """
    runner, talker, predictor = loaded.runner, loaded.runner.talker.stack, loaded.runner.predictor.stack
    frame = loaded.runner.predictor.frame
    assert isinstance(talker, CompiledStack)
    assert isinstance(predictor, CompiledStack)
    steps = runner.predictor.steps
    products = [*[predictor.products] * steps, talker.products]
    passes = [*[predictor.last_pass] * steps, talker.last_pass]
    if frame is not None:  # the same call includes its heads
        products.append(frame.heads)
        passes[:steps] = [frame.passes[n : n + 1] for n in range(steps)]
    rounds: list[tuple[float, float]] = []
    for _ in range(2):
        runner.sample_frame(slots)
        runner.talker_step(slots)
        stand = runner.slot_tensors.positions[torch.tensor(slots)] - 1
        attention_s = sum(attention_of(each, stand) for each in passes)
        runner.decode(slots, 1)
        rounds.append((sum(products_of(each, len(slots)) for each in products), attention_s))
    products_s, attention_s = np.mean(rounds, axis=0).tolist()
    return 1e3 * products_s, 1e3 * attention_s


def products_of(products: NDArray[Any], rows: int) -> float:
    """Seconds of matmuls alone, one after the other."""
    threads = torch.get_num_threads()
    taken = torch.zeros(rows, 4 * int(products["steps"].max()), dtype=torch.uint8)
    out = torch.zeros(threads, rows, TILE * int(products["tiles"].max()))
    factors, sums = torch.ones(rows), torch.zeros(threads, TILE_ROWS, TILE)
    job = np.zeros(1, PRODUCTS_ALONE)
    addresses = [each.data_ptr() for each in (taken, factors, sums, out)]
    job[0] = (team.NO_TEAM, products.ctypes.data, len(products), rows, *addresses, out[0].nbytes)
    began_s = time.perf_counter()
    MULTIPLY_ALL.run(job, threads)
    return time.perf_counter() - began_s


def windows_of(products: NDArray[Any]) -> float:
    """Seconds of window matmuls alone, one after the other, on arbitrary memory content."""
    streams = products["rows"] // products["rows_of_stream"]
    windows = np.maximum(streams * products["stream_bytes"], products["rows"] * products["column_bytes"])
    x, out = torch.ones(int(windows.max()) // 4), torch.ones(int((products["rows"] * products["outputs"]).max()))
    products["x"], products["out"] = x.data_ptr(), out.data_ptr()
    products["residual"] = np.where(products["residual"] == 0, 0, out.data_ptr())
    job = np.zeros(1, WINDOWS_ALONE)
    job[0] = (team.NO_TEAM, products.ctypes.data, len(products))
    began_s = time.perf_counter()
    MULTIPLY_ALL_WINDOWS.run(job, torch.get_num_threads())
    return time.perf_counter() - began_s


def attention_of(last_pass: NDArray[Any], stand: torch.Tensor) -> float:
    """Seconds of a pass's attention alone, on the rows that the pass left; overwrites them.

    Includes norms and rotations of queries and keys. Rows with different positions use the positions in ``stand``.
    """
    job, rows = last_pass.copy(), len(stand)
    fused = torch.randn(rows, int(job["fused_width"][0]))
    attended = torch.zeros(rows, int(job["heads"][0] * job["dim"][0]))
    apart = bool(job["positions"][0])
    slots, positions = torch.arange(rows), stand if apart else torch.full_like(stand, int(job["first_position"][0]))
    job["fused"], job["attended"] = fused.data_ptr(), attended.data_ptr()
    job["slots"], job["positions"] = slots.data_ptr(), positions.data_ptr()
    job["batch"], job["new"] = rows, 1
    began_s = time.perf_counter()
    ATTEND_ALL.run(job, torch.get_num_threads())
    return time.perf_counter() - began_s


def sampling_ms(loaded: LoadedModel, count: int) -> float:
    """Median milliseconds of all draws of a frame, with the checkpoint's own sampling parameters."""
    slots = loaded.runner.slot_tensors
    groups = slots.codes.shape[2]
    rows, keep = slice(0, count), loaded.checkpoint.predictor_sampling.top_k
    for slot in range(count):
        slots.predictor_sampling.set(slot, loaded.checkpoint.predictor_sampling)
    logits = torch.randn(count, loaded.runner.predictor.vocabulary)
    sample = loaded.backend.sample
    seconds = []
    with torch.inference_mode():
        for frame in range(9):
            began_s = time.perf_counter()
            uniform = uniforms(slots.seeds[rows], torch.full((count,), frame), groups)
            for codebook in range(groups):
                sample(logits, uniform[:, codebook], slots.predictor_sampling, rows, keep)
            seconds.append(time.perf_counter() - began_s)
    return 1e3 * float(np.median(seconds))


def slot_bytes(loaded: LoadedModel) -> dict[str, int]:
    """Bytes of one more slot, by content."""
    runner = loaded.runner
    return {
        "talker keys and values": runner.talker.cache.bytes_per_slot,
        "code predictor keys and values": runner.predictor.cache.bytes_per_slot,
        "codec state": runner.codec.state_bytes_per_row,
        "logits, text, codes": runner.slot_tensors.bytes_per_slot,
    }


if __name__ == "__main__":
    main()
