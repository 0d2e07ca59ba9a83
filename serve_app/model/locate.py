"""Finds the files of the configured checkpoint, and decides whether missing files may still arrive.

A file that is absent, truncated or unreadable may still arrive, so the generator waits for it. A file that can be read
but is something else is an error. This module does not import torch, because a generator waits for its files before it
imports torch.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from serve_app.config import ModelConfig
from serve_app.startup import CHECK_AGAIN_S, READY, Availability, NotYetError

RANDOM = ("tiny", "full-random", "tiny-1.7b", "full-random-1.7b")
"""Sources that are built locally."""

DEMO = Path(__file__).with_name("demo")
"""The checkpoint of the demonstration voice, in the package: the source ``demo``. docs/demo_voice.md describes it."""

_CHOICES = (
    "Set model.source to a hub id that this machine can fetch or has in its cache (Qwen/Qwen3-TTS-12Hz-0.6B-Base), to a"
    " local directory with such a checkpoint, to 'demo' for a small English voice that works offline, or to 'tiny' for"
    " random weights that work offline."
)

_NEEDED = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "speech_tokenizer/config.json",
    "speech_tokenizer/preprocessor_config.json",
)
"""Required in addition to the weights of model and codec, and the tokenizer's vocabulary."""

_INDEX = "model.safetensors.index.json"

_MAY_BE = ("tokenizer.json", "vocab.json", _INDEX, f"speech_tokenizer/{_INDEX}")
"""Checked for completeness if they exist."""

_CHECK_HUB_AGAIN_S = 30.0
_COME_BACK_LATER = (408, 425, 429)
"""HTTP statuses below 500 that describe a temporary condition, not a wrong request."""

_MAX_NAMED = 10
"""Maximum number of directories that an error lists."""

Json = dict[str, Any]


class CheckpointError(RuntimeError):
    """The configured checkpoint can never be loaded; the message says what is allowed."""


def locate(config: ModelConfig, settle_s: float = 0.0) -> Path | None:
    """The directory of the configured checkpoint, complete; fetches it from the hub if needed, which may take minutes.

    Args:
        config: the model's configuration.
        settle_s: if not 0, the files must stay unchanged for this long: they were being written, and it is impossible
            to tell whether a text file is complete.

    Returns:
        None for random weights, which are built elsewhere.

    Raises:
        NotYetError: the checkpoint is not there, but may arrive.
        CheckpointError: the checkpoint cannot arrive.
    """
    if config.source in RANDOM:
        return None
    if config.source == "demo":
        return _packaged(DEMO)
    directory = Path(config.source).expanduser()
    check_again_s = CHECK_AGAIN_S
    if not is_local(config.source):
        check_again_s = CHECK_AGAIN_S if constants.HF_HUB_OFFLINE else _CHECK_HUB_AGAIN_S
        directory = _fetched(config, check_again_s)
    what = f"the weights in {directory}"
    try:
        _settle(judge(look(directory)), what, check_again_s)
        settled = not settle_s or _is_still(directory, settle_s)
    except OSError as error:  # permissions may change, and a file may disappear between two checks
        raise NotYetError(what, f"they cannot be read ({error.filename}: {error.strerror})", _CHOICES) from error
    if not settled:
        raise NotYetError(what, "they are still being written", _CHOICES)
    return directory


def is_local(source: str) -> bool:
    """Whether a source is a path, as opposed to a model id on the hub."""
    return source.startswith((".", "/", "~")) or Path(source).is_dir()


@dataclass(frozen=True, slots=True)
class Found:
    """What was found at a checkpoint's path.

    Attributes:
        path: the path.
        place: what is there; ``nowhere`` if the parent directory does not exist either.
        beside: names of the directories in the parent directory.
        missing: names of required files that are missing.
        cut_short: names of files that are truncated.
        config: content of ``config.json``, if it can be read.
    """

    path: Path
    place: Literal["directory", "file", "absent", "nowhere"]
    beside: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    cut_short: tuple[str, ...] = ()
    config: Json | None = None


def look(directory: Path) -> Found:
    """Look at a directory, and at its parent if it does not exist.

    Raises:
        OSError: it cannot be read.
    """
    if directory.is_dir():
        missing, cut_short = tuple(_missing(directory)), tuple(_cut_short(directory))
        return Found(directory, "directory", (), missing, cut_short, _json(directory / "config.json"))
    if directory.exists():
        return Found(directory, "file")
    if directory.parent.is_dir():
        beside = sorted(entry.name for entry in directory.parent.iterdir() if entry.is_dir())
        return Found(directory, "absent", tuple(beside))
    return Found(directory, "nowhere")


def judge(found: Found) -> Availability:
    """Whether a checkpoint can be loaded from this path: now, perhaps later, or never."""
    path = found.path
    if found.place == "nowhere":
        return Availability("never", f"{path} does not exist, and neither does {path.parent}")
    if found.place == "file":
        return Availability("never", f"{path} is a file, but must be a directory")
    if found.place == "absent":
        beside = ", ".join(found.beside[:_MAX_NAMED]) or "nothing"
        return Availability("wait", f"there is no such directory ({path.parent} holds {beside})")
    if found.config is not None:
        model = found.config.get("model_type")
        kind, codec = found.config.get("tts_model_type"), found.config.get("tokenizer_type")
        if model != "qwen3_tts":
            return Availability("never", f"{path} holds a model of type {model!r}; only 'qwen3_tts' can be loaded")
        if (kind, codec) != ("base", "qwen3_tts_tokenizer_12hz"):
            return Availability(
                "never",
                f"{path} holds a {kind!r} model with codec {codec!r};"
                " voice cloning needs a 'base' model with 'qwen3_tts_tokenizer_12hz'",
            )
    lacking = {"missing": found.missing, "cut short": found.cut_short}
    why = "; ".join(f"{state}: {', '.join(names)}" for state, names in lacking.items() if names)
    return Availability("wait", why) if why else READY


def judge_fetch(error: BaseException, source: str) -> Availability:
    """Whether a failed download may succeed later.

    Args:
        error: from :func:`huggingface_hub.snapshot_download`; the status and the reason are often in its causes.
        source: model id.
    """
    errors = list(_with_causes(error))
    status = next((code for each in errors if (code := _status(each)) is not None), None)
    if any(isinstance(each, OfflineModeIsEnabled) for each in errors):
        return Availability(
            "wait", f"they are not in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE prevents a download"
        )
    reason = str(errors[-1]).strip().splitlines() or [type(errors[-1]).__name__]
    if status is not None and 400 <= status < 500 and status not in _COME_BACK_LATER:
        words = {401: "not authorized", 403: "forbidden", 404: "no such model or revision"}.get(status, "refused")
        return Availability("never", f"the hub refuses {source!r} ({status}, {words}: {reason[0]})")
    if isinstance(error, HFValidationError):
        return Availability("never", f"{source!r} is neither a local directory nor a model id on the hub ({reason[0]})")
    disk = isinstance(error, OSError) and error.errno is not None
    if disk and not isinstance(error, ConnectionError | TimeoutError):
        return Availability("never", f"{source!r} cannot be stored in {constants.HF_HUB_CACHE} ({error})")
    return Availability("wait", f"the hub does not answer ({status or reason[0]})")


def _packaged(directory: Path) -> Path:
    """A checkpoint that the package contains; nothing that is missing from an installation can still arrive."""
    availability = judge(look(directory))
    if availability != READY:
        raise CheckpointError(f"this installation has no complete demonstration voice: {availability.why}. {_CHOICES}")
    return directory


def _fetched(config: ModelConfig, check_again_s: float) -> Path:
    try:
        return Path(snapshot_download(config.source, revision=config.revision))
    except (OSError, ValueError, RuntimeError) as error:  # Xet's downloads raise RuntimeError
        availability = judge_fetch(error, config.source)
    _settle(availability, f"the weights {config.source!r}", check_again_s)
    raise AssertionError("an error is never ready")


def _settle(availability: Availability, what: str, check_again_s: float) -> None:
    if availability.state == "never":
        raise CheckpointError(f"{availability.why}. {_CHOICES}")
    if availability.state == "wait":
        raise NotYetError(what, availability.why, _CHOICES, check_again_s)


def _missing(directory: Path) -> Iterator[str]:
    """Names of required files that are missing."""
    for name in (*_NEEDED, *_weights(directory, ""), *_weights(directory, "speech_tokenizer/")):
        if not (directory / name).is_file():
            yield name
    words = [name for name in ("vocab.json", "merges.txt") if not (directory / name).is_file()]
    if words and not (directory / "tokenizer.json").is_file():
        yield f"tokenizer.json (or {' and '.join(words)})"


def _cut_short(directory: Path) -> Iterator[str]:
    """Names of files that are truncated, as far as this can be detected."""
    for name in (*_NEEDED, *_MAY_BE):
        if (directory / name).is_file() and _json(directory / name) is None:
            yield name
    for name in (*_weights(directory, ""), *_weights(directory, "speech_tokenizer/")):
        if (directory / name).is_file() and not is_whole(directory / name):
            yield name


def _weights(directory: Path, folder: str) -> list[str]:
    """The files with a model's weights: those that its index lists, if it has one."""
    index = _json(directory / folder / _INDEX) or {}
    names = {str(name) for name in index.get("weight_map", {}).values()} or {"model.safetensors"}
    return [folder + name for name in sorted(names)]


def is_whole(file: Path) -> bool:
    """Whether a safetensors file has all the bytes that its header announces."""
    try:
        with safe_open(file, framework="numpy"):
            return True
    except SafetensorError:
        return False


def _json(file: Path) -> Json | None:
    """An object from a JSON file; None if the file is missing or truncated, empty if it holds something else."""
    try:
        value = json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError:
        return None
    return value if isinstance(value, dict) or value is None else {}


def _is_still(directory: Path, seconds: float) -> bool:
    """Whether no file in the directory changes for the given time; blocks."""
    before = _signature(directory)
    time.sleep(seconds)
    return before == _signature(directory)


def _signature(directory: Path) -> list[tuple[Path, int, int]]:
    """Name, size and modification time of every file; changes while files are written."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return [(file, (status := file.stat()).st_size, status.st_mtime_ns) for file in files]


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status of a response that was raised as an error."""
    return getattr(getattr(error, "response", None), "status_code", None)
