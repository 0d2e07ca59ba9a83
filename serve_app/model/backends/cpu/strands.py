"""Distributes a weight's steps, which are read in order, over several places in memory.

These places are called strands. They are far from each other, and each is read from front to end. A core keeps more
memory requests in flight if it reads from several places. Two cores of an EPYC (Zen 3) read 26 to 29 GB/s from one
place each, with any prefetching, and 39 to 44 GB/s from four places that are 32 KB or more apart; eight give no more.
"""

import torch
from torch import Tensor

STRANDS = 4
"""Number of strands; step s is in strand s modulo this number."""


def deal(steps: Tensor) -> Tensor:
    """Distribute [tiles, steps, ...] as [STRANDS, tiles, steps / STRANDS, ...]; zeros fill missing steps."""
    tiles, count, *rest = steps.shape
    each = -(-count // STRANDS)
    dealt = torch.zeros(STRANDS, tiles, each, *rest, dtype=steps.dtype)
    for strand in range(STRANDS):
        own = steps[:, strand::STRANDS]
        dealt[strand, :, : own.shape[1]] = own
    return dealt
