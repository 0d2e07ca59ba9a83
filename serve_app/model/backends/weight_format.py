"""The formats of weights that talker and code predictor read."""

from enum import StrEnum

import torch


class WeightFormat(StrEnum):
    """Format of a constant weight's entries."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


def lossless(dtype: torch.dtype) -> WeightFormat:
    """The format that keeps weights of ``dtype``, float32 or bfloat16, as they are."""
    return WeightFormat(str(dtype).removeprefix("torch."))
