"""How compiled kernels are kept on disk, and for whom."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch

from serve_app.model.backends.cpu import cpu_sampling, parts
from serve_app.model.backends.cpu.parts import kernel
from serve_app.model.sampling import SamplingTensors


def test_a_kernel_is_compiled_once_for_all_shapes():
    rows = SamplingTensors(10, torch.device("cpu"))
    for batch in (1, 10):
        cpu_sampling.sample(torch.randn(batch, 64), torch.rand(batch), rows, slice(0, batch), 5)
    assert len(cpu_sampling._sample.signatures) == 1


def test_without_a_place_to_keep_them_kernels_are_compiled_anew(monkeypatch):
    compiler = numba.njit

    def homeless(*, cache=False, **settings):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiler(**settings)

    monkeypatch.setattr(numba, "njit", homeless)

    @kernel()
    def double(x):
        return 2 * x

    assert double(21) == 42


def test_kernels_are_kept_apart_for_each_state_of_all_their_sources(tmp_path, monkeypatch):
    """numba looks at a kernel's own file alone, and would go on using machine code of parts that have changed."""
    (tmp_path / "one.py").write_text("a = 1")
    (tmp_path / "two.py").write_text("b = 2")
    before = parts._state_of(tmp_path)
    assert before == parts._state_of(tmp_path)
    (tmp_path / "two.py").write_text("b = 3")
    assert parts._state_of(tmp_path) != before
    monkeypatch.setattr(parts.config, "CACHE_DIR", str(tmp_path / "own"))
    parts._folder.cache_clear()

    @kernel()
    def double(x):
        return 2 * x

    assert double(21) == 42
    assert str(tmp_path / "own") == parts.config.CACHE_DIR
    kept = tmp_path / "own" / parts._state_of(Path(parts.__file__).parent)
    assert list(kept.rglob("*.nbi"))
    parts._folder.cache_clear()


def test_a_kept_kernel_calls_its_own_parts_and_not_those_of_another_process(tmp_path):
    """Both processes compile a part of the same name first; the kept kernel holds the one that adds 1."""
    program = tmp_path / "program.py"
    program.write_text(
        """
import sys
import numpy as np
from serve_app.model.backends.cpu.parts import kernel, part

def adding(number):
    @part()
    def add(rows):
        total = 0
        for row in rows:
            for other in rows:
                total += (row * other + number) % 1009
                for third in rows[:row]:
                    total = (total ^ third) + other % (third + 2) + row // (third + 3) + number
        return total
    return add

add_one, add_two = adding(1), adding(2)

@kernel()
def kept(rows):  # calls often enough that the part is not written into its caller
    return add_one(rows) + add_one(rows[1:]) + add_one(rows[2:]) + add_one(rows[3:]) + add_one(rows[4:])

@kernel()
def fresh(rows):
    return add_two(rows) + add_two(rows[1:]) + add_two(rows[2:]) + add_two(rows[3:]) + add_two(rows[4:])

print(*[{"kept": kept, "fresh": fresh}[name](np.arange(9)) for name in sys.argv[1:]])
"""
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run(*names):
        return subprocess.check_output([sys.executable, program, *names], env=environment, text=True).split()

    (one,) = run("kept")
    two, again = run("fresh", "kept")
    assert again == one
    assert two != one


def test_kernels_are_kept_apart_for_each_kind_of_cpu(tmp_path, monkeypatch):
    """Machines of two kinds may share a volume, and numba locks nothing when it writes its index."""
    monkeypatch.setattr(parts.config, "CACHE_DIR", str(tmp_path))
    folders = []
    for name in (None, "x86-64", "x86-64"):
        monkeypatch.setattr(parts.config, "CPU_NAME", name)
        parts._folder.cache_clear()
        folders.append(parts._folder())
    parts._folder.cache_clear()
    here, other, again = folders
    assert here != other == again
    assert here.parent == other.parent == tmp_path / parts._state_of(Path(parts.__file__).parent)


@pytest.mark.slow
def test_what_a_team_runs_is_compiled_by_the_first_process_alone(tmp_path):
    program = (
        "from serve_app.model.backends.cpu import parts, tiled_linear\n"
        "print(parts.entry_point(tiled_linear._multiply_rows).cache_hits)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    printed = [subprocess.check_output([sys.executable, "-c", program], env=environment, text=True) for _ in range(2)]
    assert printed == ["0\n", "1\n"]
