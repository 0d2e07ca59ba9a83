"""Builds and finds checkpoints with random weights; never changes a trained one."""

import argparse
import contextlib
import copy
import hashlib
import importlib
import json
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from serve_app.model import random_tokenizer, random_weights
from serve_app.model.upstream import import_qwen_tts
from serve_app.paths import user_cache

Name = Literal["tiny", "full-random", "tiny-1.7b", "full-random-1.7b"]
Tree = dict[str, Any]

_SEED = 12
_MARKER = "random_weights.json"
_RECIPE_FILES = ("shapes.json", "random_checkpoint.py", "random_tokenizer.py", "random_weights.py")

# RMS of the end-of-speech row of the head that an end code's embedding gets: enough for it to win the next frame.
_END_RMS = 2.5


def ensure(name: Name, cache: Path | None = None) -> Path:
    """Return the directory of the named checkpoint; build it first if it is missing.

    Args:
        name: ``tiny`` is built in seconds and takes 52 MB; ``full-random`` has the shapes of the release, and takes a
            minute and 2.4 GB. Those with ``-1.7b`` have the wider talker of the release's larger model.
        cache: holds one directory per name and recipe; default: ``user_cache()``.
    """
    directory = (cache or user_cache()) / f"{name}-{fingerprint()}"
    build(name, directory)
    return directory


def is_random(directory: Path) -> bool:
    """Whether the checkpoint was built here, so that its output is noise."""
    return (directory / _MARKER).is_file()


def fingerprint() -> str:
    """Twelve hex digits of a hash over everything that determines a checkpoint's bytes."""
    package = resources.files("serve_app.model")
    digest = hashlib.sha256()
    for file in _RECIPE_FILES:
        digest.update(package.joinpath(file).read_bytes())
    return digest.hexdigest()[:12]


def build(name: Name, directory: Path, *, force: bool = False) -> None:
    """Build the named checkpoint in ``directory``, unless it is already there and ``force`` is not set.

    Readers see a complete checkpoint or none. Processes that build the same one at the same time all succeed: each of
    them builds next to ``directory`` and renames.

    Raises:
        FileExistsError: the directory has another checkpoint (``force`` replaces a random one) or other files (which
            are never replaced).
    """
    wanted = _marker(name)
    found = _read_marker(directory)
    if found == wanted and not force:
        return
    if found is None and directory.exists() and any(directory.iterdir()):
        msg = f"{directory} was not built by tts-checkpoint: name a new or an empty directory"
        raise FileExistsError(msg)
    if found is not None and not force:
        msg = f"{directory} has {found}, not {wanted}: add --force to replace it"
        raise FileExistsError(msg)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=directory.parent) as workbench:
        built = Path(workbench, "new")
        built.mkdir()
        write_checkpoint(name, built)
        if force and found is not None:
            with contextlib.suppress(FileNotFoundError):  # another builder may have moved it first
                directory.rename(Path(workbench, "replaced"))
        try:
            built.rename(directory)
        except OSError:
            if _read_marker(directory) != wanted:
                raise


def write_checkpoint(name: Name, directory: Path) -> None:
    """Write all files that ``Qwen3TTSModel.from_pretrained`` reads into an existing, empty directory."""
    shapes = _shapes(name)
    language_model, codec = shapes["config"], shapes["speech_tokenizer"]
    codec_directory = directory / "speech_tokenizer"
    codec_directory.mkdir()
    _write_json(directory / "config.json", language_model)
    _write_json(directory / "generation_config.json", shapes["generation_config"])
    _write_json(codec_directory / "config.json", codec)
    _write_json(codec_directory / "preprocessor_config.json", shapes["preprocessor"])
    random_tokenizer.write_tokenizer(directory)
    import_qwen_tts()
    _write_tensors(directory, _language_model(language_model, shapes["end_code_stride"]))
    _write_tensors(codec_directory, _codec(codec))
    _write_json(directory / _MARKER, _marker(name))


def _language_model(config: Tree, end_code_stride: int) -> dict[str, Tensor]:
    """The root's tensors, in bfloat16 as in the release.

    One in ``end_code_stride`` codes of codebook 0 is an end code: the frame after it is the end of speech.
    """
    shapes = _tensor_shapes(
        "qwen_tts.core.models.modeling_qwen3_tts", "Qwen3TTSForConditionalGeneration", "Qwen3TTSConfig", config
    )
    tensors = {
        name: random_weights.random_tensor(random_weights.LANGUAGE_MODEL_RULES, name, shape, _SEED).to(torch.bfloat16)
        for name, shape in shapes.items()
    }
    talker = config["talker_config"]
    code_count = talker["code_predictor_config"]["vocab_size"]
    codes, controls = tensors["talker.model.codec_embedding.weight"].split(
        [code_count, talker["vocab_size"] - code_count]
    )
    controls *= 2.0  # a control token is one embedding; a frame is a sum of sixteen
    end = tensors["talker.codec_head.weight"][talker["codec_eos_token_id"]].float()
    codes[::end_code_stride] += (_END_RMS * end / end.square().mean().sqrt()).to(torch.bfloat16)
    return tensors


def _codec(config: Tree) -> dict[str, Tensor]:
    """The codec's tensors, in float32 as in the release."""
    shapes = _tensor_shapes(
        "qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2",
        "Qwen3TTSTokenizerV2Model",
        "Qwen3TTSTokenizerV2Config",
        config,
    )
    return {
        name: random_weights.random_tensor(random_weights.CODEC_RULES, name, shape, _SEED)
        for name, shape in shapes.items()
    }


def _tensor_shapes(module: str, model: str, configuration: str, config: Tree) -> dict[str, torch.Size]:
    """Names and shapes of the tensors of upstream's class, without allocating them."""
    upstream = importlib.import_module(module)
    with torch.device("meta"):
        # Upstream's configuration classes modify the dictionaries that they get.
        empty = getattr(upstream, model)(getattr(upstream, configuration)(**copy.deepcopy(config)))
    return {name: tensor.shape for name, tensor in empty.state_dict().items()}


def _shapes(name: Name) -> Tree:
    trees: Tree = json.loads(resources.files("serve_app.model").joinpath("shapes.json").read_text(encoding="utf-8"))
    shapes = trees["full-random"]
    if name.startswith("tiny"):
        shapes = _merged(shapes, trees["tiny"])
    return _merged(shapes, trees[name])


def _merged(tree: Tree, changes: Tree) -> Tree:
    """``tree``, updated with the leaves of ``changes``; a list is a leaf."""
    merged = dict(tree)
    for key, change in changes.items():
        merged[key] = _merged(tree[key], cast("Tree", change)) if isinstance(change, dict) else change
    return merged


def _marker(name: Name) -> Tree:
    return {"name": name, "recipe": fingerprint(), "seed": _SEED}


def _read_marker(directory: Path) -> Tree | None:
    if not is_random(directory):
        return None
    return json.loads((directory / _MARKER).read_text(encoding="utf-8"))


def _write_json(path: Path, tree: Tree) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _write_tensors(directory: Path, tensors: dict[str, Tensor]) -> None:
    path = directory / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it readable only by its owner


def main(arguments: list[str] | None = None) -> None:
    """Build a checkpoint if it is missing, and print its directory."""
    parser = argparse.ArgumentParser(prog="tts-checkpoint", description="Build a checkpoint with random weights.")
    parser.add_argument("name", choices=get_args(Name))
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to build it (default: the user's cache)")
    parser.add_argument("--force", action="store_true", help="build it again even if it exists")
    options = parser.parse_args(arguments)
    directory: Path = options.out or user_cache() / f"{options.name}-{fingerprint()}"
    try:
        build(options.name, directory, force=options.force)
    except FileExistsError as error:
        parser.error(str(error))
    sys.stdout.write(f"{directory}\n")


if __name__ == "__main__":
    main()
