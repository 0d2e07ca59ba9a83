"""Which voices there are, and the prompts made from them: in memory within a bound, on disk for good.

It reads the directory of voices and owns one directory of encoded prompts. It knows no model, no Ray and no clock;
the time is an argument.
"""

import contextlib
import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.config import VoicesConfig
from serve_app.errors import VoiceInvalidError
from serve_app.voices import (
    BoundedCache,
    Reference,
    VoiceManifest,
    VoicePrompt,
    VoiceStatus,
    read_reference,
    scan,
)

log = logging.getLogger(__name__)

MAX_STORED_PROMPTS = 2000
"""Prompts kept on disk for one model, about 20 KB each; the oldest go first."""


@dataclass(frozen=True, slots=True)
class VoiceRefusal:
    """Why a voice cannot be spoken with; it crosses processes as this value, not as an exception."""

    message: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A voice as last scanned; its audio stays on disk. No digest means that it cannot be used, for ``reason``."""

    manifest: VoiceManifest | None
    digest: str | None
    reason: str


class PromptFiles:
    """Encoded prompts on disk: ``<model fingerprint>/<reference digest>.npz``."""

    def __init__(self, path: Path) -> None:
        """Keep them below ``path``, which is made when the first one is saved."""
        self._path = path

    def has(self, fingerprint: str, digest: str) -> bool:
        """Whether a prompt of this reference lies there; it may still turn out to be unreadable."""
        return self._file(fingerprint, digest).is_file()

    def load(self, voice: str, fingerprint: str, digest: str) -> VoicePrompt | None:
        """Read one prompt; None if there is none. A file that cannot be read is removed."""
        file = self._file(fingerprint, digest)
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return VoicePrompt(
                    voice=voice,
                    digest=digest,
                    speaker_embedding=arrays["speaker_embedding"],
                    codes=arrays.get("codes"),
                    transcript=str(arrays["transcript"]) if "transcript" in arrays else None,
                )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("removing the stored voice prompt %s: %s", file, error)
            with contextlib.suppress(OSError):
                file.unlink()
            return None

    def save(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """Write one prompt; readers see the whole file or none. A full or read-only disk costs the file alone."""
        file = self._file(fingerprint, prompt.digest)
        arrays: dict[str, NDArray[Any]] = {"speaker_embedding": prompt.speaker_embedding}
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
            log.warning("cannot keep a voice prompt in %s: %s", file.parent, error)

    def _file(self, fingerprint: str, digest: str) -> Path:
        return self._path / fingerprint / f"{digest}.npz"

    def _prune(self, folder: Path) -> None:
        files = sorted(folder.glob("*.npz"), key=lambda file: file.stat().st_mtime)
        for file in files[:-MAX_STORED_PROMPTS]:
            file.unlink(missing_ok=True)


class VoiceLibrary:
    """Voices by id, and their prompts by model and reference."""

    def __init__(self, config: VoicesConfig, files: PromptFiles) -> None:
        """Read the directory of voices that ``config`` names."""
        self._path = Path(config.path)
        self._files = files
        self._entries: dict[str, _Entry] = {}
        self._prompts: BoundedCache[tuple[str, str], VoicePrompt] = BoundedCache(
            config.max_bytes, lambda prompt: prompt.nbytes, config.ttl_s
        )
        self._fingerprint: str | None = None
        self._scanned: object = None
        self.refresh()

    def refresh(self) -> None:
        """Read the directory again if a file in it has changed since."""
        seen = _signature(self._path)
        if seen == self._scanned:
            return
        self._entries = {
            found.voice: _Entry(
                found.manifest, None if found.reference is None else found.reference.digest, found.reason
            )
            for found in scan(self._path)
        }
        self._scanned = seen

    def voices(self) -> list[VoiceStatus]:
        """Every voice, in the order of their ids; ``ready`` means encoded by the model served last."""
        return [self._status(voice, entry) for voice, entry in self._entries.items()]

    def pending(self, fingerprint: str) -> list[str]:
        """Ids of the voices that have a reference and no prompt of this model yet."""
        self.serve(fingerprint)
        return [status.voice for status in self.voices() if status.state == "pending"]

    def serve(self, fingerprint: str) -> None:
        """Remember which model the voices are spoken with."""
        self._fingerprint = fingerprint

    def get(self, voice: str, fingerprint: str, now_s: float) -> VoicePrompt | Reference | VoiceRefusal:
        """What it takes to speak in a voice: its prompt, or its reference if this model has not encoded it yet."""
        entry = self._entries.get(voice)
        if entry is None or entry.digest is None:
            return VoiceRefusal(self._refusal(voice, entry))
        key = (fingerprint, entry.digest)
        prompt = self._prompts.get(key, now_s)
        if prompt is None:
            prompt = self._files.load(voice, fingerprint, entry.digest)
            if prompt is not None:
                self._prompts.put(key, prompt, now_s)
        if prompt is None:
            return self._reference(voice, entry)
        # Two voices may have the same clip, and then share what was made of it.
        return prompt if prompt.voice == voice else replace(prompt, voice=voice)

    def put(self, prompt: VoicePrompt, fingerprint: str, now_s: float) -> None:
        """Keep a prompt that a model has made."""
        self.serve(fingerprint)
        self._prompts.put((fingerprint, prompt.digest), prompt, now_s)
        self._files.save(prompt, fingerprint)

    def _status(self, voice: str, entry: _Entry) -> VoiceStatus:
        if entry.digest is None:
            return VoiceStatus(voice, "unavailable", entry.reason, entry.manifest)
        encoded = self._fingerprint is not None and (
            (self._fingerprint, entry.digest) in self._prompts or self._files.has(self._fingerprint, entry.digest)
        )
        return VoiceStatus(voice, "ready" if encoded else "pending", "", entry.manifest)

    def _reference(self, voice: str, entry: _Entry) -> Reference | VoiceRefusal:
        assert entry.manifest is not None, "a voice with a digest has a manifest"
        try:
            audio = (self._path / voice / entry.manifest.audio).read_bytes()
            reference = read_reference(voice, audio, entry.manifest.transcript)
        except (OSError, VoiceInvalidError) as error:
            self._entries[voice] = _Entry(entry.manifest, None, str(error))
            return VoiceRefusal(self._refusal(voice, self._entries[voice]))
        self._entries[voice] = _Entry(entry.manifest, reference.digest, "")
        return reference

    def _refusal(self, voice: str, entry: _Entry | None) -> str:
        if entry is not None:
            return f"voice {voice!r} cannot be used: {entry.reason}"
        usable = [name for name, other in self._entries.items() if other.digest is not None]
        return f"there is no voice {voice!r}; there are: {', '.join(usable) or f'none below {self._path}'}"


def _signature(path: Path) -> list[tuple[str, int, int]]:
    """Name, time and size of every file two levels below ``path``: changes whenever a voice does."""
    found: list[tuple[str, int, int]] = []
    for folder in sorted(path.iterdir()) if path.is_dir() else []:
        for file in sorted(os.scandir(folder), key=lambda file: file.name) if folder.is_dir() else []:
            status = file.stat()
            found.append((f"{folder.name}/{file.name}", status.st_mtime_ns, status.st_size))
    return found
