"""Runs steps in a few fixed shapes, so that each shape is captured once as a CUDA graph and replayed afterwards.

A frame of the real model is about 1,500 kernels, and launching them takes a GPU longer than running them. This module
chooses the shapes; :class:`serve_app.model.steps.Steps` computes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.model.steps import SamplingShape, Steps
from serve_app.model.upstream import Upstream

Captured = Callable[[], Tensor]
"""Runs a captured step on the inputs in its static tensors, and returns its static output."""

SMALL_KEEP = 64
"""Codes that a graph's sampling considers if no slot's top_k is larger; otherwise it considers the whole vocabulary."""

_SHORTEST_LENGTH = 256
"""Positions of the smallest talker graph; each further one has twice as many."""

_PROMPT_LENGTHS = (1, 16, 32, 64, 128, 256)
"""Lengths of prompts that have graphs; longer ones are rare, and launching kernels is a small part of their time."""


@dataclass(frozen=True, slots=True)
class PromptBuffers:
    """Static inputs of a captured prefill.

    Attributes:
        prompts: [B, T, H].
        rows: [B] int64.
        starts: [B] int64.
        lengths: [B] int64.
    """

    prompts: Tensor
    rows: Tensor
    starts: Tensor
    lengths: Tensor


class GraphedSteps:
    """The same steps as :class:`Steps`, each in one of a few shapes.

    A shape is captured on first use; :meth:`capture_all` captures all of them before the first request.
    """

    def __init__(self, steps: Steps, slots: int, positions: int, capture: Callable[[Captured], Captured]) -> None:
        """Wrap the plain steps.

        Args:
            steps: computes the steps; it has one spare row after its ``slots``.
            slots: maximum number of slots of a step.
            positions: maximum number of positions of a slot.
            capture: captures a step: :class:`CudaGraphs`, or the identity in tests without a GPU.
        """
        self._steps = steps
        self._slots = slots
        self._lengths = _doubling(_SHORTEST_LENGTH, positions) if steps.reads_length else [positions]
        self._capture = capture
        self._captured: dict[tuple[object, ...], Captured] = {}
        device = steps.device
        self._rows = [torch.full((batch,), slots, dtype=torch.int64, device=device) for batch in range(1, slots + 1)]
        self._batches = _doubling(1, slots)
        self._positions = positions
        self._buffers: dict[tuple[int, int], PromptBuffers] = {}

    def prefill(self, slots: list[int], prompts: Tensor, starts: list[int], lengths: list[int]) -> None:
        """Run prompts [B, T, H] of some slots; see :meth:`Steps.prefill`.

        Prompts are padded to a shape that has a graph; rows beyond the given slots use the spare slot.
        """
        end = max(starts) + prompts.shape[1]
        padded = next((most for most in _PROMPT_LENGTHS if most >= prompts.shape[1]), None)
        if padded is None or max(starts) + padded > self._positions:
            rows, places, sizes = torch.tensor([slots, starts, lengths], device=prompts.device)
            self._steps.prefill(prompts, rows, places, sizes, next(most for most in self._lengths if most >= end))
            return
        batch = next(most for most in self._batches if most >= len(slots))
        reach = next(most for most in self._lengths if most >= max(starts) + padded)
        buffers = self._prompt_buffers(batch, padded, prompts)
        shape = ("prefill", batch, padded, reach)
        missing = batch - len(slots)
        if shape not in self._captured:
            _fill(buffers, [self._slots] * batch, [0] * batch, [1] * batch)

            def step() -> Tensor:
                self._steps.prefill(buffers.prompts, buffers.rows, buffers.starts, buffers.lengths, reach)
                return buffers.rows

            self._captured[shape] = self._capture(step)
        buffers.prompts[: len(slots), : prompts.shape[1]] = prompts
        _fill(buffers, slots + [self._slots] * missing, starts + [0] * missing, lengths + [1] * missing)
        self._captured[shape]()

    def _prompt_buffers(self, batch: int, padded: int, like: Tensor) -> PromptBuffers:
        """Return the static inputs for a number of requests and a padded length."""
        if (batch, padded) not in self._buffers:
            numbers = torch.zeros(3, batch, dtype=torch.int64, device=like.device)
            self._buffers[batch, padded] = PromptBuffers(like.new_zeros(batch, padded, like.shape[2]), *numbers)
        return self._buffers[batch, padded]

    def sample_frame(self, slots: list[int], sampling: SamplingShape) -> Tensor:
        """Sample the next frame of some slots: [B, 16] int64, overwritten by the next step."""
        shape = SamplingShape(
            talker_keep=SMALL_KEEP if (sampling.talker_keep or 1) <= SMALL_KEEP else self._steps.talker_vocabulary,
            predictor_keep=(
                SMALL_KEEP if (sampling.predictor_keep or 1) <= SMALL_KEEP else self._steps.predictor_vocabulary
            ),
        )
        return self._run(("sample_frame", len(slots), shape), slots, lambda rows: self._steps.sample_frame(rows, shape))

    def talker_step(self, slots: list[int], length: int) -> None:
        """Run the talker over the newest frame of some slots."""
        bucket = next(most for most in self._lengths if most >= length)

        def step(rows: Tensor) -> Tensor:
            self._steps.talker_step(rows, bucket)
            return rows

        self._run(("talker_step", len(slots), bucket), slots, step)

    def decode(self, slots: list[int], frames: int) -> Tensor:
        """Decode frames of some slots: [B, frames * 1920] float32, overwritten by the next step."""
        return self._run(("decode", len(slots), frames), slots, lambda rows: self._steps.decode(rows, frames))

    def capture_all(self, sampling: SamplingShape, most_frames: int) -> int:
        """Capture every shape that the default sampling needs, on the spare slot; returns the number of shapes."""
        for batch, length in self.prompt_shapes:
            prompts = self._steps.empty_prompts(batch, length)
            self.prefill([self._slots] * batch, prompts, [0] * batch, [length] * batch)
        for batch in range(1, self._slots + 1):
            spare = [self._slots] * batch
            self.sample_frame(spare, sampling)
            for length in self._lengths:
                self.talker_step(spare, length)
            for frames in range(1, most_frames + 1):
                self.decode(spare, frames)
        return len(self._captured)

    @property
    def prompt_shapes(self) -> list[tuple[int, int]]:
        """Number of prompts and padded length of each captured prefill."""
        lengths = [length for length in _PROMPT_LENGTHS if length <= self._positions]
        return [(batch, length) for batch in self._batches for length in lengths]

    @property
    def longest_prompt(self) -> int:
        """Positions of the longest prompt that has a graph, behind the part that a voice's prompts share."""
        return max(length for _, length in self.prompt_shapes)

    def _run(self, shape: tuple[object, ...], slots: list[int], step: Callable[[Tensor], Tensor]) -> Tensor:
        rows = self._rows[len(slots) - 1]
        if shape not in self._captured:
            rows.fill_(self._slots)  # capturing runs the step, so it uses the spare slot
            self._steps.clear(self._slots)
            self._captured[shape] = self._capture(lambda: step(rows))
        numbers = torch.tensor(slots)
        rows.copy_(numbers.pin_memory() if rows.is_cuda else numbers, non_blocking=True)
        return self._captured[shape]()


def _fill(buffers: PromptBuffers, slots: list[int], starts: list[int], lengths: list[int]) -> None:
    numbers = torch.tensor([slots, starts, lengths])
    if buffers.rows.is_cuda:
        numbers = numbers.pin_memory()
    for buffer, given in zip((buffers.rows, buffers.starts, buffers.lengths), numbers, strict=True):
        buffer.copy_(given, non_blocking=True)


def _doubling(first: int, last: int) -> list[int]:
    """Return ``first``, doubled until it reaches ``last``, and then ``last`` itself."""
    numbers: list[int] = []
    number = first
    while number < last:
        numbers.append(number)
        number *= 2
    return [*numbers, last]


class CudaGraphs:
    """Captures steps as CUDA graphs that share one memory pool.

    The pool is as large as the largest step needs, because all steps reuse the same memory. A step's result is
    therefore valid only until the next step runs. Everything else that a step writes is in static tensors.
    """

    def __init__(self) -> None:
        """Start with an empty pool and no captured steps."""
        self._pool: Upstream = torch.cuda.graph_pool_handle()

    def __call__(self, step: Captured) -> Captured:
        """Capture a step, after running it twice to warm up libraries; the caller lets it use the spare slot.

        Source: torch.cuda.CUDAGraph's documentation: warm-up on a side stream, then capture.
        """
        return _capture(step, self._pool)


def _capture(step: Captured, pool: Upstream) -> Captured:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Another thread may use the GPU meanwhile: it encodes a voice or computes a watermark.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = step()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay
