"""Computes codes 1 to 15 of a frame in one compiled call, on all of torch's threads.

Between two passes of the code predictor's stack are a head's matmul, sampling and an embedding. As separate calls,
these took a tenth of the time of one stream's frame, although reading their weights takes only a tenth of that.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from serve_app.model.backends.cpu.compiled_stack import (
    CompiledStack,
    cache_fields,
    finish,
    passes_at,
    products_at,
    run_layers,
)
from serve_app.model.backends.cpu.cpu_sampling import can_sample, sample_row
from serve_app.model.backends.cpu.instructions import TILE, TILE_ROWS
from serve_app.model.backends.cpu.parts import float32_at, int64_at, read, round_to, write
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
from serve_app.model.backends.cpu.tiled_linear import TiledLinear
from serve_app.model.backends.cpu.tiles import PRODUCT, STORE, multiply, take
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.sampling import SamplingTensors

_FRAME = job_of(
    "passes", "heads", "steps", "vocabulary", "logits", "logits_width", "table", "offsets",
    "codes", "uniform", "temperature", "top_k", "top_p", "keep",
)  # fmt: skip
_frames_at = jobs_at(_FRAME)


def _sample_frame(address: int) -> None:
    job = _frames_at(address, 1)[0]
    passes, heads = passes_at(job.passes, job.steps), products_at(job.heads, job.steps)
    me, team, batch, groups = thread_number(job.team), team_size(job.team), passes[0].batch, job.steps + 1
    hidden, size = passes[0].hidden, passes[0].size
    row, logits = np.empty(hidden, np.float32), np.empty(job.vocabulary, np.float32)
    for step in range(job.steps):
        stack, head = passes[step], heads[step]
        run_layers(stack, job.team)
        taken, factors = stack.taken + me * batch * stack.taken_bytes, float32_at(stack.factors + 4 * me * batch, batch)
        for b in range(batch):
            finish(stack, (b + 1) * stack.new - 1, row)
            round_to(size, row)
            factors[b] = take(row, head, taken + b * 4 * head.steps)
        sums = stack.sums + 4 * me * TILE_ROWS * TILE
        multiply(head, job.team, taken, factors, sums, job.logits, job.logits_width, STORE)
        barrier(job.team)
        # The thread that samples a row's code also embeds it and begins the next pass with it, without synchronization.
        # Surplus threads sample the same rows and write the same values: a waiting thread would sleep, and wake slowly.
        for b in range(me % batch, batch, team):
            read(job.logits, b * job.logits_width, 4, logits)
            round_to(size, logits)
            code = sample_row(
                logits,
                float32_at(job.uniform, batch * groups)[b * groups + step + 1],
                float32_at(job.temperature, batch)[b],
                int64_at(job.top_k, batch)[b],
                float32_at(job.top_p, batch)[b],
                job.keep,
            )
            int64_at(job.codes, batch * groups)[b * groups + step + 1] = code
            if step + 1 < job.steps:
                place = int64_at(job.offsets, groups)[step + 1] + code
                read(job.table, place * hidden, size, row)
                write(passes[step + 1].given, b * hidden, size, row, hidden)


_SAMPLE_FRAME = TeamFunction(_sample_frame)


class CompiledFrame:
    """A code predictor's steps over a compiled stack; not safe for concurrent calls.

    Attributes:
        heads: [steps] :data:`serve_app.model.backends.cpu.tiles.PRODUCT`.
        passes: [steps] :data:`serve_app.model.backends.cpu.compiled_stack.PASS`, parameters of the last call; the
            addresses of rows and workspace in them are no longer valid.
    """

    def __init__(
        self, stack: CompiledStack, heads: Sequence[TiledLinear], embedding: CodeEmbedding, cache: KvCache
    ) -> None:
        """Sample with ``stack`` and one head for each codebook except the first; ``cache`` is written."""
        self._stack, self._heads, self._embedding, self._cache = stack, heads, embedding, cache
        self.heads = np.array([head.weight.fields() for head in heads], PRODUCT)
        self.passes = np.repeat(stack.last_pass, len(heads))
        assert cache.keys.itemsize == embedding.table.itemsize == self.passes["size"][0], "the item sizes must be equal"
        assert cache.positions == self.passes["capacity"][0] == len(heads) + 1, "the cache belongs to another stack"
        first = np.arange(len(heads)) == 0
        set_fields(self.passes, new=np.where(first, 2, 1), first_position=np.where(first, 0, 1 + np.arange(len(heads))))
        head = heads[0].weight
        assert head.row_bytes <= self.passes["taken_bytes"][0], "a head's inputs must fit where a layer's inputs are"
        self._query_heads = int(self.passes["heads"][0])
        self._vocabulary, self._logits_width = heads[0].outputs, head.outputs

    def can_sample(self, keep: int | None) -> bool:
        """Whether few enough codes are kept to sample them here."""
        return can_sample(keep)

    def sample_frame(
        self, hidden: Tensor, first: Tensor, uniform: Tensor, sampling: SamplingTensors, rows: Rows, keep: int | None
    ) -> Tensor:
        """Sample codes 1 to 15; see :meth:`serve_app.model.code_predictor.CodePredictor.sample_frame`."""
        batch, team, steps = len(first), threads(), len(self.passes)
        x = torch.stack((hidden, self._embedding.of_codebook(0, first)), dim=1)  # [B, 2, H]
        assert x.dtype == self._cache.keys.dtype, "the compiled code reads both as one dtype"
        assert batch <= self._cache.keys.shape[1], "more rows than the cache has slots"
        assert uniform.shape == (batch, steps + 1), "each code needs one number"
        sampled = x.new_empty(hidden.shape)  # embeddings of sampled codes, the input of the next pass
        codes = torch.empty(batch, steps + 1, dtype=torch.int64)
        codes[:, 0] = first
        logits, uniform = torch.empty(batch, self._logits_width), uniform.contiguous()
        parameters = [each[rows] for each in (sampling.temperature, sampling.top_k, sampling.top_p)]
        workspace = self._stack.workspace(2 * batch, team)
        addresses = {name: each.data_ptr() for name, each in workspace.items()}
        given = [x.data_ptr(), *[sampled.data_ptr()] * (steps - 1)]
        set_fields(self.passes, **cache_fields(self._cache, self._query_heads), **addresses, given=given, batch=batch)
        job = np.zeros(1, _FRAME)
        set_fields(
            job,
            passes=self.passes.ctypes.data,
            heads=self.heads.ctypes.data,
            steps=steps,
            vocabulary=self._vocabulary,
            logits=logits.data_ptr(),
            logits_width=self._logits_width,
            table=self._embedding.table.data_ptr(),
            offsets=self._embedding.offsets.data_ptr(),
            codes=codes.data_ptr(),
            uniform=uniform.data_ptr(),
            keep=keep or 1,
            **{name: each.data_ptr() for name, each in zip(("temperature", "top_k", "top_p"), parameters, strict=True)},
        )
        _SAMPLE_FRAME.run(job, team)
        return codes
