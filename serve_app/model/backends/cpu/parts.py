"""How loops over rows are compiled for a CPU, and their shared building blocks.

This module handles addresses and rows, not layers or streams. Computation is in float32, rounded once at the end.
"""

import hashlib
import itertools
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.core import config as numba_config
from numba.core.base import BaseContext
from numba.core.bytecode import FunctionIdentity
from numba.core.ccallback import CFunc
from numba.core.cpu import CPUContext
from numba.core.registry import cpu_target
from numba.core.typing.templates import Signature
from numpy.typing import NDArray

from serve_app.model.backends.cpu.llvm import Builder, Function, Typed, Value, Values, intrinsic
from serve_app.paths import user_cache

Row: TypeAlias = NDArray[np.float32]
"""[n] float32."""

Reals: TypeAlias = NDArray[np.float32]
"""Float32 of any shape."""

Addresses: TypeAlias = NDArray[np.int64]

Made = TypeVar("Made")


class Record(Protocol):
    """One entry of a structured array as compiled code sees it: every field but these two is an integer."""

    @property
    def team(self) -> "Record":
        """The threads that share the work."""
        ...

    @property
    def eps(self) -> float:
        """Epsilon of a norm."""
        ...

    def __getattr__(self, field: str) -> int:
        """A field; most are addresses."""
        ...


class _Config(Protocol):
    """The part of numba's configuration that is used here."""

    CACHE_DIR: str
    CPU_NAME: str | None
    CPU_FEATURES: str | None
    ENABLE_AVX: bool


config = cast("_Config", numba_config)

# In each process, numba numbers functions from 1 and distinguishes functions of the same name only by that number. A
# cached kernel of another process could therefore be linked to a part of this process, and compute wrong numbers.
FunctionIdentity._unique_ids = itertools.count(secrets.randbits(48))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

_one_folder = Lock()
"""Numba's cache setting is global to all threads."""

HALF = 2
"""Bytes of a bfloat16; a kernel's ``size`` is this, or 4 for float32."""

REAL = 4
"""Bytes of a float32."""

ROUNDER = np.float32(12582912.0)
"""1.5 * 2^23: adding it rounds to an integer, ties to even, which is then in the lowest bits of the sum."""

# The error model "numpy" does not check for division by zero: a check would prevent vectorisation of the loop.


def part(*fastmath: str) -> Callable[[Function], Function]:
    """Compile a function that kernels call."""
    return numba.njit(error_model="numpy", fastmath=set(fastmath))


def kernel(*fastmath: str) -> Callable[[Function], Function]:
    """Compile a function that Python calls, on any number of threads; cached on disk if possible."""
    return partial(_kept_if_possible, partial(numba.njit, nogil=True, error_model="numpy", fastmath=set(fastmath)))


def entry_point(function: Function) -> "CFunc[Function]":
    """Compile a function ``(address)`` for C, immediately; cached on disk if possible."""
    compiler = partial(numba.cfunc, types.void(types.int64), error_model="numpy", fastmath={"contract"})
    return _kept_if_possible(compiler, function)


def _kept_if_possible(compiler: Callable[..., Callable[[Function], Made]], function: Function) -> Made:
    try:
        with _kept_in(_folder()):
            return compiler(cache=True)(function)
    except (OSError, RuntimeError):  # no folder is writable
        return compiler()(function)


@cache
def _folder() -> Path:
    """Folder of cached kernels: a separate one for each version of this package and each kind of CPU.

    Numba only checks the file of a kernel, and would reuse the machine code of parts that have changed. Its index
    distinguishes CPUs, but it is read, changed and written back without a lock. Two kinds of machines that start with
    one empty volume could end up with the index of one and the machine code of the other.
    """
    own = config.CACHE_DIR  # NUMBA_CACHE_DIR
    folder = (Path(own) if own else user_cache() / "kernels") / _state_of(Path(__file__).parent) / _cpu_kind()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # numba would fall back to folders that all versions share
        raise PermissionError(folder)
    return folder


def _state_of(package: Path) -> str:
    sources = sorted(package.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def _cpu_kind() -> str:
    """What machine code depends on according to numba: the platform, the CPU's name and its features."""
    context: CPUContext = cpu_target.target_context  # pyright: ignore[reportAssignmentType]  # a cached property
    return hashlib.sha256(repr((numba.__version__, context.codegen().magic_tuple())).encode()).hexdigest()[:16]


@contextmanager
def _kept_in(folder: Path) -> Generator[None]:
    with _one_folder:
        before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
        try:
            yield
        finally:
            config.CACHE_DIR = before


def array_at(kind: types.Type) -> Function:
    """Make ``(address, n) -> [n]``: views memory that its owner keeps alive as an array of ``kind``."""

    def pointer(_context: object, _address: types.Type) -> Typed:
        def generate(context: BaseContext, builder: Builder, signature: Signature, arguments: Values) -> Value:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    pointer_to = intrinsic(pointer)
    carray: Function = numba.carray  # pyright: ignore[reportPrivateImportUsage]  # numba documents it under this name

    @part()
    def array(address: int, n: int) -> NDArray[Any]:
        return carray(pointer_to(address), n)

    return array


bfloat16_at = array_at(types.uint16)
float32_at = array_at(types.float32)
uint8_at = array_at(types.uint8)
int32_at = array_at(types.int32)
int64_at = array_at(types.int64)


@part()
def copy(source: int, target: int, n: int) -> None:
    """Copy ``n`` float32 values from one address to another."""
    given, written = float32_at(source, n), float32_at(target, n)
    for i in range(n):
        written[i] = given[i]


@part()
def read(address: int, start: int, size: int, row: Row) -> None:
    """Fill ``row`` with elements of a tensor, starting at ``start``."""
    if size == HALF:
        bits, halves = row.view(np.uint32), bfloat16_at(address + size * start, row.size)
        for i in range(row.size):
            bits[i] = np.uint32(halves[i]) << np.uint32(16)
    else:
        exact = float32_at(address + size * start, row.size)
        for i in range(row.size):
            row[i] = exact[i]


@part()
def _to_half(bits: np.uint32) -> np.uint32:
    return (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)


@part()
def round_to(size: int, row: Row) -> None:
    """Round a row in place to the values that :func:`write` would leave in a tensor."""
    if size == HALF:
        bits = row.view(np.uint32)
        for i in range(row.size):
            bits[i] = _to_half(bits[i]) << np.uint32(16)


@part()
def write(address: int, start: int, size: int, row: Row, n: int) -> None:
    """Write the first ``n`` of ``row`` to a tensor, starting at ``start``; rounds to nearest even as torch does."""
    if size == HALF:
        bits, halves = row.view(np.uint32), bfloat16_at(address + size * start, n)
        for i in range(n):
            halves[i] = _to_half(bits[i])
    else:
        exact = float32_at(address + size * start, n)
        for i in range(n):
            exact[i] = row[i]


@part("reassoc", "contract")
def dot(a: Row, b: Row) -> np.float32:
    """Sum of the products of two rows."""
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@part("reassoc")
def _total(row: Row) -> np.float32:
    total = np.float32(0)
    for i in range(row.size):
        total += row[i]
    return total


@part()
def normalise(row: Row, eps: float) -> None:
    """Divide a row by its root mean square, in place."""
    scale = np.float32(1) / np.sqrt(dot(row, row) / np.float32(row.size) + np.float32(eps))
    for i in range(row.size):
        row[i] *= scale


@part()
def standardise(row: Row, eps: float) -> None:
    """Normalise a row to mean 0 and variance 1, in place."""
    mean = _total(row) / np.float32(row.size)
    for i in range(row.size):
        row[i] -= mean
    normalise(row, eps)


@part("contract")
def rotate(row: Row, cos: Row, sin: Row, out: Row) -> None:
    """Rotate a head's row [D] by its position's angles; the first half of ``sin`` is negated."""
    half = row.size // 2
    for i in range(half):
        out[i] = row[i] * cos[i] + row[i + half] * sin[i]
        out[i + half] = row[i + half] * cos[i + half] + row[i] * sin[i + half]


@part("contract")
def exp(x: np.float32) -> np.float32:
    """e^x with an error below 1e-7; x is clipped to [-87.3, 88.3], for which e^x is a normal float32.

    Source: Cephes, expf.c.
    """
    x = min(max(x, np.float32(-87.3)), np.float32(88.3))
    shifted = x * np.float32(1.44269504) + ROUNDER
    whole = shifted - ROUNDER
    x = x - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    power = np.float32(1.9875691500e-4)
    power = power * x + np.float32(1.3981999507e-3)
    power = power * x + np.float32(8.3334519073e-3)
    power = power * x + np.float32(4.1665795894e-2)
    power = power * x + np.float32(1.6666665459e-1)
    power = power * x + np.float32(5.0000001201e-1)
    power = power * x * x + x + np.float32(1)
    exponent = (np.float32(shifted).view(np.uint32) + np.uint32(127)) << np.uint32(23)
    return power * np.uint32(exponent).view(np.float32)


@part("contract")
def gelu(x: Row, out: Row) -> None:
    """Write x * (1 + erf(x / sqrt(2))) / 2 of a row; the error function is within 5e-7.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    for i in range(x.size):
        at = abs(x[i]) * np.float32(0.70710678118)
        t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * at)
        beyond = np.float32(1.061405429)
        beyond = beyond * t + np.float32(-1.453152027)
        beyond = beyond * t + np.float32(1.421413741)
        beyond = beyond * t + np.float32(-0.284496736)
        beyond = beyond * t + np.float32(0.254829592)
        beyond = beyond * t * exp(-at * at)  # 1 - erf(at)
        half = np.float32(0.5) * x[i]
        out[i] = half * (np.float32(2) - beyond) if x[i] > np.float32(0) else half * beyond


@part("contract")
def wave(x: Row, alpha: Row, inverse_beta: Row, out: Row) -> None:
    """X + sin(alpha * x)^2 / beta; squaring drops the sine's sign, so multiples of pi are subtracted first.

    Source: SLEEF, sinf of 3.5 units in the last place.
    """
    for i in range(x.size):
        turned = x[i] * alpha[i]
        halves = (turned * np.float32(0.31830988618) + ROUNDER) - ROUNDER
        turned = turned - halves * np.float32(3.140625) - halves * np.float32(0.0009670257568359375)
        turned = turned - halves * np.float32(6.2771141529083252e-7)
        square = turned * turned
        sine = np.float32(2.6083159809786593541503e-06)
        sine = sine * square + np.float32(-0.0001981069071916863322258)
        sine = sine * square + np.float32(0.00833307858556509017944336)
        sine = sine * square + np.float32(-0.166666597127914428710938)
        sine = sine * square * turned + turned
        out[i] = x[i] + sine * sine * inverse_beta[i]


@part("reassoc", "nnan", "nsz")
def largest(row: Row) -> np.float32:
    """The largest value of a row without NaN."""
    most = row[0]
    for i in range(row.size):
        most = max(most, row[i])
    return most


@part()
def softmax(row: Row) -> None:
    """Turn a row of logits into weights that sum to 1, in place."""
    most = largest(row)
    for i in range(row.size):
        row[i] = exp(row[i] - most)
    share = np.float32(1) / _total(row)
    for i in range(row.size):
        row[i] *= share
