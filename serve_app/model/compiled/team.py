"""Runs a compiled function on all of the threads that torch computes with, at once; never what it computes.

They are torch's own: a second pool of threads would wait for work on the very cores where torch's threads wait for
theirs. OpenMP is asked for them as a compiler's output asks (GOMP_parallel); where the process has no such OpenMP,
the function runs on the calling thread alone.

Where the threads meet they do not sleep, as OpenMP's would after some tens of microseconds: in a virtual machine with
busy neighbours one is often late by more than that, and to wake a thread takes longer still. Who waits offers its core
to whoever wants it, again and again.

Source: GCC, libgomp's ABI, GOMP_parallel; LLVM's and Intel's OpenMP have it too.
"""

import ctypes
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from serve_app.model.compiled.parts import Function, array_at, entry_point, int64_at, part
from serve_app.model.upstream import Upstream

log = logging.getLogger(__name__)

_LONG = ir.IntType(64)

_FIELDS = "number", "size", "give_way", "claims", "meeting", "arrived", "meetings"
_TEAM = np.dtype([(field, np.int64) for field in _FIELDS])
"""Addresses of OpenMP's functions and the system's, of what is claimed of each thread's share and of the last two, and
who has come to how many meetings."""

_LINE_BYTES = 64
"""From one thread's count of claims to the next: a core's caches keep its own."""

NO_TEAM = (0,) * len(_FIELDS)
"""A job's before it is run."""

_ASKED = 1000
"""How often a thread asks for the others before it offers its core, some tens of microseconds."""


def job_of(*whole: str, real: Sequence[str] = ()) -> np.dtype[Any]:
    """What a function is told: whole and real numbers, behind what it needs to know its team; most are addresses."""
    fields = [*((field, np.int64) for field in whole), *((field, np.float64) for field in real)]
    return np.dtype([("team", _TEAM), *fields])


def jobs_at(job: np.dtype[Any]) -> Function:
    """Make ``(address, n) -> [n]`` of such jobs."""
    return array_at(numba.from_dtype(job))


def tell(jobs: NDArray[Any], /, **fields: object) -> None:
    """Set fields of one or several jobs, each to a number for all or to one for each."""
    for field, value in fields.items():
        jobs[field] = value


@dataclass(frozen=True, slots=True)
class _OpenMP:
    """How a team is started, and addresses of functions as they are called from compiled code."""

    start: Upstream
    number: int
    size: int
    give_way: int


@cache
def _openmp() -> _OpenMP | None:
    """The OpenMP that torch has loaded into this process."""
    process = ctypes.CDLL(None)
    try:
        start = process.GOMP_parallel
        functions = [process.omp_get_thread_num, process.omp_get_num_threads, process.sched_yield]
    except AttributeError:
        log.warning("no OpenMP with GOMP_parallel is loaded: compiled layers run on one thread")
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return _OpenMP(start, *[ctypes.cast(each, ctypes.c_void_p).value or 0 for each in functions])


def _make_ask(_context: Upstream, _address: Upstream) -> Upstream:
    """Call a C function without arguments that returns an int."""

    def generate(_context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], function), [])

    return types.int32(types.int64), generate


def _make_pause(_context: Upstream) -> Upstream:
    """Let a core's other thread go first, where a CPU has a word for that."""

    def generate(context: Upstream, builder: Upstream, _signature: Upstream, _arguments: Upstream) -> Upstream:
        if platform.machine() in ("x86_64", "AMD64"):
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


def _make_count(_context: Upstream, _address: Upstream) -> Upstream:
    """Add one to the whole number at an address, for all threads to see, and return what it was."""

    def generate(_context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        place = builder.inttoptr(arguments[0], _LONG.as_pointer())
        return builder.atomic_rmw("add", place, _LONG(1), "acq_rel")

    return types.int64(types.int64), generate


def _make_look(_context: Upstream, _address: Upstream) -> Upstream:
    """Read the whole number at an address, and see all that was written before another thread counted it up."""

    def generate(_context: Upstream, builder: Upstream, _signature: Upstream, arguments: Upstream) -> Upstream:
        place = builder.inttoptr(arguments[0], _LONG.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


_ask: Upstream = intrinsic(_make_ask)
_pause: Upstream = intrinsic(_make_pause)
_count: Upstream = intrinsic(_make_count)
_look: Upstream = intrinsic(_make_look)


@part()
def thread_number(team: Upstream) -> int:
    """This thread's number in its team, from 0."""
    return _ask(team.number) if team.number else 0


@part()
def team_size(team: Upstream) -> int:
    """How many threads the team has."""
    return _ask(team.size) if team.size else 1


@part()
def claim(team: Upstream, turn: int, units: int) -> int:
    """Claim one of the units of some work, which nobody else then has.

    A thread begins with a share of its own, whose units are neighbours in memory as well; when that is through, it
    helps with the others'. Neighbours on the host keep now this core busy, now that, and a thread that has
    made its share would wait for the other.

    Args:
        team: of which this thread is one.
        turn: 0 for its own share, then 1 and so on for those of the threads behind it, up to the team's last.
        units: of all shares, the same for all threads from one meeting to the next.

    Returns:
        The unit, or -1 where the share is through.
    """
    size = team_size(team)
    share = (thread_number(team) + turn) % size
    unit = units * share // size + _count(team.claims + _LINE_BYTES * share)
    return unit if unit < units * (share + 1) // size else -1


@part()
def meet(team: Upstream) -> None:
    """Wait until every thread of the team is here; what they wrote before is seen by all. Nothing is claimed then."""
    if not team.meeting:
        int64_at(team.claims, 1)[0] = 0
        return
    arrived, meetings = team.meeting, team.meeting + 8
    number = _look(meetings)
    if _count(arrived) + 1 == team_size(team):
        int64_at(arrived, 1)[0] = 0  # before the others may come to the next one
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
    """A function of one job's address, compiled when it is first run, and kept on disk where there is a place for it.

    Attributes:
        name: the function's.
    """

    def __init__(self, function: Function) -> None:
        """Take ``function(address)`` of a module, which returns nothing."""
        self.name = function.__name__
        self._function = function
        self._compiled: Upstream = None

    def run(self, job: NDArray[Any], threads: int) -> None:
        """Run it on ``threads`` threads, and wait for all of them; the interpreter's lock is released meanwhile.

        Args:
            job: [1], of the dtype that the function expects, as :func:`job_of` makes it; its ``team`` is overwritten.
            threads: torch's, as many as this thread runs its operations on.
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
    """How many threads torch computes with on this one."""
    return torch.get_num_threads()
