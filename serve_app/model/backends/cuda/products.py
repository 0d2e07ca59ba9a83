"""Matmuls of a few rows by a constant weight, with the operations before and after them in a layer.

Every sum is made in a fixed order, whatever the other rows are. Rows are multiplied sixteen at a time, as tensor cores
do it; missing rows are zeros. Each warp of a program sums its share of the inputs, and the shares are then added in the
order of the warps. This module handles rows and weights, not layers.

A matmul of a few rows is bound by reading the weight, so a program has nearly all of its reads in flight at once.
Nothing is tuned at run time: another choice might sum in another order.
"""

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from serve_app.model.backends.cuda.language import INTERPRETED, kernel, multiply_add, to_bfloat16
from serve_app.model.backends.cuda.tiling import ROWS, WARPS, WIDTH, columns_of, stages_of

Epilogue = Literal["store", "gate", "add"]
"""What to do with the result: store it, turn pairs of outputs into silu(first) * second, or add it to the stream."""


@kernel("rows")
def _multiply(
    given: "tl.tensor",
    weight: "tl.tensor",
    out: "tl.tensor",
    stream: "tl.tensor",
    squares: "tl.tensor",
    rows: int,
    outputs: tl.constexpr,
    inputs: tl.constexpr,
    tile_rows: tl.constexpr,
    columns: tl.constexpr,
    parts: tl.constexpr,
    width: tl.constexpr,
    epilogue: tl.constexpr,
    normed: tl.constexpr,
    shares: tl.constexpr,
    most_shares: tl.constexpr,
    eps: tl.constexpr,
) -> None:
    tile, block = tl.program_id(1), tl.program_id(0)
    row = tile * tile_rows + tl.arange(0, tile_rows)
    column = block * columns + tl.arange(0, columns)
    here = (row < rows)[:, None]
    k = tl.arange(0, parts)[:, None] * width + tl.arange(0, width)[None, :]  # [parts, width]
    x = given + row[None, :, None] * inputs + k[:, None, :]
    w = weight + column[None, None, :] * inputs + k[:, :, None]
    place = row[:, None] * outputs + column[None, :]
    kept = here & (column < outputs)[None, :]
    # Read before the loop and used after it, so that its latency overlaps with that of the first weights.
    before = tl.load(stream + place, mask=kept, other=0.0) if epilogue == "add" else 0.0
    if normed:
        share = tl.arange(0, most_shares)
        square = tl.load(squares + row[:, None] * shares + share[None, :], mask=here & (share < shares), other=0.0)
    else:
        square = 0.0
    sums = tl.zeros([parts, tile_rows, columns], tl.float32)
    for begin in range(0, inputs, parts * width):
        if inputs % (parts * width) == 0 and outputs % columns == 0:
            taken = tl.load(x + begin, mask=here[None, :, :], other=0.0)
            weights = tl.load(w + begin)
        else:
            inside = begin + k < inputs
            taken = tl.load(x + begin, mask=here[None, :, :] & inside[:, None, :], other=0.0)
            weights = tl.load(w + begin, mask=inside[:, :, None] & (column < outputs)[None, None, :], other=0.0)
        sums = multiply_add(taken, weights, sums)
    total = tl.sum(sums, axis=0)  # a tensor; tl.reduce returns a tuple only for several inputs
    if epilogue == "add":
        total += before
        tl.store(stream + place, total, mask=kept)
        tl.store(out + place, to_bfloat16(total), mask=kept)  # pyright: ignore[reportArgumentType]
        tl.store(squares + row * shares + block, tl.sum(total * total, axis=1), mask=row < rows)
    else:
        if normed:
            total *= tl.rsqrt(tl.sum(square, axis=1) / inputs + eps)[:, None]
        if epilogue == "gate":
            gate, up = tl.split(tl.reshape(total, [tile_rows, columns // 2, 2]))
            total = gate / (1.0 + tl.exp(-gate)) * up
            half: tl.constexpr = columns // 2
            column = block * half + tl.arange(0, half)
            place = row[:, None] * (outputs // 2) + column[None, :]
            kept = here & (column < outputs // 2)[None, :]
        if out.dtype.element_ty == tl.bfloat16:  # pyright: ignore[reportAttributeAccessIssue]  # a pointer's
            total = to_bfloat16(total)  # pyright: ignore[reportArgumentType]
        tl.store(out + place, total, mask=kept)


class Product:
    """One constant weight, and how to multiply with it.

    Attributes:
        outputs: N, rows of the weight.
        nbytes: bytes of the weight that a matmul reads.
        blocks: programs that share a row's outputs.
    """

    def __init__(self, weight: Tensor, epilogue: Epilogue = "store", *, eps: float = 0.0, shares: int = 0) -> None:
        """Keep ``weight`` [N, K] bfloat16, without a copy if it is contiguous.

        Args:
            weight: for "gate", in the layout of :func:`pair`.
            epilogue: what to do with the result.
            eps: epsilon of the norm before the matmul.
            shares: number of parts of a row's sum of squares, for the norm before the matmul; 0 for no norm.
        """
        assert weight.dtype == torch.bfloat16, "the kernel reads bfloat16"
        self.outputs, self._inputs = weight.shape
        self.nbytes = weight.nbytes
        self._weight = weight.contiguous()
        columns = columns_of(self.outputs)
        self.blocks = triton.cdiv(self.outputs, columns)
        self._sizes: dict[str, object] = {
            "outputs": self.outputs,
            "inputs": self._inputs,
            "tile_rows": ROWS,
            "columns": columns,
            "parts": WARPS,
            "width": WIDTH,
            "epilogue": epilogue,
            "normed": shares > 0,
            "shares": self.blocks if epilogue == "add" else shares,
            "most_shares": triton.next_power_of_2(max(shares, 1)),
            "eps": eps,
            "num_warps": WARPS,
            "num_stages": stages_of(self._inputs, columns, _shared_bytes(weight.device)),
        }

    def run(self, given: Tensor, out: Tensor, stream: Tensor | None = None, squares: Tensor | None = None) -> None:
        """Multiply.

        Args:
            given: [M, K] bfloat16, contiguous.
            out: written. "store": [M, N] float32 or bfloat16; "gate": [M, N / 2] bfloat16; "add": [M, N] bfloat16, the
                rounded stream.
            stream: [M, N] float32, to which "add" adds.
            squares: [M, shares] float32, sums of the stream's squares: read by the norm, written by "add", one share
                per block.
        """
        rows = given.shape[0]
        grid = (self.blocks, triton.cdiv(rows, ROWS))
        _multiply[grid](given, self._weight, out, stream, squares, rows, **self._sizes)


def pair(gate: Tensor, up: Tensor) -> Tensor:
    """Interleave rows: each row of ``gate`` [N, K] before the row of ``up`` that it gates: [2 N, K]."""
    return torch.stack([gate, up], dim=1).flatten(0, 1)


def aligned(x: Tensor) -> Tensor:
    """``x``, contiguous and 16-byte aligned, copied if needed; for other alignments, Triton would compile again."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _shared_bytes(device: torch.device) -> int:
    """Shared memory that a program may use, without what its final sum needs."""
    if INTERPRETED:
        return 1 << 16
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin - (8 << 10)
