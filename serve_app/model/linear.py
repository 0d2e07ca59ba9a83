"""Matrix products by a constant weight, in the form that reads the fewest bytes fastest on the device at hand.

Everything that a step costs on a CPU is reading weights, so the form of a weight is chosen once, at load.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.quiet import Upstream

WeightForm = Literal["plain", "packed", "int8"]


class Linear(Protocol):
    """``y = x Wᵀ`` with W constant."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], in the dtype of ``x``, and add ``residual`` of that shape."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the weight that one product reads."""
        ...


class PlainLinear:
    """The weight as it is; for CUDA, and for float32 where results are compared."""

    def __init__(self, weight: Tensor) -> None:
        """Keep ``weight`` [N, K] without a copy."""
        self.weight = weight

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], plus ``residual``."""
        product = functional.linear(x, self.weight)
        return product if residual is None else product.add_(residual)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self.weight.numel() * self.weight.element_size()


class PackedLinear:
    """A bfloat16 weight in oneDNN's own blocked order, on a CPU.

    A plain weight is packed anew in every call; this one was packed at load. Measured on 2 cores over the talker's
    shapes: 1.3 to 1.6 times as fast as plain at 1 to 10 rows.
    """

    def __init__(self, weight: Tensor) -> None:
        """Pack a copy of ``weight`` [N, K] bfloat16."""
        self._rows, self._columns = weight.shape
        self._packed = _onednn("_reorder_linear_weight")(weight.contiguous(), 1)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], plus ``residual``."""
        if residual is None:
            return _onednn("_linear_pointwise")(x, self._packed, None, "none", [], "")
        return _onednn("_linear_pointwise").binary(x, residual, self._packed, None, "add")

    @property
    def nbytes(self) -> int:
        """Bytes of the weight."""
        return self._rows * self._columns * 2


class Int8Linear:
    """A weight of one int8 per entry and one scale per row, activations in bfloat16, on a CPU."""

    def __init__(self, weight: Tensor) -> None:
        """Quantise a copy of ``weight`` [N, K], each row to its own largest magnitude."""
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-8) / 127.0  # [N]
        self._scale = scale.to(torch.bfloat16)
        self._quantised = (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)  # [N, K]

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] bfloat16 into [..., N] bfloat16, plus ``residual``."""
        flat = x.reshape(-1, self._quantised.shape[1])
        product = torch.ops.aten._weight_int8pack_mm(flat, self._quantised, self._scale)  # noqa: SLF001
        product = product.view(*x.shape[:-1], self._quantised.shape[0])
        return product if residual is None else product.add_(residual)

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and its scales."""
        return self._quantised.numel() + 2 * self._scale.numel()


def make_linear(weight: Tensor, form: WeightForm) -> Linear:
    """Put a weight [N, K] into a form; the tensor itself is not changed."""
    if form == "int8":
        return Int8Linear(weight)
    if form == "packed":
        return PackedLinear(weight)
    return PlainLinear(weight)


def _onednn(name: str) -> Upstream:
    """One of torch's own oneDNN operators; they have no public name."""
    return getattr(torch.ops.mkldnn, name)
