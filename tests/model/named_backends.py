"""Backends by the names that logs and metrics give them."""

import torch

from serve_app.model.backends.cpu.cpu_backend import CpuBackend
from serve_app.model.backends.cpu.tiles import WeightFormat, lossless
from serve_app.model.backends.torch.torch_backend import TorchBackend


def make_backend(name, dtype=torch.float32):
    """One named ``plain``, ``packed``, ``int8``, ``int4`` or ``fused``; ``packed`` keeps weights of ``dtype``."""
    if name == "plain":
        return TorchBackend()
    if name == "fused":
        from serve_app.model.backends.cuda.cuda_backend import CudaBackend  # noqa: PLC0415 - CPU wheels have no Triton

        return CudaBackend()
    return CpuBackend(lossless(dtype) if name == "packed" else WeightFormat(name))
