"""Streaming encoders turn the model's PCM into bytes of one encoding at one sample rate, piece by piece.

An encoder belongs to one utterance. It buffers what its codec and its resampler have not returned yet, so the bytes
do not depend on how the audio is split. PyAV (FFmpeg in a wheel) encodes the compressed formats, because soundfile has
no AAC and holds back a second of Ogg. Every container that has tags carries the mark of generated speech. This module
knows nothing about sessions or sockets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from serve_app.audio.mark import COMMENT
from serve_app.audio.pcm import audible, pcm16_bytes, pcm_f32_bytes, wav_header
from serve_app.config import SAMPLE_RATE_HZ

CONTENT_TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
"""Media types of the formats that are served over HTTP."""


class Encoder(Protocol):
    """Turns PCM into bytes of one encoding; each utterance has its own encoder."""

    def push(self, pcm: NDArray[np.float32]) -> bytes:
        """Accept the next samples; return the bytes that are ready, possibly none.

        Args:
            pcm: [N] float32, mono; values outside [-1, 1] are clipped, NaN is silence.
        """
        ...

    def flush(self) -> bytes:
        """Return the remaining bytes; nothing may be pushed afterwards."""
        ...


class PcmEncoder:
    """Samples without a header."""

    def __init__(self, to_bytes: Callable[[NDArray[np.float32]], bytes]) -> None:
        """Convert samples by :func:`pcm16_bytes` or :func:`pcm_f32_bytes`."""
        self._to_bytes = to_bytes

    def push(self, pcm: NDArray[np.float32]) -> bytes:
        """Return the samples' bytes."""
        return self._to_bytes(pcm)

    def flush(self) -> bytes:
        """Return no bytes: this encoder holds nothing back."""
        return b""


class WavEncoder:
    """PCM16 after the header of a WAV file of unknown length."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._header = wav_header(None, sample_rate_hz)

    def push(self, pcm: NDArray[np.float32]) -> bytes:
        """Return the samples, two bytes each; the first bytes are preceded by the header."""
        header, self._header = self._header, b""
        return header + pcm16_bytes(pcm)

    def flush(self) -> bytes:
        """Return the header if there was no audio."""
        return self._header


class ResampledEncoder:
    """Resamples PCM for another encoder; about 20 ms stay in the filter until :meth:`flush`."""

    def __init__(self, encoder: Encoder, sample_rate_hz: int, given_hz: int = SAMPLE_RATE_HZ) -> None:
        self._encoder = encoder
        self._resampler = soxr.ResampleStream(given_hz, sample_rate_hz, 1, dtype="float32", quality="HQ")

    def push(self, pcm: NDArray[np.float32]) -> bytes:
        """Accept the next samples, at ``given_hz``; return the bytes that are ready, possibly none."""
        # A NaN would stay in the filter forever.
        return self._encoder.push(self._resampler.resample_chunk(audible(pcm)))

    def flush(self) -> bytes:
        """Return the remaining bytes, with the samples that the filter held back."""
        rest = self._resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
        return self._encoder.push(rest) + self._encoder.flush()


@dataclass(frozen=True, slots=True)
class Compression:
    """The FFmpeg settings of one format.

    Attributes:
        container: FFmpeg's name of the container format.
        codec: FFmpeg's name of the encoder.
        sample_format: the encoder's input format.
        bit_rate: in bit/s; None if the codec has no such setting.
        options: the encoder's options.
        container_options: the container's options.
    """

    container: str
    codec: str
    sample_format: str
    bit_rate: int | None = None
    options: dict[str, str] = field(default_factory=dict[str, str])
    container_options: dict[str, str] = field(default_factory=dict[str, str])


# Opus: `lowdelay` uses the transform only. At complexity 3 it costs a quarter of FFmpeg's default, and it looks 2.5 ms
# ahead instead of 6.5 ms. An Ogg page has one packet (20 ms); the muxer still holds back one page, because it must mark
# the last one. AAC has no tags of its own: an ID3 tag precedes it, as in HTTP Live Streaming.
_COMPRESSIONS = {
    "mulaw": Compression("mulaw", "pcm_mulaw", "s16"),
    "opus": Compression(
        "ogg", "libopus", "s16", 48_000, {"application": "lowdelay", "compression_level": "3"}, {"page_duration": "1"}
    ),
    "mp3": Compression("mp3", "libmp3lame", "s16p", 64_000),
    "aac": Compression("adts", "aac", "fltp", 64_000, container_options={"write_id3v2": "1"}),
    "flac": Compression("flac", "flac", "s16"),
}


class CompressedEncoder:
    """One of FFmpeg's encoders, created with the first audio and closed after the last: FLAC's takes 7 MB."""

    def __init__(self, compression: Compression, sample_rate_hz: int) -> None:
        self._compression = compression
        self._rate_hz = sample_rate_hz
        self._codec: _Codec | None = None

    def push(self, pcm: NDArray[np.float32]) -> bytes:
        """Accept the next samples; return the bytes that are ready, possibly none."""
        if not len(pcm):
            return b""
        self._codec = self._codec or _Codec(self._compression, self._rate_hz)
        return self._codec.push(pcm)

    def flush(self) -> bytes:
        """Return the remaining bytes, with the end of the container; no bytes if there was no audio."""
        codec, self._codec = self._codec, None
        return codec.flush() if codec is not None else b""


class _Codec:
    """An encoder, its container and the bytes that they have written."""

    def __init__(self, compression: Compression, sample_rate_hz: int) -> None:
        self._sink = _Sink()
        self._format = compression.sample_format
        self._rate_hz = sample_rate_hz
        self._samples = 0
        # Encoded audio leaves at once: no byte waits in FFmpeg's own buffer.
        options = {"flush_packets": "1", **compression.container_options}
        self._container = av.open(self._sink, "w", format=compression.container, container_options=options)
        self._container.metadata["comment"] = COMMENT
        stream: Any = self._container.add_stream(compression.codec, rate=sample_rate_hz, options=compression.options)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "mono"
        stream.codec_context.format = compression.sample_format
        if compression.bit_rate is not None:
            stream.bit_rate = compression.bit_rate
        self._stream = stream

    def push(self, pcm: NDArray[np.float32]) -> bytes:
        self._mux(self._frame(pcm))
        return self._sink.drain()

    def flush(self) -> bytes:
        self._mux(None)
        self._container.close()
        return self._sink.drain()

    def _frame(self, pcm: NDArray[np.float32]) -> av.AudioFrame:
        samples = audible(pcm) if self._format == "fltp" else np.frombuffer(pcm16_bytes(pcm), dtype="<i2")
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format=self._format, layout="mono")
        frame.sample_rate = self._rate_hz
        frame.time_base = Fraction(1, self._rate_hz)
        frame.pts = self._samples
        self._samples += len(pcm)
        return frame

    def _mux(self, frame: av.AudioFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


class _Sink:
    """A file that FFmpeg can write to but not seek in, like a socket."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        """Called by FFmpeg."""
        self._written += data
        return len(data)

    def drain(self) -> bytes:
        """Return the bytes written since the last call."""
        written = bytes(self._written)
        self._written.clear()
        return written


def encoder_for(encoding: str, sample_rate_hz: int = SAMPLE_RATE_HZ, given_hz: int = SAMPLE_RATE_HZ) -> Encoder:
    """Return a new encoder.

    Args:
        encoding: one of :data:`serve_app.protocol.messages.ENCODINGS` or :data:`serve_app.protocol.messages.FORMATS`.
        sample_rate_hz: the rate of its output.
        given_hz: the rate of its input; by default the model's.
    """
    encoder = _encoder_at(encoding, sample_rate_hz)
    return encoder if sample_rate_hz == given_hz else ResampledEncoder(encoder, sample_rate_hz, given_hz)


def _encoder_at(encoding: str, sample_rate_hz: int) -> Encoder:
    match encoding:
        case "pcm16" | "pcm":
            return PcmEncoder(pcm16_bytes)
        case "pcm_f32":
            return PcmEncoder(pcm_f32_bytes)
        case "wav":
            return WavEncoder(sample_rate_hz)
        case _:
            return CompressedEncoder(_COMPRESSIONS[encoding], sample_rate_hz)
