"""Imports qwen-tts without its notices, and without changes to what it computes."""

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
"""A module, configuration or operator of qwen-tts, transformers or torch that has no type annotations."""

# Upstream prints this when it is imported without flash-attn (whisper_encoder.py of its 25 Hz tokenizer).
_FLASH_ATTN_NOTICE = "Warning: flash-attn is not installed."

# Logger name -> prefixes of messages that are irrelevant to our checkpoint and to our use of it.
_IRRELEVANT: dict[str, tuple[str, ...]] = {
    "transformers.generation.configuration_utils": ("The following generation flags are not valid",),
    "transformers.generation.utils": ("Setting `pad_token_id` to",),
    "transformers.modeling_rope_utils": ("Unrecognized keys in `rope_scaling`",),
    "transformers.tokenization_utils_base": ("The tokenizer you are loading from",),
}


class _DropMessages(logging.Filter):
    """Drops records whose message begins with one of the given prefixes."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self._prefixes = prefixes

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self._prefixes)


class _AbsentSox(ModuleType):
    """Replaces the ``sox`` package on a machine without the SoX program.

    On import, the real package runs ``sox -h`` in a shell, which prints an error to standard error. Upstream needs SoX
    only for its 25 Hz tokenizer, which this project never builds.
    """

    class Transformer:
        """Raise an error, since only the SoX program could do this."""

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
    """Import qwen-tts and return it, without its notices about SoX and flash-attn.

    Everything else that the import prints still reaches standard output. From then on, known messages of transformers
    about this model's files are dropped from its loggers. Later calls return the same module.
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
    for name, prefixes in _IRRELEVANT.items():
        logging.getLogger(name).addFilter(_DropMessages(prefixes))
    return module
