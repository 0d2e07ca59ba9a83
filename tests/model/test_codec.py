"""The incremental codec against one whole decode by qwen-tts, on a small decoder that is not silent."""

import importlib

import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from named_backends import make_backend
from transformers.masking_utils import create_sliding_window_causal_mask

from serve_app.model.backends.torch.torch_transformer import sliding_mask
from serve_app.model.codec import Codec
from serve_app.model.random_weights import CODEC_RULES, random_tensor
from serve_app.model.upstream import import_qwen_tts

CPU = torch.device("cpu")
EXACT = 1e-5  # of full scale
FRAMES = 400
SMALL = {
    "latent_dim": 32,
    "codebook_dim": 32,
    "codebook_size": 64,
    "decoder_dim": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "head_dim": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "num_quantizers": 4,
    "sliding_window": 72,
    "upsample_rates": [8, 5, 4, 3],
    "upsampling_ratios": [2, 2],
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(**changes):
    import_qwen_tts()
    upstream = importlib.import_module("qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2")
    config = upstream.Qwen3TTSTokenizerV2DecoderConfig(**(SMALL | changes))
    decoder = upstream.Qwen3TTSTokenizerV2Decoder(config).eval()
    with torch.no_grad():
        for name, tensor in decoder.state_dict().items():
            tensor.copy_(random_tensor(CODEC_RULES, f"decoder.{name}", tensor.shape, 1))
            # Weights that amplify rounding less than the rules' own, so that EXACT has a margin of ten.
            if name.endswith("layer_scale.scale"):
                tensor.mul_(0.3)
            elif name.endswith(".alpha"):
                tensor.sub_(1.0)
            # A code that training never used: its sum is divided by the epsilon, not by its usage.
            elif name.endswith("cluster_usage"):
                tensor[0] = 0.0
            elif name.endswith("embedding_sum"):
                tensor[0] *= 1e-5
    return decoder


def codes_of(batch, frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, SMALL["codebook_size"], (batch, frames, SMALL["num_quantizers"]), generator=generator)


def whole(decoder, codes):
    with torch.inference_mode():
        return decoder(codes.transpose(1, 2))[:, 0].float()


@pytest.fixture(scope="module")
def decoder():
    return build()


@pytest.fixture(scope="module")
def codes():
    return codes_of(1, FRAMES)


@pytest.fixture(scope="module")
def golden(decoder, codes):
    return whole(decoder, codes)


@pytest.fixture(scope="module")
def pool(decoder):
    return Codec(decoder, make_backend("packed"), rows=4, dtype=torch.float32, device=CPU)


@pytest.fixture
def codec(pool):
    """Rows that have each heard something else, so that a row taken for another shows."""
    for row in range(4):
        pool.reset(row)
    pool.decode(codes_of(4, 3, seed=9), slice(0, 4))
    return pool


def assert_same(samples, expected):
    torch.testing.assert_close(samples, expected, rtol=0, atol=EXACT)


def states(codec):
    return [codec.snapshot(row) for row in range(4)]


def identical(one, other):
    return torch.equal(one.history, other.history) and torch.equal(one.position, other.position)


def test_golden_audio_is_not_silence(golden):
    assert 0.05 < golden.square().mean().sqrt() < 0.5
    assert golden.abs().max() < 1.0


def test_first_frame_is_still_heard_beyond_the_window(decoder, codes, golden):
    changed = codes.clone()
    changed[:, 0] = (changed[:, 0] + 1) % SMALL["codebook_size"]
    difference = (whole(decoder, changed) - golden).abs().unflatten(1, (FRAMES, -1)).amax(2)[0]
    assert difference[60:71].min() > 10 * EXACT
    assert difference[75:140].max() > 10 * EXACT


@examples(8, database=None)
@given(sizes=st.lists(st.one_of(st.integers(1, 4), st.integers(1, 150)), max_size=20))
def test_any_partition_equals_one_whole_decode(pool, codes, golden, sizes):
    pool.reset(2)
    rest = codes
    samples = []
    for size in [*sizes, FRAMES]:
        samples.append(pool.decode(rest[:, :size], slice(2, 3)))
        rest = rest[:, size:]
    assert_same(torch.cat(samples, dim=1), golden)


def test_single_frames_equal_one_whole_decode(codec, codes, golden):
    codec.reset(0)
    samples = [codec.decode(codes[:, frame : frame + 1], slice(0, 1)) for frame in range(160)]
    assert_same(torch.cat(samples, dim=1), golden[:, : 160 * 1920])


def test_rows_out_of_step_in_one_batch_equal_each_alone(codec, decoder):
    codes = codes_of(3, 100, seed=1)
    alone = [whole(decoder, row[None]) for row in codes]
    rows = torch.tensor([3, 0, 2])
    heard = [90, 5, 40]
    for row, count, own in zip(rows.tolist(), heard, codes, strict=True):
        codec.reset(row)
        codec.decode(own[None, :count], slice(row, row + 1))
    for _ in range(3):
        batch = torch.stack([own[count : count + 2] for own, count in zip(codes, heard, strict=True)])
        samples = codec.decode(batch, rows)
        for index, (count, expected) in enumerate(zip(heard, alone, strict=True)):
            assert_same(samples[index], expected[0, count * 1920 : (count + 2) * 1920])
        heard = [count + 2 for count in heard]


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 1])])
def test_rows_not_named_are_untouched(codec, rows):
    before = states(codec)
    codec.decode(codes_of(2, 5), rows)
    after = states(codec)
    same = [identical(old, new) for old, new in zip(before, after, strict=True)]
    assert same == [True, False, False, True]


@pytest.mark.parametrize("rows", [slice(0, 4), torch.tensor([3, 1, 0, 2])])
def test_padding_leaves_state_as_if_only_the_real_frames_came(codec, rows):
    begun = states(codec)
    codes = codes_of(4, 20, seed=2)
    n_frames = torch.tensor([20, 0, 1, 6])
    padded = codes.clone()
    for row, count in enumerate(n_frames.tolist()):
        padded[row, count:] = -12345
    samples = codec.decode(padded, rows, n_frames)
    after = states(codec)
    order = list(range(4))[rows] if isinstance(rows, slice) else rows.tolist()
    for index, (row, count) in enumerate(zip(order, n_frames.tolist(), strict=True)):
        codec.restore(row, begun[row])
        expected = codec.decode(codes[index : index + 1, :count], slice(row, row + 1))[0]
        assert_same(samples[index, : count * 1920], expected)
        assert samples[index, count * 1920 :].eq(0).all()
        assert after[row].position == codec.snapshot(row).position
        torch.testing.assert_close(after[row].history, codec.snapshot(row).history, rtol=0, atol=1e-4)
        assert count > 0 or identical(after[row], begun[row])


def test_snapshot_restored_elsewhere_goes_on_as_the_row_it_was_taken_from(codec, codes, golden):
    codec.reset(1)
    codec.decode(codes[:, :100], slice(1, 2))
    state = codec.snapshot(1)
    copy = state.history.clone()
    codec.decode(codes_of(1, 8, seed=3), slice(1, 2))
    assert torch.equal(state.history, copy)
    assert state.nbytes == codec.state_bytes_per_row
    for row in (3, 1):
        codec.restore(row, state)
        samples = codec.decode(codes[:, 100:110], slice(row, row + 1))
        assert_same(samples, golden[:, 100 * 1920 : 110 * 1920])
    assert torch.equal(state.history, copy)


@pytest.mark.parametrize("frames", [0, 1, 3, 4, 5, 7, 9, 10, 11, 64, 65, 150])
def test_primed_frames_leave_the_state_of_decoded_ones(codec, codes, golden, frames):
    for row in (0, 1):
        codec.reset(row)
        codec.decode(codes[:, :30], slice(row, row + 1))
    bystander = codec.snapshot(2)
    codec.decode(codes[:, 30 : 30 + frames], slice(0, 1))
    codec.prime(codes[0, 30 : 30 + frames], 1)
    decoded, primed = codec.snapshot(0), codec.snapshot(1)
    assert primed.position == decoded.position == 30 + frames
    torch.testing.assert_close(primed.history, decoded.history, rtol=0, atol=1e-4)
    end = 30 + frames + 20
    assert_same(codec.decode(codes[:, 30 + frames : end], slice(1, 2)), golden[:, (30 + frames) * 1920 : end * 1920])
    assert identical(codec.snapshot(2), bystander)


def test_reset_row_is_that_of_a_fresh_stream(codec, decoder):
    codec.reset(2)
    fresh = Codec(decoder, make_backend("packed"), rows=1, dtype=torch.float32, device=CPU)
    assert identical(codec.snapshot(2), fresh.snapshot(0))


def test_fewer_key_heads_than_query_heads_equal_the_whole_decode():
    grouped = build(num_key_value_heads=1)
    codes = codes_of(1, 90)
    codec = Codec(grouped, make_backend("packed"), rows=1, dtype=torch.float32, device=CPU)
    assert_same(codec.decode(codes, slice(0, 1)), whole(grouped, codes))


def test_bfloat16_is_as_near_to_float32_as_upstreams_own(decoder, codes, golden):
    codec = Codec(decoder, make_backend("plain"), rows=1, dtype=torch.bfloat16, device=CPU)
    frames, golden = 64, golden[:, : 64 * 1920]
    ours = torch.cat([codec.decode(codes[:, i : i + 8], slice(0, 1)) for i in range(0, frames, 8)], dim=1)
    upstreams = whole(build().to(torch.bfloat16), codes[:, :frames])
    error, allowed = ((samples - golden).square().mean().sqrt() for samples in (ours, upstreams))
    assert error < 1.2 * allowed
    assert error < 0.1 * golden.square().mean().sqrt()


@pytest.mark.parametrize("position", [0, 30, 71, 200])
def test_mask_is_that_of_transformers(decoder, position):
    frames = 100
    total = position + frames
    theirs = create_sliding_window_causal_mask(
        config=decoder.pre_transformer.config,
        input_embeds=torch.zeros(1, total, 1),
        attention_mask=None,
        cache_position=torch.arange(total),
        past_key_values=None,
    )
    padded = torch.cat([torch.zeros(total, 71, dtype=torch.bool), theirs[0, 0]], dim=1)  # key k stands for k - 71
    ours = sliding_mask(torch.tensor([position]), frames, 72)
    assert torch.equal(ours[0, 0] == 0, padded[position:, position : position + 71 + frames])


def test_shape_facts_come_from_the_configuration(pool):
    assert pool.samples_per_frame == 1920
    assert pool.num_quantizers == 4


@pytest.mark.parametrize("shape", [(1, 2, 16), (2, 4)])
def test_codes_of_another_shape_are_refused(codec, shape):
    with pytest.raises(ValueError, match=r"required: \[B, T, 4\]"):
        codec.decode(torch.zeros(shape, dtype=torch.int64), slice(0, 1))


def test_projection_behind_a_codebook_is_not_lost():
    projecting = build()
    torch.manual_seed(0)
    projecting.quantizer.rvq_rest.vq.layers[1].project_out = torch.nn.Linear(16, 16)
    codes = codes_of(1, 5)
    codec = Codec(projecting, make_backend("packed"), rows=1, dtype=torch.float32, device=CPU)
    assert_same(codec.decode(codes, slice(0, 1)), whole(projecting, codes))


def test_unsupported_configuration_is_refused():
    with pytest.raises(ValueError, match="attention_bias=True"):
        Codec(build(attention_bias=True), make_backend("packed"), rows=1, dtype=torch.float32, device=CPU)
