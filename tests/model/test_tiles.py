import functools

import numpy as np
import pytest
import torch
from precision import assert_within_ulps
from reference_stack import ReferenceStack, normal
from torch.nn import functional

from serve_app.model.backends.cpu import compiled_stack as stack_module
from serve_app.model.backends.cpu import team
from serve_app.model.backends.cpu.compiled_stack import CompiledStack, products_at
from serve_app.model.backends.cpu.instructions import TILE, TILE_ROWS, this_cpus
from serve_app.model.backends.cpu.nibbles import GROUP_WORDS, make_int4_tiles, pack
from serve_app.model.backends.cpu.parts import float32_at, int64_at, kernel
from serve_app.model.backends.cpu.strands import STRANDS, deal
from serve_app.model.backends.cpu.team import TeamFunction, barrier, claim, job_of, jobs_at, team_size, thread_number
from serve_app.model.backends.cpu.tiled_linear import TiledLinear
from serve_app.model.backends.cpu.tiles import (
    PRODUCT,
    STORE,
    TiledWeight,
    make_tiles,
    multiply,
    pair_up,
    quantise,
    take,
)
from serve_app.model.stack_shape import StackShape

SHAPE = StackShape(layers=3, heads=6, kv_heads=2, head_dim=44, hidden=72, rms_eps=1e-6, rope_theta=1e4)
GATED = 301  # no width here fills its last tile, and this is the widest input of a product
POSITIONS = 40
FLAVOURS = ("portable", "avx2", "avx_vnni", "avx512_vnni")  # a CPU that has one has those before it
RUN_HERE = FLAVOURS[: FLAVOURS.index(this_cpus()) + 1]


@pytest.fixture
def threads(request, monkeypatch):
    monkeypatch.setattr(stack_module, "threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("rows", range(1, TILE_ROWS + 1))
@pytest.mark.parametrize("flavour", RUN_HERE)
def test_a_tiles_sums_are_exact(flavour, rows):
    generator = torch.Generator().manual_seed(rows)
    codes = torch.randint(-127, 128, (TILE, 1000), generator=generator, dtype=torch.int8)
    codes[0], codes[1] = 127, -127  # the largest sums there are
    packed = deal(codes.view(1, TILE, 250, 4).transpose(1, 2))
    inputs = torch.randint(-127, 128, (rows, 1000), generator=generator)
    inputs[0], inputs[:, 0] = 127, -127
    inputs = inputs.to(torch.int8) if flavour == "avx2" else (inputs + 128).to(torch.uint8)
    given = functional.pad(inputs, (0, 8), value=99)  # what fills the last steps is multiplied by zeros
    tiles, apart = make_tiles(flavour), packed[0].nbytes

    @kernel()
    def run(weights, given, sums):
        tiles(rows, weights, apart, given, 1008, 252, sums)

    sums = torch.empty(rows, TILE, dtype=torch.int32)
    run(packed.data_ptr(), given.data_ptr(), sums.data_ptr())
    assert torch.equal(sums.long(), inputs.long() @ codes.long().T)


@pytest.mark.parametrize("rows", range(1, TILE_ROWS + 1))
@pytest.mark.parametrize("flavour", RUN_HERE)
def test_an_int4_tiles_sums_are_those_of_its_groups(flavour, rows):
    weight = normal(TILE, 6 * 64, seed=rows)
    weight[0], weight[1] = 1.0, -1.0  # the largest sums there are
    codes = torch.randint(-127, 128, (rows, 6, 64), generator=torch.Generator().manual_seed(rows))
    codes[0], codes[:, :, 0] = 127, -127
    # Two groups in some strands, and a row's last two are zeros.
    words = torch.zeros(rows, 8, GROUP_WORDS, dtype=torch.int32)
    words[:, :6, :-1] = codes.to(torch.int8).view(torch.int32)
    words[:, :6, -1] = codes.sum(dim=2)
    packed, tiles = deal(pack(weight)), make_int4_tiles(flavour)
    apart = packed[0].nbytes

    @kernel()
    def run(weights, given, sums):
        tiles(rows, weights, apart, given, 8 * 4 * GROUP_WORDS, 8, sums)

    sums = torch.full((rows, TILE), float("nan"))
    run(packed.data_ptr(), words.data_ptr(), sums.data_ptr())
    scales = (weight.view(TILE, 6, 64).abs().amax(dim=2) / 7).bfloat16().float()  # [TILE, 6]
    whole = (weight.view(TILE, 6, 64) / scales[..., None]).round().clamp(-7, 7)
    exact, terms = (
        torch.einsum("tgk,rgk,tg->rt", one.double(), other.double(), scales.double())
        for one, other in ((whole, codes), (whole.abs(), codes.abs()))
    )
    assert_within_ulps(sums, exact, 4, of=terms)


def test_quantising_is_torchs_to_the_last_bit():
    @kernel()
    def run(row, codes):
        return quantise(row, codes)

    offset = 0 if this_cpus() == "avx2" else 128
    for seed in range(20):
        x = normal(1003, seed=seed, size=10.0 ** (seed - 14))
        x[:7] = x.abs().max() / 127.0 * torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5])  # ties go to even
        codes, row = torch.empty(1003, dtype=torch.uint8), x.numpy().copy()
        most = run(row, codes.data_ptr())
        expected = x.abs().max().clamp(min=1e-8)
        assert most == expected.item()
        rounded = torch.mul(x, torch.tensor(1.0) / expected * 127.0).round().to(torch.int16)
        assert torch.equal((codes - offset).view(torch.int8).to(torch.int16), rounded)


FORMATS = ["float32", "bfloat16", "int8", "int4"]


def assert_rounded(given, exact, terms):
    """Within some roundings of float32, of the sizes of all ``terms``; rounded once more to bfloat16."""
    if given.dtype == torch.float32:
        assert_within_ulps(given, exact, 4, of=terms)
    else:
        float32 = torch.finfo(torch.float32).eps / torch.finfo(torch.bfloat16).eps
        assert_within_ulps(given, exact, 1, of=exact.abs() + 4 * float32 * terms)


def dtype_of(weight_format):
    return torch.float32 if weight_format == "float32" else torch.bfloat16


def product(x, weight, weight_format):
    """[..., K] by [N, K] in float64; for int8 and int4 both rounded before, as float32 rounds them."""
    if weight_format in ("float32", "bfloat16"):
        return x.double() @ weight.double().T
    if weight_format == "int4":
        groups = functional.pad(weight.float(), (0, -weight.shape[1] % 64)).unflatten(1, (-1, 64))
        scales = (groups.abs().amax(dim=2, keepdim=True) / 7).clamp(min=1e-8).bfloat16().float()
        rounded = ((groups / scales).round().clamp(-7, 7) * scales).flatten(1)[:, : weight.shape[1]]
        x_most = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-8)
        return (x.float() * (1 / x_most * 127)).round().double() @ rounded.double().T * x_most.double() / 127
    most = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    codes = (weight.float() / (most / 127)).round()
    x_most = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-8)
    x_codes = (x.float() * (1 / x_most * 127)).round()
    return (x_codes.double() @ codes.double().T) * x_most.double() * most[:, 0].double() / 127**2


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2, 5, 9, 30])
@pytest.mark.parametrize(("outputs", "inputs"), [(48, 64), (128, 70), (1, 4), (130, 1025)])
def test_a_product_is_exact_but_for_the_rounding_of_its_format(weight_format, rows, outputs, inputs):
    dtype = dtype_of(weight_format)
    weight, x = normal(outputs, inputs).to(dtype), normal(rows, 1, inputs, seed=1).to(dtype)
    linear, exact = TiledLinear(weight, weight_format), product(x.double(), weight, weight_format)
    assert linear(x).dtype == dtype
    assert linear(x).is_contiguous()
    terms = product(x.abs(), weight.abs(), weight_format)
    assert_rounded(linear(x), exact, terms)
    residual = normal(rows, 1, outputs, seed=2).to(dtype)
    assert_rounded(linear(x, residual), exact + residual, terms + residual.abs())


@pytest.mark.parametrize("weight_format", FORMATS)
def test_inputs_that_would_be_misread_are_refused(weight_format):
    linear, dtype = TiledLinear(normal(48, 64).to(dtype_of(weight_format)), weight_format), dtype_of(weight_format)
    with pytest.raises(AssertionError, match="another dtype"):
        linear(normal(1, 64).to(torch.bfloat16 if dtype == torch.float32 else torch.float32))
    with pytest.raises(AssertionError, match="another width"):
        linear(normal(1, 128).to(dtype))


@pytest.fixture(scope="module", params=FORMATS)
def weight_format(request):
    return request.param


@pytest.fixture(scope="module")
def reference(weight_format):
    return ReferenceStack(SHAPE, GATED, POSITIONS, slots=12, dtype=dtype_of(weight_format))


@pytest.fixture(scope="module")
def stack(weight_format, reference):
    return CompiledStack(reference.layers(), reference.norm, SHAPE, POSITIONS, weight_format)


def test_a_prompt_passes_the_layers_as_upstreams_but_for_the_last_rounding(stack, reference, weight_format):
    """Unless a rounding to int8 falls to the other side: what follows moves by a step. Not in all of five prompts."""
    means = []
    for seed in range(7, 12):
        x = normal(1, 20, SHAPE.hidden, seed=seed).to(reference.dtype)
        given = stack.run_aligned(x, reference.empty_cache(), slice(3, 4), 0)[0].double()
        expected = reference.expected(x[0].double(), functools.partial(product, weight_format=weight_format))
        means.append((given - expected).abs().mean().item())
    assert min(means) < (3e-6 if weight_format == "float32" else 0.002)
    assert max(means) < 0.03


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_the_queries_of_a_watched_head_are_kept_in_the_order_of_positions(stack, reference, weight_format, threads):
    x = normal(1, 20, SHAPE.hidden, seed=7).to(reference.dtype)
    plain, cache, last = (reference.empty_cache() for _ in range(3))
    cache.watch(0, SHAPE.heads - 1, SHAPE.kv_heads - 1)
    last.watch(SHAPE.layers - 1, 0, 0)
    expected = stack.run_aligned(x, plain, slice(3, 4), 0)
    rows, starts = torch.tensor([5, 3]), torch.tensor([0, 0])
    both = torch.cat([x.flip(1), x])
    for each in (cache, last):
        stack.run_staggered(both[:, :17], each, rows, starts, 17)
        for position in (17, 18, 19):
            result = stack.run_staggered(both[:, position : position + 1], each, rows, starts + position, position + 1)
        assert torch.equal(result[1], expected[0, 19:])
        assert torch.equal(each.keys[:, 3], plain.keys[:, 3])
    queries = reference.first_queries(x[0].double(), functools.partial(product, weight_format=weight_format))
    kept = cache.watched.queries
    assert kept.shape == (12, 1, POSITIONS, SHAPE.head_dim)
    torch.testing.assert_close(kept[3, 0, :20].double(), queries[:, -1], atol=0.02, rtol=0.02)
    assert not kept[3, 0, 20:].any()
    assert not kept[[0, 1, 2, 4, 6]].any()
    assert last.watched.queries[5, 0, :20].any(1).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 5], indirect=True)
@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 19], list(range(1, 20))])
def test_no_cut_of_a_prompt_and_no_number_of_threads_changes_a_bit(stack, reference, monkeypatch, threads, cuts):
    x = normal(1, 20, SHAPE.hidden, seed=7).to(reference.dtype)
    whole, cache = reference.empty_cache(), reference.empty_cache()
    parts = [
        stack.run_aligned(x[:, begin:end], cache, slice(3, 4), begin)
        for begin, end in zip([0, *cuts], [*cuts, 20], strict=True)
    ]
    monkeypatch.setattr(stack_module, "threads", lambda: 1)
    assert torch.equal(torch.cat(parts, dim=1), stack.run_aligned(x, whole, slice(3, 4), 0))
    assert torch.equal(cache.keys, whole.keys)
    assert torch.equal(cache.values, whole.values)


@pytest.mark.parametrize("new", [1, 5])
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("slots", [list(range(10)), [11, 3, 4, 5, 0, 1, 9, 10, 2, 7]], ids=["neighbours", "apart"])
def test_a_batched_row_is_the_row_alone_to_the_last_bit(stack, reference, threads, slots, new):
    together, alone = reference.empty_cache(), reference.empty_cache()
    starts = [3, 17, 1, 2, 30, 9, 9, 4, 25, 6]
    for cache in (together, alone):
        for slot, start in zip(slots, starts, strict=True):
            prompt = normal(1, start, SHAPE.hidden, seed=slot).to(reference.dtype)
            stack.run_aligned(prompt, cache, slice(slot, slot + 1), 0)
    x = normal(10, new, SHAPE.hidden, seed=50).to(reference.dtype)
    x[4] *= 1000  # a scale of the batch would crush the others
    rows = slice(0, 10) if slots == list(range(10)) else torch.tensor(slots)
    result = stack.run_staggered(x, together, rows, torch.tensor(starts), 30 + new)
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        own = stack.run_aligned(x[row : row + 1], alone, slice(slot, slot + 1), start)
        assert torch.equal(own, result[row : row + 1])
    assert torch.equal(alone.keys, together.keys)
    assert torch.equal(alone.values, together.values)


def test_positions_that_would_exceed_the_cache_are_refused(stack, reference):
    x = normal(1, 5, SHAPE.hidden).to(reference.dtype)
    with pytest.raises(AssertionError, match="exceed the cache"):
        stack.run_aligned(x, reference.empty_cache(), slice(0, 1), POSITIONS - 4)
    with pytest.raises(AssertionError, match="exceed the cache"):
        stack.run_staggered(x[:, :1], reference.empty_cache(), slice(0, 1), torch.tensor([POSITIONS]), POSITIONS + 1)


def test_gates_lie_before_what_they_gate():
    half = TILE // 2
    end, filled = half + 8, [0] * (half - 8)
    paired = pair_up(torch.arange(end)[:, None], torch.arange(end)[:, None] + 1000)[:, 0]
    assert paired[:half].tolist() == list(range(half))
    assert paired[half : 2 * half].tolist() == list(range(1000, 1000 + half))
    assert paired[2 * half :].tolist() == [*range(half, end), *filled, *range(1000 + half, 1000 + end), *filled]


def test_a_weight_takes_its_forms_bytes_an_entry_and_little_more():
    assert TiledWeight.of(normal(128, 64), "bfloat16").nbytes == 2 * 128 * 64
    assert TiledWeight.of(normal(128, 64), "int8").nbytes == 128 * 64 + 8 * 128
    assert TiledWeight.of(normal(128, 256), "int4").nbytes == 128 * (128 + 8)  # four groups, one for each strand


def test_steps_are_dealt_out_one_to_each_strand_in_turn():
    tiles = torch.arange(1, 1 + 2 * 10 * 3).view(2, 10, 3)
    dealt = deal(tiles)
    assert dealt.shape == (STRANDS, 2, -(-10 // STRANDS), 3)
    assert dealt.is_contiguous()
    for step in range(10):
        assert torch.equal(dealt[step % STRANDS, :, step // STRANDS], tiles[:, step])
    assert dealt.sum() == tiles.sum()  # zeros fill the rest


FILLED = job_of("product", "given", "columns", "rows", "taken", "row_bytes", "factors", "sums", "out")
_filled_at = jobs_at(FILLED)


def _take_and_multiply(address):
    job = _filled_at(address, 1)[0]
    of, factors = products_at(job.product, 1)[0], float32_at(job.factors, job.rows)
    for row in range(job.rows):
        given = float32_at(job.given + 4 * row * job.columns, job.columns)
        factors[row] = take(given, of, job.taken + row * job.row_bytes)
    multiply(of, job.team, job.taken, factors, job.sums, job.out, TILE, STORE)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("rows", [1, 2 * TILE_ROWS + 1])
def test_what_fills_the_last_steps_adds_nothing(weight_format, rows):
    # 65 inputs do not fill a strand in any format.
    weight, x = normal(TILE, 65).to(dtype_of(weight_format)), normal(rows, 65, seed=1)
    tiled, given = TiledWeight.of(weight, weight_format), x.clone()
    products = np.array([tiled.fields()], PRODUCT)
    taken = torch.full((rows, tiled.row_bytes), 0xFF, dtype=torch.uint8)  # as float32 that is no number
    factors, sums, out = torch.empty(rows), torch.empty(TILE_ROWS, TILE), torch.empty(rows, TILE)
    job = np.zeros(1, FILLED)
    team.set_fields(job, product=products.ctypes.data, columns=65, rows=rows, row_bytes=tiled.row_bytes)
    team.set_fields(job, given=given.data_ptr(), taken=taken.data_ptr(), factors=factors.data_ptr())
    team.set_fields(job, sums=sums.data_ptr(), out=out.data_ptr())
    TeamFunction(_take_and_multiply).run(job, 1)
    assert_within_ulps(out, product(x, weight, weight_format), 4, of=product(x.abs(), weight.abs(), weight_format))


ROLL = job_of("here", "sums", real=("factor",))


_rolls_at = jobs_at(ROLL)


def _call_the_roll(address):
    job = _rolls_at(address, 1)[0]
    me, total = thread_number(job.team), 0.0
    here = int64_at(job.here, 8)
    here[me] = me + 1
    barrier(job.team)
    for i in range(8):
        total += here[i] * job.factor
    float32_at(job.sums, 8)[me] = total + 100 * team_size(job.team)


@pytest.mark.parametrize("crew", [1, 2, 3, 7])
def test_a_team_meets_before_it_goes_on(crew):
    here, sums, job = np.zeros(8, np.int64), np.zeros(8, np.float32), np.zeros(1, ROLL)
    job["here"], job["sums"], job["factor"] = here.ctypes.data, sums.ctypes.data, 0.5
    roll = TeamFunction(_call_the_roll)
    for _ in range(50):
        here[:], sums[:] = 0, 0
        roll.run(job, crew)
        assert here.tolist() == [*range(1, crew + 1), *[0] * (8 - crew)]
        assert sums.tolist() == [*[crew * (crew + 1) / 4 + 100 * crew] * crew, *[0] * (8 - crew)]


ROUNDS = 300


def _call_the_roll_again_and_again(address):
    job = _rolls_at(address, 1)[0]
    me, size = thread_number(job.team), team_size(job.team)
    here, missed = int64_at(job.here, 8), 0
    for number in range(1, ROUNDS + 1):
        here[me] = number
        barrier(job.team)
        for i in range(size):
            missed += here[i] != number
        barrier(job.team)
    float32_at(job.sums, 8)[me] = missed


@pytest.mark.parametrize("crew", [2, 3, 7])
def test_a_team_that_meets_often_waits_each_time(crew):
    here, sums, job = np.zeros(8, np.int64), np.zeros(8, np.float32), np.zeros(1, ROLL)
    job["here"], job["sums"] = here.ctypes.data, sums.ctypes.data
    roll = TeamFunction(_call_the_roll_again_and_again)
    for _ in range(3):
        sums[:crew] = -1
        roll.run(job, crew)
        assert not sums.any()


UNITS, CLAIMING_ROUNDS, PATIENCE = 23, 40, 1 << 22
SHARES = job_of("makers", "made", "rounds")
_shares_at = jobs_at(SHARES)


def _make_shares(address):
    """Note who makes each of the units; thread 0 makes one in each round, and waits until all others are made."""
    job = _shares_at(address, 1)[0]
    me, size = thread_number(job.team), team_size(job.team)
    makers = int64_at(job.makers, job.rounds * UNITS)
    for number in range(job.rounds):
        for turn in range(size):
            unit = claim(job.team, turn, UNITS)
            while unit >= 0:
                makers[number * UNITS + unit] += me + 1
                made, asked = team._count(job.made) + 1, 0
                while me == 0 and size > 1 and made < (number + 1) * UNITS and asked < PATIENCE:
                    team._ask(job.team.give_way)
                    made, asked = team._look(job.made), asked + 1
                unit = claim(job.team, turn, UNITS)
        barrier(job.team)


@pytest.mark.parametrize("crew", [1, 2, 3, 7])
def test_a_thread_that_finishes_its_share_helps_the_others_and_nothing_is_made_twice(crew):
    makers, made, job = np.zeros((CLAIMING_ROUNDS, UNITS), np.int64), np.zeros(1, np.int64), np.zeros(1, SHARES)
    team.set_fields(job, makers=makers.ctypes.data, made=made.ctypes.data, rounds=CLAIMING_ROUNDS)
    TeamFunction(_make_shares).run(job, crew)
    assert made[0] == CLAIMING_ROUNDS * UNITS
    assert makers.min() >= 1  # so that none was made twice
    if crew > 1:
        assert ((makers == 1).sum(axis=1) <= 1).all()  # a late thread's share is made by the others


def test_without_an_openmp_one_thread_does_it_all(monkeypatch):
    monkeypatch.setattr(team, "_openmp", lambda: None)
    here, sums, job = np.zeros(8, np.int64), np.zeros(8, np.float32), np.zeros(1, ROLL)
    job["here"], job["sums"], job["factor"] = here.ctypes.data, sums.ctypes.data, 0.5
    TeamFunction(_call_the_roll).run(job, 4)
    assert here.tolist() == [1, *[0] * 7]
    assert sums[0] == 100.5


def test_torchs_openmp_is_found_on_linux():
    found = team._openmp()
    assert found is not None
    assert all((found.number, found.size, found.give_way))
