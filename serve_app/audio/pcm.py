"""PCM as bytes, WAV headers, and the arithmetic of frames, samples and milliseconds.

Times are always computed from the number of samples since the start. Adding rounded durations would make them drift.
This module knows nothing about sessions or sockets.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.mark import COMMENT
from serve_app.config import SAMPLE_RATE_HZ
from serve_app.speech import FRAME_S, SAMPLES_PER_FRAME

assert round(FRAME_S * SAMPLE_RATE_HZ) == SAMPLES_PER_FRAME

SILENT_ANSWER_SAMPLES = SAMPLE_RATE_HZ // 10
"""Silence for an HTTP response whose text has nothing to pronounce: many players treat empty audio as an error."""


def milliseconds(samples: int) -> int:
    """Convert a number of samples at 24 kHz to milliseconds, rounded down."""
    return samples * 1000 // SAMPLE_RATE_HZ


def seconds(samples: int) -> float:
    """Convert a number of samples at 24 kHz to seconds."""
    return samples / SAMPLE_RATE_HZ


class Timeline:
    """Counts the samples of one utterance.

    Sections that begin and end at ``now_ms`` leave no gap, and their durations add up to the total.
    """

    def __init__(self) -> None:
        self.samples = 0

    @property
    def now_ms(self) -> int:
        """The start of the next sample."""
        return milliseconds(self.samples)

    def advance(self, samples: int) -> None:
        """Move past the next ``samples``."""
        self.samples += samples


def audible(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy of [N] float32 with values clipped to [-1, 1] and NaN replaced by silence."""
    return np.clip(np.nan_to_num(pcm, nan=0.0), -1.0, 1.0)


def pcm16_of(pcm: NDArray[np.float32]) -> NDArray[np.int16]:
    """Convert [N] float32 to int16; full scale is 32768, halves round to even, NaN becomes 0."""
    scaled = np.rint(np.nan_to_num(pcm, nan=0.0).astype(np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def pcm_of(pcm16: NDArray[np.int16]) -> NDArray[np.float32]:
    """Convert [N] int16 to float32 in [-1, 1); :func:`pcm16_of` gives back the same integers."""
    return pcm16 * np.float32(1 / 32768)


def pcm16_bytes(pcm: NDArray[np.float32]) -> bytes:
    """Convert [N] float32 to signed 16 bit, little endian, with :func:`pcm16_of`."""
    return pcm16_of(pcm).astype("<i2").tobytes()


def pcm_f32_bytes(pcm: NDArray[np.float32]) -> bytes:
    """Convert [N] float32 to 32-bit IEEE float, little endian, after :func:`audible`."""
    return audible(pcm).astype("<f4").tobytes()


_UNKNOWN_BYTES = 0xFFFF_FFFF
"""Players read this length in a WAV header as "to the end"; FFmpeg also writes it into pipes."""


def wav_header(data_bytes: int | None, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """Return the header of a mono PCM16 WAV file, with the mark of generated speech as its comment.

    Its length is :data:`WAV_HEADER_BYTES`. ``data_bytes`` is None if the length is not known yet.
    """
    channels, sample_bytes = 1, 2
    block_bytes = channels * sample_bytes
    return struct.pack(
        f"<4sI4s4sIHHIIHH{len(_INFO)}s4sI",
        b"RIFF",
        _UNKNOWN_BYTES if data_bytes is None else WAV_HEADER_BYTES - 8 + data_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,  # PCM
        channels,
        sample_rate_hz,
        sample_rate_hz * block_bytes,
        block_bytes,
        8 * sample_bytes,
        _INFO,
        b"data",
        _UNKNOWN_BYTES if data_bytes is None else data_bytes,
    )


def _info_chunk(comment: bytes) -> bytes:
    """Return a LIST chunk with one comment, which ends with a zero byte and has an even length."""
    text = comment + bytes(2 - len(comment) % 2)
    return struct.pack(f"<4sI4s4sI{len(text)}s", b"LIST", 12 + len(text), b"INFO", b"ICMT", len(text), text)


_INFO = _info_chunk(COMMENT.encode("ascii"))

WAV_HEADER_BYTES = 44 + len(_INFO)
"""Length of the header that :func:`wav_header` returns."""


def wav_file(pcm16: bytes, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """Return a mono PCM16 WAV file: its header, then ``pcm16`` (little endian)."""
    return wav_header(len(pcm16), sample_rate_hz) + pcm16
