import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch
from precision import assert_within_ulps
from torch.nn import functional

from serve_app.model.attention import Aligned, Rotary, StackShape, Staggered
from serve_app.model.backends.cpu import cpu_kernels, parts
from serve_app.model.backends.cpu.cpu_kernels import CpuKernels, snake
from serve_app.model.backends.cpu.parts import kernel
from serve_app.model.backends.torch.torch_kernels import TorchKernels, make_kernels, make_snake, torch_snake
from serve_app.model.kv_cache import as_rows, runs

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
SHAPE = StackShape(layers=1, heads=6, kv_heads=2, head_dim=48, hidden=72, rms_eps=1e-6, rope_theta=1e4)
SLOTS = 12
FEW, MANY = 16, 100  # positions of a cache that is attended to by our own kernel, and by torch's


def normal(*shape, seed=0, dtype=torch.float32, size=1.0):
    return (size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def assert_rounded(given, exact, of=None):
    """Within some roundings of float32, or one unit in the last place of bfloat16."""
    assert_within_ulps(given, exact, 8 if given.dtype == torch.float32 else 1, of)


class ExactKernels(TorchKernels):
    """In float64 throughout."""

    def norm(self, x):
        return x / (x.square().mean(-1, keepdim=True) + SHAPE.rms_eps).sqrt()


@pytest.fixture(params=[FEW, MANY], ids=["few", "many"])
def positions(request):
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 10])
@pytest.mark.parametrize("width", [48, 1024])
def test_a_norm_is_that_of_float64(dtype, rows, width):
    x = normal(rows, 3, width, dtype=dtype, size=3.0)[:, -1:]  # as a state's last position lies
    norm = CpuKernels(SHAPE, FEW).norm(x)
    assert_rounded(norm, x.double() / (x.double().square().mean(-1, keepdim=True) + SHAPE.rms_eps).sqrt())
    assert (norm.shape, norm.dtype) == (x.shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 10])
def test_a_swiglu_is_that_of_float64(dtype, rows):
    x = normal(rows, 1, 2 * 75, dtype=dtype, size=4.0)
    gate, up = x.double().chunk(2, dim=-1)
    assert_rounded(CpuKernels(SHAPE, FEW).swiglu(x), functional.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_swiglu_of_any_gate_is_finite(dtype):
    gate = torch.tensor([-1e4, -88.5, -87.4, -20.0, -1e-30, 0.0, 1e-30, 20.0, 87.4, 88.5, 1e4, 3e38], dtype=dtype)
    given = CpuKernels(SHAPE, FEW).swiglu(torch.cat([gate, torch.ones_like(gate)])[None])[0]
    within = gate > -87  # below, e^-gate is cut: next to nothing is left of the gate
    assert_rounded(given[within], functional.silu(gate.double())[within])
    assert (given / gate)[~within].abs().max() < 1e-37


def spans(dtype, positions):
    """Each way of standing in a cache: (B, T, the span)."""
    rotary = Rotary(SHAPE, positions, dtype, CPU)

    def x(batch, new):
        return torch.empty(batch, new, SHAPE.hidden, dtype=dtype)

    yield 1, 7, Aligned(rotary, x(1, 7), slice(3, 4), 0)
    yield 1, 5, Aligned(rotary, x(1, 5), slice(3, 4), 6)
    yield 10, 1, Aligned(rotary, x(10, 1), slice(0, 10), 9)
    staggered = torch.tensor([0, 11, 3, 7, 7, 2, 1, 4, 9, 5])
    yield 10, 1, Staggered(rotary, x(10, 1), slice(1, 11), staggered, 12)
    apart = torch.tensor([11, 3, 0, 7, 5, 1, 9, 2, 10, 6])
    yield 10, 1, Staggered(rotary, x(10, 1), apart, staggered, 12)


def cache(dtype, positions):
    shape = (SLOTS, SHAPE.kv_heads, positions, SHAPE.head_dim)
    return normal(*shape, seed=1, dtype=dtype), normal(*shape, seed=2, dtype=dtype)


def inputs(batch, new, dtype):
    heads = SHAPE.heads + 2 * SHAPE.kv_heads
    norm_qk = 1 + 0.3 * normal(SHAPE.heads + SHAPE.kv_heads, SHAPE.head_dim, seed=3)
    return normal(batch, new, heads * SHAPE.head_dim, seed=4, dtype=dtype), norm_qk.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(5))
def test_attention_is_that_of_float64_and_fills_the_cache(dtype, positions, number):
    batch, new, span = list(spans(dtype, positions))[number]
    *_, exact_span = list(spans(torch.float64, positions))[number]
    fused, norm_qk = inputs(batch, new, dtype)
    given, exact = cache(dtype, positions), [each.double() for each in cache(dtype, positions)]
    attended = CpuKernels(SHAPE, positions).attend(fused, norm_qk, *given, span)
    expected = ExactKernels(SHAPE, CPU).attend(fused.double(), norm_qk.double(), *exact, exact_span)
    # Keys are rounded to the cache's dtype before they are attended to.
    assert_rounded(attended, expected, of=expected.abs().max())
    assert_rounded(given[0], exact[0], of=exact[0].abs().max())
    assert torch.equal(given[1].double(), exact[1])
    untouched = (exact[0] == cache(dtype, positions)[0]).all(dim=-1)  # [slots, KV, P]
    assert torch.equal(given[0].double()[untouched], exact[0][untouched])


@pytest.mark.parametrize("slots", [range(10), [11, 3, 4, 5, 0, 1, 9, 10, 2, 7]], ids=["neighbours", "apart"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_equals_the_row_in_company_exactly(dtype, positions, slots):
    batch = 10
    kernels, rotary = CpuKernels(SHAPE, positions), Rotary(SHAPE, positions, dtype, CPU)
    fused, norm_qk = inputs(batch, 1, dtype)
    starts = torch.arange(batch)
    together = Staggered(rotary, fused, as_rows(list(slots), CPU), starts, batch)
    keys, values = cache(dtype, positions)
    attended = kernels.attend(fused, norm_qk, keys, values, together)
    norm, gated = kernels.norm(fused), kernels.swiglu(fused)
    for row, slot in enumerate(slots):
        one = fused[row : row + 1]
        own_keys, own_values = cache(dtype, positions)
        alone = Staggered(rotary, one, slice(slot, slot + 1), starts[row : row + 1], batch)
        assert torch.equal(kernels.attend(one, norm_qk, own_keys, own_values, alone), attended[row : row + 1])
        assert torch.equal(own_keys[slot], keys[slot])
        assert torch.equal(kernels.norm(one), norm[row : row + 1])
        assert torch.equal(kernels.swiglu(one), gated[row : row + 1])


def test_a_span_that_would_leave_the_cache_is_refused():
    rotary = Rotary(SHAPE, FEW, torch.float32, CPU)
    fused, norm_qk = inputs(1, 7, torch.float32)
    beyond = Aligned(rotary, fused, slice(0, 1), FEW - 3)
    with pytest.raises(AssertionError, match="exceed the cache"):
        CpuKernels(SHAPE, FEW).attend(fused, norm_qk, *cache(torch.float32, FEW), beyond)


def test_a_kernel_is_compiled_once_for_all_shapes_and_dtypes():
    for dtype in DTYPES:
        for rows in (1, 10):
            CpuKernels(SHAPE, FEW).norm(normal(rows, 48, dtype=dtype))
    assert len(cpu_kernels._norm.signatures) == 1


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


def test_what_a_team_runs_is_compiled_by_the_first_process_alone(tmp_path):
    program = (
        "from serve_app.model.backends.cpu import parts, tiled_linear\n"
        "print(parts.entry_point(tiled_linear._multiply_rows).cache_hits)\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    printed = [subprocess.check_output([sys.executable, "-c", program], env=environment, text=True) for _ in range(2)]
    assert printed == ["0\n", "1\n"]


def test_kernels_are_chosen_by_device_and_dtype():
    assert isinstance(make_kernels(SHAPE, FEW, torch.bfloat16, CPU), CpuKernels)
    assert isinstance(make_kernels(SHAPE, FEW, torch.float16, CPU), TorchKernels)
    assert isinstance(make_kernels(SHAPE, FEW, torch.float32, torch.device("meta")), TorchKernels)


@pytest.mark.parametrize("width", [1, 7, 8, 33])
def test_rows_of_any_width_are_computed(width):
    x = normal(3, 2 * width)
    gate, up = x.double().chunk(2, dim=1)
    assert_rounded(CpuKernels(SHAPE, FEW).swiglu(x), functional.silu(gate) * up)


def test_slots_are_split_where_one_does_not_follow_the_other():
    slots = [3, 4, 5, 0, 1, 9, 9, 8]
    split = runs(slots)
    assert [(places.start, places.stop) for places, _ in split] == [(0, 3), (3, 5), (5, 6), (6, 7), (7, 8)]
    assert [slot for _, run in split for slot in range(run.start, run.stop)] == slots


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 96, 100])
def test_a_snake_is_that_of_float64_wherever_it_is_written(dtype, channels):
    x = normal(3, 20, channels, dtype=dtype, size=30.0)
    alpha, inverse_beta = (normal(channels, seed=seed).exp().to(dtype) for seed in (1, 2))
    window = torch.zeros(3, 26, channels, dtype=dtype)
    snake(x, alpha, inverse_beta, window[:, 6:])
    # The angle is rounded to float32 before its sine is taken.
    wave = (x.float() * alpha.float()).double().sin().square() * inverse_beta.double()
    assert_rounded(window[:, 6:], x.double() + wave, of=x.double().abs() + inverse_beta.double())
    assert not window[:, :6].any()
    plain = torch.empty(3, 20, channels, dtype=torch.float64)
    torch_snake(x.double(), alpha.double(), inverse_beta.double(), plain)
    torch.testing.assert_close(plain, x.double() + (x.double() * alpha.double()).sin().square() * inverse_beta.double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_snake_on_any_number_of_threads_is_the_same_to_the_last_bit(dtype, monkeypatch):
    x = normal(3, 50, 96, dtype=dtype, size=30.0)
    alpha, inverse_beta = (normal(96, seed=seed).exp().to(dtype) for seed in (1, 2))
    written = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(cpu_kernels, "threads", lambda threads=threads: threads)
        written.append(torch.full_like(x, torch.nan))
        snake(x, alpha, inverse_beta, written[-1])
    assert torch.equal(written[0], written[1])
    assert torch.equal(written[0], written[2])


def test_a_snake_is_chosen_by_device_and_dtype():
    assert make_snake(torch.float32, CPU) is snake
    assert make_snake(torch.float16, CPU) is torch_snake
    assert make_snake(torch.float32, torch.device("meta")) is torch_snake
