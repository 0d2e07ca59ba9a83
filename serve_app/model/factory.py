"""Puts checkpoint, runner and engine together: what a generator replica holds."""

import logging
import threading
import time
from dataclasses import dataclass

import torch

from serve_app.config import AppConfig
from serve_app.engine.engine import Engine
from serve_app.errors import SpeechError, error_of_code
from serve_app.model.checkpoint import Checkpoint, load_checkpoint
from serve_app.model.linear import WeightForm
from serve_app.model.runner import TorchRunner
from serve_app.speech import Sampling, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voices import Reference, VoicePrompt

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Speaker:
    """A model that can be spoken with."""

    engine: Engine
    runner: TorchRunner
    checkpoint: Checkpoint

    @property
    def random_weights(self) -> bool:
        """What it says is noise, not speech."""
        return self.checkpoint.random_weights

    @property
    def description(self) -> str:
        """What was loaded, in words."""
        return self.checkpoint.description

    @property
    def fingerprint(self) -> str:
        """Changes with everything that a voice prompt depends on."""
        return self.checkpoint.fingerprint

    def encode(self, reference: Reference) -> VoicePrompt:
        """Make a voice prompt from a reference clip."""
        return self.checkpoint.encode(reference)

    def warm_up(self, voice: VoicePrompt) -> None:
        """Speak one short sentence through the running engine and wait for its end.

        Raises:
            SpeechError: it did not come out.
        """
        began_s = time.monotonic()
        request = SpeechRequest("Ready.", voice.voice, seed=1, sampling=Sampling(), listening=False)
        done = threading.Event()
        ends: list[SpeechEnd] = []

        def deliver(event: SpeechEvent) -> None:
            if isinstance(event, SpeechEnd):
                ends.append(event)
                done.set()
            else:
                stream.consumed(len(event.codes))

        stream = self.engine.submit(self.runner.prepare(request, voice), deliver)
        done.wait()
        (end,) = ends
        if end.finish_reason == "error":
            raise error_of_code(end.code or SpeechError.code, f"the warm-up sentence failed: {end.message}")
        log.info("warm-up: %d frames in %.2f s", end.frames, time.monotonic() - began_s)


def load_speaker(config: AppConfig) -> Speaker:
    """Load the configured checkpoint and build an engine over it; the engine is not started yet.

    Raises:
        CheckpointError: the checkpoint cannot be had.
    """
    if config.model.threads is not None:
        torch.set_num_threads(config.model.threads)
    checkpoint = load_checkpoint(config.model)
    settings = config.engine
    if checkpoint.random_weights:
        settings = settings.model_copy(update={"stall_guard_s": None})
    if checkpoint.device.type == "cuda" and 0 < config.generator.num_gpus < 1:
        torch.cuda.set_per_process_memory_fraction(config.generator.num_gpus)
    runner = TorchRunner(checkpoint, settings, weight_form(config, checkpoint))
    return Speaker(Engine(runner, settings), runner, checkpoint)


def weight_form(config: AppConfig, checkpoint: Checkpoint) -> WeightForm:
    """The form of talker and code predictor weights that fits the configuration and the device."""
    if checkpoint.device.type != "cpu" or checkpoint.dtype != torch.bfloat16:
        return "plain"
    return "int8" if config.model.weights == "int8" else "packed"
