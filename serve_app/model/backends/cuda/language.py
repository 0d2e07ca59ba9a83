"""Shared by all kernels: how they are compiled, rounding to bfloat16, and its multiplication.

On a GPU, Triton compiles the kernels. If TRITON_INTERPRET is set before Triton is imported, as in tests without a GPU,
Triton interprets them on CPU tensors.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar, cast

import triton
import triton.language as tl
from triton import knobs

Part = TypeVar("Part", bound=Callable[..., "tl.tensor"])

INTERPRETED = tl.constexpr(knobs.runtime.interpret)
"""Whether kernels are interpreted; bfloat16 is then kept as raw 16 bits."""


class Kernel(Protocol):
    """A compiled kernel: ``kernel[grid](*arguments)`` starts it."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        """The kernel on a grid of programs."""
        ...


def kernel(*varying: str) -> Callable[[Callable[..., None]], Kernel]:
    """Compile a kernel once for all values of the named integers: a specialised one might round differently."""
    return triton.jit(do_not_specialize=varying)


def part(function: Part) -> Part:
    """Compile a function that kernels call."""
    return cast("Part", triton.jit(function))


@part
def to_bfloat16(x: "tl.tensor") -> "tl.tensor":
    """Round float32 to the nearest bfloat16, ties to even; the interpreter's own conversion truncates."""
    if INTERPRETED:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        half = rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        half = x.to(tl.bfloat16)
    return half


@part
def multiply_add(a: "tl.tensor", b: "tl.tensor", sums: "tl.tensor") -> "tl.tensor":
    """``sums`` [P, M, N] float32 plus ``a`` [P, M, K] by ``b`` [P, K, N], both bfloat16."""
    if INTERPRETED:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")
    else:
        total = tl.dot(a, b, sums)
    return total
