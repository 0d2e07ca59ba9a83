"""Plain PCM as bytes, WAV headers, and the arithmetic of frames, samples and milliseconds.

Times are always computed from a count of samples since the start, never by adding rounded durations, so that
they do not drift. Nothing here knows of sessions or sockets.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.speech import FRAME_S, SAMPLES_PER_FRAME

assert round(FRAME_S * SAMPLE_RATE_HZ) == SAMPLES_PER_FRAME

SILENT_ANSWER_SAMPLES = SAMPLE_RATE_HZ // 10
"""Silence in an answer over HTTP whose text has nothing to pronounce: many a player takes no audio for a fault."""


def milliseconds(samples: int) -> int:
    """Whole milliseconds from the start to the ``samples``-th sample at 24 kHz, rounded down."""
    return samples * 1000 // SAMPLE_RATE_HZ


def seconds(samples: int) -> float:
    """Seconds of ``samples`` at 24 kHz."""
    return samples / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an utterance's audio; spans in a row touch, so durations add up to the end of the last."""

    start_ms: int
    duration_ms: int


class Timeline:
    """Counts the samples of one utterance and says where in it each stretch lies."""

    def __init__(self) -> None:
        self.samples = 0

    @property
    def now_ms(self) -> int:
        """Where the next sample would start."""
        return milliseconds(self.samples)

    def advance(self, samples: int) -> Span:
        """The span of the next ``samples``; moves past them."""
        start_ms = self.now_ms
        self.samples += samples
        return Span(start_ms, self.now_ms - start_ms)


def audible(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N] float32 within [-1, 1]: what is outside is clipped, NaN is silence; a copy."""
    return np.clip(np.nan_to_num(pcm, nan=0.0), -1.0, 1.0)


def pcm16_bytes(pcm: NDArray[np.float32]) -> bytes:
    """Signed 16 bit, little endian, of [N] float32; full scale is 32768, halves round to even; NaN is silence."""
    scaled = np.rint(np.nan_to_num(pcm, nan=0.0).astype(np.float64) * 32768.0)
    return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


def pcm_f32_bytes(pcm: NDArray[np.float32]) -> bytes:
    """IEEE float, 32 bit, little endian, of :func:`audible`."""
    return audible(pcm).astype("<f4").tobytes()


_UNKNOWN_BYTES = 0xFFFF_FFFF
"""What players take for "to the end" in a WAV header; FFmpeg writes it into a pipe as well."""


def wav_header(data_bytes: int | None, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """The 44 bytes before the samples of a mono PCM16 WAV file; None where their number is not known yet."""
    channels, sample_bytes = 1, 2
    block_bytes = channels * sample_bytes
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        _UNKNOWN_BYTES if data_bytes is None else 36 + data_bytes,
        b"WAVE",
        b"fmt ",
        16,
        1,  # PCM
        channels,
        sample_rate_hz,
        sample_rate_hz * block_bytes,
        block_bytes,
        8 * sample_bytes,
        b"data",
        _UNKNOWN_BYTES if data_bytes is None else data_bytes,
    )


def wav_file(pcm16: bytes, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """A mono PCM16 WAV file: its header, then ``pcm16`` (little endian)."""
    return wav_header(len(pcm16), sample_rate_hz) + pcm16
