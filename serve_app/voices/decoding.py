"""Decodes a clip's bytes to mono samples at the model's rate, within bounds; knows nothing about speech or voices.

There are two decoders: libsndfile comes first, and FFmpeg (PyAV) reads the formats that libsndfile does not. Both are
native code that reads untrusted bytes. :func:`decode_apart` therefore runs them in a separate process with limits on
memory, time and files. A malicious clip can cause nothing worse than a refusal.
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
"""Maximum size of an encoded clip; 30 s of stereo float at 48 kHz are 11 MB."""

MAX_DECODED_S = 40.0
"""Samples are kept up to this time; a clip of 30 s may have silence around it."""

MAX_COUNTED_S = 600.0
"""Decoding stops at this time. Samples after :data:`MAX_DECODED_S` are only counted, to report the length of the
clip."""

FORMATS = "wav, flac, ogg, opus, mp3, m4a, aac, webm"
"""The accepted formats, for error messages."""

MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
MAX_CHANNELS = 8

DECODE_TIMEOUT_S = 20.0
"""Decoding takes about a second; most of it goes into starting Python and its libraries."""

_UNREADABLE = "audio cannot be decoded"

_CHILD_MEMORY_BYTES = 3 << 30
_CHILD_FILES = 64
_FULL_SCALE = 0.9999  # the largest sample of 16 bits is 0.99997
_LARGEST_SAMPLE = 10.0
"""A float file may exceed full scale slightly; one scaled like integers (full scale is 32768) exceeds it by far."""
_FRAME_S = 0.02
_MAX_LOUD_FRAMES = 25
_CLIPPED_RUN_SAMPLES = 3
"""This many consecutive samples at full scale count as clipped; one or two may be a peak that just fits."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A decoded clip.

    Attributes:
        pcm: [N] float32, mono, 24 kHz; at most :data:`MAX_DECODED_S`.
        channels: number of channels in the file; ``pcm`` is the one in which speech stands out most.
        sample_rate_hz: sample rate of the file.
        clipped_share: share of that channel's samples that are clipped at full scale.
        length_s: length of the whole file; above :data:`MAX_COUNTED_S` a lower bound.
        alike: whether each other channel is silent or has the same signal as ``pcm``, at any level and sign.
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
    """Decode a clip in this process; only for the operator's own files.

    Args:
        audio: a file's bytes: wav, flac, ogg, mp3 and other formats of libsndfile; m4a, aac and webm through FFmpeg.

    Raises:
        VoiceInvalidError: the clip is too large or unreadable, or its rate or number of channels is out of range.
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
    """Decode a clip in a separate process; for all bytes from clients. Blocks for about a second.

    Raises:
        VoiceInvalidError: as in :func:`decode`, or the decoder crashed or took too much time or memory.
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
    """Refuse a clip by its size, before more of it is read.

    Raises:
        VoiceInvalidError: it is too large.
    """
    if size_bytes > MAX_CLIP_BYTES:
        raise VoiceInvalidError(f"audio has {size_bytes} bytes; the limit is {MAX_CLIP_BYTES}")


def _gather(blocks: Iterator[Block]) -> Clip:
    """Resample the samples that are kept, count the rest, and choose a channel.

    Raises:
        ValueError: the clip has no samples.
        VoiceInvalidError: its values or its shape are not accepted.
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
            raise VoiceInvalidError(f"{_UNREADABLE}: its sample rate or number of channels changes in the middle")
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
    """Return the percentile above which frames of 20 ms count as loud: a tenth of all, but at most half a second.

    The limit of half a second exists because a long clip may contain only a short passage of speech.
    """
    return 100 - min(10, 100 * _MAX_LOUD_FRAMES / max(frames, 1))


def _speaking_channel(pcm: NDArray[np.float32]) -> int:
    """Return the channel of [N, channels] in which speech stands out most; the first if several are equal.

    Channels are not mixed, because channels of opposite sign cancel each other and silent ones lower the level.
    Speech alternates between loud and quiet, so steady noise counts little and a constant offset not at all.
    """
    size = round(_FRAME_S * SAMPLE_RATE_HZ)
    frames = pcm[: len(pcm) // size * size].reshape(-1, size, pcm.shape[1])
    if pcm.shape[1] == 1 or len(frames) == 0:
        return 0
    quiet, loud = np.percentile(frames.var(axis=1, dtype=np.float64), (10, loud_percentile(len(frames))), axis=0)
    return int(np.argmax((loud - quiet) ** 2 / np.maximum(loud, 1e-12)))


def _are_alike(pcm: NDArray[np.float32], chosen: int) -> bool:
    """Return whether the other channels of [N, channels] differ from the chosen one by -20 dB or less."""
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
    """Return [channels]: the number of samples of [N, channels] in runs at full scale."""
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
"""Containers by FFmpeg's names: the offset of the magic bytes, the mask for them, and the bytes.

MPEG audio is recognized for layers 3 and 2 only, because layer 1 begins like UTF-16's byte order mark.
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
"""The containers' names in error messages, with their article."""


def _container(audio: bytes) -> str | None:
    """Return FFmpeg's name of the container that begins with these bytes; None if it is not in the list.

    FFmpeg itself must not guess: it also reads playlists, which can make it open other files and addresses.
    """
    for name, at, mask, mark in _MAGIC:
        head = audio[at : at + len(mark)]
        if len(head) == len(mark) and bytes(byte & bits for byte, bits in zip(head, mask, strict=True)) == mark:
            return name
    return None


def _ffmpeg_blocks(audio: bytes, container: str) -> Iterator[Block]:
    # The container must not open other files or addresses.
    options = {"protocol_whitelist": "none", "format_whitelist": container}
    with av.open(io.BytesIO(audio), mode="r", format=container, options=options) as file:
        stream = file.streams.audio[0]
        # Interleaved, because PyAV reads beyond the end of a frame's planes if there are more than eight.
        interleaved = av.AudioResampler(format="flt")
        for frame in file.decode(stream):
            # This check comes first, because PyAV crashes on frames with more channels than plane pointers.
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
"""Magic bytes of files that are sent by mistake, and their names."""

_RIFF = {b"AVI ": "an AVI video", b"WEBP": "a WebP image"}
"""Contents of a RIFF file other than WAV."""

_MARKUP = re.compile(r"\s*<[a-z!?]", re.IGNORECASE)
_TEXT_BYTES = 512


def _unreadable(audio: bytes, container: str | None) -> str:
    """Return the error message for bytes that no decoder accepts: what is wrong, and what is allowed.

    A library's own message is never passed on: it names addresses, files and functions, which do not help the client.
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
    """Decode the beginning of a file as text: UTF-16 with a byte order mark, UTF-8, or ASCII with replacements."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) // 2 * 2].decode("utf-16", "replace")
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The head may end in the middle of a character.
        if error.start >= len(head) - 3:
            return head[: error.start].decode("utf-8-sig")
    return head.decode("ascii", "replace")


def _is_written(text: str) -> bool:
    """Return whether this is text: all printable, and at most a quarter of it not decodable."""
    gaps = text.count("\ufffd")
    return 4 * gaps <= len(text) and all(each.isprintable() or each in "\t\r\n\f\ufeff" for each in text)


def _answer_parent() -> None:
    """Run the child process of :func:`decode_apart`: read bytes, write a line of JSON and the samples."""
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
