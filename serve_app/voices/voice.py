"""Voices: manifests, references, prompts, and the bounded cache for prompts.

This module does not use torch: prompts are numpy arrays that are made elsewhere. It never accepts a path from a client.
A client names a voice by its id, which is looked up among the known voices.
"""

import hashlib
import io
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

import numpy as np
import soundfile as sf
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from serve_app.audio.loudness import Loudness
from serve_app.audio.pcm import pcm16_of, pcm_of
from serve_app.config import SAMPLE_RATE_HZ, VOICE_ID, Language, Lufs, PromptLayout, Settings, VoicesConfig, folded
from serve_app.errors import InvalidMessageError, VoiceInvalidError, VoiceNotFoundError
from serve_app.languages import LANGUAGES, NamedLanguage
from serve_app.text.characters import shown
from serve_app.voices.checks import Report, examine
from serve_app.voices.decoding import Clip, check_size, decode
from serve_app.voices.voice_file import VoiceFile, check_voice_file_size, read_voice_file

REFERENCE_FILE = "reference.wav"
"""File name of an uploaded voice's clip, next to its manifest."""

Words = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line without control characters, because it appears in lists and logs."""


class UploadRecord(Settings):
    """The record of a voice's upload.

    Attributes:
        digest: hash of the uploaded bytes and the transcript, see :class:`Reference`; of an imported voice, see
            :class:`serve_app.voices.voice_file.VoiceFile`.
        at: time of the upload, in UTC, as ISO 8601.
        report: the results of the checks; None for an imported voice, which has no clip.
    """

    digest: str = Field(pattern=r"^[0-9a-f]{32}$")
    at: str
    report: Report | None = None


class VoiceManifest(Settings):
    """``voices/<id>/manifest.json``: the description of one reference clip."""

    name: str = Field(min_length=1, max_length=100, description="Display name.")
    audio: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="File next to the manifest.")
    transcript: str | None = Field(
        default=None,
        max_length=2000,
        description="The exact words of the clip. Without it, only the speaker embedding is used (x-vector mode).",
    )
    language: NamedLanguage = Field(description="Language of the clip.")
    speaker: str = Field(min_length=1, max_length=200, description="Who speaks.")
    licence: str = Field(min_length=1, max_length=500, description="What allows the use of the clip.")
    prompt: PromptLayout | None = Field(default=None, description="Where its texts go, in place of `text.prompt`.")
    loudness_lufs: Lufs | None = Field(default=None, description="Its level, in place of `voices.loudness_lufs`.")
    source: str = Field(default="", max_length=1000, description="Where the clip comes from.")
    consent: str = Field(default="", max_length=2000, description="Who agreed to the cloning, when, and to what use.")
    upload: UploadRecord | None = Field(default=None, description="Written by the service; None: part of `path`.")


class VoiceUpload(Settings):
    """The metadata that a client uploads together with a clip, or that an exported voice has."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    name: Words = Field(min_length=1, max_length=100, description="display name, 1 to 100 characters in one line")
    id: str | None = Field(
        default=None,
        pattern=f"^{VOICE_ID}$",
        description="a-z, 0-9, '-' and '_', at most 63; made from `name` if absent",
    )
    transcript: str | None = Field(
        default=None, max_length=2000, description="the exact words of the clip, at most 2000 characters; optional"
    )
    language: NamedLanguage = Field(default="auto", description=f"of the clip, one of {', '.join(LANGUAGES)}")
    prompt: PromptLayout | None = Field(default=None, description='"streaming" or "whole"')
    loudness_lufs: Lufs | None = Field(default=None, description="level of its speech in LUFS, -40 to -10")
    consent: str = Field(
        min_length=1, max_length=2000, description="who agreed to this cloning, when, and to what use; never empty"
    )
    speaker: Words = Field(default="", max_length=200, description="who speaks, at most 200 characters in one line")
    licence: Words = Field(default="", max_length=500, description="what allows the use, at most 500 characters")
    source: Words = Field(default="", max_length=1000, description="where the clip comes from, at most 1000 characters")

    @property
    def voice(self) -> str:
        """The id of the new voice.

        Raises:
            InvalidMessageError: the name has no character that is allowed in an id.
        """
        made = self.id or re.sub(r"[^a-z0-9_]+", "-", self.name.lower()).strip("-_")[:63]
        if not re.fullmatch(VOICE_ID, made):
            raise InvalidMessageError(
                f"no id can be made from the name {self.name!r}; set `id`: a-z, 0-9, '-' and '_', at most 63 characters"
            )
        return made

    def manifest(self, record: UploadRecord, audio: str = REFERENCE_FILE) -> VoiceManifest:
        """Return the manifest that is stored next to the file ``audio``."""
        return VoiceManifest(
            name=self.name,
            audio=audio,
            transcript=self.transcript or None,
            language=self.language,
            prompt=self.prompt,
            loudness_lufs=self.loudness_lufs,
            speaker=self.speaker or "Not stated",
            licence=self.licence or "Not stated",
            source=self.source,
            consent=self.consent,
            upload=record,
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """A voice's reference clip, ready to be encoded.

    Attributes:
        voice: the voice's id.
        pcm: [N] float32 in [-1, 1], mono.
        sample_rate_hz: sample rate of ``pcm``.
        transcript: the words of the clip; None means x-vector mode.
        digest: hash of the file's bytes and the transcript; a prompt is valid only for this content.
        report: the results of the checks.
    """

    voice: str
    pcm: NDArray[np.float32]
    sample_rate_hz: int
    transcript: str | None
    digest: str
    report: Report | None = None

    @property
    def nbytes(self) -> int:
        """Size of the samples."""
        return self.pcm.nbytes

    def wav(self) -> bytes:
        """Return the clip as a 16-bit WAV file, which has the same samples if ``pcm`` is rounded to 16 bits."""
        file = io.BytesIO()
        # As integers: soundfile scales reals by 32767 when it writes, and by 32768 when it reads.
        sf.write(file, pcm16_of(self.pcm), self.sample_rate_hz, subtype="PCM_16", format="WAV")
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class VoicePrompt:
    """What a model needs to speak in a voice; made once from a :class:`Reference`.

    Attributes:
        voice: the voice's id.
        digest: digest of the reference that it was made from, see :class:`Reference`.
        speaker_embedding: [D] float32; D is the talker's width.
        codes: [T, 16] int16, the codes of the reference clip; None in x-vector mode.
        transcript: the words of the clip; None in x-vector mode.
        loudness: of the clip as it was encoded.
    """

    voice: str
    digest: str
    speaker_embedding: NDArray[np.float32]
    codes: NDArray[np.int16] | None
    transcript: str | None
    loudness: Loudness

    @property
    def nbytes(self) -> int:
        """Size in memory, which caches limit."""
        return self.speaker_embedding.nbytes + (0 if self.codes is None else self.codes.nbytes) + 512


@dataclass(frozen=True, slots=True)
class ImportedVoice:
    """A voice that another service encoded: it has a prompt in the place of a clip.

    Attributes:
        prompt: not yet compared with the checkpoint that shall speak.
        encoders: digest of the weights that made it.
    """

    prompt: VoicePrompt
    encoders: str

    @property
    def voice(self) -> str:
        """The voice's id."""
        return self.prompt.voice

    @property
    def digest(self) -> str:
        """Digest of the prompt."""
        return self.prompt.digest


def other_encoders(made: str, loaded: str) -> str:
    """Say that a voice was made by the encoders ``made``, and not by those that are loaded."""
    return (
        f"it was exported from a checkpoint with other encoders ({made}); the loaded checkpoint has {loaded};"
        " export it from a service with the same checkpoint, or upload its clip"
    )


def voice_file(voice: str, manifest: VoiceManifest, prompt: VoicePrompt, encoders: str) -> VoiceFile:
    """Return a voice as it is exported.

    Args:
        voice: its id.
        manifest: its descriptions.
        prompt: its prompt.
        encoders: digest of the weights that made the prompt.
    """
    given = {"id": voice, **manifest.model_dump(include=set(VoiceUpload.model_fields)), "transcript": prompt.transcript}
    fields = {name: str(value) for name, value in given.items() if value not in (None, "")}
    return VoiceFile(fields, encoders, prompt.speaker_embedding, prompt.codes, prompt.loudness)


@dataclass(frozen=True, slots=True)
class VoiceStatus:
    """An entry in the list of voices.

    Attributes:
        voice: the voice's id.
        state: a ``ready`` voice can be used, a ``pending`` one has to be encoded first, and an ``unavailable`` one
            gives its ``reason``.
        reason: empty unless unavailable.
        manifest: None if it could not be read.
        report: the checks of its clip; None if there was no clip to check.
    """

    voice: str
    state: Literal["ready", "pending", "unavailable"]
    reason: str
    manifest: VoiceManifest | None
    report: Report | None = None


OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"""Built-in voices of OpenAI's API; its clients always send one of them. Source: openai 3.54, ``audio.speech``."""

DEEPGRAM_PREFIX = "aura-"
"""Begins the names of Deepgram's voices; its clients always send one of them. Source: deepgram-sdk 7.17.0."""


def voice_named(given: str, voices: Mapping[str, VoiceStatus]) -> str | None:
    """Return the id of the voice with this id or display name, ignoring case; None if there is no such voice.

    If several voices have the same display name, the first usable one by id is returned.
    """
    if given in voices:
        return given
    name = folded(given)
    if name in voices:
        return name
    named = [each for each in voices.values() if each.manifest is not None and folded(each.manifest.name) == name]
    return min(named, key=lambda each: (each.state == "unavailable", each.voice)).voice if named else None


def resolve_voice(given: str, voices: Mapping[str, VoiceStatus], config: VoicesConfig) -> str | None:
    """Return the id of the voice that a request names; None if the name is unknown.

    The name is looked up in this order: ids, aliases of the configuration, display names, and OpenAI's and Deepgram's
    built-in names, which mean the default voice.

    Args:
        given: the name in the request, in any case.
        voices: the voices by id; empty if they are not known yet. Aliases and built-in names are resolved in any case.
        config: the aliases and the default voice.
    """
    name = folded(given)
    if given in voices or name in voices:
        return voice_named(given, voices)
    meant = config.aliases.get(name)
    if meant is None:
        named = voice_named(given, voices)
        if named is not None or not (name in OPENAI_VOICES or name.startswith(DEEPGRAM_PREFIX)):
            return named
        meant = config.default
    return voice_named(meant, voices) if voices else meant


def check_voice(voice: str, voices: Mapping[str, VoiceStatus]) -> None:
    """Check that a voice, by its id, can be used; if no voices are known yet, every voice can.

    Raises:
        VoiceNotFoundError: the voice is unknown or unavailable.
    """
    status = voices.get(voice)
    if not voices or (status is not None and status.state != "unavailable"):
        return
    why = "is not known" if status is None else f"is unavailable: {status.reason}"
    ready = sorted(name for name, status in voices.items() if status.state == "ready")[:20]
    raise VoiceNotFoundError(f"voice {shown(voice)} {why}; ready: {', '.join(ready) or 'none'}")


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice as found on disk, with its reference or the reason why there is none."""

    voice: str
    manifest: VoiceManifest | None
    reference: Reference | ImportedVoice | None
    reason: str


def scan(path: Path) -> list[Voice]:
    """Read every ``<id>/manifest.json`` below ``path``. An unusable voice gives its reason and does not hide others.

    Returns:
        The voices in the order of their ids; empty if ``path`` is not a directory.
    """
    return [read_voice(folder) for folder in voice_folders(path)]


def voice_folders(path: Path) -> list[Path]:
    """Return the directories below ``path`` with a manifest, in the order of their names; none if ``path`` is missing.

    Raises:
        OSError: ``path`` cannot be read.
    """
    if not path.is_dir():
        return []
    return [entry for entry in sorted(path.iterdir()) if os.path.isfile(entry / "manifest.json")]  # noqa: PTH113 - it never raises


def read_voice(folder: Path) -> Voice:
    """Read one voice. This never fails; an unusable voice gives its reason."""
    voice = folder.name
    if not re.fullmatch(VOICE_ID, voice):
        return Voice(
            voice, None, None, "its directory's name may only have a-z, 0-9, '-' and '_', at most 63 characters"
        )
    try:
        manifest = VoiceManifest.model_validate_json((folder / "manifest.json").read_bytes())
    except (ValidationError, OSError) as error:
        return Voice(voice, None, None, f"manifest.json is not valid: {_fault(error)}")
    audio = folder / manifest.audio
    if not audio.is_file():
        return Voice(voice, manifest, None, f"its reference audio {manifest.audio!r} is not there yet")
    try:
        reference = _reference_of(voice, manifest, audio)
    except (VoiceInvalidError, OSError) as error:
        return Voice(voice, manifest, None, _fault(error))
    return Voice(voice, manifest, reference, "")


def _fault(error: ValidationError | VoiceInvalidError | OSError) -> str:
    """Return why a voice cannot be used. Clients see this, so it has no local paths and no library's messages."""
    if isinstance(error, VoiceInvalidError):
        return error.message
    if isinstance(error, OSError):
        return f"its file cannot be read: {error.strerror}"
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]])) for fault in faults[:5])


def _reference_of(voice: str, manifest: VoiceManifest, audio: Path) -> Reference | ImportedVoice:
    if audio.suffix == ".safetensors":
        return _imported(voice, manifest, audio)
    check_size(audio.stat().st_size)
    upload = manifest.upload
    if upload is None:
        return read_reference(voice, audio.read_bytes(), manifest.transcript, manifest.language)
    # An upload is checked and cut before it is stored, so the stored clip is encoded as it is.
    pcm = decode(audio.read_bytes()).pcm
    return Reference(voice, pcm, SAMPLE_RATE_HZ, manifest.transcript, upload.digest, upload.report)


def _imported(voice: str, manifest: VoiceManifest, audio: Path) -> ImportedVoice:
    check_voice_file_size(audio.stat().st_size)
    file = read_voice_file(audio.read_bytes())
    if file.transcript != _said(manifest.transcript):
        raise VoiceInvalidError(f"the transcript in manifest.json is not the one in {manifest.audio}")
    prompt = VoicePrompt(voice, file.digest, file.speaker_embedding, file.codes, file.transcript, file.loudness)
    return ImportedVoice(prompt, file.encoders)


def read_reference(voice: str, audio: bytes, transcript: str | None, language: Language = "auto") -> Reference:
    """Decode a clip in this process and check it; only for the operator's own files.

    Raises:
        VoiceInvalidError: the clip is unreadable or refused.
    """
    return make_reference(voice, decode(audio), digest_of(audio, transcript), transcript, language)


def make_reference(voice: str, clip: Clip, digest: str, transcript: str | None, language: Language) -> Reference:
    """Check a decoded clip, cut it for encoding, and round its samples to 16 bits.

    The service's own voices, uploaded voices and inline voices with the same digest share one prompt. They must
    therefore have the same samples. An uploaded clip is stored with 16 bits, and an inline clip is sent to the
    generators with 16 bits, so every clip is rounded here.

    Args:
        voice: the voice's id.
        clip: from :mod:`serve_app.voices.decoding`.
        digest: from :func:`digest_of`.
        transcript: the words of the clip, or None.
        language: the language of the clip.

    Raises:
        VoiceInvalidError: the clip is refused; the error has the report.
    """
    text = _said(transcript)
    examined = examine(clip, text, language)
    report = examined.report
    if report.verdict == "refuse":
        checks = [check.model_dump() for check in report.checks]
        raise VoiceInvalidError(f"the clip is refused: {report.reasons()}", report=checks)
    return Reference(voice, pcm_of(pcm16_of(examined.pcm)), SAMPLE_RATE_HZ, text, digest, report)


def digest_of(audio: bytes, transcript: str | None) -> str:
    """Hash a clip's bytes, its transcript and a version number, which changes when the way of cutting clips changes."""
    return hashlib.sha256(b"cut 3\0" + audio + b"\0" + (_said(transcript) or "").encode()).hexdigest()[:32]


def _said(transcript: str | None) -> str | None:
    return (transcript.strip() if transcript else None) or None


K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """A least-recently-used cache with a limit on the bytes of its values and, optionally, on their age.

    The time is an argument of every call; the cache does not read a clock.

    Attributes:
        bytes: size of all values.
        hits: number of times that :meth:`get` found its key.
        misses: number of times that it did not.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[V], int], ttl_s: float | None = None) -> None:
        """Limit the sum of ``size_of`` over the values to ``max_bytes``; ``ttl_s`` counts from a value's last use."""
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._ttl_s = ttl_s
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._entries))

    def get(self, key: K, now_s: float) -> V | None:
        """Return a value and mark it as used; None if it is absent or expired."""
        self.expire(now_s)
        entry = self._entries.pop(key, None)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries[key] = (entry[0], now_s)
        return entry[0]

    def peek(self, key: K) -> V | None:
        """Return a value without marking it as used; None if it is absent."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def put(self, key: K, value: V, now_s: float) -> list[K]:
        """Keep a value, drop the least recently used ones that exceed the limit, and return their keys.

        A value that is larger than the limit is not kept; its own key is returned.
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
        """Remove one key, if it is present."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= self._size_of(entry[0])

    def expire(self, now_s: float) -> None:
        """Drop the values that were not used for longer than ``ttl_s``."""
        if self._ttl_s is None:
            return
        while self._entries:
            key, (_, used_s) = next(iter(self._entries.items()))
            if now_s - used_s <= self._ttl_s:
                return
            self.drop(key)
