"""Matmuls with a constant weight, in the format that is fastest to read on the device.

On a CPU, reading weights is nearly the whole cost of a step, so the weight format is chosen once, at load.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.backends.cpu.tiled_linear import TiledLinear
from serve_app.model.backends.cpu.tiles import TileForm
from serve_app.model.upstream import Upstream

WeightFormat = Literal["plain", "packed", "int8", "int4", "fused"]
"""``packed``, ``int8`` and ``int4`` are for CPUs; ``fused`` is for GPUs, and only for bfloat16."""


class Linear(Protocol):
    """``y = x Wᵀ + b`` with W and b constant.

    Attributes:
        nbytes: bytes of the weight that one matmul reads.
    """

    nbytes: int

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], in the dtype of ``x``, and add ``residual`` of that shape."""
        ...


class PlainLinear:
    """The unchanged weight, multiplied by torch."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Keep ``weight`` [N, K] without a copy."""
        self.nbytes = weight.numel() * weight.element_size()
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], plus ``residual``."""
        product = functional.linear(x, self._weight, self._bias)
        return product if residual is None else product.add_(residual)


class PackedLinear:
    """A weight in oneDNN's own blocked layout, on a CPU.

    For a codec in bfloat16. A plain weight is packed in every call; this one is packed at load. Measured on 2 cores:
    twice as fast as plain for the codec's widest layer at one frame, and not slower at thousands of rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack a copy of ``weight`` [N, K] bfloat16."""
        self.nbytes = weight.numel() * weight.element_size()
        self._packed = _onednn("_reorder_linear_weight")(weight.contiguous(), None)
        self._bias = bias
        self._multiply = _onednn("_linear_pointwise")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], plus ``residual``."""
        if residual is None:
            return self._multiply(x, self._packed, self._bias, "none", [], "")
        return self._multiply.binary(x, residual, self._packed, self._bias, "add")


def make_linear(weight: Tensor, weight_format: WeightFormat) -> Linear:
    """Convert a weight [N, K] to a format; does not change the tensor.

    With ``int4``, a single matmul uses int8, in particular each head: it is a small part of what is read, and codes are
    drawn from its outputs.
    """
    if weight_format == "fused":
        from serve_app.model.backends.cuda.fused_linear import FusedLinear  # noqa: PLC0415 - torch's CPU wheels have no Triton

        return FusedLinear(weight)
    if weight_format in ("int8", "int4"):
        return TiledLinear(weight, "int8")
    if weight_format == "packed":
        # oneDNN's order of summation depends on the number of rows, which occasionally changes a draw (docs/engine.md).
        return TiledLinear(weight, exact_form(weight))
    return PlainLinear(weight)


def exact_form(weight: Tensor) -> TileForm:
    """The lossless tile format of a weight on a CPU."""
    return "bfloat16" if weight.dtype == torch.bfloat16 else "float32"


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN can pack weights of this dtype on this device."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.bfloat16 and _onednn("_is_mkldnn_bf16_supported")()


def _onednn(name: str) -> Upstream:
    """One of torch's oneDNN operators; they have no public name."""
    return getattr(torch.ops.mkldnn, name)
