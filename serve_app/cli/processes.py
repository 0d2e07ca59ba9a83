"""Finds and ends all descendants of this process. Linux only."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PATIENCE_S = 10.0
"""Killed processes are gone within milliseconds, unless the kernel takes longer to free their memory."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent dies, so that :func:`descendants` still finds it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_on_parent_death(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, number)


def descendants(root: int) -> list[int]:
    """Process ids below ``root``, parents before their children, including zombies."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state ppid ...": the name may hold spaces and brackets.
            parent = stat.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found[1:]


def end_descendants(patience_s: float) -> None:
    """Kill every descendant of this process by its id, and wait until none is left.

    They are killed, oldest first, and not asked to terminate: none of them needs to save anything, and Ray's processes,
    when terminated together, fill the terminal with errors about each other.

    Raises:
        TimeoutError: some did not end within ``patience_s``, which only the kernel can cause.
    """
    deadline_s = time.monotonic() + patience_s
    while remaining := descendants(os.getpid()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"processes {remaining} did not end")
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        time.sleep(0.02)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
