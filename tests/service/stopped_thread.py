"""Stops one thread of another process for good, as a call that never returns would. Linux only."""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_WALL = 0x40000000


def busiest_thread(pid: int, seconds: float = 0.5) -> int:
    """The thread, not the main one, that computes most: in a generator that speaks, its engine's."""
    before = _ticks(pid)
    time.sleep(seconds)
    after = _ticks(pid)
    return max(after.keys() - {pid}, key=lambda thread: after[thread] - before.get(thread, 0))


@contextlib.contextmanager
def stopped(thread: int) -> Iterator[None]:
    """The thread stands still inside the context, or until its process is killed."""
    seized, enough = threading.Event(), threading.Event()
    tracer = threading.Thread(target=_hold, args=(thread, seized, enough))
    tracer.start()
    assert seized.wait(10)
    try:
        yield
    finally:
        enough.set()
        tracer.join()


def _hold(thread: int, seized: threading.Event, enough: threading.Event) -> None:
    """What was seized is let go when the thread that did it ends; a killed one is not gone before it is waited for."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(thread, _WALL)
    seized.set()
    while not enough.wait(0.1):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(thread, _WALL | os.WNOHANG)


def _ticks(pid: int) -> dict[int, int]:
    ticks = {}
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        ticks[int(stat.parent.name)] = int(fields[11]) + int(fields[12])
    return ticks
