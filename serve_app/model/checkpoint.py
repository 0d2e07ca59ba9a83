"""Loads and describes a checkpoint, and encodes reference audio with it.

It loads the configured checkpoint or fails; it never falls back to another model.
"""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import soxr
import torch
from safetensors import safe_open

from serve_app.audio.loudness import loudness_of
from serve_app.config import MAX_FRAMES_AHEAD, SAMPLE_RATE_HZ, ModelConfig, PromptLayout
from serve_app.errors import VoiceInvalidError
from serve_app.model import random_checkpoint
from serve_app.model.locate import DEMO, CheckpointError, locate
from serve_app.model.sampling import SamplingParams
from serve_app.model.upstream import Upstream, import_qwen_tts
from serve_app.voices.voice import ImportedVoice, Reference, VoicePrompt, other_encoders
from serve_app.weights import NOTICES, Weights

log = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WORDS: dict[Weights, str] = {
    "random": "random weights: noise, not speech",
    "demo": "a small demonstration voice",
    "trained": "trained weights",
}


@dataclass(frozen=True, slots=True)
class AlignmentHead:
    """A head of the talker that looks at the text which is spoken, for word times.

    Attributes:
        layer: its layer.
        head: its number among the layer's query heads.
        frames_ahead: by how many frames it attends to a token before the token is heard.
    """

    layer: int
    head: int
    frames_ahead: int


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
        fingerprint: differs between checkpoints whose voice prompts differ.
        encoders: digest of the weights that make voice prompts; the same in every number format.
        layouts: where it was trained to get a text, the preferred layout first.
        alignment_head: the head of the talker that looks at the text that is spoken; None if none is known.
        talker_sampling: the checkpoint's sampling defaults for codebook 0.
        predictor_sampling: the checkpoint's sampling defaults for codebooks 1 to 15.
    """

    upstream: Upstream
    device: torch.device
    dtype: torch.dtype
    codec_dtype: torch.dtype
    weights: Weights
    description: str
    fingerprint: str
    encoders: str
    layouts: tuple[PromptLayout, ...]
    alignment_head: AlignmentHead | None
    talker_sampling: SamplingParams
    predictor_sampling: SamplingParams

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
        """Make a voice prompt: the speaker embedding, the loudness, and codes if the transcript is known.

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
            loudness=loudness_of(reference.pcm, reference.sample_rate_hz),
        )

    def accept(self, imported: ImportedVoice) -> VoicePrompt:
        """Return the prompt of an imported voice, which takes the place of :meth:`encode`.

        Raises:
            VoiceInvalidError: other weights made it, or it does not fit this checkpoint.
        """
        prompt = imported.prompt
        if imported.encoders != self.encoders:
            raise VoiceInvalidError(other_encoders(imported.encoders, self.encoders))
        width: int = self.model.config.talker_config.hidden_size
        codebook: int = self.model.speech_tokenizer.model.config.decoder_config.codebook_size
        if len(prompt.speaker_embedding) != width:
            raise VoiceInvalidError(
                f"its speaker embedding has {len(prompt.speaker_embedding)} values; allowed: {width}"
            )
        codebooks: int = self.model.config.talker_config.num_code_groups
        if prompt.codes is not None and prompt.codes.shape[1] != codebooks:
            raise VoiceInvalidError(f"it has {prompt.codes.shape[1]} codes per frame; allowed: {codebooks}")
        if prompt.codes is not None and prompt.codes.max() >= codebook:
            raise VoiceInvalidError(f"it has the code {prompt.codes.max()}; allowed: 0 to {codebook - 1}")
        return prompt


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
    qwen_tts = import_qwen_tts()
    try:
        upstream = qwen_tts.Qwen3TTSModel.from_pretrained(
            str(directory),
            dtype=dtype,
            device_map=str(device),
            attn_implementation=attention_of(device, dtype),
        )
        if codec_dtype != dtype:
            codec = qwen_tts.Qwen3TTSTokenizer.from_pretrained(
                str(directory / "speech_tokenizer"), dtype=codec_dtype, device_map=str(device)
            )
            upstream.model.load_speech_tokenizer(codec)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint in {directory} cannot be loaded: {error}") from error
    talker_sampling, predictor_sampling = _default_sampling(upstream.model.generate_config)
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
        fingerprint=_fingerprint(directory, dtype, codec_dtype),
        encoders=_encoders(directory),
        layouts=layouts_of(getattr(upstream.model.config, "prompt_layouts", None)),
        alignment_head=_alignment_head(config, upstream.model.config),
        talker_sampling=talker_sampling,
        predictor_sampling=predictor_sampling,
    )


def layouts_of(given: object) -> tuple[PromptLayout, ...]:
    """The text layouts that a checkpoint knows, from ``prompt_layouts`` in its ``config.json``; all if it has none.

    The release's checkpoints know both and do not have the field. A checkpoint makes noise of a layout that it was not
    trained with.

    Raises:
        CheckpointError: the field does not list layouts.
    """
    known = get_args(PromptLayout)
    if given is None:
        return known
    if not isinstance(given, list) or not given or any(each not in known for each in given):
        raise CheckpointError(f"prompt_layouts in config.json is {given!r}; allowed: a list of {', '.join(known)}")
    return tuple(given)


def _alignment_head(config: ModelConfig, upstream: Upstream) -> AlignmentHead | None:
    """The head that the service's configuration names, else the checkpoint's ``config.json``."""
    if config.alignment_head is not None:
        given = config.alignment_head.model_dump()
        return alignment_head_of(given, upstream.talker_config, where="the service's configuration (model)")
    return alignment_head_of(getattr(upstream, "alignment_head", None), upstream.talker_config)


def alignment_head_of(given: object, talker: Upstream, where: str = "config.json") -> AlignmentHead | None:
    """Read ``alignment_head`` of a checkpoint's ``config.json``; None if it has none, as the release's checkpoints.

    Args:
        given: the field's value.
        talker: the talker's configuration.
        where: where the field is, for the error.

    Raises:
        CheckpointError: the field does not name a head of the talker.
    """
    if given is None:
        return None
    limits = {
        "layer": talker.num_hidden_layers,
        "head": talker.num_attention_heads,
        "frames_ahead": MAX_FRAMES_AHEAD + 1,
    }
    fields = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    head = {name: value for name, value in fields.items() if type(value) is int and 0 <= value < limits.get(name, 0)}
    if not head.keys() == fields.keys() == limits.keys():
        allowed = ", ".join(f"{name} from 0 to {limit - 1}" for name, limit in limits.items())
        raise CheckpointError(f"alignment_head in {where} is {given!r}; allowed: an object with {allowed}")
    return AlignmentHead(**head)


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


def attention_of(device: torch.device, dtype: torch.dtype) -> str:
    """Choose the attention of upstream's modules, which encode voices; log why it is not flash-attn on a GPU."""
    if device.type == "cpu":
        return "sdpa"
    if dtype != torch.bfloat16:
        why = f"the model is loaded in {str(dtype).removeprefix('torch.')}"
    elif importlib.util.find_spec("flash_attn") is None:
        why = "flash-attn is not installed"
    else:
        return "flash_attention_2"
    log.info("voices are encoded with torch's attention, because %s", why)
    return "sdpa"


def _default_sampling(generation: dict[str, Any]) -> tuple[SamplingParams, SamplingParams]:
    """The checkpoint's sampling defaults; missing ones are filled in as upstream does (Qwen3TTSModel)."""
    sampled, predictor_sampled = generation.get("do_sample", True), generation.get("subtalker_dosample", True)
    talker = SamplingParams(
        temperature=generation.get("temperature", 0.9) if sampled else 0.0,
        top_k=generation.get("top_k", 50),
        top_p=generation.get("top_p", 1.0),
        repetition_penalty=generation.get("repetition_penalty", 1.05),
    )
    predictor = SamplingParams(
        temperature=generation.get("subtalker_temperature", 0.9) if predictor_sampled else 0.0,
        top_k=generation.get("subtalker_top_k", 50),
        top_p=generation.get("subtalker_top_p", 1.0),
    )
    return talker, predictor


_BLOCKS, _BLOCK_BYTES = 64, 1 << 14


def _fingerprint(directory: Path, dtype: torch.dtype, codec_dtype: torch.dtype) -> str:
    """Twenty hex digits of a hash over the configuration files, and the size and samples of every weight file.

    The samples are the first MiB, which has the names of the tensors, and blocks at equal distances to the end, so that
    further training of any part changes the fingerprint. Both number formats count: the speaker encoder computes in the
    first, and the codec's encoder in the second.
    """
    digest = hashlib.sha256(f"{dtype}, codec {codec_dtype}".encode())
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


_ENCODERS = ((".", "speaker_encoder."), ("speech_tokenizer", "encoder."))
"""Where the weights that encode a clip are: a directory, and the beginning of their names."""


def _encoders(directory: Path) -> str:
    """Twenty hex digits of a hash over the weights of the speaker encoder and the codec's encoder, as they are stored.

    Checkpoints with the same digest make the same voice prompts from a clip, up to the number format.
    """
    digest = hashlib.sha256()
    for folder, prefix in _ENCODERS:
        for path in sorted((directory / folder).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in sorted(name for name in file.keys() if name.startswith(prefix)):  # noqa: SIM118 - no mapping
                    tensor = file.get_tensor(name)
                    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
                    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:20]
