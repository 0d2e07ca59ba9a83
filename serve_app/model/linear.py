"""Matrix products by a constant weight, in the form that reads the fewest bytes fastest on the device at hand.

Everything that a step costs on a CPU is reading weights, so the form of a weight is chosen once, at load.
"""

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.compiled import HALF, array_at, float32_at, read
from serve_app.model.int8_tiles import (
    PRODUCT,
    PRODUCTS,
    STORE,
    TILE,
    TILE_ROWS,
    Int8Weight,
    multiply,
    quantise,
)
from serve_app.model.quiet import Upstream
from serve_app.model.team import TeamFunction, job_of, number, size, threads

WeightForm = Literal["plain", "packed", "int8", "int4"]


class Linear(Protocol):
    """``y = x Wᵀ + b`` with W and b constant.

    Attributes:
        nbytes: bytes of the weight that one product reads.
    """

    nbytes: int

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], in the dtype of ``x``, and add ``residual`` of that shape."""
        ...


class PlainLinear:
    """The weight as it is; for CUDA, and for float32 where results are compared."""

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
    """A weight in oneDNN's own blocked order, on a CPU.

    A plain weight is packed anew in every call; this one was packed at load. Measured on 2 cores: 1.3 to 1.6 times as
    fast as plain at 1 to 10 rows of the talker's shapes, twice as fast for the codec's widest at one frame, and no
    slower at thousands of rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Pack a copy of ``weight`` [N, K], float32 or bfloat16."""
        self.nbytes = weight.numel() * weight.element_size()
        self._packed = _onednn("_reorder_linear_weight")(weight.contiguous(), None)
        self._bias = bias
        self._multiply = _onednn("_linear_pointwise")

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], plus ``residual``."""
        if residual is None:
            return self._multiply(x, self._packed, self._bias, "none", [], "")
        return self._multiply.binary(x, residual, self._packed, self._bias, "add")


_LINEAR = job_of("product", "given", "rows", "columns", "out", "codes", "most", "sums")
_products_at = array_at(PRODUCTS)


def _multiply_rows(job: Upstream) -> None:
    me, team, rows = number(job.crew), size(job.crew), job.rows
    product = _products_at(job.product, 1)[0]
    codes, most = job.codes + me * rows * product.inputs, float32_at(job.most + 4 * me * rows, rows)
    row = np.empty(job.columns, np.float32)
    for r in range(rows):
        read(job.given, r * row.size, HALF, row)
        most[r] = quantise(row, codes + r * product.inputs)
    sums = job.sums + 4 * me * TILE_ROWS * TILE
    multiply(product, me, team, codes, most, sums, job.out, product.tiles * TILE, STORE)


_MULTIPLY_ROWS = TeamFunction(_multiply_rows, _LINEAR)


class Int8Linear:
    """A weight of one int8 per entry and one scale per row, on a CPU; activations bfloat16, rounded to int8 too.

    No stream changes another's: a row of a batch equals the row alone to the last bit.
    """

    def __init__(self, weight: Tensor) -> None:
        """Quantise a copy of ``weight`` [N, K], each row to its own largest magnitude."""
        self._weight = Int8Weight.of(weight)
        self._rows = len(weight)
        self._product = np.array([self._weight.addresses()], PRODUCT)
        self.nbytes = self._weight.nbytes

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] bfloat16 into [..., N] bfloat16, plus ``residual``."""
        x = x.contiguous()
        columns = x.shape[-1]
        rows, team = x.numel() // columns, threads()
        out = torch.empty(rows, self._weight.outputs)
        codes = torch.empty(team, rows, self._weight.inputs, dtype=torch.uint8)
        most, sums = torch.empty(team, rows), torch.empty(team, TILE_ROWS, TILE, dtype=torch.int32)
        job = np.zeros(1, _LINEAR)
        room = (out, codes, most, sums)
        addresses = [each.data_ptr() for each in room]
        job[0] = ((0, 0, 0), self._product.ctypes.data, x.data_ptr(), rows, columns, *addresses)
        _MULTIPLY_ROWS.run(job, team)
        product = out[:, : self._rows].view(*x.shape[:-1], self._rows)
        return (product if residual is None else product.add_(residual)).to(x.dtype)


class Int4Linear:
    """A weight of four bits per entry, and one scale and one zero per 32 of a row, on a CPU; activations bfloat16.

    Measured on 2 cores over the talker's shapes: 3 times as fast as bfloat16 at one row, 1.7 times at four, no faster
    at ten. Coarser than int8 by far: meant for the code predictor.
    """

    GROUP = 32

    def __init__(self, weight: Tensor) -> None:
        """Quantise a copy of ``weight`` [N, K], each group to its own range; K is a multiple of 32, N of 16."""
        rows, columns = weight.shape
        groups = weight.float().view(rows, columns // self.GROUP, self.GROUP)
        least = groups.amin(dim=2, keepdim=True)
        scale = ((groups.amax(dim=2, keepdim=True) - least) / 15.0).clamp(min=1e-8)
        codes = ((groups - least) / scale).round().clamp(0, 15).to(torch.int32).view(rows, columns)
        # torch reads an entry as (code - 8) * scale + zero.
        scales_zeros = torch.cat([scale, least + 8 * scale], dim=2).transpose(0, 1).contiguous()  # [K / 32, N, 2]
        self._rows, self._columns = rows, columns
        self._scales_zeros = scales_zeros.to(torch.bfloat16)
        self._packed = _aten("_convert_weight_to_int4pack_for_cpu")(codes, 2)
        self._multiply = _aten("_weight_int4pack_mm_for_cpu")
        self.nbytes = rows * columns // 2 + self._scales_zeros.nbytes

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] bfloat16 into [..., N] bfloat16, plus ``residual``."""
        flat = x.reshape(-1, self._columns).contiguous()
        product = self._multiply(flat, self._packed, self.GROUP, self._scales_zeros).view(*x.shape[:-1], self._rows)
        return product if residual is None else product.add_(residual)


def make_linear(weight: Tensor, form: WeightForm) -> Linear:
    """Put a weight [N, K] into a form; the tensor itself is not changed."""
    if form == "int8":
        return Int8Linear(weight)
    if form == "int4":
        return Int4Linear(weight)
    if form == "packed":
        return PackedLinear(weight)
    return PlainLinear(weight)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN packs weights of this dtype here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _onednn("_is_mkldnn_bf16_supported")())


def _aten(name: str) -> Upstream:
    """One of torch's own operators that have no public name."""
    return getattr(torch.ops.aten, name)


def _onednn(name: str) -> Upstream:
    """One of torch's own oneDNN operators; they have no public name."""
    return getattr(torch.ops.mkldnn, name)
