"""Where a weight's steps lie in memory, which are read one after the other; never what a step holds.

They are dealt out to a few strands: places far from each other, of which each is read from front to end. A core has
more of memory under way at a time when it reads in several places. Two cores of an EPYC (Zen 3) read 26 to 29 GB/s in
one place each, whatever they had fetched ahead, and 39 to 44 in four that lie 32 KB and more apart; eight give no more.
"""

import torch
from torch import Tensor

STRANDS = 4
"""Step s is in strand s modulo so many."""


def deal(steps: Tensor) -> Tensor:
    """Deal [tiles, steps, ...] out: [STRANDS, tiles, steps / STRANDS, ...]; zeros fill what the last ones lack."""
    tiles, count, *rest = steps.shape
    each = -(-count // STRANDS)
    dealt = torch.zeros(STRANDS, tiles, each, *rest, dtype=steps.dtype)
    for strand in range(STRANDS):
        own = steps[:, strand::STRANDS]
        dealt[strand, :, : own.shape[1]] = own
    return dealt
