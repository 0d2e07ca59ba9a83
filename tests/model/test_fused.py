"""A GPU's kernels, on one where torch sees one, else in Triton's interpreter; hence the small sizes."""

import importlib.util
import math
from dataclasses import replace

import pytest
import torch
from reference_stack import ReferenceStack, normal, product
from torch.nn import functional

from serve_app.model.stack_shape import StackShape

if importlib.util.find_spec("triton") is None:
    pytest.skip("torch's CPU wheels come without Triton", allow_module_level=True)

from serve_app.model.backends.cuda import products
from serve_app.model.backends.cuda.fused_attention import Attention
from serve_app.model.backends.cuda.fused_linear import FusedLinear
from serve_app.model.backends.cuda.fused_stack import FusedStack
from serve_app.model.backends.cuda.language import INTERPRETED
from serve_app.model.backends.cuda.products import Product, pair
from serve_app.model.backends.cuda.tiling import columns_of, stages_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = StackShape(layers=2, heads=4, kv_heads=2, head_dim=24, hidden=40, rms_eps=1e-6, rope_theta=1e4)
SMALL = ReferenceStack(SHAPE, gated=50, positions=20, slots=6)  # no width here fills its last block
TRUE_SHAPE = StackShape(layers=2, heads=16, kv_heads=8, head_dim=128, hidden=1024, rms_eps=1e-6, rope_theta=1e6)
TRUE = ReferenceStack(TRUE_SHAPE, gated=3072, positions=300, slots=11)
CUTS = {SMALL: [1, 2, 4, 5], TRUE: [1, 17, 20, 34, 149, 150]}
"""Where a prompt is cut, and its end: single positions and several, behind whole blocks and parts of them."""

STARTS = {SMALL: [3, 17, 1, 0], TRUE: [3, 298, 1, 0, 128, 129, 127, 16, 200, 5]}
HALF_STEP = 2**-8
"""Most that rounding to bfloat16 moves a number, of its size."""


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter takes 10 ms for a program, however small."""
    if INTERPRETED.value:
        monkeypatch.setattr(products, "columns_of", lambda outputs: 64)


def on_device(*shape, seed=0, size=1.0):
    return normal(*shape, seed=seed, size=size).bfloat16().to(DEVICE)


@pytest.fixture(params=[SMALL] if INTERPRETED.value else [SMALL, TRUE], ids=lambda each: str(each.shape.hidden))
def reference(request):
    return request.param


@pytest.fixture
def stack(few_programs, reference):
    layers = (
        replace(layer, **{name: getattr(layer, name).to(DEVICE) for name in layer.__slots__})
        for layer in reference.layers()
    )
    return FusedStack(layers, reference.norm.to(DEVICE), reference.shape, reference.positions)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 8, 40), (3, 130, 64), (17, 72, 1025), (16, 64, 512)])
def test_a_product_is_exact_but_for_the_last_rounding(rows, outputs, inputs):
    weight, x = on_device(outputs, inputs), on_device(rows, 1, inputs, seed=1)
    exact, linear = product(x, weight), FusedLinear(weight)
    assert linear(x).dtype == torch.bfloat16
    torch.testing.assert_close(linear(x).double(), exact, atol=1e-3, rtol=HALF_STEP)
    residual = on_device(rows, 1, outputs, seed=2)
    assert torch.equal(linear(x, residual), linear(x) + residual)
    assert linear.nbytes == weight.nbytes


@pytest.mark.parametrize("rows", [2, 18])
def test_a_row_of_a_product_is_the_row_alone_to_the_last_bit(rows):
    linear, x = FusedLinear(on_device(130, 600)), on_device(rows, 600, seed=1)
    x[1] *= 1000
    together = linear(x)
    for row in (0, 1, rows - 1):
        assert torch.equal(linear(x[row : row + 1]), together[row : row + 1])
        assert torch.equal(linear(x.flip(0))[rows - 1 - row], together[row])


def test_inputs_that_lie_apart_or_askew_are_read_all_the_same():
    linear, x = FusedLinear(on_device(24, 40)), on_device(3, 2, 40, seed=1)
    assert torch.equal(linear(x[:, -1]), linear(x[:, -1].clone()))
    askew = on_device(121, seed=2)[1:].view(3, 40)
    assert torch.equal(linear(askew), linear(askew.clone()))
    with pytest.raises(AssertionError, match="reads bfloat16"):
        linear(x.float())


def test_what_stands_before_and_behind_a_product():
    """Residuals are added to the stream and leave their squares; a norm reads those; gates gate."""
    rows, hidden, eps = 5, 40, 1e-2
    add = Product(on_device(hidden, 24), "add")
    normed = Product(on_device(90, hidden, seed=1), eps=eps, shares=add.blocks)
    gates, ups = on_device(50, hidden, seed=2, size=0.2), on_device(50, hidden, seed=3, size=0.2)
    gate = Product(pair(gates, ups), "gate", eps=eps, shares=add.blocks)
    x = on_device(rows, 24, seed=4)
    stream = normal(rows, hidden, seed=5).to(DEVICE)
    exact = stream.double() + product(x, on_device(hidden, 24))
    squares, rounded = stream.new_empty(rows, add.blocks), x.new_empty(rows, hidden)
    add.run(x, rounded, stream, squares)
    torch.testing.assert_close(stream.double(), exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(squares.sum(1).double(), exact.square().sum(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(rounded, stream.bfloat16())
    scale = (exact.square().mean(1, keepdim=True) + eps).rsqrt()
    out = stream.new_empty(rows, 90)
    normed.run(rounded, out, squares=squares)
    expected = product(rounded, on_device(90, hidden, seed=1)) * scale
    torch.testing.assert_close(out.double(), expected, atol=1e-3, rtol=1e-3)
    gated = x.new_empty(rows, 50)
    gate.run(rounded, gated, squares=squares)
    expected = functional.silu(product(rounded, gates) * scale) * product(rounded, ups) * scale
    torch.testing.assert_close(gated.double(), expected, atol=1e-3, rtol=HALF_STEP)


def test_a_prompt_passes_the_layers_as_upstreams_but_for_rounding(reference, stack):
    x = normal(1, CUTS[reference][-1], reference.shape.hidden, seed=7).bfloat16()
    exact = reference.expected(x[0].double())
    given = stack.run_aligned(x.to(DEVICE), reference.empty_cache(DEVICE), slice(3, 4), 0)[0].cpu().double()
    assert (given - exact).abs().max() < 0.1
    assert (given - exact).norm() / exact.norm() < 0.01


def test_no_cut_of_a_prompt_changes_a_bit(reference, stack):
    ends = CUTS[reference]
    x = on_device(1, ends[-1], reference.shape.hidden, seed=7)
    whole, cache = reference.empty_cache(DEVICE), reference.empty_cache(DEVICE)
    expected = stack.run_aligned(x, whole, slice(3, 4), 0)
    parts = [
        stack.run_aligned(x[:, begin:end], cache, slice(3, 4), begin)
        for begin, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    assert torch.equal(torch.cat(parts, dim=1), expected)
    assert torch.equal(cache.keys, whole.keys)
    assert torch.equal(cache.values, whole.values)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_a_batched_row_is_the_row_alone_to_the_last_bit(reference, stack, apart, new):
    together, alone = reference.empty_cache(DEVICE), reference.empty_cache(DEVICE)
    starts = [min(start, reference.positions - new) for start in STARTS[reference]]
    count = len(starts)
    slots = [(5 * row + 3) % reference.slots if apart else row + 1 for row in range(count)]
    for cache in (together, alone):
        cache.keys.copy_(on_device(*cache.keys.shape, seed=8))
        cache.values.copy_(on_device(*cache.values.shape, seed=9))
    x = on_device(count, new, reference.shape.hidden, seed=50)
    x[2] *= 1000
    rows = torch.tensor(slots, device=DEVICE) if apart else slice(1, count + 1)
    positions = torch.tensor(starts, device=DEVICE)
    result = stack.run_staggered(x, together, rows, positions, reference.positions)
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        own = stack.run_aligned(x[row : row + 1], alone, slice(slot, slot + 1), start)
        assert torch.equal(own, result[row : row + 1])
    assert torch.equal(alone.keys, together.keys)
    assert torch.equal(alone.values, together.values)


def test_neighbours_at_one_position_are_each_alone_to_the_last_bit(reference, stack):
    """As the code predictor's first step: two positions of several slots."""
    together, alone = reference.empty_cache(DEVICE), reference.empty_cache(DEVICE)
    x = on_device(2, 2, reference.shape.hidden, seed=51)
    result = stack.run_aligned(x, together, slice(1, 3), 0)
    parts = [stack.run_aligned(x[row : row + 1], alone, slice(row + 1, row + 2), 0) for row in range(2)]
    assert torch.equal(torch.cat(parts), result)
    assert torch.equal(alone.keys, together.keys)


def test_the_queries_of_a_watched_head_are_kept_in_the_order_of_positions(reference, stack):
    shape, cut = reference.shape, 3
    cache, plain = reference.empty_cache(DEVICE), reference.empty_cache(DEVICE)
    cache.watch(0, shape.heads - 1, shape.kv_heads - 1)
    x = on_device(1, 5, shape.hidden, seed=7)
    whole = stack.run_aligned(x, plain, slice(3, 4), 0)
    parts = [stack.run_aligned(x[:, :cut], cache, slice(3, 4), 0)]
    for position in range(cut, 5):
        places = torch.tensor([3], device=DEVICE), torch.tensor([position], device=DEVICE)
        parts.append(stack.run_staggered(x[:, position : position + 1], cache, *places, reference.positions))
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(cache.keys, plain.keys)
    kept, queries = cache.watched.queries.cpu(), reference.first_queries(x[0].cpu().double())
    torch.testing.assert_close(kept[3, 0, :5].double(), queries[:, -1], atol=0.02, rtol=0.02)
    assert not kept[3, 0, 5:].any()
    assert not kept[:3].any()


def test_positions_that_would_exceed_the_cache_are_refused(reference, stack):
    x, most = on_device(1, 5, reference.shape.hidden), reference.positions
    with pytest.raises(AssertionError, match="exceed the cache"):
        stack.run_aligned(x, reference.empty_cache(DEVICE), slice(0, 1), most - 4)
    with pytest.raises(AssertionError, match="exceed the cache"):
        stack.run_staggered(x[:, :1], reference.empty_cache(DEVICE), slice(0, 1), torch.tensor([most]), most + 1)


@pytest.mark.parametrize("position", [0, 1, 127, 128, 129, 299])
def test_attention_sees_every_position_before_its_own_and_none_behind(position):
    """Over more positions than a block has; what lies behind is no number."""
    shape = replace(SHAPE, layers=1)
    reference = ReferenceStack(shape, gated=1, positions=300, slots=2)
    cache, attention = reference.empty_cache(DEVICE), Attention(shape, 300, torch.device(DEVICE))
    keys, values = cache.keys[0], cache.values[0]
    keys.copy_(on_device(*keys.shape, seed=1))
    values.copy_(on_device(*values.shape, seed=2))
    keys[:, :, position:], values[:, :, position:] = math.nan, math.nan
    fused = normal(1, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, seed=3).to(DEVICE)
    scales = 1 + normal(shape.heads + shape.kv_heads, shape.head_dim, seed=4, size=0.2).to(DEVICE)
    places = attention.staggered(slice(1, 2), torch.tensor([position], device=DEVICE))
    given = attention.run(fused, scales, (keys, values), places, 1).cpu().double()
    heads = fused.cpu().double().unflatten(1, (-1, shape.head_dim))
    own = reference.turned(reference.rms(heads[:, : -shape.kv_heads]) * scales.cpu().double(), position)
    torch.testing.assert_close(keys[1, :, position].cpu().double(), own[0, shape.heads :], atol=1e-3, rtol=HALF_STEP)
    torch.testing.assert_close(values[1, :, position].cpu(), heads[0, -shape.kv_heads :].bfloat16())
    seen = [each[1:, :, : position + 1].cpu().double() for each in (keys, values)]
    exact = functional.scaled_dot_product_attention(own[:, : shape.heads].transpose(0, 1)[None], *seen, enable_gqa=True)
    torch.testing.assert_close(given[0], exact[0, :, 0].flatten(), atol=1e-3, rtol=2 * HALF_STEP)


def test_what_is_read_ahead_fits_into_shared_memory():
    h100, l4 = 227 << 10, 99 << 10
    for outputs, inputs in [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (2048, 6144), (12288, 2048)]:
        for shared in (h100, l4):
            ahead = stages_of(inputs, columns_of(outputs), shared - (8 << 10)) - 1
            assert 1 <= ahead <= math.ceil(inputs / 512)
            assert ahead * 2 * 512 * (16 + columns_of(outputs)) < shared
    assert stages_of(3072, columns_of(1024), h100 - (8 << 10)) == 7
