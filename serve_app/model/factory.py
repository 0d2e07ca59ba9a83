"""Builds a generator replica's model: checkpoint, runner and engine."""

import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.audio.loudness import SILENT_LUFS, Loudness
from serve_app.config import AppConfig, EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.interface import Prepared
from serve_app.errors import SpeechError, error_of_code
from serve_app.model import memory, slow_paths
from serve_app.model.backends.cpu.cpu_backend import CpuBackend
from serve_app.model.backends.cpu.instructions import WIDE, this_cpus, vector_units
from serve_app.model.backends.cpu.tiles import WeightFormat, lossless
from serve_app.model.backends.cuda.requirements import what_is_missing
from serve_app.model.backends.protocol import Backend
from serve_app.model.backends.torch.torch_backend import TorchBackend
from serve_app.model.checkpoint import Checkpoint, load_checkpoint
from serve_app.model.graphs import Captured, CudaGraphs, GraphedSteps
from serve_app.model.locate import CheckpointError
from serve_app.model.runner import TorchRunner
from serve_app.model.steps import SamplingShape
from serve_app.model.watermark import Watermark, load_watermark
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.startup import Availability, NotYetError
from serve_app.voices.voice import ImportedVoice, Reference, VoicePrompt
from serve_app.weights import Weights

log = logging.getLogger(__name__)

_PROBE_PREFIX = 16
"""The constant part of the probe's prompt has at most so many positions."""

_PROBE_FRAMES = 4
"""Frames of each stream of the probe of CUDA graphs."""


@dataclass(slots=True)
class LoadedModel:
    """A loaded model with its engine."""

    engine: Engine
    runner: TorchRunner
    checkpoint: Checkpoint
    backend: Backend
    watermark: Watermark | None

    @property
    def weights(self) -> Weights:
        """Where the weights come from."""
        return self.checkpoint.weights

    @property
    def description(self) -> str:
        """A description of the checkpoint and its weight format, for people."""
        graphs = "; without CUDA graphs, whose results differ" if self.runner.graph_fallbacks else ""
        return f"{self.checkpoint.description[:-1]}; {self.backend.label} weights{graphs})"

    @property
    def labels(self) -> dict[str, str]:
        """Device and weight format, for :data:`serve_app.observability.metrics.MODEL_INFO`."""
        kind, dtype = self.checkpoint.device.type, str(self.checkpoint.dtype).removeprefix("torch.")
        return {"device": kind, "dtype": dtype, "weights": self.backend.label}

    @property
    def fingerprint(self) -> str:
        """Differs between checkpoints whose voice prompts differ."""
        return self.checkpoint.fingerprint

    @property
    def encoders(self) -> str:
        """Digest of the weights that make voice prompts."""
        return self.checkpoint.encoders

    @property
    def rendering(self) -> str:
        """Equal on replicas that compute the same samples for the same request; see :class:`AudioChunk`."""
        graphs = "" if self.runner.graph_fallbacks == 0 else " without graphs"
        codec = str(self.checkpoint.codec_dtype).removeprefix("torch.")
        marked = "" if self.watermark is None else f", {self.watermark.label}"
        return f"{self.fingerprint} {self.backend.label}, codec {codec}, {self._processor}{graphs}{marked}"

    @property
    def _processor(self) -> str:
        """The kind of processor, which decides the order of sums and how they are rounded."""
        device = self.checkpoint.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else vector_units()

    def encode(self, reference: Reference) -> VoicePrompt:
        """Make a voice prompt from a reference clip."""
        return self.checkpoint.encode(reference)

    def accept(self, imported: ImportedVoice) -> VoicePrompt:
        """Return the prompt of an imported voice, if it fits the checkpoint; else raises VoiceInvalidError."""
        return self.checkpoint.accept(imported)

    def warm_up(self, voice: VoicePrompt) -> None:
        """Speak one short sentence through the running engine and wait for its end.

        Raises:
            SpeechError: the sentence failed.
        """
        began_s = time.monotonic()
        request = SpeechRequest("Ready.", voice.voice, seed=1, listening=False, prompt=self.runner.layouts[0])
        events: SimpleQueue[SpeechEvent] = SimpleQueue()
        stream = self.engine.submit(self.runner.prepare(request, voice), events.put)
        while not isinstance(end := events.get(), SpeechEnd):
            stream.consumed(len(end.codes))
        if end.finish_reason == "error":
            raise error_of_code(end.code or SpeechError.code, f"the warm-up sentence failed: {end.message}")
        log.info("warm-up: %d frames in %.2f s", end.frames, time.monotonic() - began_s)


def load_model(config: AppConfig, directory: Path | None = None, *, keep_upstream: bool = False) -> LoadedModel:
    """Load the configured checkpoint and build an engine for it; the engine is not started.

    Args:
        config: the application's configuration.
        directory: the checkpoint's directory, if it is already known.
        keep_upstream: keep upstream's own model usable, for comparisons; the weights are then in memory twice.

    Raises:
        NotYetError: the checkpoint is not there yet, or other processes hold the GPU's memory.
        CheckpointError: the checkpoint cannot be loaded.
    """
    try:
        return _load_model(config, directory, keep_upstream=keep_upstream)
    except RuntimeError as error:  # torch raises nothing more specific if a device has no memory for a context
        if config.model.device == "cpu" or not torch.cuda.is_available() or not memory.ran_out(str(error)):
            raise
        availability = _judge_memory(config.generator.num_gpus)
        if availability.state == "never":
            raise CheckpointError(f"{availability.why} ({error})") from error
    # Free what was loaded, now that nothing refers to it: other processes may wait for memory too.
    gc.collect()
    torch.cuda.empty_cache()
    raise NotYetError("GPU memory", availability.why, check_again_s=memory.CHECK_AGAIN_S)


def _judge_memory(share: float) -> Availability:
    """Say why the GPU memory was not enough; call this before anything is freed."""
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return memory.NO_CONTEXT
    return memory.judge(free, total, torch.cuda.memory_reserved(), share)


def _load_model(config: AppConfig, directory: Path | None, *, keep_upstream: bool) -> LoadedModel:
    # Ray starts its workers with as many OpenMP threads as an actor reserves CPUs, which does not suit a model.
    torch.set_num_threads(config.model.threads or len(os.sched_getaffinity(0)))
    checkpoint = load_checkpoint(config.model, directory)
    if config.text.prompt not in checkpoint.layouts:
        known = ", ".join(map(repr, checkpoint.layouts))
        raise CheckpointError(
            f"text.prompt is {config.text.prompt!r}, which {config.model.source} was not trained with; allowed: {known}"
        )
    watermark = None if config.model.watermark is None else load_watermark(config.model.watermark, checkpoint.device)
    settings = config.engine
    if checkpoint.weights == "random":
        settings = settings.model_copy(update={"stall_guard_s": None})
    if checkpoint.device.type == "cuda" and 0 < config.generator.num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(config.generator.num_gpus)
    backend = choose_backend(config, checkpoint)
    log.info("weight format of talker and code predictor: %s", backend.label)
    runner = TorchRunner(checkpoint, settings, backend)
    for reason in _slower_because(checkpoint, backend, runner):
        log.warning("slower: %s", reason)
    if not keep_upstream:
        checkpoint.drop_generation()
    if checkpoint.device.type == "cuda":
        use_graphs(runner, checkpoint, settings, CudaGraphs())
    return LoadedModel(Engine(runner, settings), runner, checkpoint, backend, watermark)


def _slower_because(checkpoint: Checkpoint, backend: Backend, runner: TorchRunner) -> list[str]:
    """Why this replica does not get the fastest code there is, besides the choice of its backend."""
    on_cpu, on_gpu = isinstance(backend, CpuBackend), checkpoint.device.type == "cuda"
    vocabularies = runner.talker.vocabulary, runner.predictor.vocabulary
    sampling = checkpoint.talker_sampling, checkpoint.predictor_sampling
    reasons = slow_paths.of_sampling(*sampling, vocabularies, on_cpu=on_cpu, graphed=on_gpu)
    if on_cpu:
        log.info("compiled for %s", vector_units())
        reasons += slow_paths.of_cpu(this_cpus(), wide=WIDE, rounded=backend.label in ("int8", "int4"))
    if backend.label == "fused":
        reasons += slow_paths.of_gpu(*slow_paths.matrices_of(checkpoint.model.config.talker_config))
    return reasons


def choose_backend(config: AppConfig, checkpoint: Checkpoint) -> Backend:
    """Choose what computes talker, code predictor and codec, once for a replica.

    The choice is the same for all batch sizes, since a stream's codes must not depend on the other streams in the
    batch. It does not depend on measurements, since codes must not depend on the replica.

    Raises:
        CheckpointError: int8 or int4 is configured, but not supported here; or a bfloat16 codec on a CPU.
    """
    wanted, on_cpu = config.model.weights, checkpoint.device.type == "cpu"
    bfloat16 = checkpoint.dtype == torch.bfloat16
    if on_cpu and checkpoint.codec_dtype != torch.float32:
        raise CheckpointError("model.codec_dtype is 'bfloat16', which needs a GPU; allowed on a CPU: 'auto', 'float32'")
    if wanted == "torch":
        log.info("torch computes talker, code predictor and codec, because model.weights is 'torch'")
        return TorchBackend()
    if wanted == "plain":
        return CpuBackend(lossless(checkpoint.dtype)) if on_cpu else _gpu_backend(checkpoint.device, checkpoint.dtype)
    if not (on_cpu and bfloat16):
        raise CheckpointError(
            f"model.weights is {wanted!r}, which needs a CPU and bfloat16; this is {checkpoint.description}"
        )
    log.info("rounded weights are multiplied by %s", this_cpus())
    return CpuBackend(WeightFormat(wanted))


def _gpu_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend on a GPU: our own kernels if they can be compiled, for bfloat16."""
    if dtype != torch.bfloat16:
        name = str(dtype).removeprefix("torch.")
        log.warning("slower and not batch-invariant: torch computes, because our kernels read bfloat16, not %s", name)
        return TorchBackend()
    missing = what_is_missing(device)
    if missing is None:
        from serve_app.model.backends.cuda.cuda_backend import CudaBackend  # noqa: PLC0415 - CPU wheels have no Triton

        return CudaBackend()
    log.warning("slower and not batch-invariant: kernels cannot be compiled, because %s", missing)
    return TorchBackend()


@torch.inference_mode()
def use_graphs(
    runner: TorchRunner, checkpoint: Checkpoint, settings: EngineConfig, capture: Callable[[Captured], Captured]
) -> None:
    """Capture every step as a CUDA graph; keep the graphs only if they pass a probe.

    The graphs' results must equal those of uncaptured steps in the same shapes. The plain steps cannot be compared:
    they use other shapes, for which bfloat16 rounds differently and samples other codes.
    """
    began_s = time.monotonic()
    graphs = GraphedSteps(runner.steps, runner.slots, settings.max_positions, capture)
    shape = SamplingShape(
        checkpoint.talker_sampling.kept(runner.talker.vocabulary),
        checkpoint.predictor_sampling.kept(runner.predictor.vocabulary),
    )
    captured = graphs.capture_all(shape, settings.audio_chunk_max_frames)
    shapes = [each for each in graphs.prompt_shapes if each[1] + _PROBE_PREFIX <= settings.max_positions]
    runner.use_graphs(GraphedSteps(runner.steps, runner.slots, settings.max_positions, lambda step: step))
    plain_codes, plain_pcm = _probe(runner, "plain", shapes)
    runner.use_graphs(graphs)
    codes, pcm = _probe(runner, "captured", shapes)
    if np.array_equal(codes, plain_codes) and np.allclose(pcm, plain_pcm, atol=1e-2):
        took_s, longest = time.monotonic() - began_s, graphs.longest_prompt
        log.info("captured %d CUDA graphs in %.1f s, for prompts of up to %d positions", captured, took_s, longest)
        return
    runner.use_graphs(None)
    runner.graph_fallbacks += 1
    log.warning(
        "slower: CUDA graphs are off, because only %.1f %% of their codes in the probe equal those of plain steps",
        100 * float(np.mean(codes == plain_codes)),
    )


def _probe(
    runner: TorchRunner, run: str, shapes: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Codes and audio of a few frames of streams that start one after the other, then of some that start together.

    Those that start together have prompts of different lengths, behind constant parts of different lengths. A graph
    pads their number with rows of the spare slot. They start twice, the second time in other slots, so that a step that
    reads what an earlier stream left gives other codes. Then comes one prefill of each shape, and a frame after it.

    Args:
        runner: all of its slots are free.
        run: names this run, whose prompts share no cached parts with those of another run.
        shapes: number and length of the prompts of each captured prefill.
    """
    table, groups = runner.prompts.codes.table, runner.prompts.codes.groups
    spoken = (np.arange(20 * groups, dtype=np.int16) * 7 % 32).reshape(-1, groups)
    silent = Loudness(SILENT_LUFS, 0.0)
    alone = VoicePrompt("probe", f"{run}, alone", np.zeros(table.shape[1], np.float32), None, None, silent)
    cloned = replace(alone, digest=f"{run}, cloned", codes=spoken[:8], transcript="One.")
    together = [("One.", alone, None), ("Two, and a bit.", cloned, spoken), ("Three.", alone, spoken[:3])]
    together = together[: runner.slots]

    def prepared(text: str, voice: VoicePrompt, delivered: NDArray[np.int16] | None = None) -> Prepared:
        request = SpeechRequest(text, "probe", seed=len(text), delivered_codes=delivered, prompt=runner.layouts[0])
        return runner.prepare(request, voice)

    codes: list[NDArray[np.int16]] = []
    pcm: list[NDArray[np.float32]] = []

    def speak(slots: list[int]) -> None:
        for _ in range(_PROBE_FRAMES):
            codes.append(runner.sample_frame(slots).codes.ravel())
            runner.talker_step(slots)

    def end(slots: list[int]) -> None:
        for slot in slots:
            pcm.append(runner.decode([slot], _PROBE_FRAMES))
            runner.release(slot)

    slots = list(range(len(together)))
    for slot, (text, voice, _) in enumerate(together):
        runner.prefill([slot], [prepared(text, voice)])
        speak(slots[: slot + 1])
    end(slots)
    for order in (slots, slots[1:] + slots[:1]):
        runner.prefill(order, [prepared(*each) for each in together])
        speak(order)
        end(order)
    for count, length in shapes:
        slots = list(range(count))
        # Behind the constant part of this voice's prompt come one position and the delivered frames.
        frames = (np.arange(count)[:, None, None] + np.arange(length * groups).reshape(1, length, groups) * 7) % 32
        heard = [each[slot % length + 1 :].astype(np.int16) for slot, each in enumerate(frames)]
        runner.prefill(slots, [prepared("One.", alone, each if len(each) else None) for each in heard])
        codes.append(runner.sample_frame(slots).codes.ravel())
        for slot in slots:
            runner.release(slot)
    return np.concatenate(codes), np.concatenate(pcm)
