"""Samples codes from logits on a CPU, in compiled code; gives the same codes as :mod:`serve_app.model.sampling`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model import sampling
from serve_app.model.backends.cpu.parts import Row, float32_at, int64_at, kernel, part, read
from serve_app.model.sampling import SamplingTensors

_MANY_CODES = 256
"""From this many kept codes on, torch sorts the vocabulary faster than the loop here, which takes one at a time."""


@part()
def sample_row(row: Row, uniform: float, temperature: float, top_k: int, top_p: float, keep: int) -> int:
    """Sample a code.

    Args:
        row: [V] float32 logits; overwritten.
        uniform: in [0, 1).
        temperature: 0 takes the largest.
        top_k: number of codes to keep; 0 keeps ``keep``.
        top_p: probability mass to keep.
        keep: maximum number of codes to keep.
    """
    if temperature == 0:
        return int(row.argmax())
    kept = min(top_k, keep) if top_k > 0 else keep
    values, codes, weights = np.empty(kept, np.float32), np.empty(kept, np.int64), np.zeros(row.size, np.float64)
    for code in range(row.size):
        row[code] /= temperature
    _take_largest(row, values, codes)
    mass = np.exp((values - values[0]).astype(np.float64))
    mass /= mass.sum()
    before = 0.0
    for rank in range(kept):
        if rank == 0 or before < top_p:
            weights[codes[rank]] += mass[rank]
        before += mass[rank]
    return _first_beyond(weights, np.float64(uniform) * weights.sum())


@part()
def _take_largest(row: Row, values: Row, codes: NDArray[np.int64]) -> None:
    """Fill ``values`` and ``codes`` with the largest of ``row``, in descending order."""
    values[:] = -np.inf
    codes[:] = 0
    for code in range(row.size):
        place = values.size - 1
        if row[code] > values[place]:
            while place > 0 and row[code] > values[place - 1]:
                values[place], codes[place] = values[place - 1], codes[place - 1]
                place -= 1
            values[place], codes[place] = row[code], code


@part()
def _first_beyond(weights: NDArray[np.float64], target: float) -> int:
    """The first code up to which weights sum to more than ``target``; if rounding hides it, the last with a weight."""
    total, last = 0.0, 0
    for code in range(weights.size):
        if weights[code] > 0:
            total += weights[code]
            last = code
            if total > target:
                break
    return last


@kernel()
def _sample(
    logits: int,
    uniform: int,
    temperature: int,
    top_k: int,
    top_p: int,
    sampled: int,
    batch: int,
    vocabulary: int,
    keep: int,
) -> None:
    row = np.empty(vocabulary, np.float32)
    for b in range(batch):
        read(logits, b * vocabulary, 4, row)
        int64_at(sampled, batch)[b] = sample_row(
            row,
            float32_at(uniform, batch)[b],
            float32_at(temperature, batch)[b],
            int64_at(top_k, batch)[b],
            float32_at(top_p, batch)[b],
            keep,
        )


def can_sample(keep: int | None) -> bool:
    """Whether few enough codes are kept to sample them here."""
    return keep is None or keep <= _MANY_CODES


def sample(logits: Tensor, uniform: Tensor, rows: SamplingTensors, indices: slice | Tensor, keep: int | None) -> Tensor:
    """Sample one code per row; calls :func:`serve_app.model.sampling.sample` if too many codes are kept."""
    if keep is None or not can_sample(keep):
        return sampling.sample(logits, uniform, rows, indices, keep)
    logits, uniform = logits.contiguous(), uniform.contiguous()
    parameters = (logits, uniform, rows.temperature[indices], rows.top_k[indices], rows.top_p[indices])
    sampled = torch.empty_like(parameters[3])
    _sample(*[each.data_ptr() for each in parameters], sampled.data_ptr(), *logits.shape, keep)
    return sampled
