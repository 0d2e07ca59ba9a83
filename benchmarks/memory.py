"""Computes the memory of one replica from the shapes of its checkpoint; loads no weights and needs no GPU.

    python benchmarks/memory.py                       # 0.6B and 1.7B, bfloat16, as configured by default
    python benchmarks/memory.py --slots 32 --positions 2048 --device cpu

The model is built on torch's device ``meta``, so the slots' figures are those of the tensors that a replica allocates.
Workspace, CUDA's context and graphs, Python and its libraries come on top.
"""

import argparse
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from serve_app.config import EngineConfig
from serve_app.model import random_checkpoint
from serve_app.model.backends.torch.torch_backend import TorchBackend
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.code_predictor import CodePredictor
from serve_app.model.codec import Codec
from serve_app.model.steps import SlotTensors
from serve_app.model.talker import Talker
from serve_app.model.upstream import Upstream, import_qwen_tts

MIB = 1 << 20
DEFAULTS = EngineConfig()
CLIP_S = 10.0
CONSTANT_POSITIONS = 50
"""Positions that all prompts of a voice share, for a clip of this length: 9 of tags, and its transcript's tokens."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one replica.

    Attributes:
        weights: by part of the model.
        slot: one slot, by content.
        voice: one cached voice with a clip of :data:`CLIP_S` and its transcript, by content.
    """

    weights: Mapping[str, int]
    slot: Mapping[str, int]
    voice: Mapping[str, int]

    def replica(self, slots: int, voices: int) -> int:
        """Bytes of a replica with some slots, its spare slot and some voices."""
        total = sum(self.weights.values()) + (slots + 1) * sum(self.slot.values())
        return total + voices * sum(self.voice.values())


def memory_of(name: str, positions: int, dtype: torch.dtype, codec_dtype: torch.dtype) -> Memory:
    """Compute the memory of a checkpoint with the shapes ``name``, of :mod:`serve_app.model.random_checkpoint`.

    Args:
        name: such as ``full-random``, which has the shapes of 0.6B.
        positions: ``engine.max_positions``.
        dtype: of talker and code predictor.
        codec_dtype: of the codec.
    """
    import_qwen_tts()
    trees = random_checkpoint._shapes(name)  # noqa: SLF001 - our own
    model = _built("models", "qwen3_tts", "Qwen3TTSForConditionalGeneration", "Qwen3TTSConfig", trees["config"], dtype)
    whole_codec = _built(
        "tokenizer_12hz", "qwen3_tts_tokenizer_v2", "Qwen3TTSTokenizerV2Model", "Qwen3TTSTokenizerV2Config",
        trees["speech_tokenizer"], codec_dtype,
    )  # fmt: skip
    return _memory(model, whole_codec, positions)


def _memory(model: Upstream, whole_codec: Upstream, positions: int) -> Memory:
    backend, meta = TorchBackend(), torch.device("meta")
    with meta:
        codes = CodeEmbedding(model.talker)
        talker = Talker(model.talker, backend, slots=1, positions=positions)
        predictor = CodePredictor(model.talker.code_predictor, codes, backend, slots=1)
        codec_dtype = next(whole_codec.parameters()).dtype
        codec = Codec(whole_codec.decoder, backend, rows=1, dtype=codec_dtype, device=meta)
        slots = SlotTensors(1, _Prompts(codes), talker, positions)
    of_stack = model.talker.model
    weights = {
        "text table and projection": _bytes(of_stack.text_embedding) + _bytes(model.talker.text_projection),
        "talker": _bytes(of_stack.layers) + _bytes(model.talker.codec_head),
        "code predictor": _bytes(model.talker.code_predictor)
        - _bytes(model.talker.code_predictor.model.codec_embedding),
        "embeddings of codes": codes.table.nbytes,
        "codec": _bytes(whole_codec.decoder),
        "encoders of clips": _bytes(whole_codec.encoder) + _bytes(model.speaker_encoder),
    }
    slot = {
        "keys and values of the talker": talker.cache.bytes_per_slot,
        "text, logits and codes": slots.bytes_per_slot,
        "keys and values of the code predictor": predictor.cache.bytes_per_slot,
        "state of the codec": codec.state_bytes_per_row,
    }
    frames = round(CLIP_S * 12.5)
    voice = {
        "constant part of the prompt": talker.cache.bytes_per_slot * CONSTANT_POSITIONS // positions,
        "reference, embedded": (1 + frames) * codes.table.shape[1] * codes.table.itemsize,
        "state of the codec": codec.state_bytes_per_row,
    }
    return Memory(weights, slot, voice)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """What :class:`SlotTensors` reads of a prompt builder."""

    codes: CodeEmbedding


def _built(package: str, module: str, model: str, config: str, tree: dict[str, Any], dtype: torch.dtype) -> Upstream:
    upstream = importlib.import_module(f"qwen_tts.core.{package}.modeling_{module}")
    make: Callable[..., Any] = getattr(upstream, model)
    with torch.device("meta"):
        return make(getattr(upstream, config)(**tree)).to(dtype)


def _bytes(module: Upstream) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def table(memories: Mapping[str, Memory], slots: int, voices: int) -> list[tuple[str, ...]]:
    """Rows of a table in MiB: a name, and a figure for each model."""
    rows: list[tuple[str, ...]] = [("MiB", *memories)]

    def row(name: str, figure: Callable[[Memory], int]) -> None:
        rows.append((name, *(f"{figure(each) / MIB:,.1f}" for each in memories.values())))

    first = next(iter(memories.values()))
    for part, title in (("weights", "weights"), ("slot", "one slot"), ("voice", "one cached voice, clip of 10 s")):
        for name in getattr(first, part):
            row(f"{title}: {name}", lambda each, part=part, name=name: getattr(each, part)[name])
        row(f"**{title}**", lambda each, part=part: sum(getattr(each, part).values()))
    row(f"**replica of {slots} slots, with {voices} voices**", lambda each: each.replica(slots, voices))
    return rows


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=DEFAULTS.slots)
    parser.add_argument("--voices", type=int, default=10, help="cached voices")
    parser.add_argument("--positions", type=int, default=DEFAULTS.max_positions)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="on a CPU the codec is float32")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    codec_dtype = torch.float32 if options.device == "cpu" else dtype
    memories = {
        label: memory_of(name, options.positions, dtype, codec_dtype)
        for label, name in (("0.6B", "full-random"), ("1.7B", "full-random-1.7b"))
    }
    for row in table(memories, options.slots, options.voices):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
