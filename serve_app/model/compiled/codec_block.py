"""A block of the codec in one compiled call, on all of torch's threads; never whose streams those are.

A block is layers: a snake, and a product over windows of what it activates. As calls of their own the threads slept
between them, and woke in more time than many of the products take.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.compiled.cpu_kernels import wave
from serve_app.model.compiled.parts import REAL, copy, float32_at, int64_at, part
from serve_app.model.compiled.team import (
    TeamFunction,
    job_of,
    jobs_at,
    meet,
    team_size,
    tell,
    thread_number,
    threads,
)
from serve_app.model.compiled.window_tiles import window_products_at
from serve_app.model.compiled.windows import WindowLinear, multiply_windows, rows_of_state
from serve_app.model.quiet import Upstream

_SNAKE = job_of("x", "window", "alpha", "inverse_beta", "channels", "new", "history", "remembered")
_snakes_at = jobs_at(_SNAKE)

_BLOCK = job_of("snakes", "products", "layers", "batch", "frames", "state", "state_bytes", "n_frames")
_blocks_at = jobs_at(_BLOCK)


@part()
def _activate(snake: Upstream, job: Upstream, me: int, team: int) -> None:
    """Write one thread's share of the windows: of some streams the past, and some of all new columns."""
    n, past = snake.channels, snake.history * snake.channels
    window_bytes = REAL * (past + snake.new * n)
    for b in range(me, job.batch, team):
        copy(job.state + b * job.state_bytes + snake.remembered, snake.window + b * window_bytes, past)
    alpha, inverse_beta = float32_at(snake.alpha, n), float32_at(snake.inverse_beta, n)
    columns = job.batch * snake.new
    for each in range(columns * me // team, columns * (me + 1) // team):
        place = snake.window + each // snake.new * window_bytes + REAL * (past + each % snake.new * n)
        wave(float32_at(snake.x + REAL * each * n, n), alpha, inverse_beta, float32_at(place, n))


@part()
def _remember(snake: Upstream, job: Upstream, me: int, team: int) -> None:
    """Keep the last real columns of some streams' windows."""
    n, past = snake.channels, snake.history * snake.channels
    for b in range(me, job.batch, team):
        real = int64_at(job.n_frames, job.batch)[b] * (snake.new // job.frames) if job.n_frames else snake.new
        window = snake.window + REAL * b * (past + snake.new * n)
        copy(window + REAL * real * n, job.state + b * job.state_bytes + snake.remembered, past)


def _run_block(address: int) -> None:
    job = _blocks_at(address, 1)[0]
    me, team = thread_number(job.team), team_size(job.team)
    snakes, products = _snakes_at(job.snakes, job.layers), window_products_at(job.products, job.layers)
    for layer in range(job.layers):
        _activate(snakes[layer], job, me, team)
        meet(job.team)
        _remember(snakes[layer], job, me, team)
        multiply_windows(products[layer], me, team)
        meet(job.team)


RUN_BLOCK = TeamFunction(_run_block)


@dataclass(frozen=True, slots=True)
class SnakeProduct:
    """A layer: a snake, and the product over windows of what it activates.

    Attributes:
        alpha: [C] float32.
        inverse_beta: [C] float32.
        product: over windows of C channels.
        remembered: where in a stream's state the past of those windows begins, in values.
    """

    alpha: Tensor
    inverse_beta: Tensor
    product: WindowLinear
    remembered: int


class CompiledBlock:
    """Snake and transposed convolution, then residual units of snake, convolution, snake and product per column.

    Float32, on a CPU; one thread at a time may call it.
    """

    def __init__(self, layers: Sequence[SnakeProduct], rate: int) -> None:
        """Run ``layers``: the first makes ``rate`` columns of one, each two that follow are a unit."""
        self._layers, self._rate = layers, rate
        self._channels = layers[0].product.outputs // rate
        assert all(layer.product.outputs == self._channels for layer in layers[1:]), "units keep the width"
        self._width = max(layer.remembered + layer.product.history * layer.product.channels for layer in layers)
        self._shaped: dict[tuple[int, int, int], tuple[NDArray[Any], NDArray[Any]]] = {}
        """By batch, columns and threads: what compiled code was last told; addresses of columns are no longer valid."""

    def __call__(self, x: Tensor, state: Tensor, frames: int, n_frames: Tensor | None) -> Tensor:
        """Run some streams' new columns through the block.

        Args:
            x: [B, T, C] float32.
            state: [B, width] float32, contiguous rows; mutated where the layers remember.
            frames: that T columns are.
            n_frames: [B] int64, how many of them are real; None when all are.

        Returns:
            [B, T * rate, C'].
        """
        kept = rows_of_state(x, state, self._width, n_frames)
        assert x.shape[2] == self._layers[0].product.channels, "columns of another width"
        batch, columns, _ = x.shape
        assert columns % frames == 0, "frames have as many columns each"
        team = threads()
        snakes, products = self._of_shape(batch, columns, team)
        x, out = x.contiguous(), x.new_empty(batch, columns * self._rate, self._channels)
        room, hidden = x.new_empty(batch * int(products["stream_bytes"].max()) // REAL), torch.empty_like(out)
        units = (len(products) - 1) // 2
        given, between, made = x.data_ptr(), hidden.data_ptr(), out.data_ptr()
        tell(snakes, x=[given, *[made, between] * units], window=room.data_ptr())
        tell(products, x=room.data_ptr(), out=[made, *[between, made] * units], residual=[0, *[0, made] * units])
        job = np.zeros(1, _BLOCK)
        tell(
            job,
            snakes=snakes.ctypes.data,
            products=products.ctypes.data,
            layers=len(products),
            batch=batch,
            frames=frames,
            state=state.data_ptr(),
            state_bytes=REAL * state.stride(0),
            n_frames=0 if kept is None else kept.data_ptr(),
        )
        RUN_BLOCK.run(job, team)
        return out

    def _of_shape(self, batch: int, columns: int, team: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """What compiled code is told of snakes and products, but for where their columns lie now."""
        shape = batch, columns, team
        if shape not in self._shaped:
            new = [columns, *[columns * self._rate] * (len(self._layers) - 1)]
            snakes = np.zeros(len(self._layers), _SNAKE)
            tell(
                snakes,
                alpha=[layer.alpha.data_ptr() for layer in self._layers],
                inverse_beta=[layer.inverse_beta.data_ptr() for layer in self._layers],
                channels=[layer.product.channels for layer in self._layers],
                new=new,
                history=[layer.product.history for layer in self._layers],
                remembered=[REAL * layer.remembered for layer in self._layers],
            )
            products = [layer.product.product(batch, each, team) for layer, each in zip(self._layers, new, strict=True)]
            self._shaped[shape] = snakes, np.concatenate(products)
        return self._shaped[shape]
