"""Runs the codec's transformer in one compiled call, on all of torch's threads.

A window's keys and values are read and stored in place, in a stream's state, without gathering. A stream's columns
depend only on that stream, to the last bit: neither on its batch nor on the number of threads.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.backends.cpu.parts import (
    REAL,
    Record,
    Row,
    copy,
    dot,
    exp,
    float32_at,
    int64_at,
    normalise,
    part,
    rotate,
    softmax,
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
from serve_app.model.backends.cpu.window_tiles import window_products_at
from serve_app.model.backends.cpu.windows import WindowLinear, multiply_windows, rows_of_state
from serve_app.model.backends.protocol import CodecStep
from serve_app.model.codec_weights import TransformerWeights, angles

_PASS = job_of(
    # constants
    "layers", "remembered", "heads", "kv_heads", "dim", "hidden", "gates", "window",
    # rows and their positions
    "given", "result", "batch", "new", "state", "state_bytes", "positions", "n_frames", "cos", "sin",
    # products and workspace
    "products", "x", "normed", "fused", "attended", "gated", "activated",
    real=("eps",),
)  # fmt: skip
_passes_at = jobs_at(_PASS)


@part()
def _normalise_all(job: Record, source: int, target: int, me: int, team: int) -> None:
    """Norm one thread's share of the columns [batch * new, hidden]."""
    for r in range(me, job.batch * job.new, team):
        place = REAL * r * job.hidden
        copy(source + place, target + place, job.hidden)
        normalise(float32_at(target + place, job.hidden), job.eps)


@part("contract")
def _gate(job: Record, me: int, team: int) -> None:
    """Multiply silu of the first half of one thread's share of the columns by their second half."""
    for r in range(me, job.batch * job.new, team):
        row = float32_at(job.gated + REAL * 2 * r * job.gates, 2 * job.gates)
        written = float32_at(job.activated + REAL * r * job.gates, job.gates)
        for i in range(job.gates):
            written[i] = row[i] / (np.float32(1) + exp(-row[i])) * row[i + job.gates]


@part("contract")
def _mix(weight: np.float32, values: Row, total: Row) -> None:
    for i in range(total.size):
        total[i] += weight * values[i]


@part()
def _turn(job: Record, column: int, head: int, row: Row) -> None:
    """Rotate a head of a new column: a query's or a key's."""
    given = job.fused + REAL * job.dim * (column * (job.heads + 2 * job.kv_heads) + head)
    angle = REAL * job.dim * column
    rotate(float32_at(given, job.dim), float32_at(job.cos + angle, job.dim), float32_at(job.sin + angle, job.dim), row)


@part()
def _look_at(keys: NDArray[np.int64], to_value: int, query: Row, scores: Row, total: Row) -> None:
    """Attend with one query [D] to keys at some addresses; each value is ``to_value`` bytes after its key."""
    for k in range(keys.size):
        scores[k] = dot(query, float32_at(keys[k], query.size))
    softmax(scores)
    total[:] = 0
    for k in range(keys.size):
        _mix(scores[k], float32_at(keys[k] + to_value, query.size), total)


@part("contract")
def _attend(job: Record, layer: int, me: int, team: int) -> None:
    """Rotate queries and keys, attend to the window, and save its end: one thread's share of the heads."""
    dim, group, past, new = job.dim, job.heads // job.kv_heads, job.window - 1, job.new
    to_value = REAL * job.kv_heads * dim  # from key to value, both in the saved history and in the matmul's output
    scale = np.float32(1) / np.sqrt(np.float32(dim))
    row, scores, keys = np.empty(dim, np.float32), np.empty(job.window, np.float32), np.empty(past + new, np.int64)
    for unit in range(job.batch * job.kv_heads * me // team, job.batch * job.kv_heads * (me + 1) // team):
        b, head = unit // job.kv_heads, unit % job.kv_heads
        state = job.state + b * job.state_bytes + int64_at(job.remembered, job.layers)[layer] + REAL * head * dim
        for k in range(past):
            keys[k] = state + 2 * k * to_value
        for t in range(new):
            _turn(job, b * new + t, job.heads + head, row)
            place = (b * new + t) * (job.heads + 2 * job.kv_heads) + job.heads + head
            keys[past + t] = job.fused + REAL * dim * place
            copy(row.ctypes.data, keys[past + t], dim)
        for t in range(new):
            first, end = max(t, past - int64_at(job.positions, job.batch)[b]), past + t + 1
            for each in range(head * group, (head + 1) * group):
                _turn(job, b * new + t, each, row)
                for i in range(dim):
                    row[i] *= scale
                attended = float32_at(job.attended + REAL * dim * ((b * new + t) * job.heads + each), dim)
                _look_at(keys[first:end], to_value, row, scores[: end - first], attended)
        real = int64_at(job.n_frames, job.batch)[b] if job.n_frames else new
        for k in range(past if real > 0 else 0):
            copy(keys[k + real], keys[k], dim)
            copy(keys[k + real] + to_value, keys[k] + to_value, dim)


def _run_codec_transformer(address: int) -> None:
    job = _passes_at(address, 1)[0]
    me, team = thread_number(job.team), team_size(job.team)
    products = window_products_at(job.products, 4 * job.layers)
    for layer in range(job.layers):
        _normalise_all(job, job.x if layer else job.given, job.normed, me, team)
        barrier(job.team)
        multiply_windows(products[4 * layer], me, team)
        barrier(job.team)
        _attend(job, layer, me, team)
        barrier(job.team)
        multiply_windows(products[4 * layer + 1], me, team)
        barrier(job.team)
        _normalise_all(job, job.x, job.normed, me, team)
        barrier(job.team)
        multiply_windows(products[4 * layer + 2], me, team)
        barrier(job.team)
        _gate(job, me, team)
        barrier(job.team)
        multiply_windows(products[4 * layer + 3], me, team)
        barrier(job.team)
    _normalise_all(job, job.x, job.result, me, team)


RUN_CODEC_TRANSFORMER = TeamFunction(_run_codec_transformer)


class CompiledTransformer:
    """Layers with sliding-window attention and a gated MLP, and the final norm's scaling.

    Float32, on a CPU; not safe for concurrent calls.
    """

    def __init__(self, weights: TransformerWeights) -> None:
        """Lay out copies of the weights; norms and layer scales are folded into the matmuls."""
        layers, heads = weights.layers, weights.heads
        self._frequencies = weights.frequencies
        self._products = [
            WindowLinear(each, None)
            for layer in layers
            for each in (layer.qkv, layer.output, layer.gate_up, layer.down)
        ]
        qkv, output, _, down = self._products[:4]
        self._remembered = np.array([REAL * layer.history.start for layer in layers], np.int64)
        self._hidden, self._gates, dim = qkv.channels, down.channels, output.channels // heads
        assert weights.frequencies.dtype == torch.float32, "the compiled code reads float32"
        assert 2 * len(weights.frequencies) == dim, "each pair of values needs a frequency"
        self._widths = {
            "x": self._hidden,
            "normed": self._hidden,
            "fused": qkv.outputs,
            "attended": output.channels,
            "gated": 2 * self._gates,
            "activated": self._gates,
        }
        self._pass = np.zeros(1, _PASS)
        set_fields(
            self._pass,
            layers=len(layers),
            remembered=self._remembered.ctypes.data,
            heads=heads,
            kv_heads=weights.kv_heads,
            dim=dim,
            hidden=self._hidden,
            gates=self._gates,
            window=weights.window,
            eps=weights.eps,
        )
        past = (weights.window - 1) * 2 * weights.kv_heads * dim
        self._width = max(layer.history.start for layer in layers) + past
        self._shaped: dict[tuple[int, int], NDArray[np.void]] = {}
        """By columns and threads: parameters of the last call; the addresses of columns in them are no longer valid."""

    def __call__(self, step: CodecStep, position: Tensor, x: Tensor) -> Tensor:
        """Run some streams' new columns through all layers.

        Args:
            step: its state is [B, width] float32, contiguous rows; mutated where the layers keep their history.
            position: [B] int64, columns that each stream has had before.
            x: [B, T, C] float32.

        Returns:
            [B, T, C].
        """
        state = step.state
        real = rows_of_state(x, state, self._width, step.n_frames)
        batch, new, _ = x.shape
        assert x.shape[2] == self._hidden, "the columns have another width"
        assert position.dtype == torch.int64, "the compiled code reads int64"
        assert position.shape == (batch,), "each stream needs a position"
        cosine, sine = angles(self._frequencies, position, new)
        rows, team = batch * new, threads()
        inputs = [x.contiguous(), position.contiguous(), cosine, sine]
        workspace = {name: x.new_empty(rows, width) for name, width in self._widths.items()}
        result = torch.empty_like(inputs[0])
        at = {name: each.data_ptr() for name, each in workspace.items()}
        given, at_position, at_cosine, at_sine = [each.data_ptr() for each in inputs]
        layers, products = len(self._remembered), self._of_shape(rows, team)
        set_fields(
            products,
            x=[at["normed"], at["attended"], at["normed"], at["activated"]] * layers,
            out=[at["fused"], at["x"], at["gated"], at["x"]] * layers,
            residual=[0, given, 0, at["x"], *[0, at["x"]] * (2 * layers - 2)],
        )
        set_fields(
            self._pass, **at, given=given, result=result.data_ptr(), batch=batch, new=new, products=products.ctypes.data
        )
        set_fields(self._pass, state=state.data_ptr(), state_bytes=REAL * state.stride(0), positions=at_position)
        set_fields(self._pass, n_frames=0 if real is None else real.data_ptr(), cos=at_cosine, sin=at_sine)
        RUN_CODEC_TRANSFORMER.run(self._pass, team)
        return result

    def _of_shape(self, rows: int, team: int) -> NDArray[np.void]:
        """Parameters of the matmuls for compiled code, except the addresses of their columns."""
        if (rows, team) not in self._shaped:
            self._shaped[rows, team] = np.concatenate([each.product(1, rows, team) for each in self._products])
        return self._shaped[rows, team]
