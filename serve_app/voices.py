"""Voices: their manifests on disk, what a prompt is, and the bounded memory they are kept in.

No torch here: prompts are numpy arrays, made elsewhere. Nothing in this module ever takes a path from a client;
a voice is asked for by its id, which is looked up among those that were listed at start.
"""

import hashlib
import io
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from serve_app.config import Language, Settings
from serve_app.errors import VoiceInvalidError

MIN_REFERENCE_S = 3.0
MAX_REFERENCE_S = 30.0
MAX_REFERENCE_BYTES = 20 << 20

VoiceId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class VoiceManifest(Settings):
    """``voices/<id>/manifest.json``: one reference clip and what is known about it."""

    name: str = Field(min_length=1, max_length=100, description="Shown to people.")
    audio: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="File beside the manifest.")
    transcript: str | None = Field(
        default=None,
        max_length=2000,
        description="Exactly what the clip says. Without it only the speaker embedding is used (x-vector mode).",
    )
    language: Language = Field(description="Language of the clip.")
    speaker: str = Field(min_length=1, max_length=200, description="Who speaks.")
    licence: str = Field(min_length=1, max_length=500, description="What allows the use of the clip.")
    source: str = Field(default="", max_length=1000, description="Where the clip comes from.")


@dataclass(frozen=True, slots=True)
class Reference:
    """A voice's reference clip, ready to be encoded.

    Attributes:
        voice: the voice's id.
        pcm: [N] float32 in [-1, 1], mono.
        sample_rate_hz: of ``pcm``, as the file has it.
        transcript: what is said; None means x-vector mode.
        digest: hash of the audio's bytes and the transcript; a prompt is valid for this content alone.
    """

    voice: str
    pcm: NDArray[np.float32]
    sample_rate_hz: int
    transcript: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class VoicePrompt:
    """What a model needs to speak in a voice; made once from a :class:`Reference`.

    Attributes:
        voice: the voice's id.
        digest: of the reference it was made from, see :class:`Reference`.
        speaker_embedding: [D] float32; D is the talker's width.
        codes: [T, 16] int16, the reference clip as codes; None in x-vector mode.
        transcript: text of the clip; None in x-vector mode.
    """

    voice: str
    digest: str
    speaker_embedding: NDArray[np.float32]
    codes: NDArray[np.int16] | None
    transcript: str | None

    @property
    def nbytes(self) -> int:
        """Bytes held, the bound of every cache."""
        return self.speaker_embedding.nbytes + (0 if self.codes is None else self.codes.nbytes) + 512


@dataclass(frozen=True, slots=True)
class VoiceStatus:
    """One line of the list of voices.

    Attributes:
        voice: the voice's id.
        state: ``ready`` can be spoken with, ``pending`` waits to be encoded, ``unavailable`` says why in ``reason``.
        reason: empty unless unavailable.
        manifest: None when it could not be read.
    """

    voice: str
    state: Literal["ready", "pending", "unavailable"]
    reason: str
    manifest: VoiceManifest | None


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as found on disk: a reference, or the reason why there is none."""

    voice: str
    manifest: VoiceManifest | None
    reference: Reference | None
    reason: str


def scan(path: Path) -> list[Voice]:
    """Read every ``<id>/manifest.json`` below ``path``; a voice that cannot be used says why, and hides none other.

    Returns:
        Voices in the order of their ids; empty when ``path`` is no directory.
    """
    if not path.is_dir():
        return []
    found = sorted(entry for entry in path.iterdir() if (entry / "manifest.json").is_file())
    return [_read_voice(entry) for entry in found]


def _read_voice(folder: Path) -> Voice:
    voice = folder.name
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", voice):
        return Voice(voice, None, None, "a voice's directory is named in a-z, 0-9, '-' and '_', at most 63 of them")
    try:
        manifest = VoiceManifest.model_validate_json((folder / "manifest.json").read_bytes())
    except (ValidationError, OSError) as error:
        return Voice(voice, None, None, f"manifest.json is not valid: {error}")
    audio = folder / manifest.audio
    if not audio.is_file():
        return Voice(voice, manifest, None, f"its reference audio {manifest.audio!r} is not there yet")
    try:
        reference = read_reference(voice, audio.read_bytes(), manifest.transcript)
    except (VoiceInvalidError, OSError) as error:
        return Voice(voice, manifest, None, str(error))
    return Voice(voice, manifest, reference, "")


def read_reference(voice: str, audio: bytes, transcript: str | None) -> Reference:
    """Decode and check a reference clip.

    Args:
        voice: id it is for.
        audio: a file's bytes, in any format that libsndfile reads.
        transcript: what it says, or None.

    Raises:
        VoiceInvalidError: unreadable, larger than 20 MiB, shorter than 3 s, longer than 30 s, or silent.
    """
    if len(audio) > MAX_REFERENCE_BYTES:
        raise VoiceInvalidError(f"reference audio has {len(audio)} bytes; at most {MAX_REFERENCE_BYTES} are taken")
    try:
        samples, rate_hz = sf.read(io.BytesIO(audio), dtype="float32", always_2d=True)
    except (sf.LibsndfileError, RuntimeError, TypeError) as error:
        raise VoiceInvalidError(f"reference audio cannot be decoded: {error}") from error
    pcm = np.ascontiguousarray(samples.mean(axis=1), dtype=np.float32)
    seconds = len(pcm) / rate_hz
    if not MIN_REFERENCE_S <= seconds <= MAX_REFERENCE_S:
        raise VoiceInvalidError(
            f"reference audio lasts {seconds:.2f} s; {MIN_REFERENCE_S:g} s to {MAX_REFERENCE_S:g} s are allowed"
        )
    if not np.isfinite(pcm).all() or float(np.sqrt(np.mean(pcm**2))) < 1e-3:
        raise VoiceInvalidError("reference audio is silent: its RMS is below 0.001 of full scale")
    text = transcript.strip() if transcript else None
    digest = hashlib.sha256(audio + b"\0" + (text or "").encode()).hexdigest()[:32]
    return Reference(voice=voice, pcm=pcm, sample_rate_hz=int(rate_hz), transcript=text or None, digest=digest)


K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A least-recently-used map bounded by the bytes of its values, and by time if asked.

    The clock is an argument of every call; the map itself never looks at one.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[V], int], ttl_s: float | None = None) -> None:
        """Bound the sum of ``size_of`` over the values; ``ttl_s`` is counted from a value's last use."""
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._ttl_s = ttl_s
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._entries))

    def get(self, key: K, now_s: float) -> V | None:
        """The value, made the most recent; None if absent or expired."""
        self.expire(now_s)
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._entries[key] = (entry[0], now_s)
        return entry[0]

    def put(self, key: K, value: V, now_s: float) -> list[K]:
        """Keep a value and drop the least recent ones beyond the bound; returns their keys.

        A value larger than the whole bound is not kept, and its own key is returned.
        """
        self.expire(now_s)
        self.drop(key)
        self._entries[key] = (value, now_s)
        self.bytes += self._size_of(value)
        dropped: list[K] = []
        while self.bytes > self._max_bytes:
            oldest = next(iter(self._entries))
            self.drop(oldest)
            dropped.append(oldest)
        return dropped

    def drop(self, key: K) -> None:
        """Forget one key, if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= self._size_of(entry[0])

    def expire(self, now_s: float) -> None:
        """Drop what was not used for longer than ``ttl_s``."""
        if self._ttl_s is None:
            return
        while self._entries:
            key, (_, used_s) = next(iter(self._entries.items()))
            if now_s - used_s <= self._ttl_s:
                return
            self.drop(key)
