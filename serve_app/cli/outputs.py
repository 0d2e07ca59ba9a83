"""Output files and standard output: checks that they are writable, and writes them.

Commands check before they send a request, so that no result is lost.
"""

import os
import sys
from pathlib import Path

STDOUT = Path("-")


class OutputError(Exception):
    """A file cannot be written, or does not support this format; the message says what is allowed."""


def check_writable(path: Path) -> None:
    """Check that a file can be written; does not change an existing file, and leaves no new one behind.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        if path == STDOUT:
            return
        if path.is_dir():
            raise OutputError(f"{path} is a directory; name a file")
        if not path.exists():
            path.open("xb").close()
            path.unlink()
        elif path.is_file():
            path.open("ab").close()
        elif not os.access(path, os.W_OK):
            raise OutputError(f"{path} cannot be written")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def write(path: Path, content: bytes) -> None:
    """Write a file, or standard output."""
    if path == STDOUT:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        path.write_bytes(content)
