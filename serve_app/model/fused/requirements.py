"""What Triton needs to compile kernels for a GPU, asked without importing it: torch's CPU wheels come without."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

_LEAST_CAPABILITY = (8, 0)
"""From which on a GPU multiplies bfloat16."""


def what_is_missing(device: torch.device) -> str | None:
    """What keeps bfloat16 kernels from being compiled for a GPU, in words; None where nothing does.

    Triton builds a launcher in C for each kernel, with ``CC``, gcc or clang and Python's headers.
    Source: triton 3.6.0 and 3.8.0, runtime/build.py.
    """
    if torch.version.cuda is None:
        return "they are written for CUDA, and this torch is built for something else"
    if (found := torch.cuda.get_device_capability(device)) < _LEAST_CAPABILITY:
        return f"the GPU has compute capability {_dotted(found)}, and they need {_dotted(_LEAST_CAPABILITY)}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: gcc, clang or the one that CC names"
    if not (_python_headers() / "Python.h").is_file():
        return f"Triton needs Python's headers, and there are none in {_python_headers()}"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _python_headers() -> Path:
    """Where Triton looks for them."""
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"])
