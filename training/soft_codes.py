"""Codes of a sound as a distribution over the codes near it. Pure.

A frame's sound lies between the vectors of a codebook. A code predictor that is told only the nearest vector learns
nothing about the others, and what it draws is further from the sound than necessary. So its targets are distributions
over the vectors near the rest of the sound, and the codes that it reads are drawn from them. Each later codebook then
learns to repair what the earlier ones left.
"""

import torch
from torch import Tensor

_SPREAD = 0.15
"""Of a distribution: the squared distance at which a code is e times less likely, over the mean of what is left."""


def soften(coded: Tensor, books: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Draw other codes for the same sounds.

    Args:
        coded: [N, G] int64, codes of the books.
        books: [G, K, D] float32, each quantizing what the books before it leave.

    Returns:
        The drawn codes [N, G], and for each book the distribution [N, K] that they were drawn from.
    """
    left = sum(book[coded[:, number]] for number, book in enumerate(books))
    codes: list[Tensor] = []
    targets: list[Tensor] = []
    for book in books:
        distances = (left * left).sum(1, keepdim=True) - 2 * left @ book.T + (book * book).sum(1)
        spread = _SPREAD * distances.min(1).values.mean().clamp_min(1e-6)
        targets.append(torch.softmax(-distances / spread, 1))
        codes.append(torch.multinomial(targets[-1], 1)[:, 0])
        left = left - book[codes[-1]]
    return torch.stack(codes, 1), targets
