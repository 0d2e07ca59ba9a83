"""Excitation signal whose waveform in a codec frame depends only on that frame's content.

A codec that is trained by plain regression must be able to compute every sample from its codes. The pitch is therefore
adjusted: a frame of 80 ms has a whole number of periods, and its pitch changes linearly with one of a few slopes. Noise
is a fixed pattern with the length of a frame. This module does not know text, voices or files.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 24_000
FRAME_SAMPLES = 1920
HOP_SAMPLES = 300
UNVOICED = 0
"""Pitch code of a frame without a voiced sample."""

_TOP_HZ = 11_000.0
VOICED_HZ = 40.0
_FEWEST_PERIODS, _MOST_PERIODS = 5, 35  # 62.5 to 437.5 Hz
_BENDS = 15  # an odd number, so that constant pitch is one of them
_BEND_STEP = 0.1  # periods, at the middle of a frame
PITCH_CODES = 1 + (_MOST_PERIODS - _FEWEST_PERIODS + 1) * _BENDS

Floats = NDArray[np.floating]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Excitation:
    """The excitation of a voice, sample by sample.

    Attributes:
        phase: [N], periods so far; an integer at every multiple of ``FRAME_SAMPLES``.
        voiced: [N] bool.
        pitch_hz: [N].
        codes: [N / FRAME_SAMPLES] int64 in [0, PITCH_CODES), which determine the rest.
    """

    phase: Floats
    voiced: NDArray[np.bool_]
    pitch_hz: Floats
    codes: Codes


def frame_count(hops: int) -> int:
    """Number of codec frames that cover the given number of the teacher's hops."""
    return -(-hops * HOP_SAMPLES // FRAME_SAMPLES)


def periods_and_bends(codes: Codes) -> tuple[Codes, Floats]:
    """Periods of each frame, and the lead of its phase over constant pitch at its middle; zeros if unvoiced."""
    voiced = codes != UNVOICED
    number = np.where(voiced, codes - 1, 0)
    periods = np.where(voiced, number // _BENDS + _FEWEST_PERIODS, 0)
    bends = np.where(voiced, (number % _BENDS - (_BENDS - 1) / 2) * _BEND_STEP, 0.0)
    return periods, bends


def pitch_curve(codes: Codes) -> Floats:
    """[F]: pitch of the given codes, one value per ``HOP_SAMPLES`` samples; zero in unvoiced frames."""
    at = (np.arange(len(codes) * FRAME_SAMPLES // HOP_SAMPLES) + 0.5) * HOP_SAMPLES / FRAME_SAMPLES
    frame = at.astype(np.int64)
    periods, bends = (each[frame] for each in periods_and_bends(codes))
    return (periods + bends * 4 * (1 - 2 * (at - frame))) * RATE_HZ / FRAME_SAMPLES


def lock(pitch_hz: Floats) -> Excitation:
    """Adjust a pitch curve until whole periods fill every frame.

    Args:
        pitch_hz: [F], one value per ``HOP_SAMPLES`` samples; below 40 if unvoiced.

    Returns:
        Whole frames, enough for all hops; the last ones repeat the end of the curve, unvoiced.
    """
    frames = frame_count(len(pitch_hz))
    samples = frames * FRAME_SAMPLES
    at = (np.arange(samples) + 0.5) / HOP_SAMPLES - 0.5
    sounding = np.flatnonzero(pitch_hz > VOICED_HZ)
    if len(sounding) == 0:
        silent = np.zeros(samples)
        return Excitation(silent, silent > 0, np.full(samples, 100.0), np.zeros(frames, np.int64))
    voiced = np.interp(at, np.arange(len(pitch_hz)), pitch_hz, right=0.0) > VOICED_HZ
    curve = np.interp(at, sounding, pitch_hz[sounding])  # continues through unvoiced parts
    wanted = np.concatenate([[0.0], np.cumsum(curve)]) / RATE_HZ
    borders = np.rint(wanted[::FRAME_SAMPLES])
    periods = np.clip(np.diff(borders), _FEWEST_PERIODS, _MOST_PERIODS).astype(np.int64)

    u = (np.arange(FRAME_SAMPLES) + 1) / FRAME_SAMPLES
    hump = 4 * u * (1 - u)
    inside = wanted[1:].reshape(frames, FRAME_SAMPLES)
    start, end = wanted[:-1:FRAME_SAMPLES, None], wanted[FRAME_SAMPLES::FRAME_SAMPLES, None]
    ahead = inside - start - u * (end - start)
    middle = (_BENDS - 1) / 2
    bend = np.clip(np.rint(ahead @ hump / (hump @ hump) / _BEND_STEP + middle), 0, _BENDS - 1).astype(np.int64)

    codes = 1 + (periods - _FEWEST_PERIODS) * _BENDS + bend
    codes[~voiced.reshape(frames, -1).any(1)] = UNVOICED
    shape = periods[:, None] * u + (bend[:, None] - middle) * _BEND_STEP * hump
    phase = shape + np.concatenate([[0], np.cumsum(periods)[:-1]])[:, None]
    pitch = (periods[:, None] + (bend[:, None] - middle) * _BEND_STEP * 4 * (1 - 2 * u)) * RATE_HZ / FRAME_SAMPLES
    return Excitation(phase.reshape(-1), voiced, pitch.reshape(-1), codes)


def pulses(excitation: Excitation) -> Floats:
    """[N] float32: the sum of all harmonics below 11 kHz with amplitude 1 where voiced, zero elsewhere.

    The sum of cos(h x) for h = 1 to H is sin((H + 1/2) x) / (2 sin(x / 2)) - 1/2.
    """
    highest = np.maximum(1, np.floor(_TOP_HZ / np.maximum(excitation.pitch_hz, VOICED_HZ))).astype(np.float32)
    x = (2 * np.pi * (excitation.phase - np.rint(excitation.phase))).astype(np.float32)
    below = 2 * np.sin(x / 2)
    peak = np.abs(below) < 1e-3
    train = np.sin((highest + 0.5) * x) / np.where(peak, 1, below)
    return np.where(excitation.voiced, np.where(peak, highest + 0.5, train) - 0.5, 0).astype(np.float32)


def noise_pattern() -> Floats:
    """[FRAME_SAMPLES] float32: white noise of unit variance, whose spectrum has the same magnitude in every bin."""
    rng = np.random.default_rng(1920)
    spectrum = np.exp(2j * np.pi * rng.random(FRAME_SAMPLES // 2 + 1))
    spectrum[0] = spectrum[-1] = 0
    pattern = np.fft.irfft(spectrum, FRAME_SAMPLES)
    return (pattern / pattern.std()).astype(np.float32)
