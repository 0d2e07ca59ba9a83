"""The codec's compiled blocks and transformer, against its layers as torch computes them."""

import pytest
import torch
from reference_stack import normal
from test_codec import CPU, build, codes_of, states

from serve_app.model.codec import Codec
from serve_app.model.codec_layers import Builder, Step, UpsamplingBlock
from serve_app.model.codec_transformer import Transformer
from serve_app.model.compiled import codec_block, codec_transformer, windows


class TorchBuilder(Builder):
    def __init__(self, dtype, device):
        super().__init__(dtype, device)
        self.compiled = False


@pytest.fixture(scope="module")
def decoder():
    return build()


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch):
    for module in (codec_block, codec_transformer, windows):
        monkeypatch.setattr(module, "threads", lambda: request.param)


def make_block(builder, decoder, number):
    return UpsamplingBlock(builder, decoder.decoder[number])


def make_transformer(builder, decoder, _number):
    layers = Transformer(builder, decoder.pre_transformer, decoder.config)
    return lambda step, x: layers(step, torch.tensor([0, 40, 300])[: len(x)], x)


def both(make, decoder, number):
    """The same layers compiled and by torch, each with the width of its state."""
    made = []
    for kind in (Builder, TorchBuilder):
        builder = kind(torch.float32, CPU)
        made.append((make(builder, decoder, number), builder.width))
    return made


CASES = [
    # layers, their number, streams, frames, columns of a frame, channels
    (make_block, 1, 1, 1, 4, 64),
    (make_block, 1, 3, 5, 4, 64),
    (make_block, 2, 2, 9, 32, 32),  # columns for each thread
    (make_block, 4, 1, 3, 640, 8),
    (make_transformer, 0, 1, 1, 1, 32),
    (make_transformer, 0, 3, 7, 1, 32),
    (make_transformer, 0, 3, 100, 1, 32),  # more than a window at once
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("partly", [False, True])
def test_compiled_layers_are_torchs(decoder, case, partly, threads):
    make, number, streams, frames, rate, channels = case
    (compiled, width), (torchs, same_width) = both(make, decoder, number)
    assert width == same_width
    x, state = normal(streams, frames * rate, channels), normal(streams, width, seed=1)
    real = torch.tensor([frames, 0, frames // 2])[:streams] if partly else None
    expected_state = state.clone()
    with torch.inference_mode():
        expected = torchs(Step(expected_state, frames, real), x)
        found = compiled(Step(state, frames, real), x)
    counts = [frames] * streams if real is None else real.tolist()
    for row, count in enumerate(counts):
        columns = count * expected.shape[1] // frames
        torch.testing.assert_close(found[row, :columns], expected[row, :columns], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(state, expected_state, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_the_same_in_any_company_to_the_last_bit(decoder, case):
    make, number, streams, frames, rate, channels = case
    layers, width = both(make, decoder, number)[0]
    x, state = normal(streams, frames * rate, channels), normal(streams, width, seed=1)
    alone = state[:1].clone()
    with torch.inference_mode():
        together = layers(Step(state, frames, None), x)
        assert torch.equal(layers(Step(alone, frames, None), x[:1])[0], together[0])
    assert torch.equal(alone[0], state[0])


def test_a_codec_is_the_same_on_any_number_of_threads_to_the_last_bit(decoder, monkeypatch):
    codes, n_frames = codes_of(3, 7), torch.tensor([7, 3, 0])
    seen = []
    for count in (1, 2, 5):
        for module in (codec_block, codec_transformer, windows):
            monkeypatch.setattr(module, "threads", lambda count=count: count)
        codec = Codec(decoder, rows=4, dtype=torch.float32, device=CPU)
        samples = [codec.decode(codes, slice(0, 3)), codec.decode(codes, torch.tensor([2, 0, 1]), n_frames)]
        seen.append([*samples, *[state.history for state in states(codec)]])
    for others in seen[1:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[0], others, strict=True))


def test_rows_that_would_be_misread_are_refused(decoder):
    (block, width), _ = both(make_block, decoder, 1)
    with torch.inference_mode(), pytest.raises(AssertionError, match="read as such"):
        block(Step(normal(1, width).double(), 1, None), normal(1, 4, 64))
    with torch.inference_mode(), pytest.raises(AssertionError, match="contiguous"):
        block(Step(normal(width, 2).T, 1, None), normal(2, 4, 64))
    with torch.inference_mode(), pytest.raises(AssertionError, match="as many columns"):
        block(Step(normal(1, width), 3, None), normal(1, 4, 64))
    with torch.inference_mode(), pytest.raises(AssertionError, match="state for each"):
        block(Step(normal(1, width), 1, None), normal(2, 4, 64))
