import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as upstream

from serve_app.model.backends.cpu.cpu_sampling import sample as sample_on_cpu
from serve_app.model.sampling import SamplingParams, SamplingTensors, penalise, sample, uniforms

DEVICE = torch.device("cpu")
VOCABULARY = 64


def rows_of(*sampling):
    rows = SamplingTensors(len(sampling), DEVICE)
    for slot, each in enumerate(sampling):
        rows.set(slot, each)
    return rows


def sample_rows(logits, uniform, *sampling):
    rows = rows_of(*sampling)
    slots = list(range(len(sampling)))
    keep = rows.most_kept(slots, logits.shape[1]) or 1
    codes = sample(logits, uniform, rows, slice(0, len(sampling)), keep)
    assert torch.equal(codes, sample_on_cpu(logits, uniform, rows, torch.tensor(slots), keep))
    return codes


def upstream_probabilities(logits, each):
    scores = logits[None] / each.temperature
    if each.top_k:
        scores = upstream.TopKLogitsWarper(each.top_k)(None, scores)
    if each.top_p < 1:
        scores = upstream.TopPLogitsWarper(each.top_p)(None, scores)
    return scores.softmax(-1)[0]


sampling = st.builds(
    SamplingParams,
    temperature=st.floats(0.2, 2.0),
    top_k=st.integers(0, VOCABULARY),
    top_p=st.floats(0.05, 1.0),
)


@given(sampling, st.integers(0, 2**31))
def test_codes_fall_where_upstreams_filters_put_their_mass(each, seed):
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    grid = (torch.arange(2000) + 0.5) / 2000
    codes = sample_rows(logits.expand(2000, -1), grid, *[each] * 2000)
    shares = torch.bincount(codes, minlength=VOCABULARY) / 2000
    assert (shares - upstream_probabilities(logits, each)).abs().max() < 2e-3


@given(st.lists(sampling | st.just(SamplingParams(0.0, 50, 1.0)), min_size=1, max_size=10), st.integers(0, 2**31))
def test_a_row_samples_the_same_alone_and_batched(each, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(each), VOCABULARY, generator=generator) * 3
    uniform = torch.rand(len(each), generator=generator)
    together = sample_rows(logits, uniform, *each)
    alone = [sample_rows(logits[n : n + 1], uniform[n : n + 1], each[n])[0] for n in range(len(each))]
    assert together.tolist() == torch.stack(alone).tolist()


def test_temperature_zero_takes_the_largest():
    logits = torch.randn(5, VOCABULARY)
    assert (
        sample_rows(logits, torch.rand(5), *[SamplingParams(0.0, 50, 1.0)] * 5).tolist() == logits.argmax(-1).tolist()
    )


def test_two_codes_of_nearly_equal_weight_do_not_change_places():
    logits = torch.zeros(1, VOCABULARY)
    nudged = logits.clone()
    nudged[0, 7] += 1e-6
    for number in torch.linspace(0.01, 0.99, 50):
        each = (torch.tensor([number + 0.003]), SamplingParams(1.0, VOCABULARY, 1.0))
        assert sample_rows(logits, *each).tolist() == sample_rows(nudged, *each).tolist()


@given(st.floats(0.5, 2.0), st.integers(0, 2**31))
def test_the_repetition_penalty_is_upstreams(penalty, seed):
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    used = torch.tensor([[3, 9, 9, 40]])
    seen = torch.zeros(1, VOCABULARY, dtype=torch.bool)
    seen[0, used[0]] = True
    ours = penalise(logits, seen, torch.tensor([penalty]))
    torch.testing.assert_close(ours, upstream.RepetitionPenaltyLogitsProcessor(penalty)(used, logits))


def test_uniforms_are_uniform_and_depend_on_seed_frame_and_codebook():
    seeds = torch.arange(200)
    numbers = torch.stack([uniforms(seeds, torch.full((200,), frame), 16) for frame in range(20)])
    assert len(torch.unique(numbers)) > 0.99 * numbers.numel()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers.numpy(), bins=20, range=(0, 1))[0]
    assert abs(counts - numbers.numel() / 20).max() < 5 * np.sqrt(numbers.numel() / 20)
    for axis in range(3):
        moved = np.moveaxis(numbers.numpy(), axis, 0)
        assert abs(np.corrcoef(moved[:-1].ravel(), moved[1:].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 2**62, -(2**62)])
def test_uniforms_of_a_row_do_not_depend_on_its_batch(seed):
    alone = uniforms(torch.tensor([seed]), torch.tensor([5]), 16)
    together = uniforms(torch.tensor([7, seed, 9]), torch.tensor([1, 5, 2]), 16)
    assert torch.equal(alone[0], together[1])


def test_suppressed_codes_are_never_drawn_however_many_are_kept():
    logits = torch.randn(50, VOCABULARY, generator=torch.Generator().manual_seed(0))
    logits[:, 5:] = float("-inf")
    codes = sample_rows(logits, torch.linspace(0, 1 - 2**-24, 50), *[SamplingParams(5.0, 50, 1.0)] * 50)
    assert set(codes.tolist()) == {0, 1, 2, 3, 4}


def test_rows_apart_take_their_own_parameters():
    rows = rows_of(
        SamplingParams(0.0, 0, 1.0),
        SamplingParams(1.0, 3, 1.0),
        SamplingParams(2.0, 0, 0.5),
        SamplingParams(1.0, 40, 0.9),
    )
    generator = torch.Generator().manual_seed(0)
    slots = torch.tensor([3, 0, 2])
    for _ in range(50):
        logits = 3 * torch.randn(3, 300, generator=generator)
        uniform = torch.rand(3, 4, generator=generator)[:, 1]
        for keep in (50, 300):
            expected = sample(logits, uniform, rows, slots, keep)
            assert torch.equal(sample_on_cpu(logits, uniform, rows, slots, keep), expected)
