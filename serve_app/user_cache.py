"""Where this program keeps what it can make again: built checkpoints and encoded voices."""

import os
from pathlib import Path


def user_cache() -> Path:
    """``$TTS_CACHE``, else ``$XDG_CACHE_HOME/qwen3-tts-serve``, else ``~/.cache/qwen3-tts-serve``."""
    if own := os.environ.get("TTS_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "qwen3-tts-serve"
