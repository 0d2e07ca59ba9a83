"""Operations between matmuls on a CPU, each a compiled loop over rows.

This module handles addresses and sizes, not layers or streams. A row's result depends only on that row, to the last
bit. Computation is in float32, rounded once at the end. A kernel is compiled on first use, or loaded from a cache on
disk; a replica's warm-up sentence does this.

A torch operation costs some microseconds even if it does little, and a frame has 103 layers; a call here costs one
microsecond. Kernels take addresses, since viewing a tensor as an array costs another microsecond (measured).
"""

import numpy as np
import torch
from torch import Tensor

from serve_app.model.attention import Span, StackShape
from serve_app.model.backends.cpu.parts import (
    HALF,
    ROUNDER,
    Row,
    dot,
    exp,
    float32_at,
    int64_at,
    kernel,
    normalise,
    part,
    read,
    rotate,
    softmax,
    write,
)
from serve_app.model.backends.cpu.team import NO_TEAM, TeamFunction, job_of, jobs_at, team_size, thread_number, threads

_FEW_POSITIONS = 64
"""Up to this many cache positions, one thread attends faster than torch's attention starts."""

_FEW_VALUES = 4096
"""Up to this many values, one thread finishes before another could start."""


@kernel()
def _norm(x: int, out: int, rows: int, n: int, size: int, eps: float) -> None:
    row = np.empty(n, np.float32)
    for r in range(rows):
        read(x, r * n, size, row)
        normalise(row, eps)
        write(out, r * n, size, row, n)


@kernel("contract")
def _swiglu(x: int, out: int, rows: int, n: int, size: int) -> None:
    row = np.empty(2 * n, np.float32)
    for r in range(rows):
        read(x, 2 * r * n, size, row)
        for i in range(n):
            gate = row[i]
            row[i] = gate / (np.float32(1) + exp(-gate)) * row[n + i]
        write(out, r * n, size, row, n)


@kernel("contract")
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
    """Norm, scale and rotate queries into [B, T, heads, D] and keys into the cache; store values in the cache."""
    row, turned = np.empty(dim, np.float32), np.empty(dim, np.float32)
    cosine, sine = np.empty(dim, np.float32), np.empty(dim, np.float32)
    scales = np.empty((heads + kv_heads, dim), np.float32)
    read(norm_qk, 0, size, scales.ravel())
    for b in range(batch):
        slot = int64_at(slots, batch)[b] if slots else first_slot + b
        for t in range(new):
            position = int64_at(positions, batch)[b] if positions else start + t
            angle = b if positions else t
            read(cos, angle * dim, size, cosine)
            read(sin, angle * dim, size, sine)
            source = (b * new + t) * (heads + 2 * kv_heads) * dim
            for head in range(heads + kv_heads):
                read(fused, source + head * dim, size, row)
                normalise(row, eps)
                for i in range(dim):
                    row[i] *= scales[head, i]
                rotate(row, cosine, sine, turned)
                if head < heads:
                    write(queries, ((b * new + t) * heads + head) * dim, size, turned, dim)
                else:
                    write(keys, ((slot * kv_heads + head - heads) * capacity + position) * dim, size, turned, dim)
            for head in range(kv_heads):
                read(fused, source + (heads + kv_heads + head) * dim, size, row)
                write(values, ((slot * kv_heads + head) * capacity + position) * dim, size, row, dim)


@kernel("contract")
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
        slot = int64_at(slots, batch)[b] if slots else first_slot + b
        for t in range(new):
            length = 1 + (int64_at(positions, batch)[b] if positions else start + t)
            for head in range(kv_heads):
                place = ((b * new + t) * heads + head * group) * dim
                cached = (slot * kv_heads + head) * capacity * dim
                read(queries, place, size, query.ravel())
                read(keys, cached, size, seen[:length].ravel())
                for g in range(group):
                    for p in range(length):
                        weights[g, p] = scale * dot(query[g], seen[p])
                    softmax(weights[g, :length])
                read(values, cached, size, seen[:length].ravel())
                for g in range(group):
                    _mix(weights[g, :length], seen, total[g])
                write(out, place, size, total.ravel(), group * dim)


@part("contract")
def _mix(weights: Row, rows: Row, total: Row) -> None:
    total[:] = 0
    for p in range(weights.size):
        for i in range(total.size):
            total[i] += weights[p] * rows[p, i]


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


_SNAKE = job_of("x", "alpha", "inverse_beta", "out", "batch", "columns", "n", "stride", "size")
_snakes_at = jobs_at(_SNAKE)


def _snake(address: int) -> None:
    job = _snakes_at(address, 1)[0]
    me, team, n, size = thread_number(job.team), team_size(job.team), job.n, job.size
    alphas, betas, row = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    read(job.alpha, 0, size, alphas)
    read(job.inverse_beta, 0, size, betas)
    all_columns = job.batch * job.columns
    for each in range(all_columns * me // team, all_columns * (me + 1) // team):
        source, target = each * n, each // job.columns * job.stride + each % job.columns * n
        if size == HALF:
            read(job.x, source, size, row)
            wave(row, alphas, betas, row)
            write(job.out, target, size, row, n)
        else:
            wave(float32_at(job.x + size * source, n), alphas, betas, float32_at(job.out + size * target, n))


_SNAKE_FUNCTION = TeamFunction(_snake)


def snake(x: Tensor, alpha: Tensor, inverse_beta: Tensor, out: Tensor) -> None:
    """Write x + sin(alpha * x)^2 / beta.

    Args:
        x: [B, T, C] float32 or bfloat16, on a CPU.
        alpha: [C], in the dtype of ``x``.
        inverse_beta: [C], in the dtype of ``x``.
        out: [B, T, C] in the dtype of ``x``; overwritten; each of its rows must be contiguous.
    """
    assert out[0].is_contiguous(), "columns must be contiguous"
    batch, columns, n = x.shape
    inputs = (x.contiguous(), alpha, inverse_beta)
    job = np.zeros(1, _SNAKE)
    addresses = [each.data_ptr() for each in inputs]
    job[0] = (NO_TEAM, *addresses, out.data_ptr(), batch, columns, n, out.stride(0), x.itemsize)
    _SNAKE_FUNCTION.run(job, threads() if x.numel() > _FEW_VALUES else 1)


class CpuKernels:
    """:class:`serve_app.model.backends.torch.torch_kernels.Kernels` for float32 and bfloat16 on a CPU."""

    def __init__(self, shape: StackShape, positions: int) -> None:
        """Use the head sizes of ``shape``, for a cache whose slots hold ``positions``."""
        self._heads, self._kv_heads, self._dim = shape.heads, shape.kv_heads, shape.head_dim
        self._eps = shape.rms_eps
        self._positions = positions

    def norm(self, x: Tensor) -> Tensor:
        """Divide [..., N] by its root mean square, computed in float32."""
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
        assert span.cos.shape[1] == new, "the span would exceed the cache"
        assert fused.dtype == norm_qk.dtype == span.cos.dtype == keys.dtype, "the kernel reads all of them as one dtype"
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
