"""The embeddings of the codes of all codebooks."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from serve_app.model.upstream import Upstream

_ROWS_AT_ONCE = 1024
"""Rows of a table that one matmul processes; limits its workspace."""


class CodeEmbedding:
    """The talker's table for codebook 0 and the code predictor's tables for the others, in one tensor.

    Attributes:
        groups: Q, number of codebooks; 16 in the released model.
        table: [V0 + (Q - 1) * V, H].
        offsets: [Q] int64, first row of each codebook in the table.
    """

    def __init__(self, talker: Upstream) -> None:
        """Copy the tables of a Qwen3TTSTalkerForConditionalGeneration."""
        others = talker.code_predictor.model.codec_embedding
        tables = [talker.model.codec_embedding.weight, *(table.weight for table in others)]
        sizes = [len(table) for table in tables]
        self.groups = len(tables)
        self.table = torch.cat([table.detach() for table in tables])
        self.offsets = torch.tensor([sum(sizes[:n]) for n in range(len(sizes))], device=self.table.device)

    def through(self, linear: Callable[[Tensor], Tensor]) -> "CodeEmbedding":
        """Return all embeddings after a matmul that is computed now, once, instead of in each step."""
        mapped = copy.copy(self)
        mapped.table = torch.cat([linear(some) for some in self.table.split(_ROWS_AT_ONCE)])
        return mapped

    def of_frames(self, codes: Tensor) -> Tensor:
        """Sum the Q embeddings of each frame: [..., Q] int64 into [..., H]."""
        return torch.nn.functional.embedding(codes + self.offsets, self.table).sum(dim=-2)

    def of_codebook(self, codebook: int, codes: Tensor) -> Tensor:
        """Embed codes [B] of one codebook into [B, H]."""
        return torch.nn.functional.embedding(codes + self.offsets[codebook], self.table)
