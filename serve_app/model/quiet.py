"""Owns how qwen-tts is imported: without its notices. Must never change what it computes."""

import contextlib
import importlib
import io
import logging
import shutil
import sys
from collections.abc import Generator
from types import ModuleType
from typing import Any, TypeAlias

Upstream: TypeAlias = Any
"""A module, configuration or operator of qwen-tts, transformers or torch that carries no types."""

# What upstream prints when it is imported without flash-attn (whisper_encoder.py of its 25 Hz tokenizer).
_FLASH_ATTN_NOTICE = "Warning: flash-attn is not installed."

# Logger name -> beginnings of the messages that say nothing about our checkpoint or our use of it.
_CHATTER: dict[str, tuple[str, ...]] = {
    "transformers.generation.configuration_utils": ("The following generation flags are not valid",),
    "transformers.generation.utils": ("Setting `pad_token_id` to",),
    "transformers.modeling_rope_utils": ("Unrecognized keys in `rope_scaling`",),
    "transformers.tokenization_utils_base": ("The tokenizer you are loading from",),
}


class _Chatter(logging.Filter):
    """Drops the records whose message begins in one of the given ways."""

    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self._beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._beginnings)


class _AbsentSox(ModuleType):
    """Stands in for the ``sox`` package on a machine without the SoX program.

    The real package runs ``sox -h`` in a shell when it is imported, and the shell complains on standard
    error. Upstream needs SoX for its 25 Hz tokenizer alone, which this project never builds.
    """

    class Transformer:
        """Refuses what only the SoX program can do."""

        def __init__(self) -> None:
            msg = "the 25 Hz tokenizer of qwen-tts needs the SoX program, which is not installed"
            raise RuntimeError(msg)


@contextlib.contextmanager
def _sox_stand_in() -> Generator[None]:
    if "sox" in sys.modules or shutil.which("sox") is not None:
        yield
        return
    sys.modules["sox"] = _AbsentSox("sox")
    try:
        yield
    finally:
        del sys.modules["sox"]


def import_qwen_tts() -> ModuleType:
    """Import qwen-tts and return it, dropping its notices about SoX and flash-attn.

    Everything else that the import prints still reaches standard output. Known chatter of transformers
    about this model's files is dropped from its loggers from then on. Later calls cost nothing.
    """
    loaded = sys.modules.get("qwen_tts")
    if loaded is not None:
        return loaded
    printed = io.StringIO()
    with _sox_stand_in(), contextlib.redirect_stdout(printed):
        module = importlib.import_module("qwen_tts")
    for line in printed.getvalue().splitlines():
        if line.strip(" *") and not line.startswith(_FLASH_ATTN_NOTICE):
            sys.stdout.write(line + "\n")
    for name, beginnings in _CHATTER.items():
        logging.getLogger(name).addFilter(_Chatter(beginnings))
    return module
