"""Keeps the voices and their prompts: in memory up to a limit, and on disk permanently.

The library reads the directory of the voices that come with the service. It owns the directory of uploaded voices, and
two directories of encoded prompts: one for these voices and one for the others. It knows nothing about models, Ray or
clocks; the time is an argument.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.loudness import Loudness
from serve_app.config import VoicesConfig
from serve_app.errors import (
    CapacityError,
    SynthesisError,
    TtsUnavailableError,
    VoiceConflictError,
    VoiceInvalidError,
    VoiceNotFoundError,
)
from serve_app.voices.voice import (
    VOICE_ID,
    BoundedCache,
    ImportedVoice,
    Reference,
    VoiceManifest,
    VoicePrompt,
    VoiceStatus,
    other_encoders,
    read_voice,
    voice_file,
    voice_folders,
)
from serve_app.voices.voice_file import VOICE_FILE, read_voice_file

log = logging.getLogger(__name__)

MAX_STORED_PROMPTS = 2000
"""Number of prompts on disk for one model, about 20 KB each; the oldest are deleted first."""


UPLOADS = ".uploaded"
"""Default directory of uploaded voices, below that of the other voices; no voice can have this id."""

_PART = ".part-"
"""Prefix of the names of incomplete directories."""

_NO_MODEL = "no generator has reported yet which checkpoint it runs; try again"

_MAX_LISTED_VOICES = 20
"""Maximum number of voices that an error message lists."""

REFRESH_PERIOD_S = 2.0
"""Minimum time between two checks of the directory of voices for changes."""

ENCODING_LEASE_S = 60.0
"""How long a replica alone may encode a voice. After that the replica is considered lost, and another one may try."""

REMOVED_KEPT_S = 1800.0
"""How long the prompts of a removed voice stay in memory, for utterances that had already begun with it.

The longest utterance is 20,000 characters (unless `session.max_utterance_characters` says otherwise), about 25 minutes.
"""

REMOVED_MAX_BYTES = 16 << 20
"""Memory for the prompts of recently removed voices: about a thousand of the longest clips."""


@dataclass(frozen=True, slots=True)
class VoiceRefusal:
    """Why a request about a voice is refused. It is passed between processes as this value, not as an exception."""

    message: str
    code: str = VoiceNotFoundError.code


@dataclass(frozen=True, slots=True)
class VoiceInProgress:
    """Another replica is encoding the voice; ask again soon."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A voice as last read; its audio stays on disk. Without a digest it is unusable, and ``reason`` says why."""

    folder: Path
    manifest: VoiceManifest | None
    digest: str | None
    reason: str
    status: VoiceStatus
    encoders: str = ""
    """Of an imported voice: digest of the weights that made its prompt."""

    @property
    def uploaded(self) -> bool:
        return self.manifest is not None and self.manifest.upload is not None


def _read(folder: Path) -> tuple[_Entry, Reference | ImportedVoice | None]:
    found = read_voice(folder)
    reference = found.reference
    report = reference.report if isinstance(reference, Reference) else None
    state = "unavailable" if reference is None else "pending"
    status = VoiceStatus(found.voice, state, found.reason, found.manifest, report)
    digest = None if reference is None else reference.digest
    encoders = reference.encoders if isinstance(reference, ImportedVoice) else ""
    return _Entry(folder, found.manifest, digest, found.reason, status, encoders), reference


class PromptFiles:
    """Encoded prompts on disk: ``<model fingerprint>/<reference digest>.npz``."""

    def __init__(self, path: Path) -> None:
        """Keep the prompts below ``path``, which is created when the first one is saved."""
        self._path = path

    def has(self, fingerprint: str, digest: str) -> bool:
        """Return whether there is a prompt of this reference; it may still turn out to be unreadable."""
        return self._file(fingerprint, digest).is_file()

    def load(self, voice: str, fingerprint: str, digest: str) -> VoicePrompt | None:
        """Read one prompt; None if there is none. An unreadable file is removed."""
        file = self._file(fingerprint, digest)
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return VoicePrompt(
                    voice=voice,
                    digest=digest,
                    speaker_embedding=arrays["speaker_embedding"],
                    codes=arrays.get("codes"),
                    transcript=str(arrays["transcript"]) if "transcript" in arrays else None,
                    loudness=Loudness(*arrays["loudness"].tolist()),
                )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("removing the unreadable voice prompt %s: %s", file, error)
            with contextlib.suppress(OSError):
                file.unlink()
            return None

    def save(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """Write one prompt; readers see the complete file or none. A disk error is only logged."""
        file = self._file(fingerprint, prompt.digest)
        loudness = np.array([prompt.loudness.lufs, prompt.loudness.peak])
        arrays: dict[str, NDArray[Any]] = {"speaker_embedding": prompt.speaker_embedding, "loudness": loudness}
        if prompt.codes is not None:
            arrays["codes"] = prompt.codes
        if prompt.transcript is not None:
            arrays["transcript"] = np.array(prompt.transcript)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
                np.savez(part, allow_pickle=False, **arrays)
            Path(part.name).replace(file)
            self._prune(file.parent)
        except OSError as error:
            log.warning("cannot store a voice prompt in %s: %s", file.parent, error)

    def fingerprints(self, digest: str) -> list[str]:
        """Return the fingerprints of the models that have encoded a reference."""
        return [file.parent.name for file in self._path.glob(f"*/{digest}.npz")]

    def forget(self, digest: str) -> None:
        """Remove all models' prompts of a reference."""
        for file in self._path.glob(f"*/{digest}.npz"):
            file.unlink(missing_ok=True)

    def _file(self, fingerprint: str, digest: str) -> Path:
        return self._path / fingerprint / f"{digest}.npz"

    def _prune(self, folder: Path) -> None:
        files = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MAX_STORED_PROMPTS]:
            file.unlink(missing_ok=True)


class VoiceLibrary:
    """Voices by id, and their prompts by model and reference.

    The voices in ``config.path`` come with the service. They are read again when a file changes, and never written.
    Uploaded voices do not evict the prompts of these voices from memory. The voices in ``uploads`` belong to this
    library alone.
    """

    def __init__(self, config: VoicesConfig, files: PromptFiles, uploads: Path | None = None) -> None:
        """Read both directories.

        Args:
            config: the directory of the voices that come with the service, and all limits.
            files: the stored prompts of these voices.
            uploads: the directory of uploaded voices, with their prompts in ``.prompts``; by default below
                ``config.path``.
        """
        self._path = Path(config.path)
        self._uploads = uploads or self._path / UPLOADS
        self._max_uploaded = config.max_uploaded
        self._files = files
        self._uploaded_files = PromptFiles(self._uploads / ".prompts")
        self._shipped: dict[str, _Entry] = {}
        self._uploaded: dict[str, _Entry] = {}
        self._entries: dict[str, _Entry] = {}
        self._signatures: dict[str, Signature] = {}
        # Two caches, so that uploads can only evict each other.
        self._prompts: BoundedCache[tuple[str, str], VoicePrompt] = BoundedCache(
            config.max_bytes, lambda prompt: prompt.nbytes
        )
        self._uploaded_prompts: BoundedCache[tuple[str, str], VoicePrompt] = BoundedCache(
            config.max_bytes, lambda prompt: prompt.nbytes, config.ttl_s
        )
        self._removed: BoundedCache[tuple[str, str], VoicePrompt] = BoundedCache(
            REMOVED_MAX_BYTES, lambda prompt: prompt.nbytes, REMOVED_KEPT_S
        )
        """Never read with :meth:`BoundedCache.get`, because each use would extend their time in the cache."""
        self._stored: set[tuple[str, str]] = set()
        self._leases: dict[tuple[str, str], tuple[str, float]] = {}
        self._failed: set[tuple[str, str]] = set()
        self._fingerprint: str | None = None
        self._encoders = ""
        self._refreshed_s: float | None = None
        self._version = ""
        self._unreadable: dict[Path, str] = {}
        self._uploads_read = False
        self.refresh()

    @property
    def version(self) -> str:
        """A hash of all ids and their clips; it changes with them and is the same after a restart."""
        return self._version

    def refresh(self, now_s: float | None = None) -> None:
        """Read changed voices again; if a time is given, at most once per :data:`REFRESH_PERIOD_S`."""
        if now_s is not None:
            if self._refreshed_s is not None and now_s - self._refreshed_s < REFRESH_PERIOD_S:
                return
            self._refreshed_s = now_s
            self._removed.expire(now_s)
        if not self._uploads_read:
            self._read_uploads()
        folders = self._folders(self._path)
        if folders is not None:
            self._take_in(folders)

    def _read_uploads(self) -> None:
        """Read the uploads as soon as their volume is mounted.

        Once is enough: only the coordinator writes there. :meth:`_look_for` finds what a coordinator that is being
        replaced still writes.
        """
        if not os.path.isdir(self._uploads):  # noqa: PTH112 - which never raises
            return
        self._clear_up()
        folders = self._folders(self._uploads)
        if folders is not None:
            self._uploaded = {folder.name: _read(folder)[0] for folder in folders}
            self._uploads_read = True

    def _take_in(self, folders: list[Path]) -> None:
        for gone in set(self._signatures) - {folder.name for folder in folders}:
            del self._signatures[gone], self._shipped[gone]
        for folder in folders:
            signature = _signature(folder)
            if self._signatures.get(folder.name) != signature:
                self._signatures[folder.name] = signature
                self._shipped[folder.name] = _read(folder)[0]
        self._changed()

    def _folders(self, path: Path) -> list[Path] | None:
        """Return the voices' directories; None if ``path`` cannot be read at the moment, so that known voices stay."""
        try:
            folders = voice_folders(path)
        except OSError as error:
            if self._unreadable.get(path) != str(error):
                log.warning("the voices in %s cannot be read: %s", path, error)
                self._unreadable[path] = str(error)
            return None
        self._unreadable.pop(path, None)
        return folders

    def voices(self) -> list[VoiceStatus]:
        """Return all voices in the order of their ids; ``ready`` means encoded by the model set by :meth:`serve`."""
        return [self._status(entry) for entry in self._entries.values()]

    @property
    def prompt_bytes(self) -> int:
        """Size of the prompts in memory."""
        return self._prompts.bytes + self._uploaded_prompts.bytes + self._removed.bytes

    def pending(self, fingerprint: str) -> list[str]:
        """Return the ids of the voices that have a reference but no prompt for this model yet."""
        self.serve(fingerprint)
        return [status.voice for status in self.voices() if status.state == "pending"]

    def serve(self, fingerprint: str, encoders: str = "") -> None:
        """Store which model the generators run.

        Args:
            fingerprint: of the model.
            encoders: digest of its weights that make voice prompts; empty if the caller does not know it.
        """
        if encoders or fingerprint != self._fingerprint:
            self._fingerprint, self._encoders = fingerprint, encoders

    def unassigned(self, fingerprint: str, now_s: float) -> str | None:
        """Return a voice that this model has to encode, that no replica is encoding, and that has not failed."""
        for voice in self.pending(fingerprint):
            digest = self._entries[voice].digest
            if digest is None or (fingerprint, digest) in self._failed:
                continue
            if self._holder(fingerprint, digest, now_s) is None:
                return voice
        return None

    def get(
        self, voice: str, fingerprint: str, now_s: float, replica: str = "", digest: str = ""
    ) -> VoicePrompt | Reference | ImportedVoice | VoiceInProgress | VoiceRefusal:
        """Return the prompt of a voice, or its reference if this model has not encoded it yet.

        A caller that receives a reference has to encode it. No other replica receives it until the lease ends or the
        caller gives up.

        Args:
            voice: its id.
            fingerprint: the model that speaks.
            now_s: the time.
            replica: the calling replica.
            digest: the digest of the clip that the utterance began with, to receive the prompt of this clip only;
                empty for a new utterance.
        """
        entry = self._entries.get(voice)
        if digest and (entry is None or entry.digest != digest):
            return self._earlier(voice, fingerprint, digest, now_s)
        if entry is None or entry.digest is None:
            return VoiceRefusal(self._refusal(voice, entry))
        prompt = self._prompt(entry, fingerprint, entry.digest, now_s)
        if prompt is not None:
            # Two voices with the same clip share its prompt.
            return prompt if prompt.voice == voice else replace(prompt, voice=voice)
        holder = self._holder(fingerprint, entry.digest, now_s)
        if holder not in (None, replica):
            return VoiceInProgress()
        reference = self._reference(voice, entry)
        if not isinstance(reference, VoiceRefusal):
            self._leases[fingerprint, reference.digest] = (replica, now_s + ENCODING_LEASE_S)
        return reference

    def put(self, prompt: VoicePrompt, fingerprint: str, now_s: float) -> None:
        """Keep a prompt that a model has made; if its voice has been removed, only for utterances that still use it."""
        self.serve(fingerprint)
        key = (fingerprint, prompt.digest)
        self._leases.pop(key, None)
        self._failed.discard(key)
        owners = [entry for entry in self._entries.values() if entry.digest == prompt.digest]
        if any(not entry.uploaded for entry in owners):
            self._prompts.put(key, prompt, now_s)
            self._files.save(prompt, fingerprint)
        elif owners:
            self._uploaded_prompts.put(key, prompt, now_s)
            self._uploaded_files.save(prompt, fingerprint)
        else:
            self._removed.put(key, prompt, now_s)

    def give_up(self, digest: str, fingerprint: str) -> None:
        """Record that a replica failed to encode a reference; it is not tried again until a request needs the voice."""
        self._leases.pop((fingerprint, digest), None)
        if any(entry.digest == digest for entry in self._entries.values()):
            self._failed.add((fingerprint, digest))

    def release_leases(self, replicas: Collection[str]) -> None:
        """Let other replicas encode what a replica that is not one of ``replicas`` was encoding."""
        self._leases = {key: lease for key, lease in self._leases.items() if lease[0] in replicas}

    # Uploads.

    def known(self, voice: str, digest: str) -> VoiceStatus | VoiceRefusal | None:
        """Return the answer to a client that wants to add this clip as ``voice``; None if the clip can be added.

        If the same clip exists under the same id, the answer is its status. The id of a voice without a clip is free,
        so that an upload can supply the clip.
        """
        self._look_for(voice)
        entry = self._entries.get(voice)
        if entry is not None and (entry.digest is not None or voice in self._uploaded):
            if entry.digest == digest:
                return self._status(entry)
            taken = f"voice {voice!r} exists already, with another clip or transcript; remove it, or use another id"
            return VoiceRefusal(taken, VoiceConflictError.code)
        if len(self._uploaded) >= self._max_uploaded:
            full = (
                f"there are {len(self._uploaded)} uploaded voices; the limit is {self._max_uploaded}; remove some first"
            )
            return VoiceRefusal(full, CapacityError.code)
        return None

    def add(self, voice: str, manifest: VoiceManifest, content: bytes) -> VoiceStatus | VoiceRefusal:
        """Store an uploaded voice completely, or not at all.

        Args:
            voice: its id.
            manifest: its manifest, including ``upload``.
            content: of the file ``manifest.audio``: the clip that will be encoded, or an exported voice.
        """
        assert manifest.upload is not None, "only uploaded voices are added"
        known = self.known(voice, manifest.upload.digest)
        if known is not None:
            return known
        foreign = self._foreign(content) if manifest.audio == VOICE_FILE else None
        if foreign is not None:
            return foreign
        try:
            self._uploads.mkdir(parents=True, exist_ok=True)
            part = Path(tempfile.mkdtemp(prefix=_PART, dir=self._uploads))
            try:
                _write(part / manifest.audio, content)
                _write(part / "manifest.json", manifest.model_dump_json(indent=2).encode())
                self._discard(self._uploads / voice)  # a directory without a manifest, if the disk lost a part of it
                part.rename(self._uploads / voice)
            except OSError:
                shutil.rmtree(part, ignore_errors=True)
                raise
        except OSError as error:
            log.exception("voice %s cannot be stored in %s", voice, self._uploads)
            reason = error.strerror or type(error).__name__
            return VoiceRefusal(f"the voice cannot be stored: {reason}", SynthesisError.code)
        self._uploaded[voice] = _read(self._uploads / voice)[0]
        self._changed()
        return self._status(self._entries[voice])

    def remove(self, voice: str, now_s: float) -> VoiceRefusal | None:
        """Delete an uploaded voice and its prompts; utterances that use it can finish."""
        self._look_for(voice)
        entry = self._entries.get(voice)
        if entry is None:
            return VoiceRefusal(self._refusal(voice, None))
        if entry is not self._uploaded.get(voice):
            return VoiceRefusal(
                f"voice {voice!r} is part of the service; only uploaded voices can be removed", VoiceConflictError.code
            )
        try:
            self._discard(entry.folder)
        except OSError as error:
            log.exception("voice %s cannot be removed from %s", voice, self._uploads)
            reason = error.strerror or type(error).__name__
            return VoiceRefusal(f"the voice cannot be removed: {reason}", SynthesisError.code)
        del self._uploaded[voice]
        self._changed()
        if entry.digest is not None and all(other.digest != entry.digest for other in self._entries.values()):
            self._retire(entry, entry.digest, now_s)
        return None

    def wav(self, voice: str) -> bytes | VoiceRefusal:
        """Return the clip of a voice, as it is encoded, as a WAV file."""
        entry = self._entries.get(voice)
        if entry is None or entry.digest is None:
            return VoiceRefusal(self._refusal(voice, entry))
        reference = self._reference(voice, entry)
        if isinstance(reference, ImportedVoice):
            return VoiceRefusal(f"voice {voice!r} was imported without its clip")
        return reference.wav() if isinstance(reference, Reference) else reference

    def exported(self, voice: str, now_s: float) -> bytes | VoiceRefusal:
        """Return a voice as a file for another service, as the present model has encoded it."""
        entry = self._entries.get(voice)
        if entry is None or entry.digest is None or entry.manifest is None:
            return VoiceRefusal(self._refusal(voice, entry))
        if not self._fingerprint or not self._encoders:
            return VoiceRefusal(_NO_MODEL, TtsUnavailableError.code)
        prompt = self._prompt(entry, self._fingerprint, entry.digest, now_s)
        if prompt is None:
            return VoiceRefusal(f"voice {voice!r} has not been encoded yet; try again", TtsUnavailableError.code)
        return voice_file(voice, entry.manifest, prompt, self._encoders).to_bytes()

    def _foreign(self, content: bytes) -> VoiceRefusal | None:
        """Return why an exported voice cannot be used with the present model; None if it can."""
        if not self._encoders:
            return VoiceRefusal(_NO_MODEL, TtsUnavailableError.code)
        try:
            made = read_voice_file(content).encoders
        except VoiceInvalidError as error:
            return VoiceRefusal(error.message, error.code)
        if made == self._encoders:
            return None
        return VoiceRefusal(
            f"the voice cannot be imported: {other_encoders(made, self._encoders)}", VoiceInvalidError.code
        )

    def _clear_up(self) -> None:
        """Remove directories left by a process that died during an upload or a removal."""
        for left in self._uploads.glob(f"{_PART}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _look_for(self, voice: str) -> None:
        """Read an uploaded voice that another process has added, or forget one that it has removed.

        A coordinator that is being replaced may still complete a request. The caller then repeats the request to the
        new coordinator, which may have read the uploads before the old one completed the request.
        """
        folder = self._uploads / voice
        if not re.fullmatch(VOICE_ID, voice) or (folder / "manifest.json").is_file() == (voice in self._uploaded):
            return
        if voice in self._uploaded:
            del self._uploaded[voice]
        else:
            self._uploaded[voice] = _read(folder)[0]
        self._changed()

    def _discard(self, folder: Path) -> None:
        """Remove a directory, if it exists; it is renamed first, so that a half-removed voice cannot return."""
        if not folder.exists():
            return
        gone = Path(tempfile.mkdtemp(prefix=_PART, dir=self._uploads))
        folder.rename(gone / folder.name)
        shutil.rmtree(gone, ignore_errors=True)

    def _retire(self, entry: _Entry, digest: str, now_s: float) -> None:
        """Delete the prompts of a clip that no voice uses any more; in memory they stay for a while."""
        held = {key[0] for key in self._uploaded_prompts if key[1] == digest}
        for fingerprint in sorted(held.union(self._uploaded_files.fingerprints(digest))):
            prompt = self._prompt(entry, fingerprint, digest, now_s)
            if prompt is not None:
                self._removed.put((fingerprint, digest), prompt, now_s)
            self._uploaded_prompts.drop((fingerprint, digest))
        self._uploaded_files.forget(digest)
        self._stored = {key for key in self._stored if key[1] != digest}
        self._failed = {key for key in self._failed if key[1] != digest}
        self._leases = {key: lease for key, lease in self._leases.items() if key[1] != digest}

    def _changed(self) -> None:
        """Merge both kinds of voices; if an id exists twice, the service's own voice wins if it is usable."""
        usable = {voice: entry for voice, entry in self._shipped.items() if entry.digest is not None}
        self._entries = dict(sorted({**self._shipped, **self._uploaded, **usable}.items()))
        standing = "\n".join(f"{voice} {entry.digest}" for voice, entry in self._entries.items())
        self._version = hashlib.sha256(standing.encode()).hexdigest()[:16]

    def _prompt(self, entry: _Entry, fingerprint: str, digest: str, now_s: float) -> VoicePrompt | None:
        key = (fingerprint, digest)
        prompt = self._prompts.get(key, now_s) or self._uploaded_prompts.get(key, now_s)
        if prompt is not None:
            return prompt
        files, memory = (
            (self._uploaded_files, self._uploaded_prompts) if entry.uploaded else (self._files, self._prompts)
        )
        prompt = files.load(entry.status.voice, fingerprint, digest)
        if prompt is None:
            self._stored.discard(key)
        else:
            memory.put(key, prompt, now_s)
        return prompt

    def _earlier(self, voice: str, fingerprint: str, digest: str, now_s: float) -> VoicePrompt | VoiceRefusal:
        """Return the prompt of an earlier clip of a voice, for an utterance that began with that clip."""
        key = (fingerprint, digest)
        self._removed.expire(now_s)
        prompt = self._removed.peek(key) or self._prompts.get(key, now_s) or self._uploaded_prompts.get(key, now_s)
        for files in (self._files, self._uploaded_files):
            prompt = prompt or files.load(voice, fingerprint, digest)
        return prompt or VoiceRefusal(f"voice {voice!r} was removed or changed too long ago to continue with it")

    def _holder(self, fingerprint: str, digest: str, now_s: float) -> str | None:
        replica, until_s = self._leases.get((fingerprint, digest), ("", now_s))
        return replica if now_s < until_s else None

    def _status(self, entry: _Entry) -> VoiceStatus:
        if entry.digest is None or self._fingerprint is None:
            return entry.status
        if entry.encoders and self._encoders not in ("", entry.encoders):
            reason = other_encoders(entry.encoders, self._encoders)
            return replace(entry.status, state="unavailable", reason=reason)
        key = (self._fingerprint, entry.digest)
        if key not in self._stored:  # called every second for every voice, so found prompts are not looked up again
            files = self._uploaded_files if entry.uploaded else self._files
            if files.has(*key):
                self._stored.add(key)
            elif key not in self._prompts and key not in self._uploaded_prompts:
                return entry.status
        return replace(entry.status, state="ready")

    def _reference(self, voice: str, entry: _Entry) -> Reference | ImportedVoice | VoiceRefusal:
        again, reference = _read(entry.folder)
        if again.digest != entry.digest:
            kind = self._uploaded if entry.folder.parent == self._uploads else self._shipped
            kind[voice] = again
            self._changed()
        return reference or VoiceRefusal(self._refusal(voice, again))

    def _refusal(self, voice: str, entry: _Entry | None) -> str:
        if entry is not None:
            return f"voice {voice!r} cannot be used: {entry.reason}"
        usable = [name for name, other in self._entries.items() if other.digest is not None][:_MAX_LISTED_VOICES]
        return f"there is no voice {voice!r}; there are: {', '.join(usable) or f'none below {self._path}'}"


Signature = list[tuple[str, int, int]]


def _signature(folder: Path) -> Signature:
    """Return name, time and size of every file in a voice's directory; the result changes whenever the voice does."""
    found: Signature = []
    with contextlib.suppress(OSError), os.scandir(folder) as files:
        for file in sorted(files, key=lambda file: file.name):
            status = file.stat()
            found.append((file.name, status.st_mtime_ns, status.st_size))
    return found


def _write(file: Path, content: bytes) -> None:
    """Write a file and sync it to disk."""
    with file.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
