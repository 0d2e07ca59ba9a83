"""Encodings of PCM, WAV headers, and the arithmetic of frames, samples and milliseconds.

Times are always computed from a count of samples since the start, never by adding rounded durations, so that
they do not drift. Nothing here knows of sessions or sockets.
"""

import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.speech import FRAME_S, SAMPLES_PER_FRAME

assert round(FRAME_S * SAMPLE_RATE_HZ) == SAMPLES_PER_FRAME


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


class Encoder(Protocol):
    """Turns the model's PCM into bytes of one encoding; one per utterance, fed in order."""

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """Bytes of some samples.

        Args:
            pcm: [N] float32, mono, 24 kHz; values outside [-1, 1] are clipped, NaN is silence.
        """
        ...


class Pcm16Encoder:
    """Signed 16 bit, little endian; full scale is 32768, halves round to even."""

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """See :meth:`Encoder.encode`; two bytes a sample."""
        scaled = np.rint(np.nan_to_num(pcm, nan=0.0).astype(np.float64) * 32768.0)
        return np.clip(scaled, -32768, 32767).astype("<i2").tobytes()


class PcmF32Encoder:
    """IEEE float, 32 bit, little endian."""

    def encode(self, pcm: NDArray[np.float32]) -> bytes:
        """See :meth:`Encoder.encode`; four bytes a sample."""
        return np.clip(np.nan_to_num(pcm, nan=0.0), -1.0, 1.0).astype("<f4").tobytes()


def encoder_for(encoding: str) -> Encoder:
    """A fresh encoder of one of :data:`serve_app.messages.ENCODINGS`."""
    return PcmF32Encoder() if encoding == "pcm_f32" else Pcm16Encoder()


def wav_file(pcm16: bytes, sample_rate_hz: int = SAMPLE_RATE_HZ) -> bytes:
    """A mono PCM16 WAV file: the 44 bytes of its header, then ``pcm16`` (little endian)."""
    channels, sample_bytes = 1, 2
    block_bytes = channels * sample_bytes
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(pcm16),
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
        len(pcm16),
    )
    return header + pcm16
