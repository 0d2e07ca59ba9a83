"""A clip's bytes to mono samples at the model's rate, within bounds, whatever the bytes are; never what is in them.

Two decoders, libsndfile first and FFmpeg (PyAV) for what it does not read. Both are native code that was handed a
stranger's bytes: :func:`decode_apart` runs them in a process of their own, with limits on its memory, time and files,
so that the worst a clip can do is to be refused.
"""

import io
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile as sf
import soxr
from av.audio.frame import AudioFrame
from av.error import FFmpegError
from numpy.typing import NDArray

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.errors import VoiceInvalidError

MAX_CLIP_BYTES = 20 << 20
"""Bytes of a clip as it comes: 30 s of stereo float at 48 kHz are 11 MB."""

MAX_DECODED_S = 40.0
"""Samples are kept up to here; a clip of 30 s may have silence around it."""

MAX_COUNTED_S = 600.0
"""Decoding stops here. Samples beyond :data:`MAX_DECODED_S` are only counted, to say how long the clip is."""

FORMATS = "wav, flac, ogg, opus, mp3, m4a, aac, webm"
"""What a message names as accepted."""

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
MAX_CHANNELS = 8

DECODE_TIMEOUT_S = 20.0
"""Starting Python and its libraries is most of the second that it takes."""

_UNREADABLE = "audio cannot be decoded"

_CHILD_MEMORY_BYTES = 3 << 30
_CHILD_FILES = 64
_FULL_SCALE = 0.9999  # 16 bits go to 0.99997
_LARGEST_SAMPLE = 10.0
"""A float file may go somewhat beyond full scale; one in whole numbers (32768 is full scale) goes far."""
_FRAME_S = 0.02
_MOST_LOUD_FRAMES = 25
_CLIPPED_RUN_SAMPLES = 3
"""So many samples in a row at full scale were cut off; one or two may be a peak that fits exactly."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded clip.

    Attributes:
        pcm: [N] float32, mono, 24 kHz; at most :data:`MAX_DECODED_S`.
        channels: that the file has; ``pcm`` is the one in which speech stands out most.
        sample_rate_hz: of the file.
        clipped_share: of that channel's samples, those cut off at full scale.
        length_s: of the whole file; above :data:`MAX_COUNTED_S` a lower bound.
        alike: the other channels are silent, or have the same as ``pcm`` at whatever level and sign.
    """

    pcm: NDArray[np.float32]
    channels: int
    sample_rate_hz: int
    clipped_share: float
    length_s: float
    alike: bool = True


Block = tuple[int, NDArray[np.float32]]
"""Sample rate and [N, channels] of some consecutive samples."""


def decode(audio: bytes) -> Clip:
    """Decode a clip in this process: for files of whoever runs the service.

    Args:
        audio: a file's bytes: wav, flac, ogg, mp3 and what else libsndfile reads; m4a, aac, webm through FFmpeg.

    Raises:
        VoiceInvalidError: too many bytes, unreadable, or a rate or a number of channels that no microphone gives.
    """
    check_size(len(audio))
    try:
        return _gather(_sndfile_blocks(audio))
    except (sf.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        container = _container(audio)
        if container is None:
            raise VoiceInvalidError(_unreadable(audio, container)) from error
    try:
        return _gather(_ffmpeg_blocks(audio, container))
    except (FFmpegError, RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise VoiceInvalidError(_unreadable(audio, container)) from error


def decode_apart(audio: bytes) -> Clip:
    """Decode a clip in a process of its own: for everybody else's bytes. Blocks for about a second.

    Raises:
        VoiceInvalidError: as :func:`decode`; or the decoder crashed, took too long or too much memory.
    """
    check_size(len(audio))
    project = Path(__file__).parents[2]
    try:
        child = subprocess.run(
            [sys.executable, "-m", "serve_app.voices.decoding"],
            input=audio,
            capture_output=True,
            timeout=DECODE_TIMEOUT_S,
            cwd=project,
            env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(project), "OPENBLAS_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VoiceInvalidError(f"{_UNREADABLE} within {DECODE_TIMEOUT_S:g} s") from error
    head, _, samples = child.stdout.partition(b"\n")
    if child.returncode != 0 or not head:
        raise VoiceInvalidError(f"{_UNREADABLE}: the decoder crashed on it; allowed: {FORMATS}")
    facts: dict[str, Any] = json.loads(head)
    if "refused" in facts:
        raise VoiceInvalidError(facts["refused"])
    return Clip(pcm=np.frombuffer(samples, np.float32), **facts)


def check_size(size_bytes: int) -> None:
    """Refuse a clip by its size alone, before more of it is read.

    Raises:
        VoiceInvalidError: it is too large.
    """
    if size_bytes > MAX_CLIP_BYTES:
        raise VoiceInvalidError(f"audio has {size_bytes} bytes; at most {MAX_CLIP_BYTES} are allowed")


def _gather(blocks: Iterator[Block]) -> Clip:
    """Resample what is kept, count the rest, and choose a channel.

    Raises:
        ValueError: it has no samples.
        VoiceInvalidError: it has values or a shape that are not accepted.
    """
    kept: list[NDArray[np.float32]] = []
    resampler = None
    samples = channels = rate_hz = 0
    clipped = np.zeros(0)
    for block_rate_hz, block in blocks:
        if samples == 0:
            rate_hz, channels = block_rate_hz, block.shape[1]
            clipped = np.zeros(channels)
            resampler = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, channels, dtype="float32", quality="HQ")
        elif (block_rate_hz, block.shape[1]) != (rate_hz, channels):
            raise VoiceInvalidError(f"{_UNREADABLE}: its sample rate or number of channels changes along the way")
        assert resampler is not None
        if samples <= MAX_DECODED_S * rate_hz:
            _check_samples(block)
            kept.append(resampler.resample_chunk(block))
            clipped += _clipped(block)
        samples += len(block)
        if samples > MAX_COUNTED_S * rate_hz:
            break
    if resampler is None or samples == 0:
        raise ValueError("it has no samples")
    kept.append(resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True))
    pcm = np.concatenate(kept)[: int(MAX_DECODED_S * SAMPLE_RATE_HZ)]
    chosen = _speaking_channel(pcm)
    share = float(clipped[chosen]) / min(samples, MAX_DECODED_S * rate_hz)
    return Clip(
        pcm=np.ascontiguousarray(pcm[:, chosen]),
        channels=channels,
        sample_rate_hz=rate_hz,
        clipped_share=min(1.0, share),
        length_s=samples / rate_hz,
        alike=_are_alike(pcm, chosen),
    )


def loud_percentile(frames: int) -> float:
    """The percentile above which ``frames`` of 20 ms are loud: a tenth of them, but no more than half a second.

    A short part of a long clip may be all of its speech.
    """
    return 100 - min(10, 100 * _MOST_LOUD_FRAMES / max(frames, 1))


def _speaking_channel(pcm: NDArray[np.float32]) -> int:
    """The channel of [N, channels] in which speech stands out most; the first of equal ones.

    One channel is chosen, not all mixed: channels of opposite sign cancel each other, and silent ones make the mean
    fainter. Speech is loud and quiet in turn, so steady noise counts for little, and a constant offset for nothing.
    """
    size = round(_FRAME_S * SAMPLE_RATE_HZ)
    frames = pcm[: len(pcm) // size * size].reshape(-1, size, pcm.shape[1])
    if pcm.shape[1] == 1 or len(frames) == 0:
        return 0
    quiet, loud = np.percentile(frames.var(axis=1, dtype=np.float64), (10, loud_percentile(len(frames))), axis=0)
    return int(np.argmax((loud - quiet) ** 2 / np.maximum(loud, 1e-12)))


def _are_alike(pcm: NDArray[np.float32], chosen: int) -> bool:
    """Whether what the other channels of [N, channels] have beside the chosen one is 20 dB below it, or less."""
    centred = pcm - pcm.mean(axis=0, dtype=np.float64)
    power = (centred**2).sum(axis=0)
    shared = centred.T @ centred[:, chosen]
    beside = power - shared**2 / max(power[chosen], 1e-12)
    return bool(beside.max() <= 0.01 * power[chosen])


def _check_shape(rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise VoiceInvalidError(f"audio has a rate of {rate_hz} Hz; {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz are allowed")
    if not 1 <= channels <= MAX_CHANNELS:
        raise VoiceInvalidError(f"audio has {channels} channels; 1 to {MAX_CHANNELS} are allowed")


def _check_samples(block: NDArray[np.float32]) -> None:
    if not np.isfinite(block).all():
        raise VoiceInvalidError(f"{_UNREADABLE}: it has samples that are not numbers")
    largest = float(np.abs(block).max(initial=0))
    if largest > _LARGEST_SAMPLE:
        scaled = "divide them by 32768 if they are 16-bit values, or save it as 16-bit PCM"
        raise VoiceInvalidError(f"{_UNREADABLE}: it has a sample of {largest:g}; -1 to 1 are allowed: {scaled}")


def _clipped(block: NDArray[np.float32]) -> NDArray[np.int64]:
    """[channels]: samples of [N, channels] that stand in runs at full scale."""
    full: NDArray[np.bool_] = np.abs(block) >= _FULL_SCALE
    if len(block) < _CLIPPED_RUN_SAMPLES or not full.any():
        return np.zeros(block.shape[1], np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(full, _CLIPPED_RUN_SAMPLES, axis=0)
    inner: NDArray[np.bool_] = np.all(windows, axis=2)
    runs = np.zeros_like(full)
    for offset in range(_CLIPPED_RUN_SAMPLES):
        runs[offset : offset + len(inner)] |= inner
    return runs.sum(axis=0)


def _sndfile_blocks(audio: bytes) -> Iterator[Block]:
    with sf.SoundFile(io.BytesIO(audio)) as file:
        rate_hz = int(file.samplerate)
        _check_shape(rate_hz, int(file.channels))
        while len(block := file.read(rate_hz, dtype="float32", always_2d=True)):
            yield rate_hz, np.asarray(block, np.float32)


_MAGIC = (
    ("mov", 4, b"\xff\xff\xff\xff", b"ftyp"),
    ("matroska", 0, b"\xff\xff\xff\xff", b"\x1aE\xdf\xa3"),
    ("ogg", 0, b"\xff\xff\xff\xff", b"OggS"),
    ("flac", 0, b"\xff\xff\xff\xff", b"fLaC"),
    ("wav", 0, b"\xff\xff\xff\xff\0\0\0\0\xff\xff\xff\xff", b"RIFF\0\0\0\0WAVE"),
    ("aac", 0, b"\xff\xf6", b"\xff\xf0"),
    ("mp3", 0, b"\xff\xff\xff", b"ID3"),
    ("mp3", 0, b"\xff\xe6", b"\xff\xe2"),
    ("mp3", 0, b"\xff\xe6", b"\xff\xe4"),
)
"""Containers by FFmpeg's names: where their mark stands, the bits of it that count, and the mark.

Of MPEG's audio, layers 3 and 2: the bits of layer 1 are those of UTF-16's byte order mark.
"""

_NAMES = {
    "mov": "an MP4 (m4a)",
    "matroska": "a WebM",
    "ogg": "an Ogg",
    "flac": "a FLAC",
    "wav": "a WAV",
    "aac": "an AAC",
    "mp3": "an MP3",
}
"""The same for people, with their article."""


def _container(audio: bytes) -> str | None:
    """FFmpeg's name of the container that these bytes begin as.

    FFmpeg is never asked to guess: among what it knows are playlists, which name other files and addresses to open.
    """
    for name, at, mask, mark in _MAGIC:
        head = audio[at : at + len(mark)]
        if len(head) == len(mark) and bytes(byte & bits for byte, bits in zip(head, mask, strict=True)) == mark:
            return name
    return None


def _ffmpeg_blocks(audio: bytes, container: str) -> Iterator[Block]:
    # No other file, no address: what a container refers to outside itself is not there.
    options = {"protocol_whitelist": "none", "format_whitelist": container}
    with av.open(io.BytesIO(audio), mode="r", format=container, options=options) as file:
        stream = file.streams.audio[0]
        # Interleaved: PyAV counts the planes of a frame beyond the eighth, into memory that is none of them.
        interleaved = av.AudioResampler(format="flt")
        for frame in file.decode(stream):
            # Before PyAV touches it: it crashes on more channels than a frame has plain pointers for.
            _check_shape(frame.sample_rate, frame.layout.nb_channels)
            yield from ((each.sample_rate, _samples(each)) for each in interleaved.resample(frame))
        yield from ((each.sample_rate, _samples(each)) for each in interleaved.resample(None))


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    return np.asarray(frame.to_ndarray(), np.float32).reshape(-1, frame.layout.nb_channels)


_OTHERS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
)
"""Beginnings of what is sent by mistake, and what it is."""

_RIFF = {b"AVI ": "an AVI video", b"WEBP": "a WebP image"}
"""What else than a WAV may be in a RIFF file."""

_MARKUP = re.compile(r"\s*<[a-z!?]", re.IGNORECASE)
_TEXT_BYTES = 512


def _unreadable(audio: bytes, container: str | None) -> str:
    """What is wrong with bytes that no decoder accepts, and what is allowed; never a library's own words.

    Those name addresses, files and functions, and mean nothing to the client.
    """
    return f"{_UNREADABLE}: {_fault(audio, container)}; allowed: {FORMATS}"


def _fault(audio: bytes, container: str | None) -> str:
    if not audio:
        return "it is empty"
    for mark, name in _OTHERS:
        if audio.startswith(mark):
            return f"it is {name}"
    if audio.startswith(b"RIFF") and audio[8:12] in _RIFF:
        return f"it is {_RIFF[audio[8:12]]}"
    if container is None:
        text = _text(audio[:_TEXT_BYTES])
        if _MARKUP.match(text):
            return "it is HTML or XML, not audio"
        return "it is text, not audio" if _is_written(text) else "its format is not known"
    return f"it begins as {_NAMES[container]} file, but has no samples, is cut off or damaged"


def _text(head: bytes) -> str:
    """The beginning of a file as if it were text: UTF-16 by its byte order mark, UTF-8, or ASCII with gaps."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) // 2 * 2].decode("utf-16", "replace")
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The head may end within a character.
        if error.start >= len(head) - 3:
            return head[: error.start].decode("utf-8-sig")
    return head.decode("ascii", "replace")


def _is_written(text: str) -> bool:
    """Whether it is text: all printable, and at most a quarter in characters of an older encoding."""
    gaps = text.count("\ufffd")
    return 4 * gaps <= len(text) and all(each.isprintable() or each in "\t\r\n\f\ufeff" for each in text)


def _answer_parent() -> None:
    """The child's side of :func:`decode_apart`: bytes in, a line of JSON and the samples out."""
    seconds = int(DECODE_TIMEOUT_S)
    for limit, most in [
        (resource.RLIMIT_AS, _CHILD_MEMORY_BYTES),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, _CHILD_FILES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ]:
        _, hard = resource.getrlimit(limit)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (bound, bound))
    try:
        clip = decode(sys.stdin.buffer.read(MAX_CLIP_BYTES + 1))
    except VoiceInvalidError as error:
        sys.stdout.write(json.dumps({"refused": error.message}) + "\n")
        return
    facts = {name: getattr(clip, name) for name in ("channels", "sample_rate_hz", "clipped_share", "length_s", "alike")}
    sys.stdout.buffer.write(json.dumps(facts).encode() + b"\n" + clip.pcm.tobytes())


if __name__ == "__main__":
    _answer_parent()
