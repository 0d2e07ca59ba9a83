"""Loading and describing a checkpoint; encoding reference audio with it.

A checkpoint comes from where the configuration says or not at all: nothing here falls back to another model.
"""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch

from serve_app.config import SAMPLE_RATE_HZ, ModelConfig
from serve_app.model import random_checkpoint
from serve_app.model.locate import CheckpointError, locate
from serve_app.model.quiet import Upstream, import_qwen_tts
from serve_app.model.sampling import Draw
from serve_app.voices.voice import Reference, VoicePrompt

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(slots=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        upstream: qwen-tts's own ``Qwen3TTSModel``; it encodes references, and gives its weights to our steps.
        device: where it lies.
        dtype: of talker and code predictor.
        codec_dtype: of the codec decoder.
        random_weights: it was built here from random numbers: what it says is noise, not speech.
        description: what was loaded, in words.
        fingerprint: changes with everything that a voice prompt depends on.
        talker_draw: the checkpoint's own defaults for codebook 0.
        predictor_draw: the same for codebooks 1 to 15.
    """

    upstream: Upstream
    device: torch.device
    dtype: torch.dtype
    codec_dtype: torch.dtype
    random_weights: bool
    description: str
    fingerprint: str
    talker_draw: Draw
    predictor_draw: Draw

    @property
    def model(self) -> Upstream:
        """Upstream's ``Qwen3TTSForConditionalGeneration``."""
        return self.upstream.model

    def drop_generation(self) -> None:
        """Free upstream's layers of talker, code predictor and codec decoder; what encodes references stays.

        Their weights live on in the steps that took them, in another order.
        """
        talker = self.model.talker
        talker.model.layers = talker.code_predictor.model.layers = talker.code_predictor.lm_head = None
        talker.code_predictor.model.codec_embedding = talker.model.codec_embedding = None
        self.model.speech_tokenizer.model.decoder = None

    def encode(self, reference: Reference) -> VoicePrompt:
        """Make a voice prompt: speaker embedding, and codes where the transcript is known.

        Source: qwen-tts 0.1.1, Qwen3TTSModel.create_voice_clone_prompt. It would resample with librosa, which hands
            the work to the same soxr after seconds of imports.
        """
        pcm = reference.pcm
        if reference.sample_rate_hz != SAMPLE_RATE_HZ:
            pcm = soxr.resample(pcm, reference.sample_rate_hz, SAMPLE_RATE_HZ, quality="HQ")
        with torch.inference_mode():
            (item,) = self.upstream.create_voice_clone_prompt(
                ref_audio=(pcm, SAMPLE_RATE_HZ),
                ref_text=reference.transcript,
                x_vector_only_mode=reference.transcript is None,
            )
        return VoicePrompt(
            voice=reference.voice,
            digest=reference.digest,
            speaker_embedding=item.ref_spk_embedding.float().cpu().numpy(),
            codes=None if item.ref_code is None else item.ref_code.cpu().numpy().astype(np.int16),
            transcript=reference.transcript,
        )


def load_checkpoint(config: ModelConfig, directory: Path | None = None) -> Checkpoint:
    """Load what the configuration names, onto the device and in the number format that it names.

    Args:
        config: what is wanted.
        directory: where :func:`locate` found it; None: it is looked for.

    Raises:
        NotYetError: it is not there yet.
        CheckpointError: it cannot be had, or is not a Qwen3-TTS base model of the 12 Hz codec.
    """
    directory = directory or locate(config)
    if directory is None:
        directory = random_checkpoint.ensure("tiny" if config.source == "tiny" else "full-random")
    device = _device(config)
    random_weights = random_checkpoint.is_random(directory)
    small = random_weights and config.source == "tiny"
    dtype = _DTYPES["float32" if small else "bfloat16"] if config.dtype == "auto" else _DTYPES[config.dtype]
    codec_dtype = _DTYPES.get(config.codec_dtype, torch.float32 if device.type == "cpu" else dtype)
    flash = device.type == "cuda" and dtype == torch.bfloat16 and importlib.util.find_spec("flash_attn") is not None
    qwen_tts = import_qwen_tts()
    try:
        upstream = qwen_tts.Qwen3TTSModel.from_pretrained(
            str(directory),
            dtype=dtype,
            device_map=str(device),
            attn_implementation="flash_attention_2" if flash else "sdpa",
        )
        if codec_dtype != dtype:
            codec = qwen_tts.Qwen3TTSTokenizer.from_pretrained(
                str(directory / "speech_tokenizer"), dtype=codec_dtype, device_map=str(device)
            )
            upstream.model.load_speech_tokenizer(codec)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint in {directory} does not load: {error}") from error
    talker_draw, predictor_draw = _draws(upstream.model.generate_config)
    weights = "random weights: noise, not speech" if random_weights else "trained weights"
    number_format = str(dtype).removeprefix("torch.")
    description = f"{config.source} ({weights}; {device}, {number_format})"
    log.info("loaded %s", description)
    return Checkpoint(
        upstream=upstream,
        device=device,
        dtype=dtype,
        codec_dtype=codec_dtype,
        random_weights=random_weights,
        description=description,
        fingerprint=_fingerprint(directory, dtype),
        talker_draw=talker_draw,
        predictor_draw=predictor_draw,
    )


def _device(config: ModelConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            "model.device is 'cuda', but torch sees no GPU here; 'auto' or 'cpu' would run on the CPU"
        )
    return torch.device(config.device)


def _draws(generation: dict[str, Any]) -> tuple[Draw, Draw]:
    """The checkpoint's sampling defaults, completed as upstream completes them (Qwen3TTSModel)."""
    sampled, predictor_sampled = generation.get("do_sample", True), generation.get("subtalker_dosample", True)
    talker = Draw(
        temperature=generation.get("temperature", 0.9) if sampled else 0.0,
        top_k=generation.get("top_k", 50),
        top_p=generation.get("top_p", 1.0),
        repetition_penalty=generation.get("repetition_penalty", 1.05),
    )
    predictor = Draw(
        temperature=generation.get("subtalker_temperature", 0.9) if predictor_sampled else 0.0,
        top_k=generation.get("subtalker_top_k", 50),
        top_p=generation.get("subtalker_top_p", 1.0),
    )
    return talker, predictor


def _fingerprint(directory: Path, dtype: torch.dtype) -> str:
    """Twenty hex digits over the configuration files, and the size and head of every weight file."""
    digest = hashlib.sha256(str(dtype).encode())
    for path in sorted(directory.rglob("*.json")):
        digest.update(json.dumps(str(path.relative_to(directory))).encode() + path.read_bytes())
    for path in sorted(directory.rglob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.relative_to(directory)} {path.stat().st_size}".encode() + file.read(1 << 20))
    return digest.hexdigest()[:20]
