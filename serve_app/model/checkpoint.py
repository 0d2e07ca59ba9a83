"""Loads and describes a checkpoint, and encodes reference audio with it.

It loads the configured checkpoint or fails; it never falls back to another model.
"""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import soxr
import torch

from serve_app.config import SAMPLE_RATE_HZ, ModelConfig
from serve_app.model import random_checkpoint
from serve_app.model.locate import DEMO, CheckpointError, locate
from serve_app.model.sampling import Draw
from serve_app.model.upstream import Upstream, import_qwen_tts
from serve_app.voices.voice import Reference, VoicePrompt
from serve_app.weights import NOTICES, Weights

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WORDS: dict[Weights, str] = {
    "random": "random weights: noise, not speech",
    "demo": "a small demonstration voice",
    "trained": "trained weights",
}


@dataclass(slots=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        upstream: qwen-tts's own ``Qwen3TTSModel``; it encodes references, and our steps take their weights from it.
        device: device of the weights.
        dtype: dtype of talker and code predictor.
        codec_dtype: dtype of the codec decoder.
        weights: where the weights come from.
        description: a description for people.
        fingerprint: changes with everything that a voice prompt depends on.
        talker_draw: the checkpoint's sampling defaults for codebook 0.
        predictor_draw: the checkpoint's sampling defaults for codebooks 1 to 15.
    """

    upstream: Upstream
    device: torch.device
    dtype: torch.dtype
    codec_dtype: torch.dtype
    weights: Weights
    description: str
    fingerprint: str
    talker_draw: Draw
    predictor_draw: Draw

    @property
    def model(self) -> Upstream:
        """Upstream's ``Qwen3TTSForConditionalGeneration``."""
        return self.upstream.model

    def drop_generation(self) -> None:
        """Free upstream's layers of talker, code predictor and codec decoder; keeps what encodes references.

        Our steps hold the same weights in another layout.
        """
        talker = self.model.talker
        talker.model.layers = talker.code_predictor.model.layers = talker.code_predictor.lm_head = None
        talker.code_predictor.model.codec_embedding = talker.model.codec_embedding = None
        self.model.speech_tokenizer.model.decoder = None

    def encode(self, reference: Reference) -> VoicePrompt:
        """Make a voice prompt: the speaker embedding, and codes if the transcript is known.

        Source: qwen-tts 0.1.1, Qwen3TTSModel.create_voice_clone_prompt. Upstream would resample with librosa, which
            calls the same soxr after seconds of imports.
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
    """Load the configured checkpoint onto the configured device, in the configured number format.

    Args:
        config: the model's configuration.
        directory: result of :func:`locate`; None to call it here.

    Raises:
        NotYetError: the checkpoint is not there yet.
        CheckpointError: it cannot be loaded, or is not a Qwen3-TTS base model with the 12 Hz codec.
    """
    directory = directory or locate(config)
    if directory is None:
        directory = random_checkpoint.ensure(cast("random_checkpoint.Name", config.source))
    device = _device(config)
    weights = origin(directory)
    small = weights == "demo" or (weights == "random" and config.source.startswith("tiny"))
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
        raise CheckpointError(f"the checkpoint in {directory} cannot be loaded: {error}") from error
    talker_draw, predictor_draw = _draws(upstream.model.generate_config)
    number_format = str(dtype).removeprefix("torch.")
    description = f"{config.source} ({_WORDS[weights]}; {device}, {number_format})"
    log.info("loaded %s", description)
    if NOTICES[weights]:
        log.info("%s", NOTICES[weights])
    return Checkpoint(
        upstream=upstream,
        device=device,
        dtype=dtype,
        codec_dtype=codec_dtype,
        weights=weights,
        description=description,
        fingerprint=_fingerprint(directory, dtype),
        talker_draw=talker_draw,
        predictor_draw=predictor_draw,
    )


def origin(directory: Path) -> Weights:
    """Where the weights of a checkpoint come from."""
    if random_checkpoint.is_random(directory):
        return "random"
    return "demo" if directory.resolve() == DEMO.resolve() else "trained"


def _device(config: ModelConfig) -> torch.device:
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(
            "model.device is 'cuda', but torch finds no GPU on this machine; 'auto' or 'cpu' would use the CPU"
        )
    return torch.device(config.device)


def _draws(generation: dict[str, Any]) -> tuple[Draw, Draw]:
    """The checkpoint's sampling defaults; missing ones are filled in as upstream does (Qwen3TTSModel)."""
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


_BLOCKS, _BLOCK_BYTES = 64, 1 << 14


def _fingerprint(directory: Path, dtype: torch.dtype) -> str:
    """Twenty hex digits of a hash over the configuration files, and the size and samples of every weight file.

    The samples are the first MiB, which has the names of the tensors, and blocks at equal distances to the end, so that
    a checkpoint whose training went on in some of its parts has another fingerprint.
    """
    digest = hashlib.sha256(str(dtype).encode())
    for path in sorted(directory.rglob("*.json")):
        digest.update(json.dumps(str(path.relative_to(directory))).encode() + path.read_bytes())
    for path in sorted(directory.rglob("*.safetensors")):
        with path.open("rb") as file:
            size = path.stat().st_size
            digest.update(f"{path.relative_to(directory)} {size}".encode() + file.read(1 << 20))
            for number in range(_BLOCKS):
                file.seek(size * number // _BLOCKS)
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:20]
