"""Builds a generator replica's model: checkpoint, runner and engine."""

import gc
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.config import AppConfig, EngineConfig
from serve_app.engine.engine import Engine
from serve_app.errors import SpeechError, error_of_code
from serve_app.model import memory
from serve_app.model.backends.cpu.cpu_backend import CpuBackend
from serve_app.model.backends.cpu.instructions import this_cpus, vector_units
from serve_app.model.backends.cuda.requirements import what_is_missing
from serve_app.model.backends.protocol import Backend
from serve_app.model.backends.torch.torch_backend import TorchBackend
from serve_app.model.backends.weight_format import WeightFormat, lossless
from serve_app.model.checkpoint import Checkpoint, load_checkpoint
from serve_app.model.graphs import Captured, CudaGraphs, GraphedSteps
from serve_app.model.locate import CheckpointError
from serve_app.model.runner import TorchRunner
from serve_app.model.steps import Choice
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.startup import NotYetError, Verdict
from serve_app.voices.voice import Reference, VoicePrompt
from serve_app.weights import Weights

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LoadedModel:
    """A loaded model with its engine."""

    engine: Engine
    runner: TorchRunner
    checkpoint: Checkpoint
    backend: Backend

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
        """Changes with everything that a voice prompt depends on."""
        return self.checkpoint.fingerprint

    @property
    def rendering(self) -> str:
        """Equal on replicas that compute the same samples for the same request; see :class:`AudioChunk`."""
        graphs = "" if self.runner.graph_fallbacks == 0 else " without graphs"
        codec = str(self.checkpoint.codec_dtype).removeprefix("torch.")
        return f"{self.fingerprint} {self.backend.label}, codec {codec}, {self._processor}{graphs}"

    @property
    def _processor(self) -> str:
        """The kind of processor, which decides the order of sums and how they are rounded."""
        device = self.checkpoint.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else vector_units()

    def encode(self, reference: Reference) -> VoicePrompt:
        """Make a voice prompt from a reference clip."""
        return self.checkpoint.encode(reference)

    def warm_up(self, voice: VoicePrompt) -> None:
        """Speak one short sentence through the running engine and wait for its end.

        Raises:
            SpeechError: the sentence failed.
        """
        began_s = time.monotonic()
        request = SpeechRequest("Ready.", voice.voice, seed=1, listening=False)
        events: SimpleQueue[SpeechEvent] = SimpleQueue()
        stream = self.engine.submit(self.runner.prepare(request, voice), events.put)
        while not isinstance(end := events.get(), SpeechEnd):
            stream.consumed(len(end.codes))
        if end.finish_reason == "error":
            raise error_of_code(end.code or SpeechError.code, f"the warm-up sentence failed: {end.message}")
        log.info("warm-up: %d frames in %.2f s", end.frames, time.monotonic() - began_s)


def load_speaker(config: AppConfig, directory: Path | None = None, *, keep_upstream: bool = False) -> LoadedModel:
    """Load the configured checkpoint and build an engine for it; the engine is not started.

    Args:
        config: the application's configuration.
        directory: the checkpoint's directory, if it is already known.
        keep_upstream: keep upstream able to generate, for comparisons; its weights are then in memory twice.

    Raises:
        NotYetError: the checkpoint is not there yet, or other processes hold the GPU's memory.
        CheckpointError: the checkpoint cannot be loaded.
    """
    try:
        return _load_speaker(config, directory, keep_upstream=keep_upstream)
    except RuntimeError as error:  # torch raises nothing more specific if a device has no memory for a context
        if config.model.device == "cpu" or not torch.cuda.is_available() or not memory.ran_out(str(error)):
            raise
        verdict = _judge_memory(config.generator.num_gpus)
        if verdict.state == "never":
            raise CheckpointError(f"{verdict.why} ({error})") from error
    # Free what was loaded, now that nothing refers to it: other processes may wait for memory too.
    gc.collect()
    torch.cuda.empty_cache()
    raise NotYetError("GPU memory", verdict.why, look_again_s=memory.LOOK_AGAIN_S)


def _judge_memory(share: float) -> Verdict:
    """Why this process's GPU memory was not enough; call this before anything is freed."""
    try:
        free, total = torch.cuda.mem_get_info()
    except RuntimeError:
        return memory.NO_CONTEXT
    return memory.judge(free, total, torch.cuda.memory_reserved(), share)


def _load_speaker(config: AppConfig, directory: Path | None, *, keep_upstream: bool) -> LoadedModel:
    # Ray starts its workers with as many OpenMP threads as an actor reserves CPUs, which does not suit a model.
    torch.set_num_threads(config.model.threads or len(os.sched_getaffinity(0)))
    checkpoint = load_checkpoint(config.model, directory)
    settings = config.engine
    if checkpoint.weights == "random":
        settings = settings.model_copy(update={"stall_guard_s": None})
    if checkpoint.device.type == "cuda" and 0 < config.generator.num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(config.generator.num_gpus)
    backend = choose_backend(config, checkpoint)
    log.info("weight format of talker and code predictor: %s", backend.label)
    runner = TorchRunner(checkpoint, settings, backend)
    if not keep_upstream:
        checkpoint.drop_generation()
    if checkpoint.device.type == "cuda":
        use_graphs(runner, checkpoint, settings, CudaGraphs())
    return LoadedModel(Engine(runner, settings), runner, checkpoint, backend)


def choose_backend(config: AppConfig, checkpoint: Checkpoint) -> Backend:
    """Choose what computes talker, code predictor and codec, once for a replica.

    One choice serves all batch sizes, since a stream's codes must not depend on the other streams in the batch. It does
    not measure anything, since codes must not depend on the replica.

    Raises:
        CheckpointError: int8 or int4 is configured, but not supported here; or a bfloat16 codec on a CPU.
    """
    wanted, on_cpu = config.model.weights, checkpoint.device.type == "cpu"
    bfloat16 = checkpoint.dtype == torch.bfloat16
    if on_cpu and checkpoint.codec_dtype != torch.float32:
        raise CheckpointError("model.codec_dtype is 'bfloat16', which needs a GPU; allowed on a CPU: 'auto', 'float32'")
    if wanted == "torch":
        return TorchBackend()
    if wanted == "plain":
        if on_cpu:
            return CpuBackend(lossless(checkpoint.dtype))
        return _gpu_backend(checkpoint.device) if bfloat16 else TorchBackend()
    if not (on_cpu and bfloat16):
        raise CheckpointError(
            f"model.weights is {wanted!r}, which needs a CPU and bfloat16; this is {checkpoint.description}"
        )
    log.info("rounded weights are multiplied by %s", this_cpus())
    return CpuBackend(WeightFormat(wanted))


def _gpu_backend(device: torch.device) -> Backend:
    """The backend for bfloat16 on a GPU: our own kernels if they can be compiled."""
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

    The graphs' results must equal those of uncaptured steps in the same shapes. The plain steps use other shapes, for
    which bfloat16 rounds differently and draws other codes.
    """
    began_s = time.monotonic()
    graphs = GraphedSteps(runner.steps, runner.slots, settings.max_positions, capture)
    choice = Choice(checkpoint.talker_draw.top_k, checkpoint.predictor_draw.top_k)
    captured = graphs.capture_all(choice, settings.audio_chunk_max_frames)
    runner.use_graphs(GraphedSteps(runner.steps, runner.slots, settings.max_positions, lambda step: step))
    plain_codes, plain_pcm = _probe(runner)
    runner.use_graphs(graphs)
    codes, pcm = _probe(runner)
    if np.array_equal(codes, plain_codes) and np.allclose(pcm, plain_pcm, atol=1e-2):
        log.info("captured %d CUDA graphs in %.1f s", captured, time.monotonic() - began_s)
        return
    runner.use_graphs(None)
    runner.graph_fallbacks += 1
    log.warning(
        "CUDA graphs are off: only %.1f %% of their codes in the probe equal those of plain steps",
        100 * float(np.mean(codes == plain_codes)),
    )


def _probe(runner: TorchRunner) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Codes and audio of a few frames of two streams that start at different steps."""
    width = runner.prompts.codes.table.shape[1]
    voice = VoicePrompt("probe", "probe", np.zeros(width, np.float32), None, None)
    requests = [SpeechRequest(text, voice.voice, seed=seed) for seed, text in enumerate(("One.", "Two, and a bit."))]
    codes: list[NDArray[np.int16]] = []
    slots: list[int] = []
    for slot, request in enumerate(requests):
        runner.prefill([slot], [runner.prepare(request, voice)])
        slots.append(slot)
        for _ in range(4):
            codes.append(runner.predict(slots).codes.ravel())
            runner.talk(slots)
    pcm = runner.decode([0], 4)
    for slot in slots:
        runner.release(slot)
    return np.concatenate(codes), pcm
