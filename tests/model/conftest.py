"""The tiny checkpoint, loaded once for all model tests, and qwen-tts's own answers to compare with."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from named_backends import make_backend

from serve_app.config import EngineConfig, ModelConfig
from serve_app.model.checkpoint import load_checkpoint
from serve_app.model.runner import TorchRunner
from serve_app.model.upstream import import_qwen_tts
from serve_app.voices.voice import Reference, scan

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which is later than here

VOICES = Path(__file__).parents[2] / "voices"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint():
    return load_checkpoint(ModelConfig(source="tiny", device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def voices(checkpoint):
    return voices_of(checkpoint)


def voices_of(checkpoint):
    """A voice of each mode, and a second one in context whose clip is a part of the first's."""
    (found,) = [voice for voice in scan(VOICES) if voice.reference is not None]
    # The whole clip as it lies there: what is cut off it before it is encoded is no model's business.
    pcm, rate_hz = sf.read(VOICES / "austen" / found.manifest.audio, dtype="float32")
    austen = Reference("austen", pcm, rate_hz, found.manifest.transcript, "austen")
    alone = Reference("xvector", austen.pcm, austen.sample_rate_hz, None, "xvector")
    short = Reference(
        "short", austen.pcm[: 3 * austen.sample_rate_hz], austen.sample_rate_hz, "Had he married.", "short"
    )
    return {reference.voice: checkpoint.encode(reference) for reference in (austen, alone, short)}


@pytest.fixture(scope="session")
def wide_checkpoint():
    """One whose talker is wider than its code predictor, as in the release's larger model."""
    return load_checkpoint(ModelConfig(source="tiny-1.7b", device="cpu", dtype="float32"))


@pytest.fixture(scope="session")
def wide_voices(wide_checkpoint):
    return voices_of(wide_checkpoint)


@pytest.fixture(scope="session")
def demo():
    """The demonstration checkpoint, which has an alignment head."""
    return load_checkpoint(ModelConfig(source="demo", device="cpu"))


@pytest.fixture(scope="session")
def demo_voices(demo):
    return voices_of(demo)


@pytest.fixture(scope="session")
def wide_upstream_codes(wide_checkpoint):
    return upstream_codes_of(wide_checkpoint)


@pytest.fixture(scope="session")
def runner(checkpoint):
    return TorchRunner(checkpoint, EngineConfig(slots=10), make_backend("packed"))


@pytest.fixture(scope="session")
def plain_runner(checkpoint):
    """One with torch's own products, as in float32 on a GPU."""
    return TorchRunner(checkpoint, EngineConfig(slots=10), make_backend("plain"))


@pytest.fixture(scope="session")
def bfloat16_checkpoint():
    return load_checkpoint(ModelConfig(source="tiny", device="cpu", dtype="bfloat16"))


@pytest.fixture(scope="session", params=["float32", "int8", "bfloat16"])
def exact_runner(checkpoint, bfloat16_checkpoint, request):
    """One whose streams' codes depend on nobody else, to the last bit."""
    backend = "int8" if request.param == "int8" else "packed"
    taken = checkpoint if request.param == "float32" else bfloat16_checkpoint
    return TorchRunner(taken, EngineConfig(slots=10), make_backend(backend, taken.dtype))


@pytest.fixture(scope="session")
def upstream_codes(checkpoint):
    return upstream_codes_of(checkpoint)


def upstream_codes_of(checkpoint):
    """``(text, language, voice, frames, layout) -> [F, 16]``: greedy codes of qwen-tts's own ``generate``, kept."""
    item_of = import_qwen_tts().VoiceClonePromptItem
    known = {}

    def generate(text, language, voice, frames, layout="streaming"):
        key = (text, language, voice.voice, frames, layout)
        if key not in known:
            item = item_of(
                ref_code=None if voice.codes is None else torch.from_numpy(voice.codes.astype(np.int64)),
                ref_spk_embedding=torch.from_numpy(voice.speaker_embedding),
                x_vector_only_mode=voice.codes is None,
                icl_mode=voice.codes is not None,
                ref_text=voice.transcript,
            )
            upstream = checkpoint.upstream
            reference = None
            if voice.transcript is not None:
                reference = [upstream._tokenize_texts([upstream._build_ref_text(voice.transcript)])[0]]
            codes, _ = checkpoint.model.generate(
                input_ids=upstream._tokenize_texts([upstream._build_assistant_text(text)]),
                ref_ids=reference,
                voice_clone_prompt=upstream._prompt_items_to_voice_clone_prompt([item]),
                languages=[language],
                non_streaming_mode=layout == "whole",
                do_sample=False,
                subtalker_dosample=False,
                repetition_penalty=1.05,
                max_new_tokens=frames + 1,
            )
            known[key] = codes[0].numpy()
        return known[key]

    return generate
