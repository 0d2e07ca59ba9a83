"""Checks what Triton needs to compile kernels for a GPU, without importing it: torch's CPU wheels do not include it."""

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

import torch

_MIN_CAPABILITY = (8, 0)
"""First compute capability with bfloat16 matmuls."""


def what_is_missing(device: torch.device) -> str | None:
    """Why bfloat16 kernels cannot be compiled for a GPU; None if they can.

    Triton builds a launcher in C for each kernel, with ``CC``, gcc or clang and Python's headers.
    Source: triton 3.6.0 and 3.8.0, runtime/build.py.
    """
    if torch.version.cuda is None:
        return "the kernels are written for CUDA, and this torch is built for another platform"
    if (found := torch.cuda.get_device_capability(device)) < _MIN_CAPABILITY:
        return f"the GPU has compute capability {_dotted(found)}, and the kernels need {_dotted(_MIN_CAPABILITY)}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler: gcc, clang or the one that CC names"
    if not (_python_headers() / "Python.h").is_file():
        return f"Triton needs Python's headers, and {_python_headers()} has none"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _python_headers() -> Path:
    """The directory in which Triton looks for Python's headers."""
    scheme = sysconfig.get_default_scheme()
    return Path(sysconfig.get_paths(scheme="posix_prefix" if scheme == "posix_local" else scheme)["include"])
