"""The codec's compiled stages and transformer, against its layers as torch computes them in float64."""

import pytest
import torch
from named_backends import make_backend
from precision import assert_within_ulps
from reference_stack import normal
from test_codec import CPU, build, codes_of, states

from serve_app.model.backends.cpu import compiled_codec, compiled_transformer, windows
from serve_app.model.backends.cpu.codec_plan import CompiledLayer, buffers_of, lay_out
from serve_app.model.backends.cpu.compiled_codec import CompiledLayers
from serve_app.model.backends.cpu.compiled_transformer import CompiledTransformer
from serve_app.model.backends.cpu.cpu_codec import compiled
from serve_app.model.backends.cpu.parts import gelu, standardise, wave
from serve_app.model.backends.cpu.windows import WindowLinear
from serve_app.model.backends.protocol import CodecStep
from serve_app.model.backends.torch.torch_codec import TorchStage
from serve_app.model.backends.torch.torch_transformer import TorchTransformer
from serve_app.model.codec import Codec
from serve_app.model.codec_weights import (
    ConvWeights,
    Depthwise,
    StateLayout,
    Wave,
    convolution,
    transformer_weights,
    upsampling,
    upsampling_block,
    wave_head,
)


class TorchLayers:
    """Makes layers with torch's operations, in float64."""

    def stages(self, wide, narrow=()):
        return TorchStage([layer for stage in (*wide, *narrow) for layer in stage], torch.float64, CPU)

    def transformer(self, weights):
        return TorchTransformer(weights, torch.float64, CPU)


class OurLayers:
    """Makes compiled layers."""

    def stages(self, wide, narrow=()):
        return CompiledLayers(*[[compiled(layer) for stage in stages for layer in stage] for stages in (wide, narrow)])

    def transformer(self, weights):
        return CompiledTransformer(weights)


@pytest.fixture(scope="module", params=[2, 1], ids=["heads alike", "fewer key heads"])
def decoder(request):
    return build(num_key_value_heads=request.param)


def use_threads(monkeypatch, count):
    for module in (compiled_codec, compiled_transformer, windows):
        monkeypatch.setattr(module, "threads", lambda: count)


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch):
    use_threads(monkeypatch, request.param)


def make_block(layers, layout, decoder, number):
    return layers.stages([upsampling_block(layout, decoder.decoder[number])])


def make_upsampling(layers, layout, decoder, number):
    conv, block = decoder.upsample[number]
    return layers.stages([upsampling(layout, ConvWeights.of(conv.conv), block)])


def make_first(layers, layout, decoder, number):
    return layers.stages([[convolution(layout, ConvWeights.of(decoder.decoder[number].conv))]])


def make_end(layers, layout, decoder, number):
    *blocks, snake, head = decoder.decoder[number:]
    stages = [*(upsampling_block(layout, block) for block in blocks), [wave_head(layout, snake, head.conv)]]
    wide = max(3 - number, 0)
    return layers.stages(stages[:wide], stages[wide:])


def make_transformer(layers, layout, decoder, _number):
    made = layers.transformer(transformer_weights(layout, decoder.pre_transformer, decoder.config))
    return lambda step, x, positions: made(step, positions, x)


POSITIONS = torch.tensor([0, 40, 300])
ROUNDINGS = 32
"""Units in the last place of the largest number that some ten layers of float32, each a sum, may be off by."""


def run(layers, make, state, x, frames, real=None, streams=slice(None)):
    step = CodecStep(state[streams], frames, None if real is None else real[streams])
    more = [POSITIONS[: len(x)][streams]] if make is make_transformer else []
    with torch.inference_mode():
        return layers(step, x[streams], *more)


CASES = [
    # layers, their number, streams, frames, columns of a frame, channels
    (make_block, 1, 1, 1, 4, 64),
    (make_block, 1, 3, 5, 4, 64),
    (make_block, 2, 2, 9, 32, 32),  # columns for each thread
    (make_block, 4, 1, 3, 640, 8),
    (make_upsampling, 0, 1, 1, 1, 32),
    (make_upsampling, 1, 3, 5, 2, 32),
    (make_first, 0, 3, 5, 4, 32),
    (make_end, 1, 3, 4, 4, 64),  # some for all frames, some for one after the other
    (make_end, 5, 2, 3, 1920, 4),  # the wave head alone
    (make_transformer, 0, 1, 1, 1, 32),
    (make_transformer, 0, 3, 7, 1, 32),
    (make_transformer, 0, 3, 100, 1, 32),  # more than a window at once
]


def made_of(case, layers, decoder):
    """Layers, and the width of a state in which they are not the first."""
    make, number, *_ = case
    layout = StateLayout()
    layout.history(3, 5)
    with torch.inference_mode():
        made = make(layers, layout, decoder, number)
    layout.history(2, 7)
    return made, layout.width


def columns_and_state(case, width):
    """New columns, and states whose rows lie further apart than they are wide."""
    _, _, streams, frames, rate, channels = case
    x = normal(streams, channels, frames * rate).transpose(1, 2)
    return x, normal(streams, width + 11, seed=1)[:, :width]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("partly", [False, True])
def test_compiled_layers_are_those_of_float64(decoder, case, partly, threads):
    make, _, streams, frames, *_ = case
    torchs, width = made_of(case, TorchLayers(), decoder)
    ours, same_width = made_of(case, OurLayers(), decoder)
    assert width == same_width
    x, state = columns_and_state(case, width)
    exact_state = state.double()
    real = torch.tensor([frames // 2, 9, frames, 9, 0, 9])[::2][:streams] if partly else None
    exact = run(torchs, make, exact_state, x.double(), frames, real)
    found = run(ours, make, state, x, frames, real)
    if make is make_end and partly:  # what stands for other frames depends on how those are cut
        wanted = torch.arange(frames) < real[:, None]
        found, exact = [each.unflatten(1, (frames, -1))[wanted] for each in (found, exact)]
    for given, reference in ((found, exact), (state, exact_state)):
        assert_within_ulps(given, reference, ROUNDINGS, of=reference.abs().max())


@pytest.mark.parametrize("case", [case for case in CASES if case[2] > 1])
@pytest.mark.parametrize("partly", [False, True])
def test_a_stream_is_batch_invariant_to_the_last_bit(decoder, case, partly, threads):
    make, _, streams, frames, *_ = case
    layers, width = made_of(case, OurLayers(), decoder)
    x, state = columns_and_state(case, width)
    real = torch.tensor([frames // 2, frames, 0])[:streams] if partly else None
    alone = state.clone()
    together = run(layers, make, state, x, frames, real)
    for stream in range(streams):
        itself = slice(stream, stream + 1)
        assert torch.equal(run(layers, make, alone, x, frames, real, itself), together[itself])
    assert torch.equal(alone, state)


def test_a_codec_is_the_same_on_any_number_of_threads_to_the_last_bit(decoder, monkeypatch):
    codes, n_frames = codes_of(3, 7), torch.tensor([7, 3, 0])
    seen = []
    for count in (1, 2, 5):
        use_threads(monkeypatch, count)
        codec = Codec(decoder, make_backend("packed"), rows=4, dtype=torch.float32, device=CPU)
        samples = [codec.decode(codes, slice(0, 3)), codec.decode(codes, torch.tensor([2, 0, 1]), n_frames)]
        codec.prime(codes_of(1, 90)[0], 3)
        seen.append([*samples, *[state.history for state in states(codec)]])
    for others in seen[1:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[0], others, strict=True))


@pytest.mark.parametrize("case", [CASES[1], CASES[5]])
def test_what_would_be_misread_is_refused(decoder, case):
    make, _, streams, frames, _, _ = case
    layers, width = made_of(case, OurLayers(), decoder)
    x, state = columns_and_state(case, width)
    for message, other_x, other_state, real in (
        ("compiled code reads", x.double(), state, None),
        ("compiled code reads", x, state.double(), None),
        ("another width", x[:, :, 1:], state, None),
        ("needs a row of state", x, state[1:], None),
        ("contiguous", x, normal(width, streams).T, None),
        ("need a wider state", x, state[:, : width - 15], None),
        ("compiled code reads", x, state, torch.ones(streams, dtype=torch.int32)),
        ("needs a number of frames", x, state, torch.ones(1, dtype=torch.int64)),
    ):
        with pytest.raises(AssertionError, match=message):
            run(layers, make, other_state, other_x, frames, real)
    if make is make_block:
        with pytest.raises(AssertionError, match="same number of columns"):
            run(layers, make, state, x, 3)


def plain(residual=0):
    return CompiledLayer(WindowLinear(torch.zeros(4, 4), None), residual=residual)


def each_alone():
    return CompiledLayer(Depthwise(torch.ones(3, 4), torch.zeros(4), 1e-6))


WAVE = CompiledLayer(Wave(torch.ones(3, 4), torch.zeros(1)))


@pytest.mark.parametrize(
    "layers",
    [
        [plain(), each_alone(), plain(), plain(residual=2)],
        [plain(), *[each_alone(), plain(residual=1)] * 3, plain()],
        [plain(), each_alone(), plain(), plain(residual=2), plain(), each_alone(), plain(residual=1)],
    ],
)
def test_nothing_is_overwritten_while_it_is_wanted(layers):
    found = {-1: 0}  # whose columns are in which buffer; the first layer's are their own
    places = [-1, *buffers_of(layers)]
    for number, layer in enumerate(layers):
        assert found[places[number]] == number
        if layer.residual:
            assert found[places[number - layer.residual]] == number - layer.residual
            assert places[number + 1] == places[number - layer.residual]
        else:
            assert places[number + 1] != places[number]
        found[places[number + 1]] = number + 1


def test_buffers_do_not_overlap():
    wide, narrow = [plain(), each_alone(), plain(residual=1)], [each_alone(), plain(residual=0), WAVE]
    layout = lay_out(wide, narrow, streams=2, frames=5, columns=3)
    assert layout.given[0] == layout.made[-1] == -1
    assert list(layout.given[1:]) == list(layout.made[:-1])
    assert layout.added[2] == layout.given[1] == layout.made[2]
    begins = sorted({*layout.windows, *layout.made} - {-1})
    # [2, 15] columns of 4 in two buffers and a window of two more; a frame of one stream in a window and one buffer
    # or two
    needed = {layout.windows[1]: 2 * 17 * 4, layout.made[0]: 120, layout.made[1]: 120, layout.windows[3]: 5 * 4}
    needed |= {layout.made[3]: 12, layout.made[4]: 12}
    assert set(begins) == set(needed)
    for begin, end in zip(begins, [*begins[1:], 4 * layout.size], strict=True):
        assert end - begin >= 4 * needed[begin]


def test_layers_that_compiled_code_would_misread_are_refused():
    with pytest.raises(AssertionError, match="only plain matmuls"):
        CompiledLayer(Depthwise(torch.ones(3, 4), torch.zeros(4), 1e-6), residual=1)
    with pytest.raises(AssertionError, match="only plain matmuls"):
        CompiledLayer(WindowLinear(torch.zeros(4, 28), None, 7, winograd=True), residual=1)
    with pytest.raises(AssertionError, match="must not write"):
        buffers_of([plain(), plain(residual=1)])
    for wide, narrow in (([WAVE], []), ([], [WAVE, plain()]), ([], [each_alone()])):
        with pytest.raises(AssertionError, match="last narrow layer makes"):
            CompiledLayers(wide, narrow)
    with pytest.raises(AssertionError, match="frame to frame"):
        CompiledLayers([each_alone()], [plain(), WAVE])


def test_gelu_is_within_four_units_of_its_input():
    """Its error function is within 5e-7, which is two units of x; the rest is rounding."""
    small = torch.logspace(-30, 1, 1000)
    x = torch.cat([torch.linspace(-12, 12, 20_001), small, -small, torch.tensor([0.0, -0.0, -50.0, 50.0])])
    out = torch.empty_like(x)
    gelu(x.numpy(), out.numpy())
    assert_within_ulps(out, x.double() * torch.erfc(-x.double() / 2**0.5) / 2, 4, of=x.double())


@pytest.mark.parametrize("channels", [1, 96, 100])
def test_a_snake_is_that_of_float64(channels):
    x = normal(20, channels, size=30.0)
    alpha, inverse_beta = (normal(channels, seed=seed).exp() for seed in (1, 2))
    out = torch.empty_like(x)
    for column, written in zip(x, out, strict=True):
        wave(column.numpy(), alpha.numpy(), inverse_beta.numpy(), written.numpy())
    # The angle is rounded to float32 before its sine is taken.
    exact = x.double() + (x * alpha).double().sin().square() * inverse_beta.double()
    assert_within_ulps(out, exact, 8, of=x.double().abs() + inverse_beta.double())


def test_a_row_is_standardised_as_by_layer_norm():
    x = normal(1000, size=3.0) + 2
    row = x.clone()
    standardise(row.numpy(), 1e-6)
    exact = torch.nn.functional.layer_norm(x.double(), (1000,), eps=1e-6)
    assert_within_ulps(row, exact, 4, of=x.double().abs() + exact.abs())  # the mean is taken away from x
