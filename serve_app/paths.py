"""Resolves relative paths of the configuration and locates the program's own cache."""

import os
from pathlib import Path

import serve_app


def found(path: str, working_directory: Path) -> Path:
    """Look for ``path`` in the working directory, then next to the package; links are kept, because they may change."""
    candidates = [working_directory / path, Path(serve_app.__file__).parent.parent / path]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0]).absolute()


def user_cache() -> Path:
    """Return ``$TTS_CACHE``, ``$XDG_CACHE_HOME/qwen3-tts-serve`` or ``~/.cache/qwen3-tts-serve``."""
    if own := os.environ.get("TTS_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "qwen3-tts-serve"
