"""Rooms and microphones: simulates the effect of a recording on a voice. This module is pure.

An encoder that is trained only on the teacher does not recognize reference clips: these have echo, noise, a
microphone's sound, and other phases. Many hold nothing above some frequency, since they were stored at a lower rate.
"""

import numpy as np
import torch
from torch import Tensor

_RATE_HZ = 24_000
_KNOTS_HZ = np.geomspace(50, 12_000, 12)
_DEVIATION_DB = 4.0
_LONGEST_DELAY_S = 0.003
_ECHO_DB = (-30.0, -8.0)
_DECAY_S = (0.02, 0.12)
_NOISE_DB = (-80.0, -15.0)
_LOW_RATE = 0.5  # share of rows
_HIGHEST_HZ = (3400.0, 11_500.0)
_UNTOUCHED = 0.25  # share of rows
_TAIL = 12_000  # samples, longer than an echo


def recorded(samples: Tensor, rng: np.random.Generator) -> Tensor:
    """[B, N] -> [B, N]: each row as recorded in another room with another microphone; some rows are unchanged."""
    rows, length = samples.shape
    size = 1 << (length + _TAIL - 1).bit_length()
    filters = np.stack([_filter(size, rng) for _ in range(rows)])
    spectrum = torch.fft.rfft(samples, size) * torch.from_numpy(filters).to(samples.device)
    heard = torch.fft.irfft(spectrum, size)[:, :length]
    loudness = heard.square().mean(1, keepdim=True).sqrt()
    level = torch.from_numpy(10 ** (rng.uniform(*_NOISE_DB, (rows, 1)) / 20)).to(samples)
    noise = torch.from_numpy(np.stack([_noise(length, rng) for _ in range(rows)])).to(samples)
    touched = torch.from_numpy(rng.random((rows, 1)) >= _UNTOUCHED).to(samples.device)
    return torch.where(touched, _limited(heard + level * loudness * noise, rng), samples)


def _limited(samples: Tensor, rng: np.random.Generator) -> Tensor:
    """[B, N] -> [B, N]: some rows without anything above a frequency, as after resampling from a lower rate."""
    rows, length = samples.shape
    hz = torch.fft.rfftfreq(length, 1 / _RATE_HZ)
    highest = np.where(rng.random(rows) < _LOW_RATE, rng.uniform(*_HIGHEST_HZ, rows), _RATE_HZ)
    kept = hz <= torch.from_numpy(highest)[:, None]
    return torch.fft.irfft(torch.fft.rfft(samples) * kept.to(samples.device), length)


def _filter(size: int, rng: np.random.Generator) -> np.ndarray:
    """[size / 2 + 1] complex64: gains and delays that vary slowly over frequency, and an echo."""
    hz = np.fft.rfftfreq(size, 1 / _RATE_HZ)
    place, knots = np.log(np.maximum(hz, 20)), np.log(_KNOTS_HZ)
    gain = 10 ** (np.interp(place, knots, rng.normal(0, _DEVIATION_DB, len(knots))) / 20)
    delay_s = np.interp(place, knots, rng.uniform(0, _LONGEST_DELAY_S, len(knots)))
    turn = 2 * np.pi * np.cumsum(delay_s) * hz[1]
    times = np.arange(_TAIL) / _RATE_HZ
    echo = rng.standard_normal(_TAIL) * np.exp(-times / rng.uniform(*_DECAY_S))
    echo *= 10 ** (rng.uniform(*_ECHO_DB) / 20) / np.linalg.norm(echo)
    echo[0] += 1
    return (gain * np.exp(-1j * turn) * np.fft.rfft(echo, size)).astype(np.complex64)


def _noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """[length]: noise of unit loudness, between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), len(spectrum) / 200) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, length)
    return noise / noise.std()
