"""The start and the end of a stack: initialises the residual stream, and applies the final norm."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from serve_app.model.backends.cuda.language import kernel, to_bfloat16


@kernel()
def _begin(
    given: "tl.tensor",
    stream: "tl.tensor",
    squares: "tl.tensor",
    hidden: tl.constexpr,
    columns: tl.constexpr,
    shares: tl.constexpr,
    most_shares: tl.constexpr,
) -> None:
    row, share = tl.program_id(0), tl.arange(0, most_shares)
    column = share[:, None] * columns + tl.arange(0, columns)[None, :]
    x = tl.load(given + row * hidden + column, mask=column < hidden, other=0.0).to(tl.float32)
    tl.store(stream + row * hidden + column, x, mask=column < hidden)
    tl.store(squares + row * shares + share, tl.sum(x * x, axis=1), mask=share < shares)


@kernel()
def _finish(
    stream: "tl.tensor",
    norm: "tl.tensor",
    out: "tl.tensor",
    hidden: tl.constexpr,
    most_hidden: tl.constexpr,
    eps: tl.constexpr,
) -> None:
    row, column = tl.program_id(0), tl.arange(0, most_hidden)
    inside = column < hidden
    x = tl.load(stream + row * hidden + column, mask=inside, other=0.0)
    x *= tl.rsqrt(tl.sum(x * x, axis=0) / hidden + eps)
    x *= tl.load(norm + column, mask=inside, other=0.0)
    tl.store(out + row * hidden + column, to_bfloat16(x), mask=inside)


def begin(given: Tensor, stream: Tensor, squares: Tensor) -> None:
    """Copy ``given`` [M, H] bfloat16 to ``stream`` [M, H] float32, and its sums of squares to ``squares``.

    Args:
        given: contiguous.
        stream: written.
        squares: [M, shares] float32, written; each share is the sum of H / shares adjacent squares.
    """
    rows, hidden = given.shape
    shares = squares.shape[1]
    sizes = {"hidden": hidden, "columns": triton.next_power_of_2(triton.cdiv(hidden, shares)), "shares": shares}
    _begin[rows,](given, stream, squares, **sizes, most_shares=triton.next_power_of_2(shares))


def finish(stream: Tensor, norm: Tensor, eps: float) -> Tensor:
    """Norm ``stream`` [M, H] float32 and scale it by ``norm`` [H] float32: [M, H] bfloat16."""
    rows, hidden = stream.shape
    out = torch.empty(rows, hidden, dtype=torch.bfloat16, device=stream.device)
    _finish[rows,](stream, norm, out, hidden=hidden, most_hidden=triton.next_power_of_2(hidden), eps=eps)
    return out
