"""Runs a compiled function on all of the threads that torch computes with, at once; never what it computes.

They are torch's own: a second pool of threads would wait for work on the very cores where torch's threads wait for
theirs. OpenMP is asked for them as a compiler's output asks (GOMP_parallel); where the process has no such OpenMP,
the function runs on the calling thread alone.

Source: GCC, libgomp's ABI, GOMP_parallel and GOMP_barrier; LLVM's and Intel's OpenMP have both too.
"""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from serve_app.model.compiled.parts import Function, array_at, entry_point, part
from serve_app.model.quiet import Upstream

log = logging.getLogger(__name__)

_TEAM = np.dtype([("number", np.int64), ("size", np.int64), ("barrier", np.int64)])


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
    """Addresses of its functions, as they are called from compiled code, and how a team is started."""

    start: Upstream
    number: int
    size: int
    barrier: int


@cache
def _openmp() -> _OpenMP | None:
    """The OpenMP that torch has loaded into this process."""
    process = ctypes.CDLL(None)
    try:
        start = process.GOMP_parallel
        functions = [process.omp_get_thread_num, process.omp_get_num_threads, process.GOMP_barrier]
    except AttributeError:
        log.warning("no OpenMP with GOMP_parallel is loaded: compiled layers run on one thread")
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return _OpenMP(start, *[ctypes.cast(each, ctypes.c_void_p).value or 0 for each in functions])


def _call_of(result: Upstream) -> Function:
    """Make ``(address) -> result``: calls a C function without arguments."""

    def call(_context: Upstream, _address: Upstream) -> Upstream:
        def generate(context: Upstream, builder: Upstream, signature: Upstream, arguments: Upstream) -> Upstream:
            returned = ir.VoidType() if result is types.void else context.get_value_type(signature.return_type)
            function = ir.FunctionType(returned, []).as_pointer()
            value = builder.call(builder.inttoptr(arguments[0], function), [])
            return context.get_dummy_value() if result is types.void else value

        return result(types.int64), generate

    made: Upstream = intrinsic(call)
    return made


_ask = _call_of(types.int32)
_wait = _call_of(types.void)


@part()
def thread_number(team: Upstream) -> int:
    """This thread's number in its team, from 0."""
    return _ask(team.number) if team.number else 0


@part()
def team_size(team: Upstream) -> int:
    """How many threads the team has."""
    return _ask(team.size) if team.size else 1


@part()
def meet(team: Upstream) -> None:
    """Wait until every thread of the team is here; what they wrote before is seen by all."""
    if team.barrier:
        _wait(team.barrier)


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
        if openmp is None or threads == 1:
            job["team"] = (0, 0, 0)
            self._compiled.ctypes(job.ctypes.data)
        else:
            job["team"] = (openmp.number, openmp.size, openmp.barrier)
            openmp.start(self._compiled.address, job.ctypes.data, threads, 0)


def threads() -> int:
    """How many threads torch computes with on this one."""
    return torch.get_num_threads()
