"""Sizes of a decoder stack, and the rotary angles of its positions."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class StackShape:
    """Sizes of a stack.

    Attributes:
        layers: number of decoder layers.
        heads: query heads.
        kv_heads: key and value heads; ``heads`` is a multiple of it.
        head_dim: width of a head.
        hidden: width of the residual stream.
        rms_eps: added to the mean square before its root.
        rope_theta: base of the rotary frequencies.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    rms_eps: float
    rope_theta: float


class Rotary:
    """Cosines and sines of every position, computed once in float32.

    The talker's three rotary sections (temporal, height, width) hold the same position in speech, so its interleaved
    form equals the plain one.
    Source: qwen-tts 0.1.1, modeling_qwen3_tts.py, Qwen3TTSTalkerRotaryEmbedding and get_rope_index.
    """

    def __init__(self, shape: StackShape, positions: int, dtype: torch.dtype, device: torch.device) -> None:
        """Tabulate [positions, head_dim] in ``dtype``; sines of the first half are negated, for rotate-half."""
        exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
        frequencies = 1.0 / (shape.rope_theta**exponent)  # [head_dim / 2]
        angles = torch.arange(positions).float()[:, None] * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        self.cos = angles.cos().to(dtype).to(device)
        sign = torch.ones(shape.head_dim)
        sign[: shape.head_dim // 2] = -1.0
        self.sin = (angles.sin() * sign).to(dtype).to(device)
