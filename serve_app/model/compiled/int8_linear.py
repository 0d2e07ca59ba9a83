"""One product by int8 weights, on all of torch's threads."""

import numpy as np
import torch
from torch import Tensor

from serve_app.model.compiled.int8_tiles import (
    PRODUCT,
    PRODUCTS,
    STORE,
    TILE,
    TILE_ROWS,
    Int8Weight,
    multiply,
    quantise,
)
from serve_app.model.compiled.parts import HALF, array_at, float32_at, read
from serve_app.model.compiled.team import TeamFunction, job_of, number, size, threads
from serve_app.model.quiet import Upstream

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
    """:class:`serve_app.model.linear.Linear` by int8 weights, for bfloat16 activations on a CPU.

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
