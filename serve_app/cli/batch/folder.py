"""The folder of audio files, and its manifest: what was spoken, and what failed.

A file gets its name when it is complete, and the manifest gets a line when the file has its name. A run that is killed
therefore leaves no half file, and the next run knows what is missing. Only one run may use a folder at a time.
"""

import fcntl
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from serve_app.cli.batch.table import BatchError, Json, Row

MANIFEST = "manifest.jsonl"


class Folder:
    """An output folder, while one run uses it; not safe for several threads at a time.

    Attributes:
        manifest: path of the manifest.
    """

    def __init__(self, path: Path) -> None:
        """Create the folder if it does not exist, lock it, and read its manifest.

        Raises:
            BatchError: another run uses the folder.
            OSError: the folder cannot be written.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.manifest = path / MANIFEST
        self._path = path
        self._lock = (path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            another = f"another tts-batch writes to {path}"
            raise BatchError(f"{another}; wait for its end, or name another folder") from error
        for left in path.glob(".*.part"):
            left.unlink()
        self._entries = _read(self.manifest)
        self.tidy(())  # a killed run may have left half a line
        self._appended = self.manifest.open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._appended.close()
        self._lock.close()

    def has(self, row: Row) -> bool:
        """Whether the text was spoken with the same fields, and its file still exists."""
        entry = self._entries.get(row.id, {})
        return "file" in entry and entry.get("digest") == row.digest and (self._path / row.file).is_file()

    def record(self, row: Row, facts: Json, audio: bytes | None) -> None:
        """Write the file of a text if it was spoken, and its line of the manifest, which contains ``facts``.

        Raises:
            OSError: the file cannot be written, for example because the disk is full.
        """
        file = {}
        if audio is not None:
            self._write(row.file, [audio])
            file = {"file": row.file}
        entry = self._entries[row.id] = {"id": row.id, **file, **facts, "digest": row.digest}
        self._appended.write(_line(entry))
        self._appended.flush()

    def tidy(self, rows: Iterable[Row]) -> None:
        """Rewrite the manifest: one line per text in the order of the table, then texts of other tables."""
        others = dict(self._entries)
        ordered = [others.pop(row.id) for row in rows if row.id in others]
        self._write(MANIFEST, map(_line, (*ordered, *others.values())))

    def _write(self, name: str, parts: Iterable[bytes]) -> None:
        unfinished = self._path / f".{name}.part"
        with unfinished.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())  # or the name may survive a power failure, and the content not
        unfinished.replace(self._path / name)


def _line(entry: Json) -> bytes:
    # half of a surrogate pair, which an error may quote, has no bytes in UTF-8: \\udXXX is also JSON's escape
    return json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _read(manifest: Path) -> dict[str, Json]:
    """Read the latest line of each text."""
    entries: dict[str, Json] = {}
    for line in manifest.read_bytes().splitlines() if manifest.exists() else ():
        with suppress(ValueError):
            entry: Any = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                entries[entry["id"]] = entry
    return entries
