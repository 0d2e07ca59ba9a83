"""Speaker embeddings as a fixed, smooth function of a voice: talker and speaker encoder can then train separately."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.shapes import TALKER_WIDTH
from training.voice import Voice

WAVES = 12
"""An embedding is a linear function of this many sines and cosines of stretch and of pitch, in three octaves."""


def waves(coordinates: Tensor) -> Tensor:
    """Sines and cosines of coordinates: [B, 2] in about [-1, 1] -> [B, WAVES]."""
    angles = coordinates[:, :, None] * (torch.pi / 2) * torch.tensor([0.5, 1.0, 2.0])  # [B, 2, 3]
    return torch.cat([angles.sin(), angles.cos()], 2).flatten(1)


def basis() -> Tensor:
    """[TALKER_WIDTH, WAVES]: fixed directions that give embeddings about unit variance."""
    drawn = np.random.default_rng(256).standard_normal((TALKER_WIDTH, WAVES))
    return torch.from_numpy((drawn / np.sqrt(WAVES / 2)).astype(np.float32))


def embed(voices: Sequence[Voice], blur: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """[B, TALKER_WIDTH]; ``blur`` is the deviation of noise on the coordinates, which simulates an encoder's errors."""
    coordinates = torch.tensor([voice.coordinates() for voice in voices])
    if blur:
        coordinates = coordinates + blur * torch.randn(coordinates.shape, generator=generator)
    return waves(coordinates) @ basis().T
