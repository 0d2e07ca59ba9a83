"""Runs a compiled function on all of torch's compute threads at once.

The threads are torch's own, since a second pool would compete with torch's waiting threads for the same cores. The
function starts them through OpenMP as a compiler's output does (GOMP_parallel). If the process has no such OpenMP, the
function runs only on the calling thread.

A thread that waits for the others does not sleep, as OpenMP's threads would after some tens of microseconds. In a
virtual machine on a loaded host, a thread is often late by more than that, and waking a thread takes longer still.
Instead, a waiting thread yields its core repeatedly.

Source: GCC, libgomp's ABI, GOMP_parallel; LLVM's and Intel's OpenMP have it too.
"""

import ctypes
import logging
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.ccallback import CFunc
from numpy.typing import NDArray

from serve_app.model.backends.cpu.llvm import Builder, Typed, Value, Values, intrinsic
from serve_app.model.backends.cpu.parts import Function, Record, array_at, entry_point, int64_at, part

log = logging.getLogger(__name__)

_LONG = ir.IntType(64)

_FIELDS = "number", "size", "give_way", "claims", "meeting", "arrived", "meetings"
_TEAM = np.dtype([(field, np.int64) for field in _FIELDS])
"""Addresses of OpenMP's and the system's functions, of the counters of claimed units of each thread's share and of the
last two, and of the counters of threads that have arrived at each meeting."""

_LINE_BYTES = 64
"""Distance between the threads' claim counters, so that each is in its own cache line."""

NO_TEAM = (0,) * len(_FIELDS)
"""Value of a job's team before the job is run."""

_ASKED = 1000
"""How often a thread checks for the others before it yields its core; some tens of microseconds."""


def job_of(*whole: str, real: Sequence[str] = ()) -> np.dtype[np.void]:
    """The dtype of a function's parameters: its team, then integers and reals; most of them are addresses."""
    fields = [*((field, np.int64) for field in whole), *((field, np.float64) for field in real)]
    return np.dtype([("team", _TEAM), *fields])


def jobs_at(job: np.dtype[np.void]) -> Function:
    """Make ``(address, n) -> [n]``, which views such jobs."""
    return array_at(numba.from_dtype(job))


def set_fields(jobs: NDArray[np.void], /, **fields: object) -> None:
    """Set fields of one or several jobs, each to one number for all jobs or to one per job."""
    for field, value in fields.items():
        jobs[field] = value


@dataclass(frozen=True, slots=True)
class _OpenMP:
    """How to start a team, and addresses of the functions that compiled code calls."""

    start: Callable[[int | None, int, int, int], None]
    number: int
    size: int
    give_way: int


@cache
def _openmp() -> _OpenMP | None:
    """The OpenMP library that torch has loaded into this process."""
    process = ctypes.CDLL(None)
    try:
        start = process.GOMP_parallel
        functions = [process.omp_get_thread_num, process.omp_get_num_threads, process.sched_yield]
    except AttributeError:
        log.warning("no OpenMP library with GOMP_parallel is loaded: compiled layers use only one thread")
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return _OpenMP(start, *[ctypes.cast(each, ctypes.c_void_p).value or 0 for each in functions])


def _make_ask(_context: object, _address: types.Type) -> Typed:
    """Call a C function without arguments that returns an int."""

    def generate(_context: object, builder: Builder, _signature: object, arguments: Values) -> Value:
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], function), [])

    return types.int32(types.int64), generate


def _make_pause(_context: object) -> Typed:
    """Yield to the core's other hardware thread, if the CPU has an instruction for it."""

    def generate(context: BaseContext, builder: Builder, _signature: object, _arguments: Values) -> Value:
        if platform.machine() in ("x86_64", "AMD64"):
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


def _make_count(_context: object, _address: types.Type) -> Typed:
    """Atomically add one to the integer at an address, and return its previous value."""

    def generate(_context: object, builder: Builder, _signature: object, arguments: Values) -> Value:
        place = builder.inttoptr(arguments[0], _LONG.as_pointer())
        return builder.atomic_rmw("add", place, _LONG(1), "acq_rel")

    return types.int64(types.int64), generate


def _make_look(_context: object, _address: types.Type) -> Typed:
    """Read the integer at an address, and acquire everything that was written before another thread incremented it."""

    def generate(_context: object, builder: Builder, _signature: object, arguments: Values) -> Value:
        place = builder.inttoptr(arguments[0], _LONG.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


_ask = intrinsic(_make_ask)
_pause = intrinsic(_make_pause)
_count = intrinsic(_make_count)
_look = intrinsic(_make_look)


@part()
def thread_number(team: Record) -> int:
    """This thread's number in its team, from 0."""
    return _ask(team.number) if team.number else 0


@part()
def team_size(team: Record) -> int:
    """Number of threads in the team."""
    return _ask(team.size) if team.size else 1


@part()
def claim(team: Record, turn: int, units: int) -> int:
    """Claim one unit of some work; no other thread gets the same unit.

    A thread begins with its own share, whose units are adjacent in memory. After that, it helps with the shares of
    others. On a shared host, other programs occupy sometimes one core and sometimes another, and a thread that has
    finished its own share would otherwise wait for the slowest.

    Args:
        team: the team of this thread.
        turn: 0 for its own share, then 1 and so on for the shares of the following threads, up to the last.
        units: units of all shares; equal for all threads between two meetings.

    Returns:
        The unit, or -1 if the share is used up.
    """
    size = team_size(team)
    share = (thread_number(team) + turn) % size
    unit = units * share // size + _count(team.claims + _LINE_BYTES * share)
    return unit if unit < units * (share + 1) // size else -1


@part()
def barrier(team: Record) -> None:
    """Barrier: wait for all threads of the team, and see everything that they wrote. Resets all claims."""
    if not team.meeting:
        int64_at(team.claims, 1)[0] = 0
        return
    arrived, meetings = team.meeting, team.meeting + 8
    number = _look(meetings)
    if _count(arrived) + 1 == team_size(team):
        int64_at(arrived, 1)[0] = 0  # before any thread can arrive at the next meeting
        for share in range(team_size(team)):
            int64_at(team.claims + _LINE_BYTES * share, 1)[0] = 0
        _count(meetings)
        return
    asked = 0
    while _look(meetings) == number:
        if asked < _ASKED:
            asked += 1
            _pause()
        else:
            _ask(team.give_way)


class TeamFunction:
    """A function of one job's address, compiled when it first runs, and cached on disk if possible.

    Attributes:
        name: the function's name.
    """

    def __init__(self, function: Function) -> None:
        """Wrap a module's ``function(address)``, which returns nothing."""
        self.name = function.__name__
        self._function = function
        self._compiled: CFunc[Function] | None = None

    def run(self, job: NDArray[np.void], threads: int) -> None:
        """Run it on ``threads`` threads and wait for all of them; releases the GIL meanwhile.

        Args:
            job: [1], of the function's dtype, as made by :func:`job_of`; its ``team`` is overwritten.
            threads: number of torch's threads for operations started on this thread.
        """
        if self._compiled is None:
            self._compiled = entry_point(self._function)
        openmp = _openmp()
        claims = np.zeros((threads, _LINE_BYTES // 8), np.int64)
        if openmp is None or threads == 1:
            job["team"] = (0, 0, 0, claims.ctypes.data, 0, 0, 0)
            self._compiled.ctypes(job.ctypes.data)
        else:
            meeting = job.ctypes.data + _FIELDS.index("arrived") * np.dtype(np.int64).itemsize
            job["team"] = (openmp.number, openmp.size, openmp.give_way, claims.ctypes.data, meeting, 0, 0)
            openmp.start(self._compiled.address, job.ctypes.data, threads, 0)


def threads() -> int:
    """Number of threads that torch uses for operations started on this thread."""
    return torch.get_num_threads()
