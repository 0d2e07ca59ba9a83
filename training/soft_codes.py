"""Codes of a sound as distributions over the codes near them. Pure.

A sound lies between the vectors of a codebook. A code predictor that is told only the nearest one learns nothing about
the others. So its targets are distributions over near vectors, and the codes that it reads are drawn from them.
"""

import torch
from torch import Tensor

_SPREAD = 0.5
"""Of a distribution: the squared distance at which a code is e times less likely, over that to the nearest vector."""


def near_codes(books: Tensor) -> Tensor:
    """[G, K, D] -> [G, K, K]: for each code of each codebook, a distribution over the codes of that codebook."""
    squares = torch.stack([torch.cdist(book, book).square() for book in books])
    apart = squares + torch.diag_embed(torch.full(squares.shape[:2], torch.inf, device=books.device))
    spread = _SPREAD * apart.amin(2).mean(1)[:, None, None]
    return torch.softmax(-squares / spread.clamp_min(1e-6), 2)


def draw(distributions: Tensor) -> Tensor:
    """[N, K] -> [N]: one code of each distribution."""
    return torch.multinomial(distributions, 1)[:, 0]
