"""One matmul with a tiled weight, on all of torch's threads."""

import numpy as np
import torch
from torch import Tensor

from serve_app.model.backends.cpu.instructions import TILE, TILE_ROWS
from serve_app.model.backends.cpu.parts import array_at, float32_at, read
from serve_app.model.backends.cpu.team import NO_TEAM, TeamFunction, job_of, jobs_at, thread_number, threads
from serve_app.model.backends.cpu.tiles import (
    PRODUCT,
    PRODUCTS,
    STORE,
    TiledWeight,
    WeightFormat,
    multiply,
    take,
)

_LINEAR = job_of("product", "given", "size", "rows", "columns", "out", "taken", "factors", "sums")
_products_at = array_at(PRODUCTS)
_jobs_at = jobs_at(_LINEAR)


def _multiply_rows(address: int) -> None:
    job = _jobs_at(address, 1)[0]
    me, rows = thread_number(job.team), job.rows
    product = _products_at(job.product, 1)[0]
    row_bytes = 4 * product.steps
    taken, factors = job.taken + me * rows * row_bytes, float32_at(job.factors + 4 * me * rows, rows)
    row = np.empty(job.columns, np.float32)
    for r in range(rows):
        read(job.given, r * row.size, job.size, row)
        factors[r] = take(row, product, taken + r * row_bytes)
    sums = job.sums + 4 * me * TILE_ROWS * TILE
    multiply(product, job.team, taken, factors, sums, job.out, product.tiles * TILE, STORE)


_MULTIPLY_ROWS = TeamFunction(_multiply_rows)


class TiledLinear:
    """:class:`serve_app.model.backends.protocol.Linear` on a CPU; activations are float32 or bfloat16.

    Streams do not affect each other: a row of a batch equals the row alone, to the last bit.

    Attributes:
        weight: the tiled weight.
        outputs: N, outputs of each row.
        nbytes: bytes that one matmul reads.
    """

    def __init__(self, weight: Tensor, weight_format: WeightFormat) -> None:
        """Lay out a copy of ``weight`` [N, K]."""
        self.weight = TiledWeight.of(weight, weight_format)
        self.outputs, self._columns = weight.shape
        self._product = np.array([self.weight.fields()], PRODUCT)
        self._dtype = torch.float32 if weight_format == WeightFormat.FLOAT32 else torch.bfloat16
        self.nbytes = self.weight.nbytes

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N] of the same dtype, plus ``residual``."""
        assert x.dtype == self._dtype, "inputs have another dtype than this weight needs"
        x, columns = x.contiguous(), self._columns
        assert x.shape[-1] == columns, "the rows have another width"
        rows, team = x.numel() // columns, threads()
        out = torch.empty(rows, self.weight.outputs)
        taken = torch.empty(team, rows, self.weight.row_bytes, dtype=torch.uint8)
        factors, sums = torch.empty(team, rows), torch.empty(team, TILE_ROWS, TILE)
        job = np.zeros(1, _LINEAR)
        addresses = [each.data_ptr() for each in (out, taken, factors, sums)]
        job[0] = (NO_TEAM, self._product.ctypes.data, x.data_ptr(), x.itemsize, rows, columns, *addresses)
        _MULTIPLY_ROWS.run(job, team)
        product = out[:, : self.outputs].view(*x.shape[:-1], self.outputs)
        return (product if residual is None else product.add_(residual)).to(x.dtype).contiguous()
