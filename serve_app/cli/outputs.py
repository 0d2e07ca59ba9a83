"""Files that a command writes, and standard output: whether they can be written, and the writing.

It is found out before anything is asked of a service, so that nothing is made that cannot be kept.
"""

import os
import sys
from pathlib import Path

STDOUT = Path("-")


class OutputError(Exception):
    """A file that cannot be written, or not in that format; says what can."""


def check_writable(path: Path) -> None:
    """See that a file can be written; one that is there stays as it is, and none is left behind.

    Raises:
        OutputError: it cannot.
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
