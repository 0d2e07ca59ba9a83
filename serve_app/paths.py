"""Where files lie: what a relative path of the configuration leads to, and what this program keeps for itself."""

import os
from pathlib import Path

import serve_app


def found(path: str, working_directory: Path) -> Path:
    """Below the working directory, else beside the package; links stay as they are, since they may be changed later."""
    candidates = [working_directory / path, Path(serve_app.__file__).parent.parent / path]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0]).absolute()


def user_cache() -> Path:
    """``$TTS_CACHE``, else ``$XDG_CACHE_HOME/qwen3-tts-serve``, else ``~/.cache/qwen3-tts-serve``."""
    if own := os.environ.get("TTS_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "qwen3-tts-serve"
