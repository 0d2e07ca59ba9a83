"""Assembles a checkpoint that ``Qwen3TTSModel.from_pretrained`` loads.

python -m training.checkpoint STATE OUT: uses the running means of all parts in STATE. With --unfinished, an untrained
part keeps its initial values, so that its speed can be measured. With --talkers, the talker's weights are the mean of
several checkpoints of one training, which errs less than each of them.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from qwen_tts.core.models.configuration_qwen3_tts import Qwen3TTSConfig
from qwen_tts.core.models.modeling_qwen3_tts import Qwen3TTSForConditionalGeneration
from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Config
from qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Model
from safetensors.torch import save_file
from torch import Tensor, nn

from training import codes, decoder, shapes, speaker, talker
from training.codes import Codebooks
from training.encoder import Labeller

GENERATION = {
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,  # a sustained sound repeats its code
    "subtalker_dosample": True,
    "subtalker_temperature": 0.1,  # the likeliest sound is the mean of what is possible
    "subtalker_top_k": 50,
    "subtalker_top_p": 1.0,
    "max_new_tokens": 2048,
}
PREPROCESSOR = {
    "feature_extractor_type": "EncodecFeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 24000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "chunk_length_s": None,
    "overlap": None,
}


def main() -> None:
    """Write the checkpoint and print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("out", type=Path, help="output directory; created if missing, its files are replaced")
    parser.add_argument("--unfinished", action="store_true", help="allow missing parts")
    parser.add_argument("--talkers", nargs="+", default=["last.pt"], help="files in STATE/talker; default: last.pt")
    options = parser.parse_args()
    steps = assemble(options.state, options.out, options.talkers, unfinished=options.unfinished)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.1f} MB, trained for {steps} steps")


def assemble(
    state: Path, out: Path, talkers: Sequence[str] = ("last.pt",), *, unfinished: bool = False
) -> dict[str, int]:
    """Write the checkpoint's files; returns the number of training steps of each part.

    Args:
        state: the training state.
        out: the checkpoint's directory.
        talkers: names of the talker's checkpoints, whose mean is taken.
        unfinished: allow missing parts.
    """
    (out / "speech_tokenizer").mkdir(parents=True, exist_ok=True)
    codebooks = Codebooks.load(codes.path_of(state))
    talker.prepare_text(state)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (out / file).write_bytes((state / "text" / file).read_bytes())
    _write_json(out / "config.json", shapes.language_model())
    _write_json(out / "generation_config.json", GENERATION)
    _write_json(out / "speech_tokenizer" / "config.json", shapes.codec())
    _write_json(out / "speech_tokenizer" / "preprocessor_config.json", PREPROCESSOR)

    steps: dict[str, int] = {}

    def trained(name: str, module: nn.Module, files: Sequence[str] = ("last.pt",)) -> nn.Module:
        steps[name] = _take([state / name / file for file in files], module, optional=unfinished)
        return module

    root = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**copy.deepcopy(shapes.language_model())))
    root.talker.load_state_dict(trained("talker", talker.build(0), talkers).state_dict())
    root.speaker_encoder.load_state_dict(trained("speaker", speaker.Speaker()).encoder.state_dict())
    _write_tensors(out / "model.safetensors", root.state_dict(), torch.bfloat16)

    codec = Qwen3TTSTokenizerV2Model(Qwen3TTSTokenizerV2Config(**shapes.codec()))
    codec.decoder.load_state_dict(trained("decoder", decoder.build(codebooks, 0)).state_dict())
    labeller = trained("encoder", Labeller(codebooks))
    labeller.set_codebooks()
    codec.encoder.load_state_dict(labeller.encoder.state_dict())
    # Loaders convert it to the requested dtype; float16 changes samples by a thousandth of their size.
    _write_tensors(out / "speech_tokenizer" / "model.safetensors", codec.state_dict(), torch.float16)
    return steps


def _take(paths: Sequence[Path], module: nn.Module, *, optional: bool) -> int:
    """Load the mean of some runs' mean weights into ``module``; returns the largest number of their steps."""
    if optional and not paths[0].exists():
        return 0
    kept = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    module.load_state_dict({name: _mean([each["mean"][name] for each in kept]) for name in kept[0]["mean"]})
    return max(each["step"] for each in kept)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack([each.float() for each in tensors]).mean(0)


def _write_json(path: Path, tree: dict) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _write_tensors(path: Path, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    kept = {name: tensor.detach().to(dtype).contiguous().clone() for name, tensor in tensors.items()}
    save_file(kept, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable only by its owner


if __name__ == "__main__":
    main()
