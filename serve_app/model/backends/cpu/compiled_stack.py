"""Runs all layers of a stack in one compiled call, on all of torch's threads.

A frame of one stream passes through 103 layers. As separate operations, the work between their matmuls took a quarter
of the time. Here the threads stay together: each computes its share of a matmul's outputs, or attends with its share of
the heads, and all of them synchronize before the next operation reads the results. A row's result depends only on that
row and its slot, to the last bit: not on the batch, on the number of threads, or on how a prompt is split.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.backends.cpu.instructions import TILE, TILE_ROWS
from serve_app.model.backends.cpu.parts import (
    HALF,
    REAL,
    Function,
    Record,
    Row,
    array_at,
    bfloat16_at,
    float32_at,
    int64_at,
    normalise,
    part,
    read,
    rotate,
    softmax,
    write,
)
from serve_app.model.backends.cpu.team import (
    TeamFunction,
    barrier,
    job_of,
    jobs_at,
    set_fields,
    team_size,
    thread_number,
    threads,
)
from serve_app.model.backends.cpu.tiles import (
    ADD,
    GATE,
    PRODUCT,
    PRODUCTS,
    STORE,
    TiledWeight,
    WeightFormat,
    multiply,
    pair_up,
    take,
)
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.stack_shape import Rotary, StackShape

PASS = job_of(
    # constants
    "products", "layers", "norm_qk", "norm", "cos", "sin", "heads", "kv_heads", "dim", "hidden", "capacity", "size",
    # the cache
    "keys", "values", "layer_bytes", "queries", "watched",
    # rows and their positions
    "given", "result", "slots", "first_slot", "positions", "first_position", "batch", "new",
    # workspace
    "x", "x_width", "fused", "fused_width", "attended", "gated", "gates", "gated_width",
    "taken", "taken_bytes", "factors", "sums",
    real=("eps",),
)  # fmt: skip
"""Parameters of a pass for compiled code."""


Stored: TypeAlias = NDArray[np.float32] | NDArray[np.uint16]
"""Entries of a cache: float32, or the bits of bfloat16."""


@part()
def _digest(x: int, width: int, n: int, eps: float, product: Record, taken: int, factors: Row) -> None:
    """Convert the first ``n`` of rows [rows, width] float32 to a matmul's inputs; normed first unless ``eps`` is 0."""
    row = np.empty(n, np.float32)
    for r in range(factors.size):
        read(x, r * width, REAL, row)
        if eps:
            normalise(row, eps)
        factors[r] = take(row, product, taken + r * 4 * product.steps)


def _exactly(stored: np.float32 | np.uint16) -> np.float32:
    """A float32, or a bfloat16 converted to float32 without loss."""
    raise NotImplementedError(stored)  # only compiled code can call this


@overload(_exactly, strict=False)  # strict mode would compare annotations
def _compile_exactly(stored: types.Type) -> Function:
    if isinstance(stored, types.Float):
        return lambda stored: stored
    return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)


@part("reassoc", "contract")
def _score(query: Row, keys: Stored, scores: Row) -> None:
    """Multiply ``query`` [D] by each of ``keys`` [P, D], four at a time: [P]."""
    whole = scores.size // 4 * 4
    for p in range(0, whole, 4):
        first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for i in range(query.size):
            first += query[i] * _exactly(keys[p, i])
            second += query[i] * _exactly(keys[p + 1, i])
            third += query[i] * _exactly(keys[p + 2, i])
            fourth += query[i] * _exactly(keys[p + 3, i])
        scores[p], scores[p + 1], scores[p + 2], scores[p + 3] = first, second, third, fourth
    for p in range(whole, scores.size):
        total = np.float32(0)
        for i in range(query.size):
            total += query[i] * _exactly(keys[p, i])
        scores[p] = total


@part("contract")
def _mix(weights: Row, values: Stored, total: Row) -> None:
    """Add the weighted ``values`` [P, D] to ``total`` [D], four at a time."""
    total[:] = 0
    whole = weights.size // 4 * 4
    for p in range(0, whole, 4):
        first, second, third, fourth = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
        for i in range(total.size):
            total[i] += (
                first * _exactly(values[p, i])
                + second * _exactly(values[p + 1, i])
                + third * _exactly(values[p + 2, i])
                + fourth * _exactly(values[p + 3, i])
            )
    for p in range(whole, weights.size):
        for i in range(total.size):
            total[i] += weights[p] * _exactly(values[p, i])


@part()
def _look_at(keys: Stored, values: Stored, query: Row, scores: Row, attended: Row) -> None:
    """Attend with one query [D] to ``keys`` and ``values`` [P, D]; ``scores`` [P] is scratch."""
    _score(query, keys, scores)
    softmax(scores)
    _mix(scores, values, attended)


@part("contract")
def attend(job: Record, layer: int, me: int, team: int) -> None:
    """Norm, scale and rotate queries and keys, store keys and values, and attend: one thread's share of the heads."""
    dim, group, new, kv_heads = job.dim, job.heads // job.kv_heads, job.new, job.kv_heads
    scale = np.float32(1) / np.sqrt(np.float32(dim))
    row, turned = np.empty(dim, np.float32), np.empty(dim, np.float32)
    scores = np.empty(job.capacity, np.float32)
    norms = float32_at(job.norm_qk + REAL * layer * (job.heads + kv_heads) * dim, (job.heads + kv_heads) * dim)
    for unit in range(job.batch * kv_heads * me // team, job.batch * kv_heads * (me + 1) // team):
        b, head = unit // kv_heads, unit % kv_heads
        slot = int64_at(job.slots, job.batch)[b] if job.slots else job.first_slot + b
        begin = int64_at(job.positions, job.batch)[b] if job.positions else job.first_position
        place = layer * job.layer_bytes + job.size * (slot * kv_heads + head) * job.capacity * dim
        keys, values = job.keys + place, job.values + place
        for t in range(new):
            source = (b * new + t) * job.fused_width
            read(job.fused, source + (job.heads + head) * dim, REAL, row)
            normalise(row, job.eps)
            for i in range(dim):
                row[i] *= norms[(job.heads + head) * dim + i]
            angle = REAL * (begin + t) * dim
            rotate(row, float32_at(job.cos + angle, dim), float32_at(job.sin + angle, dim), turned)
            write(keys, (begin + t) * dim, job.size, turned, dim)
            read(job.fused, source + (job.heads + kv_heads + head) * dim, REAL, row)
            write(values, (begin + t) * dim, job.size, row, dim)
        for t in range(new):
            length = begin + t + 1
            angle = REAL * (begin + t) * dim
            for query in range(head * group, (head + 1) * group):
                read(job.fused, (b * new + t) * job.fused_width + query * dim, REAL, row)
                normalise(row, job.eps)
                for i in range(dim):
                    row[i] *= norms[query * dim + i]
                rotate(row, float32_at(job.cos + angle, dim), float32_at(job.sin + angle, dim), turned)
                if layer * job.heads + query == job.watched:
                    write(job.queries, (slot * job.capacity + begin + t) * dim, job.size, turned, dim)
                for i in range(dim):
                    turned[i] *= scale
                if job.size == HALF:
                    half_keys, half_values = bfloat16_at(keys, length * dim), bfloat16_at(values, length * dim)
                    _look_at(
                        half_keys.reshape(length, dim), half_values.reshape(length, dim), turned, scores[:length], row
                    )
                else:
                    whole_keys, whole_values = float32_at(keys, length * dim), float32_at(values, length * dim)
                    _look_at(
                        whole_keys.reshape(length, dim), whole_values.reshape(length, dim), turned, scores[:length], row
                    )
                write(job.attended, ((b * new + t) * job.heads + query) * dim, REAL, row, dim)


products_at = array_at(PRODUCTS)
passes_at = jobs_at(PASS)


@part("contract")
def run_layers(job: Record, team_of: Record) -> None:
    """Run rows through all layers.

    Args:
        job: one of :data:`PASS`; reads ``given`` [batch * new, hidden] and writes ``x`` of the same shape. Row r is
            read by thread r modulo the team's size, before the threads synchronize.
        team_of: the team; all of its threads call this function.
    """
    me, team, rows = thread_number(team_of), team_size(team_of), job.batch * job.new
    taken, factors = job.taken + me * rows * job.taken_bytes, float32_at(job.factors + REAL * me * rows, rows)
    sums, heads_width = job.sums + REAL * me * TILE_ROWS * TILE, job.heads * job.dim
    row = np.empty(job.hidden, np.float32)
    for r in range(me, rows, team):
        read(job.given, r * job.hidden, job.size, row)
        write(job.x, r * job.x_width, REAL, row, job.hidden)
    products = products_at(job.products, 4 * job.layers)
    barrier(team_of)
    for layer in range(job.layers):
        first = 4 * layer
        qkv, out, gate_up, down = products[first], products[first + 1], products[first + 2], products[first + 3]
        _digest(job.x, job.x_width, job.hidden, job.eps, qkv, taken, factors)
        multiply(qkv, team_of, taken, factors, sums, job.fused, job.fused_width, STORE)
        barrier(team_of)
        attend(job, layer, me, team)
        barrier(team_of)
        _digest(job.attended, heads_width, heads_width, 0.0, out, taken, factors)
        multiply(out, team_of, taken, factors, sums, job.x, job.x_width, ADD)
        barrier(team_of)
        _digest(job.x, job.x_width, job.hidden, job.eps, gate_up, taken, factors)
        multiply(gate_up, team_of, taken, factors, sums, job.gated, job.gated_width, GATE)
        barrier(team_of)
        _digest(job.gated, job.gated_width, job.gates, 0.0, down, taken, factors)
        multiply(down, team_of, taken, factors, sums, job.x, job.x_width, ADD)
        barrier(team_of)


@part("contract")
def finish(job: Record, r: int, row: Row) -> None:
    """Norm the layers' output for row ``r`` with the final norm, into ``row`` [hidden]."""
    norm = float32_at(job.norm, job.hidden)
    read(job.x, r * job.x_width, REAL, row)
    normalise(row, job.eps)
    for i in range(row.size):
        row[i] *= norm[i]


def _run_stack(address: int) -> None:
    job = passes_at(address, 1)[0]
    run_layers(job, job.team)
    row = np.empty(job.hidden, np.float32)
    for r in range(thread_number(job.team), job.batch * job.new, team_size(job.team)):
        finish(job, r, row)
        write(job.result, r * job.hidden, job.size, row, job.hidden)


_RUN_STACK = TeamFunction(_run_stack)


class CompiledStack:
    """:class:`serve_app.model.backends.protocol.Stack` on a CPU; not safe for concurrent calls.

    Activations, keys and values are float32 if the weights are, and bfloat16 otherwise.

    Attributes:
        products: [4 * layers], the weights for compiled code, in the order in which they are read.
        last_pass: [1] :data:`PASS`, parameters of the last call; the addresses of rows and workspace in it are no
            longer valid.
    """

    def __init__(
        self,
        layers: Iterable[LayerWeights],
        norm: Tensor,
        shape: StackShape,
        positions: int,
        weight_format: WeightFormat,
    ) -> None:
        """Lay out copies of the weights.

        Args:
            layers: the layers' weights.
            norm: [H], weight of the final norm.
            shape: the stack's sizes.
            positions: maximum number of positions of a slot of its cache.
            weight_format: format of the weights' entries.
        """
        self._weights: list[TiledWeight] = []
        norms, gates = list[Tensor](), 0
        for layer in layers:
            matrices = layer.qkv, layer.out, pair_up(layer.gate, layer.up), layer.down
            self._weights += [TiledWeight.of(matrix, weight_format) for matrix in matrices]
            norms.append(layer.norm_qk.float())
            gates = len(layer.gate)
        self.products = np.array([weight.fields() for weight in self._weights], PRODUCT)
        self._norm_qk, self._norm = torch.stack(norms), norm.float()
        rotary = Rotary(shape, positions, torch.float32, norm.device)
        self._cos, self._sin = rotary.cos, rotary.sin
        self._positions, self._heads = positions, shape.heads
        self._dtype = torch.float32 if weight_format == WeightFormat.FLOAT32 else torch.bfloat16
        qkv, out, gate_up, down = self._weights[:4]
        self._widths = (out.outputs, qkv.outputs, shape.heads * shape.head_dim, gate_up.outputs // 2)
        self._taken_bytes = max(weight.row_bytes for weight in (qkv, out, gate_up, down))
        self.last_pass = np.zeros(1, PASS)
        set_fields(
            self.last_pass,
            products=self.products.ctypes.data,
            layers=shape.layers,
            norm_qk=self._norm_qk.data_ptr(),
            norm=self._norm.data_ptr(),
            cos=self._cos.data_ptr(),
            sin=self._sin.data_ptr(),
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            dim=shape.head_dim,
            hidden=shape.hidden,
            capacity=positions,
            size=self._dtype.itemsize,
            x_width=out.outputs,
            fused_width=qkv.outputs,
            gates=gates,
            gated_width=gate_up.outputs // 2,
            taken_bytes=self._taken_bytes,
            eps=shape.rms_eps,
        )

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one pass reads, for any number of rows."""
        return sum(weight.nbytes for weight in self._weights)

    @property
    def reads_length(self) -> bool:
        """False: attention reads each row only up to its own position."""
        return False

    def run_aligned(self, x: Tensor, cache: KvCache, rows: slice, start: int) -> Tensor:
        """Run T new positions of consecutive slots that are all at the same position."""
        assert start + x.shape[1] <= self._positions, "the new positions would exceed the cache"
        return self._run(x, cache, first_slot=rows.start, first_position=start, slots=0, positions=0)

    def run_staggered(self, x: Tensor, cache: KvCache, rows: Rows, positions: Tensor, length: int) -> Tensor:
        """Run T new positions of several slots, each from its own position on."""
        assert length <= self._positions, "the new positions would exceed the cache"
        first, slots = (rows.start, 0) if isinstance(rows, slice) else (0, rows.data_ptr())
        return self._run(x, cache, first_slot=first, first_position=0, slots=slots, positions=positions.data_ptr())

    def _run(self, x: Tensor, cache: KvCache, **where: int) -> Tensor:
        """Run [B, T, H]; ``where``: addresses of slots and positions [B] int64, or 0 and the first or shared one."""
        assert x.dtype == cache.keys.dtype == self._dtype, "inputs, cache and stack must have one dtype"
        assert cache.positions == self._positions, "the cache belongs to another stack"
        x = x.contiguous()
        batch, new, _ = x.shape
        result, team = torch.empty_like(x), threads()
        workspace = self.workspace(batch * new, team)
        addresses = {name: each.data_ptr() for name, each in workspace.items()}
        set_fields(self.last_pass, **cache_fields(cache, self._heads), **addresses, **where, batch=batch, new=new)
        set_fields(self.last_pass, given=x.data_ptr(), result=result.data_ptr())
        _RUN_STACK.run(self.last_pass, team)
        return result

    def workspace(self, rows: int, team: int) -> dict[str, Tensor]:
        """Allocate the workspace of a pass with at most ``rows`` rows, by the names of :data:`PASS`."""
        names = ("x", "fused", "attended", "gated")
        return {
            **{name: torch.empty(rows, width) for name, width in zip(names, self._widths, strict=True)},
            "taken": torch.empty(team, rows, self._taken_bytes, dtype=torch.uint8),
            "factors": torch.empty(team, rows),
            "sums": torch.empty(team, TILE_ROWS, TILE),
        }


def cache_fields(cache: KvCache, heads: int) -> dict[str, int]:
    """The location of a cache, by the names of :data:`PASS`; ``heads`` is the number of query heads of a layer.

    ``watched`` counts the query heads of all layers; -1 if the queries of none are kept.
    """
    keys, values, head = cache.keys, cache.values, cache.watched
    watched, queries = (-1, 0) if head is None else (head.layer * heads + head.head, head.queries.data_ptr())
    location = {"keys": keys.data_ptr(), "values": values.data_ptr(), "layer_bytes": keys[0].nbytes}
    return {**location, "queries": queries, "watched": watched}
