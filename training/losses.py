"""Differences between a waveform and the wanted one. This module is pure."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class WaveLoss:
    """Differences relative to those of silence, so that 1 means useless.

    Attributes:
        wave: difference of samples.
        edge: difference of steps from sample to sample, in which high frequencies have more weight.
        spectrum: difference of magnitudes, linear and logarithmic.
    """

    wave: Tensor
    edge: Tensor
    spectrum: Tensor


def wave_loss(made: Tensor, wanted: Tensor, resolution: int) -> WaveLoss:
    """Compare [B, N] with [B, N]; ``resolution`` is the window size of the spectra."""
    return WaveLoss(
        _relative(made, wanted),
        _relative(made.diff(dim=1), wanted.diff(dim=1)),
        spectral_loss(made, wanted, resolution),
    )


def spectral_loss(made: Tensor, wanted: Tensor, window: int) -> Tensor:
    """Mean difference of magnitudes relative to the mean magnitude, and of their logarithms."""
    first, second = magnitudes(made, window), magnitudes(wanted, window)
    logarithms = (torch.log(first + 1e-2) - torch.log(second + 1e-2)).abs().mean()
    return 0.5 * (first - second).abs().mean() / (second.mean() + 1e-3) + logarithms


def magnitudes(samples: Tensor, window: int) -> Tensor:
    """[B, N] -> [B, bins, F], scaled so that noise gives the same values with every window."""
    hann = _hann(window, samples.device)
    spectrum = torch.stft(samples, window, window // 4, window, hann, center=False, return_complex=True)
    return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9) / window**0.5


def _relative(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).abs().mean() / (wanted.abs().mean() + 1e-3)


@lru_cache
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, device=device)
