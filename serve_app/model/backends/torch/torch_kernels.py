"""Operations between the matmuls of decoder layers, in the implementation that suits the device."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model import sampling
from serve_app.model.attention import Span, StackShape
from serve_app.model.backends.cpu import cpu_kernels, draws
from serve_app.model.backends.cpu.cpu_kernels import CpuKernels
from serve_app.model.sampling import DrawRows

_COMPILED = {torch.float32, torch.bfloat16}


class Kernels(Protocol):
    """Norm, attention and gate of a layer; each rounds to the dtype of its input."""

    def norm(self, x: Tensor) -> Tensor:
        """Divide [..., N] by its root mean square, computed in float32."""
        ...

    def swiglu(self, x: Tensor) -> Tensor:
        """silu(gate) * up of [..., 2 N], gate first: [..., N]."""
        ...

    def attend(self, fused: Tensor, norm_qk: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
        """Norm, scale and rotate queries and keys, store keys and values, and attend.

        Args:
            fused: [B, T, (heads + 2 * kv_heads) * D], output of the matmul for queries, keys and values.
            norm_qk: [heads + kv_heads, D], scales of normed queries and keys.
            keys: [slots, kv_heads, P, D], of one layer; written in place.
            values: [slots, kv_heads, P, D], of one layer; written in place.
            span: where the B x T positions are.

        Returns:
            [B, T, heads * D].
        """
        ...


class DrawCodes(Protocol):
    """See :func:`serve_app.model.sampling.draw`."""

    def __call__(
        self, logits: Tensor, uniform: Tensor, rows: DrawRows, indices: slice | Tensor, keep: int | None
    ) -> Tensor:
        """Draw one code per row."""
        ...


class Snake(Protocol):
    """SnakeBeta, an activation of the codec."""

    def __call__(self, x: Tensor, alpha: Tensor, inverse_beta: Tensor, out: Tensor) -> None:
        """Write x + sin(alpha * x)^2 / beta, of [B, T, C] and [C], into ``out``."""
        ...


class TorchKernels:
    """Torch's own operations; for CUDA."""

    def __init__(self, shape: StackShape, device: torch.device) -> None:
        """Use the head sizes of ``shape``."""
        self._shape = shape
        self._eps = torch.tensor(shape.rms_eps, device=device)

    def norm(self, x: Tensor) -> Tensor:
        """Divide [..., N] by its root mean square, computed in float32."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self._eps, norm, norm, value=1.0 / x.shape[-1]).rsqrt_()
        return torch.mul(x, scale, out=torch.empty_like(x))

    def swiglu(self, x: Tensor) -> Tensor:
        """silu(gate) * up of [..., 2 N], gate first: [..., N]."""
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def attend(self, fused: Tensor, norm_qk: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
        """Norm, scale and rotate queries and keys, store keys and values, and attend; see :class:`Kernels`."""
        heads, dim = self._shape.heads, self._shape.head_dim
        fused = fused.unflatten(2, (-1, dim))
        turned = self.norm(fused[:, :, : len(norm_qk)]) * norm_qk
        turned = torch.addcmul(turned * span.cos, turned.roll(dim // 2, -1), span.sin)
        span.store(keys, turned[:, :, heads:])
        span.store(values, fused[:, :, len(norm_qk) :])
        return span.attend(turned[:, :, :heads], keys, values)


def torch_snake(x: Tensor, alpha: Tensor, inverse_beta: Tensor, out: Tensor) -> None:
    """Write x + sin(alpha * x)^2 / beta, of [B, T, C] and [C], into ``out``."""
    wave = (x * alpha).sin_()
    torch.addcmul(x, wave.mul_(wave), inverse_beta, out=out)


def make_kernels(shape: StackShape, positions: int, dtype: torch.dtype, device: torch.device) -> Kernels:
    """Choose by device; ``positions`` is the largest number that a slot of the stack's cache holds."""
    if device.type == "cpu" and dtype in _COMPILED:
        return CpuKernels(shape, positions)
    return TorchKernels(shape, device)


def make_draw(device: torch.device) -> DrawCodes:
    """Choose by device."""
    return draws.draw if device.type == "cpu" else sampling.draw


def make_snake(dtype: torch.dtype, device: torch.device) -> Snake:
    """Choose by device."""
    return cpu_kernels.snake if device.type == "cpu" and dtype in _COMPILED else torch_snake
