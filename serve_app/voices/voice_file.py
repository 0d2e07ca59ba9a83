"""The file in which a voice travels between services: what a model made of its clip, and who agreed to what.

One safetensors file: descriptions in its metadata, all strings, and the arrays of a voice prompt. Reading it never runs
code that the file contains, and every size is bounded. This module does not know the model, so it cannot tell whether
the codes and the embedding fit a checkpoint; the digest of the weights that made them can.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from serve_app.audio.loudness import Loudness
from serve_app.errors import VoiceInvalidError

VOICE_FILE = "voice.safetensors"
"""File name of an imported voice, next to its manifest."""

MAX_VOICE_FILE_BYTES = 128 << 10
"""Maximum size; the longest clip, the widest embedding and the longest descriptions take about 90 KB."""

MAX_FRAMES = 400
"""Maximum length of a clip's codes, 32 s; a clip of 30 s has 382 with the silence around it."""

FORMAT = "qwen3-tts-serve voice 1"
"""Value of the metadata's ``format``; another number means another meaning of the content."""

MAX_CODEBOOKS = 16
"""Maximum number of codes per frame: the released models have 16, the demonstration voice has 7."""

_SHOWN = 100
"""Maximum number of characters of a file that an error message shows."""

_ARRAYS: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "speaker_embedding": ("F32", "<f4", (MAX_VOICE_FILE_BYTES,)),
    "codes": ("I16", "<i2", (MAX_FRAMES, MAX_CODEBOOKS)),
    "loudness": ("F64", "<f8", (2,)),
}
"""Each array's type in safetensors and in numpy, and its maximum shape."""


@dataclass(frozen=True, slots=True)
class VoiceFile:
    """The content of an exported voice.

    Attributes:
        fields: the fields of :class:`serve_app.voices.voice.VoiceUpload` as strings, without those that are not set.
        encoders: digest of the weights that made the embedding and the codes.
        speaker_embedding: [D] float32, finite.
        codes: [T, Q] int16, not negative, with Q codebooks; None in x-vector mode.
        loudness: of the clip.
    """

    fields: dict[str, str]
    encoders: str
    speaker_embedding: NDArray[np.float32]
    codes: NDArray[np.int16] | None
    loudness: Loudness

    @property
    def transcript(self) -> str | None:
        """The words of the clip; None in x-vector mode."""
        return self.fields.get("transcript", "").strip() or None

    @property
    def digest(self) -> str:
        """Hash of everything that is heard, in the place of a clip's digest.

        The file cannot name its own digest: voices with the same digest share a prompt, so a forged one would replace
        the prompt of another voice.
        """
        codes = np.zeros((0, MAX_CODEBOOKS), np.int16) if self.codes is None else self.codes
        head = json.dumps([FORMAT, self.encoders, self.transcript, len(self.speaker_embedding), len(codes)])
        digest = hashlib.sha256(head.encode())
        for array in (self.speaker_embedding, codes, np.array([self.loudness.lufs, self.loudness.peak])):
            digest.update(array.tobytes())
        return digest.hexdigest()[:32]

    def to_bytes(self) -> bytes:
        """Return the file."""
        arrays: dict[str, NDArray[Any]] = {
            "speaker_embedding": self.speaker_embedding,
            "loudness": np.array([self.loudness.lufs, self.loudness.peak]),
        }
        if self.codes is not None:
            arrays["codes"] = self.codes
        # `save` writes memory as it lies, and a codec's codes are transposed.
        dense = {name: np.ascontiguousarray(array, _ARRAYS[name][1]) for name, array in arrays.items()}
        return save(dense, {**self.fields, "format": FORMAT, "encoders": self.encoders})


def read_voice_file(content: bytes) -> VoiceFile:
    """Read an exported voice. Of its fields, only the presence of a transcript is checked.

    Raises:
        VoiceInvalidError: the file is too large, damaged, or not an exported voice.
    """
    check_voice_file_size(len(content))
    try:
        views = deserialize(content)
    except SafetensorError as error:
        reason = str(error)[:_SHOWN]  # which may quote the file
        raise VoiceInvalidError(f"the voice file is damaged, or not a safetensors file: {reason}") from error
    fields = _metadata(content)
    format_, encoders = fields.pop("format", None), fields.pop("encoders", "")
    if format_ != FORMAT:
        given = "none" if format_ is None else repr(format_[:_SHOWN])
        raise VoiceInvalidError(f"the file is not an exported voice: its format is {given}; allowed: {FORMAT!r}")
    arrays = {name: _array(name, view) for name, view in views}
    missing = [name for name in ("speaker_embedding", "loudness") if name not in arrays]
    if missing or not re.fullmatch("[0-9a-f]{20}", encoders):
        raise VoiceInvalidError(f"the voice file has no {', '.join(missing) or 'encoders, 20 hexadecimal digits'}")
    codes = arrays.get("codes")
    file = VoiceFile(fields, encoders, arrays["speaker_embedding"], codes, Loudness(*arrays["loudness"].tolist()))
    if (file.transcript is None) != (codes is None):
        raise VoiceInvalidError("the voice file has a transcript without codes, or codes without a transcript")
    return file


def check_voice_file_size(size_bytes: int) -> None:
    """Refuse a voice file by its size, before it is read.

    Raises:
        VoiceInvalidError: it is too large.
    """
    if size_bytes > MAX_VOICE_FILE_BYTES:
        raise VoiceInvalidError(f"the voice file has {size_bytes} bytes; the limit is {MAX_VOICE_FILE_BYTES}")


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata of a file that safetensors has accepted, which it does not return for bytes."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header.get("__metadata__") or {}


def _array(name: str, view: dict[str, Any]) -> NDArray[Any]:
    """Return one array.

    Raises:
        VoiceInvalidError: it has no place in a voice file, or another type or shape, or impossible values.
    """
    if name not in _ARRAYS:
        allowed = ", ".join(_ARRAYS)
        raise VoiceInvalidError(f"the voice file has an array {name[:_SHOWN]!r}; allowed: {allowed}")
    kind, dtype, most = _ARRAYS[name]
    given: list[int] = view["shape"]
    least = most if name == "loudness" else (1,) * len(most)
    fits = len(given) == len(most) and all(low <= n <= high for low, n, high in zip(least, given, most, strict=True))
    if view["dtype"] != kind or not fits:
        found = f"{view['dtype']} {given}"[:_SHOWN]
        allowed = f"{kind} {list(least)} to {list(most)}"
        raise VoiceInvalidError(f"{name} of the voice file is {found}; allowed: {allowed}")
    array = np.frombuffer(view["data"], dtype).reshape(given).copy()
    if not np.isfinite(array).all() or (name == "codes" and array.min() < 0):
        raise VoiceInvalidError(f"{name} of the voice file has values that no model makes")
    return array
