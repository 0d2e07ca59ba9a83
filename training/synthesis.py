"""The last layers of the decoder as a lapped transform, whose weights are known and need no training.

After its transformer, the decoder has 50 vectors a second. Convolutions without an activation in between can turn each
vector into any signal of 40 ms, and add signals that overlap, which is what an inverse MDCT does. The vectors are
therefore the coefficients of an MDCT up to 5.2 kHz, and the loudness of noise bands above. Training only has to find
these: 50 vectors a second instead of 24,000 samples.

A window of the transform ends 20 ms after the quarter of a frame in which it begins, and a causal decoder does not know
the next frame. The decoder's output is therefore ``DELAY_SAMPLES`` behind its codes. This module is pure.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.phase import FRAME_SAMPLES, RATE_HZ, noise_pattern

HOP = 480
DELAY_SAMPLES = HOP
QUARTERS = FRAME_SAMPLES // HOP
TONES = 208
"""Number of individual coefficients, up to 5.2 kHz."""

NOISE_BANDS = 12
CHANNELS = TONES + QUARTERS * NOISE_BANDS
_HIGHEST = 440  # coefficient, 11 kHz
_LEVEL = 0.1
"""Approximate loudness of a coefficient, used to scale channels to about 1."""

Floats = NDArray[np.float32]


@lru_cache(maxsize=1)
def _transform() -> NDArray[np.float64]:
    """[HOP, 2 * HOP]: the orthonormal lapped basis."""
    at = np.arange(2 * HOP)
    window = np.sin(np.pi * (at + 0.5) / (2 * HOP))
    cosines = np.cos(np.pi / HOP * (at + 0.5 + HOP / 2) * (np.arange(HOP)[:, None] + 0.5))
    return np.sqrt(2 / HOP) * window * cosines


def _edges() -> NDArray[np.int64]:
    return np.rint(np.linspace(TONES, _HIGHEST, NOISE_BANDS + 1)).astype(np.int64)


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.float64]:
    """[QUARTERS, NOISE_BANDS, HOP]: coefficients of the fixed noise in each quarter, unit loudness in each band."""
    delayed = np.roll(np.resize(noise_pattern(), 3 * FRAME_SAMPLES), DELAY_SAMPLES)[FRAME_SAMPLES:]
    windows = np.lib.stride_tricks.sliding_window_view(delayed, 2 * HOP)[::HOP][:QUARTERS]
    coefficients = windows @ _transform().T
    bands = np.zeros((QUARTERS, NOISE_BANDS, HOP))
    for band, (low, high) in enumerate(zip(_edges()[:-1], _edges()[1:], strict=True)):
        part = coefficients[:, low:high]
        bands[:, band, low:high] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return bands


@lru_cache(maxsize=1)
def basis() -> Floats:
    """[CHANNELS, 2 * HOP]: the signal of each channel."""
    noise = _noise().reshape(-1, HOP)
    coefficients = np.concatenate([np.eye(HOP)[:TONES], noise])
    return (_LEVEL * coefficients @ _transform()).astype(np.float32)


def analyse(samples: Tensor) -> Tensor:
    """[B, T * 1920] -> [B, 4 * T - 1, CHANNELS]: the channels that approximate ``samples`` best.

    The noise of a band has the loudness of the band; bands of other quarters than the window's are silent.
    """
    transform = torch.from_numpy(_transform().astype(np.float32)).to(samples.device)
    coefficients = samples.unfold(1, 2 * HOP, HOP) @ transform.T / _LEVEL
    bands = [coefficients[:, :, low:high].norm(dim=2) for low, high in zip(_edges()[:-1], _edges()[1:], strict=True)]
    loudness = torch.stack(bands, 2)
    quarter = torch.arange(loudness.shape[1], device=samples.device) % QUARTERS
    chosen = torch.nn.functional.one_hot(quarter, QUARTERS).to(loudness.dtype)
    noise = (chosen[None, :, :, None] * loudness[:, :, None, :]).flatten(2)
    return torch.cat([coefficients[:, :, :TONES], noise], 2)


def synthesize(channels: Tensor) -> Tensor:
    """[B, N, CHANNELS] -> [B, N * HOP]: the output of the decoder's last layers."""
    windows = channels @ torch.from_numpy(basis()).to(channels.device)
    first, second = windows[:, :, :HOP], windows[:, :, HOP:]
    before = torch.nn.functional.pad(second, (0, 0, 1, 0))[:, :-1]
    return (first + before).flatten(1)


@torch.no_grad()
def set_weights(decoder: nn.Module) -> None:
    """Set the weights of a Qwen3TTSTokenizerV2Decoder's layers after the convolution to ``CHANNELS``; mutates them.

    The first block's transposed convolution is the basis, in pieces of a quarter of ``HOP``. The later ones only put
    the samples of a piece in order. Residual branches add nothing, and activations pass their input unchanged.
    """
    width = HOP
    blocks = decoder.decoder[1:-2]
    for number, block in enumerate(blocks):
        transposed = block.block[1].conv
        rate = transposed.stride[0]
        width //= rate
        transposed.weight.zero_()
        transposed.bias.zero_()
        if number == 0:
            pieces = torch.from_numpy(basis()).reshape(CHANNELS, 2 * rate, width)
            transposed.weight[:CHANNELS, :width] = pieces.transpose(1, 2)
        else:
            for place in range(rate):
                own = torch.arange(width)
                transposed.weight[place * width + own, own, place] = 1
        for unit in block.block[2:]:
            unit.conv2.conv.weight.zero_()
            unit.conv2.conv.bias.zero_()
    for module in decoder.decoder.modules():
        if hasattr(module, "alpha"):
            module.alpha.fill_(-6.0)
            module.beta.zero_()
    last = decoder.decoder[-1].conv
    last.weight.zero_()
    last.bias.zero_()
    last.weight[0, 0, -1] = 1


assert HOP * 50 == RATE_HZ
