"""A frame's sound apart from its pitch: four short log spectra. This module is pure."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 1920
BANDS = 64
PARTS = 4
SIZE = BANDS * PARTS

_RATE_HZ = 24_000
_WINDOW = 720
_FFT = 1024
_TOP_HZ = 11_000
_FLOOR = 0.03


def band_features(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """[T * 1920] -> [T, PARTS * BANDS]: logarithms of mel bands around the middle of each quarter of a frame."""
    hop = FRAME_SAMPLES // PARTS
    margin = (_WINDOW - hop) // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, margin), _WINDOW)[::hop]
    spectra = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), _FFT, axis=1))
    bands = np.log(spectra @ mel_weights().T + _FLOOR)
    return bands.reshape(-1, SIZE).astype(np.float32)


@lru_cache(maxsize=1)
def mel_weights() -> NDArray[np.float64]:
    """[BANDS, bins]: triangles of height 1, evenly spaced in mel."""
    centres_hz = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + _TOP_HZ / 700), BANDS + 2) / 2595) - 1)
    bins_hz = np.arange(_FFT // 2 + 1) * _RATE_HZ / _FFT
    rising = (bins_hz - centres_hz[:-2, None]) / (centres_hz[1:-1] - centres_hz[:-2])[:, None]
    falling = (centres_hz[2:, None] - bins_hz) / (centres_hz[2:] - centres_hz[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))
