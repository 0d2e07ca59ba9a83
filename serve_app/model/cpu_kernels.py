"""What is computed between matrix products on a CPU, each a compiled loop over rows.

It knows addresses and sizes; never layers or streams. A row's result depends on that row alone, to the last bit.
Inside everything is float32, rounded once at the end. What is called for the first time is compiled then, or taken
from a cache on disk: a replica's warm-up sentence does it.

A torch operation costs some microseconds however little it does, and a frame has 103 layers; a call here costs one.
Addresses and not arrays are passed, since to see a tensor as an array costs another one (measured).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numba
import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model import sampling
from serve_app.model.attention import Span, StackShape
from serve_app.model.quiet import Upstream
from serve_app.model.sampling import DrawRows

Row: TypeAlias = NDArray[np.float32]
Function: TypeAlias = Callable[..., Any]

_FEW_POSITIONS = 64
"""Positions of a cache up to which one thread attends in less time than torch's attention takes to begin."""

_MANY_CODES = 256
"""Codes kept of a vocabulary from which on it is sorted faster by torch than here, one by one."""

_HALF = 2
"""Bytes of a bfloat16; a kernel's ``size`` is that, or 4 for float32."""

_ROUNDER = np.float32(12582912.0)
"""1.5 * 2^23: a sum with it is rounded to a whole number, ties to even, which its lowest bits then hold."""

# The error model "numpy" checks no divisor for zero: a check would keep the loop from being vectorised.


def _part(*fastmath: str) -> Callable[[Function], Function]:
    """Compile what kernels call."""
    return numba.njit(error_model="numpy", fastmath=set(fastmath))


def _kernel(*fastmath: str) -> Callable[[Function], Function]:
    """Compile what Python calls, on any thread at once; kept on disk where there is a place for it."""

    def compile_lazily(function: Function) -> Function:
        try:
            return numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=set(fastmath))(function)
        except RuntimeError:  # neither the folder of this file nor the user's cache can be written
            return numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath))(function)

    return compile_lazily


def _array_at(kind: Upstream) -> Function:
    """Make ``(address, n) -> [n]``: memory that somebody else keeps alive, as an array of ``kind``."""

    def pointer(_context: Upstream, _address: Upstream) -> Upstream:
        def generate(context: Upstream, builder: Upstream, signature: Upstream, arguments: Upstream) -> Upstream:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), generate

    pointer_to: Upstream = intrinsic(pointer)
    carray: Upstream = numba.carray  # pyright: ignore[reportPrivateImportUsage]  # numba documents it under this name

    @_part()
    def array(address: int, n: int) -> Upstream:
        return carray(pointer_to(address), n)

    return array


_bfloat16 = _array_at(types.uint16)
_float32 = _array_at(types.float32)
_int8 = _array_at(types.int8)
_int32 = _array_at(types.int32)
_int64 = _array_at(types.int64)


@_part()
def _read(address: int, start: int, size: int, row: Row) -> None:
    """Fill ``row`` from element ``start`` of a tensor on."""
    if size == _HALF:
        bits, halves = row.view(np.uint32), _bfloat16(address + size * start, row.size)
        for i in range(row.size):
            bits[i] = np.uint32(halves[i]) << np.uint32(16)
    else:
        exact = _float32(address + size * start, row.size)
        for i in range(row.size):
            row[i] = exact[i]


@_part()
def _write(address: int, start: int, size: int, row: Row, n: int) -> None:
    """Put the first ``n`` of ``row`` into a tensor from element ``start`` on, rounded to nearest even as by torch."""
    if size == _HALF:
        bits, halves = row.view(np.uint32), _bfloat16(address + size * start, n)
        for i in range(n):
            halves[i] = (bits[i] + np.uint32(0x7FFF) + ((bits[i] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    else:
        exact = _float32(address + size * start, n)
        for i in range(n):
            exact[i] = row[i]


@_part("reassoc", "contract")
def _dot(a: Row, b: Row) -> np.float32:
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_part()
def _normalise(row: Row, eps: float) -> None:
    scale = np.float32(1) / np.sqrt(_dot(row, row) / np.float32(row.size) + np.float32(eps))
    for i in range(row.size):
        row[i] *= scale


@_part("contract")
def _exp(x: np.float32) -> np.float32:
    """e^x within 1e-7 of itself; x is cut to [-87.3, 88.3], between which e^x is a normal float32.

    Source: Cephes, expf.c.
    """
    x = min(max(x, np.float32(-87.3)), np.float32(88.3))
    shifted = x * np.float32(1.44269504) + _ROUNDER
    whole = shifted - _ROUNDER
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


@_kernel()
def _norm(x: int, out: int, rows: int, n: int, size: int, eps: float) -> None:
    row = np.empty(n, np.float32)
    for r in range(rows):
        _read(x, r * n, size, row)
        _normalise(row, eps)
        _write(out, r * n, size, row, n)


@_kernel("contract")
def _swiglu(x: int, out: int, rows: int, n: int, size: int) -> None:
    row = np.empty(2 * n, np.float32)
    for r in range(rows):
        _read(x, 2 * r * n, size, row)
        for i in range(n):
            gate = row[i]
            row[i] = gate / (np.float32(1) + _exp(-gate)) * row[n + i]
        _write(out, r * n, size, row, n)


@_kernel("contract")
def _place(
    fused: int,
    norm_qk: int,
    cos: int,
    sin: int,
    keys: int,
    values: int,
    queries: int,
    slots: int,
    first_slot: int,
    positions: int,
    start: int,
    batch: int,
    new: int,
    heads: int,
    kv_heads: int,
    dim: int,
    capacity: int,
    size: int,
    eps: float,
) -> None:
    """Norm, scale and rotate queries into [B, T, heads, D] and keys into the cache; put values there too."""
    row, turned = np.empty(dim, np.float32), np.empty(dim, np.float32)
    cosine, sine = np.empty(dim, np.float32), np.empty(dim, np.float32)
    scales = np.empty((heads + kv_heads, dim), np.float32)
    _read(norm_qk, 0, size, scales.ravel())
    half = dim // 2
    for b in range(batch):
        slot = _int64(slots, batch)[b] if slots else first_slot + b
        for t in range(new):
            position = _int64(positions, batch)[b] if positions else start + t
            angle = b if positions else t
            _read(cos, angle * dim, size, cosine)
            _read(sin, angle * dim, size, sine)
            source = (b * new + t) * (heads + 2 * kv_heads) * dim
            for head in range(heads + kv_heads):
                _read(fused, source + head * dim, size, row)
                _normalise(row, eps)
                for i in range(dim):
                    row[i] *= scales[head, i]
                for i in range(half):
                    turned[i] = row[i] * cosine[i] + row[i + half] * sine[i]
                    turned[i + half] = row[i + half] * cosine[i + half] + row[i] * sine[i + half]
                if head < heads:
                    _write(queries, ((b * new + t) * heads + head) * dim, size, turned, dim)
                else:
                    _write(keys, ((slot * kv_heads + head - heads) * capacity + position) * dim, size, turned, dim)
            for head in range(kv_heads):
                _read(fused, source + (heads + kv_heads + head) * dim, size, row)
                _write(values, ((slot * kv_heads + head) * capacity + position) * dim, size, row, dim)


@_kernel("contract")
def _attend(
    keys: int,
    values: int,
    queries: int,
    out: int,
    slots: int,
    first_slot: int,
    positions: int,
    start: int,
    batch: int,
    new: int,
    heads: int,
    kv_heads: int,
    dim: int,
    capacity: int,
    size: int,
) -> None:
    """Attend with queries [B, T, heads, D], each to the positions up to its own."""
    group = heads // kv_heads
    scale = np.float32(1) / np.sqrt(np.float32(dim))
    query, total = np.empty((group, dim), np.float32), np.empty((group, dim), np.float32)
    weights, seen = np.empty((group, capacity), np.float32), np.empty((capacity, dim), np.float32)
    for b in range(batch):
        slot = _int64(slots, batch)[b] if slots else first_slot + b
        for t in range(new):
            length = 1 + (_int64(positions, batch)[b] if positions else start + t)
            for head in range(kv_heads):
                place = ((b * new + t) * heads + head * group) * dim
                cached = (slot * kv_heads + head) * capacity * dim
                _read(queries, place, size, query.ravel())
                _read(keys, cached, size, seen[:length].ravel())
                for g in range(group):
                    for p in range(length):
                        weights[g, p] = scale * _dot(query[g], seen[p])
                    _softmax(weights[g, :length])
                _read(values, cached, size, seen[:length].ravel())
                for g in range(group):
                    _mix(weights[g, :length], seen, total[g])
                _write(out, place, size, total.ravel(), group * dim)


@_part("contract")
def _mix(weights: Row, rows: Row, total: Row) -> None:
    total[:] = 0
    for p in range(weights.size):
        for i in range(total.size):
            total[i] += weights[p] * rows[p, i]


@_part()
def _softmax(row: Row) -> None:
    most = row.max()
    total = np.float32(0)
    for i in range(row.size):
        row[i] = _exp(row[i] - most)
        total += row[i]
    for i in range(row.size):
        row[i] /= total


@_kernel()
def _quantise(x: int, rounded: int, most: int, rows: int, n: int, size: int) -> None:
    row, largest = np.empty(n, np.float32), _float32(most, rows)
    magnitudes = row.view(np.uint32)
    for r in range(rows):
        _read(x, r * n, size, row)
        bits = np.uint32(0)  # read as whole numbers, magnitudes keep their order, and are vectorised
        for i in range(n):
            bits = max(bits, magnitudes[i] & np.uint32(0x7FFFFFFF))
        largest[r] = max(np.uint32(bits).view(np.float32), np.float32(1e-8))
        scale = np.float32(1) / largest[r] * np.float32(127)
        codes = _int8(rounded + r * n, n)
        for i in range(n):
            row[i] = row[i] * scale + _ROUNDER
            codes[i] = np.int8(magnitudes[i])


@_kernel()
def _dequantise(product: int, scales: int, most: int, residual: int, out: int, rows: int, n: int, size: int) -> None:
    row, scale, largest = np.empty(n, np.float32), _float32(scales, n), _float32(most, rows)
    for r in range(rows):
        row[:] = 0
        if residual:
            _read(residual, r * n, size, row)
        sums = _int32(product + 4 * r * n, n)
        for i in range(n):
            row[i] += np.float32(sums[i]) * scale[i] * largest[r]
        _write(out, r * n, size, row, n)


@_part("contract")
def _wave(x: Row, alpha: Row, inverse_beta: Row, out: Row) -> None:
    """X + sin(alpha * x)^2 / beta; the sine's sign is lost in its square, so that whole half-turns are taken off.

    Source: SLEEF, sinf of 3.5 units in the last place.
    """
    for i in range(x.size):
        turned = x[i] * alpha[i]
        halves = (turned * np.float32(0.31830988618) + _ROUNDER) - _ROUNDER
        turned = turned - halves * np.float32(3.140625) - halves * np.float32(0.0009670257568359375)
        turned = turned - halves * np.float32(6.2771141529083252e-7)
        square = turned * turned
        sine = np.float32(2.6083159809786593541503e-06)
        sine = sine * square + np.float32(-0.0001981069071916863322258)
        sine = sine * square + np.float32(0.00833307858556509017944336)
        sine = sine * square + np.float32(-0.166666597127914428710938)
        sine = sine * square * turned + turned
        out[i] = x[i] + sine * sine * inverse_beta[i]


@_kernel()
def _snake(
    x: int,
    alpha: int,
    inverse_beta: int,
    out: int,
    batch: int,
    columns: int,
    n: int,
    stride: int,
    size: int,
) -> None:
    alphas, betas, row = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    _read(alpha, 0, size, alphas)
    _read(inverse_beta, 0, size, betas)
    for b in range(batch):
        for column in range(columns):
            source, target = (b * columns + column) * n, b * stride + column * n
            if size == _HALF:
                _read(x, source, size, row)
                _wave(row, alphas, betas, row)
                _write(out, target, size, row, n)
            else:
                _wave(_float32(x + size * source, n), alphas, betas, _float32(out + size * target, n))


@_kernel()
def _draw(
    logits: int,
    uniform: int,
    temperature: int,
    top_k: int,
    top_p: int,
    drawn: int,
    batch: int,
    vocabulary: int,
    keep: int,
) -> None:
    row, weights = np.empty(vocabulary, np.float32), np.empty(vocabulary, np.float64)
    values, codes = np.empty(keep, np.float32), np.empty(keep, np.int64)
    for b in range(batch):
        heat, kept = _float32(temperature, batch)[b], _int64(top_k, batch)[b]
        _read(logits, b * vocabulary, 4, row)
        if heat == 0:
            _int64(drawn, batch)[b] = row.argmax()
            continue
        for code in range(vocabulary):
            row[code] /= heat
        kept = min(kept, keep) if kept > 0 else keep
        _take_largest(row, values[:kept], codes[:kept])
        mass = np.exp((values[:kept] - values[0]).astype(np.float64))
        mass /= mass.sum()
        before = 0.0
        weights[:] = 0
        for rank in range(kept):
            if rank == 0 or before < _float32(top_p, batch)[b]:
                weights[codes[rank]] += mass[rank]
            before += mass[rank]
        target = np.float64(_float32(uniform, batch)[b]) * weights.sum()
        _int64(drawn, batch)[b] = _first_beyond(weights, target)


@_part()
def _take_largest(row: Row, values: Row, codes: NDArray[np.int64]) -> None:
    """Fill ``values`` and ``codes`` with the largest of ``row``, in falling order."""
    values[:] = -np.inf
    codes[:] = 0
    for code in range(row.size):
        place = values.size - 1
        if row[code] > values[place]:
            while place > 0 and row[code] > values[place - 1]:
                values[place], codes[place] = values[place - 1], codes[place - 1]
                place -= 1
            values[place], codes[place] = row[code], code


@_part()
def _first_beyond(weights: NDArray[np.float64], target: float) -> int:
    """The first code up to which the weights sum to more than ``target``; the last with a weight if rounding hid it."""
    total, last = 0.0, 0
    for code in range(weights.size):
        if weights[code] > 0:
            total += weights[code]
            last = code
            if total > target:
                break
    return last


def snake(x: Tensor, alpha: Tensor, inverse_beta: Tensor, out: Tensor) -> None:
    """Write x + sin(alpha * x)^2 / beta.

    Args:
        x: [B, T, C] float32 or bfloat16, on a CPU.
        alpha: [C], in the dtype of ``x``, as the others.
        inverse_beta: [C].
        out: [B, T, C]; overwritten; each of its rows is contiguous.
    """
    assert out[0].is_contiguous(), "columns follow one another"
    batch, columns, n = x.shape
    inputs = (x.contiguous(), alpha, inverse_beta)
    _snake(*[each.data_ptr() for each in inputs], out.data_ptr(), batch, columns, n, out.stride(0), x.itemsize)


def draw(logits: Tensor, uniform: Tensor, rows: DrawRows, indices: slice | Tensor, keep: int) -> Tensor:
    """Draw one code a row; see :func:`serve_app.model.sampling.draw`, which this is unless very many codes are kept."""
    if keep > _MANY_CODES:
        return sampling.draw(logits, uniform, rows, indices, keep)
    logits, uniform = logits.contiguous(), uniform.contiguous()
    parameters = (logits, uniform, rows.temperature[indices], rows.top_k[indices], rows.top_p[indices])
    drawn = torch.empty_like(parameters[3])
    _draw(*[each.data_ptr() for each in parameters], drawn.data_ptr(), *logits.shape, keep)
    return drawn


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round rows to int8, each so that its largest magnitude becomes 127.

    Args:
        x: [..., K] float32 or bfloat16, contiguous, on a CPU; B rows in all.

    Returns:
        [B, K] int8, and the largest magnitudes [B] float32, 1e-8 at the least.
    """
    n = x.shape[-1]
    rows = x.numel() // n
    rounded, most = torch.empty((rows, n), dtype=torch.int8), torch.empty(rows)
    _quantise(x.data_ptr(), rounded.data_ptr(), most.data_ptr(), rows, n, x.itemsize)
    return rounded, most


def dequantise(product: Tensor, scale: Tensor, most: Tensor, residual: Tensor | None, out: Tensor) -> None:
    """Give sums of int8 products their scales: product * scale * most + residual, rounded once.

    Args:
        product: [B, N] int32, contiguous, on a CPU.
        scale: [N] float32.
        most: [B] float32.
        residual: like ``out``; added where given.
        out: [..., N] float32 or bfloat16, contiguous; overwritten.
    """
    rows, n = product.shape
    added = 0 if residual is None else residual.data_ptr()
    scales = scale.data_ptr(), most.data_ptr()
    _dequantise(product.data_ptr(), *scales, added, out.data_ptr(), rows, n, out.itemsize)


class CpuKernels:
    """:class:`serve_app.model.kernels.Kernels` for float32 and bfloat16 on a CPU."""

    def __init__(self, shape: StackShape, positions: int) -> None:
        """Work on heads of ``shape``, over a cache whose slots hold ``positions``."""
        self._heads, self._kv_heads, self._dim = shape.heads, shape.kv_heads, shape.head_dim
        self._eps = shape.rms_eps
        self._positions = positions

    def norm(self, x: Tensor) -> Tensor:
        """Divide [..., N] by its root mean square, in float32 inside."""
        x = x.contiguous()
        out, n = torch.empty_like(x), x.shape[-1]
        _norm(x.data_ptr(), out.data_ptr(), x.numel() // n, n, x.itemsize, self._eps)
        return out

    def swiglu(self, x: Tensor) -> Tensor:
        """silu(gate) * up of [..., 2 N], gate first: [..., N]."""
        x = x.contiguous()
        n = x.shape[-1] // 2
        out = x.new_empty((*x.shape[:-1], n))
        _swiglu(x.data_ptr(), out.data_ptr(), out.numel() // n, n, x.itemsize)
        return out

    def attend(self, fused: Tensor, norm_qk: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
        """Norm, scale and rotate queries and keys, store keys and values, and attend; see ``Kernels``."""
        batch, new = fused.shape[:2]
        assert span.cos.shape[1] == new, "the span would leave the cache"
        assert fused.dtype == norm_qk.dtype == span.cos.dtype == keys.dtype, "they are read as one dtype"
        queries = fused.new_empty((batch, new, self._heads * self._dim))
        inputs = (fused.contiguous(), norm_qk, span.cos, span.sin, keys, values, queries)
        addresses = [each.data_ptr() for each in inputs]
        where = span.addresses()
        sizes = (batch, new, self._heads, self._kv_heads, self._dim, self._positions, fused.itemsize)
        _place(*addresses, *where, *sizes, self._eps)
        if self._positions > _FEW_POSITIONS:
            return span.attend(queries.unflatten(2, (self._heads, self._dim)), keys, values)
        out = torch.empty_like(queries)
        _attend(*addresses[4:], out.data_ptr(), *where, *sizes)
        return out
