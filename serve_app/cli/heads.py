"""``tts-heads CONFIG``: finds an attention head of a checkpoint that word times can be read from.

It loads the configured checkpoint in float32 on the CPU and needs no running service.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config import AppConfig
from serve_app.errors import SpeechError
from serve_app.paths import found
from serve_app.startup import NotYetError
from serve_app.voices.voice import Reference, Voice, scan


class HeadsError(Exception):
    """The command failed; the message is for a terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 if a head is good enough, else 1."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(_config(arguments.config), arguments.voice, arguments.show)
    except HeadsError as error:
        print(f"tts-heads: {error}", file=sys.stderr)
        return 1


def _run(config: AppConfig, voice: str | None, shown: int) -> int:
    chosen, reference = _voice(config, voice or config.voices.default)
    assert chosen.manifest is not None, "a voice with a clip has a manifest"
    # These import torch, which takes seconds.
    from serve_app.model.alignment_scores import GOOD, head_scores  # noqa: PLC0415
    from serve_app.model.checkpoint import load_checkpoint  # noqa: PLC0415
    from serve_app.model.locate import CheckpointError  # noqa: PLC0415

    exact = {"device": "cpu", "dtype": "float32", "codec_dtype": "auto", "alignment_head": None}
    try:
        checkpoint = load_checkpoint(config.model.model_copy(update=exact))
        scores = head_scores(checkpoint, reference, chosen.manifest.language)
    except (CheckpointError, NotYetError, SpeechError) as error:
        raise HeadsError(str(error)) from error
    print("LAYER  HEAD  FRAMES_AHEAD  SCORE")
    for each in scores[:shown]:
        head = each.head
        print(f"{head.layer:5}  {head.head:4}  {head.frames_ahead:12}  {each.score:5.2f}")
    best = scores[0].head
    if scores[0].score < GOOD:
        print(f"No head is good enough for word times: the least score is {GOOD:g}.")
        return 1
    print("For the configuration, under `model`:")
    print(f"alignment_head: {{layer: {best.layer}, head: {best.head}, frames_ahead: {best.frames_ahead}}}")
    return 0


def _config(path: Path) -> AppConfig:
    """Read the ``args`` of a configuration with one application."""
    try:
        document: Any = yaml.safe_load(path.read_text())
        (application,) = document["applications"]
        return AppConfig.model_validate(application.get("args") or {})
    except (OSError, yaml.YAMLError) as error:
        raise HeadsError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        raise HeadsError(f"{path}: args: {error}") from error
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise HeadsError(f"{path} must have exactly one application, as configs/local.yaml does") from error


def _voice(config: AppConfig, name: str) -> tuple[Voice, Reference]:
    """Find a voice with a clip."""
    directory = found(config.voices.path, Path.cwd())
    voices = {each.voice: each for each in scan(directory)}
    voice = voices.get(name)
    if voice is not None and isinstance(voice.reference, Reference):
        return voice, voice.reference
    usable = [each.voice for each in voices.values() if isinstance(each.reference, Reference)]
    why = "is not there" if voice is None else f"has no clip: {voice.reason or 'it was imported'}"
    raise HeadsError(f"voice {name!r} in {directory} {why}; allowed: {', '.join(usable) or 'none'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tts-heads",
        description="Score the talker's attention heads on a voice's clip, to set model.alignment_head for word times.",
    )
    parser.add_argument("config", type=Path, help="a configuration, as for tts-serve")
    parser.add_argument("--voice", help="a voice with a clip and its transcript; default: voices.default")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="heads to show; default: %(default)s")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
