"""Torch's operations between the matmuls of decoder layers."""

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.backends.torch.torch_attention import Span
from serve_app.model.kv_cache import WatchedHead
from serve_app.model.stack_shape import StackShape


class TorchKernels:
    """Norm, attention and gate of a layer; each rounds to the dtype of its input."""

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

    def attend(
        self, fused: Tensor, norm_qk: Tensor, cached: tuple[Tensor, Tensor], span: Span, watched: WatchedHead | None
    ) -> Tensor:
        """Norm, scale and rotate queries and keys, store keys and values, and attend.

        Args:
            fused: [B, T, (heads + 2 * kv_heads) * D], output of the matmul for queries, keys and values.
            norm_qk: [heads + kv_heads, D], scales of normed queries and keys.
            cached: one layer's keys and values [slots, kv_heads, P, D]; written in place.
            span: where the B x T positions are.
            watched: the head of this layer whose queries are written too; None if there is none.

        Returns:
            [B, T, heads * D].
        """
        heads, dim = self._shape.heads, self._shape.head_dim
        fused = fused.unflatten(2, (-1, dim))
        turned = self.norm(fused[:, :, : len(norm_qk)]) * norm_qk
        turned = torch.addcmul(turned * span.cos, turned.roll(dim // 2, -1), span.sin)
        keys, values = cached
        if watched is not None:
            span.store(watched.queries, turned[:, :, watched.head : watched.head + 1])
        span.store(keys, turned[:, :, heads:])
        span.store(values, fused[:, :, len(norm_qk) :])
        return span.attend(turned[:, :, :heads], keys, values)


def snake(x: Tensor, alpha: Tensor, inverse_beta: Tensor, out: Tensor) -> None:
    """Write x + sin(alpha * x)^2 / beta, of [B, T, C] and [C], into ``out``."""
    wave = (x * alpha).sin_()
    torch.addcmul(x, wave.mul_(wave), inverse_beta, out=out)
