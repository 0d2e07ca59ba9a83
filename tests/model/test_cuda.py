"""What only a GPU can show; skipped where torch sees none."""

import numpy as np
import pytest
import torch
from named_backends import make_backend
from test_runner import (
    COMBINATIONS,
    GREEDY,
    check_that_batching_and_resumption_change_no_code,
    prepare,
    speak,
    whole_decode,
)

from serve_app.config import AppConfig, EngineConfig, GeneratorConfig, ModelConfig
from serve_app.model.backends.torch.torch_stack import TorchStack
from serve_app.model.checkpoint import load_checkpoint
from serve_app.model.codec import Codec
from serve_app.model.factory import load_model
from serve_app.model.runner import TorchRunner
from serve_app.speech import Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

FRAMES = 24


def load(dtype, **model):
    config = AppConfig(
        model=ModelConfig(source="tiny", device="cuda", dtype=dtype, codec_dtype="float32", **model),
        engine=EngineConfig(slots=10, max_positions=512, audio_chunk_max_frames=4),
        generator=GeneratorConfig(num_gpus=0.25),
    )
    return load_model(config)


@pytest.fixture(scope="module")
def speaker():
    return load("float32")


@pytest.fixture(scope="module")
def plain():
    checkpoint = load_checkpoint(ModelConfig(source="tiny", device="cuda", dtype="float32"))
    return TorchRunner(checkpoint, EngineConfig(slots=10, max_positions=512), make_backend("plain"))


def test_graphs_are_kept_and_the_memory_is_limited(speaker):
    assert speaker.runner.graph_fallbacks == 0
    assert speaker.runner._graphs is not None
    assert torch.cuda.get_per_process_memory_fraction() == 0.25


@pytest.mark.parametrize("stagger", [0, 2])
def test_greedy_codes_and_audio_equal_upstreams_on_a_cpu(speaker, checkpoint, voices, upstream_codes, stagger):
    jobs = [prepare(speaker.runner, voices, *combination) for combination in COMBINATIONS]
    spoken = speak(speaker.runner, jobs, stagger)
    for (text, language, voice), (codes, pcm) in zip(COMBINATIONS, spoken, strict=True):
        np.testing.assert_array_equal(codes, upstream_codes(text, language, voices[voice], FRAMES))
        np.testing.assert_allclose(pcm, whole_decode(checkpoint, voices[voice], codes), atol=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=0)], ids=["greedy", "seeded", "all"])
def test_captured_steps_give_what_the_plain_ones_give(speaker, plain, voices, sampling):
    fields = {"seed": 3, "sampling": sampling}
    jobs = [
        [prepare(runner, voices, *combination, **fields) for combination in COMBINATIONS[:6]]
        for runner in (speaker.runner, plain)
    ]
    captured, expected = speak(speaker.runner, jobs[0], stagger=2), speak(plain, jobs[1], stagger=2)
    for (codes, pcm), (plain_codes, plain_pcm) in zip(captured, expected, strict=True):
        np.testing.assert_array_equal(codes, plain_codes)
        np.testing.assert_allclose(pcm, plain_pcm, atol=1e-5)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling()], ids=["greedy", "seeded"])
def test_a_stream_resumed_at_any_frame_goes_on_as_if_uninterrupted(speaker, voices, sampling):
    runner, fields = speaker.runner, {"seed": 5, "sampling": sampling}
    ((codes, pcm),) = speak(runner, [prepare(runner, voices, "Where was I?", "english", "austen", **fields)], frames=14)
    for cut in range(1, len(codes)):
        job = prepare(runner, voices, "Where was I?", "english", "austen", delivered_codes=codes[:cut], **fields)
        ((rest, rest_pcm),) = speak(runner, [job], frames=len(codes) - cut)
        np.testing.assert_array_equal(rest, codes[cut:])
        np.testing.assert_allclose(rest_pcm, pcm[cut * 1920 :], atol=1e-5)


def test_any_cut_of_a_code_sequence_gives_the_samples_of_one_whole_decode(checkpoint):
    decoder = checkpoint.model.speech_tokenizer.model.decoder
    codec = Codec(decoder, make_backend("plain"), rows=3, dtype=torch.float32, device=torch.device("cuda"))
    codes = torch.randint(0, decoder.config.codebook_size, (2, 320, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = decoder(codes.transpose(1, 2))[:, 0]
    rows, parts, begin = torch.tensor([2, 0], device="cuda"), [], 0
    for frames in (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 88):
        parts.append(codec.decode(codes[:, begin : begin + frames].cuda(), rows).cpu())
        begin += frames
    assert begin == 320
    np.testing.assert_allclose(torch.cat(parts, dim=1).numpy(), expected.numpy(), atol=1e-5)


def test_graphs_are_kept_with_torchs_products_of_bfloat16():
    speaker = load("bfloat16", weights="torch")
    assert speaker.backend.label == "plain"
    assert isinstance(speaker.runner.talker.stack, TorchStack)
    assert speaker.runner.graph_fallbacks == 0


@pytest.fixture(scope="module")
def fused():
    return load("bfloat16")


def test_in_bfloat16_our_own_kernels_run_and_their_graphs_are_kept(fused):
    assert fused.backend.label == "fused"
    assert fused.runner.graph_fallbacks == 0
    talker_steps = [shape for shape in fused.runner._graphs._captured if shape[0] == "talker_step"]
    assert len(talker_steps) == fused.runner.slots


def test_in_bfloat16_batching_and_resumption_change_no_code(fused, voices):
    check_that_batching_and_resumption_change_no_code(fused.runner, voices)


def test_graphs_change_no_code_of_a_bfloat16_stream(fused, voices):
    jobs = [prepare(fused.runner, voices, *combination, sampling=Sampling()) for combination in COMBINATIONS[:6]]
    captured, graphs = speak(fused.runner, jobs, stagger=2), fused.runner._graphs
    fused.runner.use_graphs(None)
    try:
        plain = speak(fused.runner, jobs, stagger=2)
    finally:
        fused.runner.use_graphs(graphs)
    for (codes, _), (expected, _) in zip(captured, plain, strict=True):
        np.testing.assert_array_equal(codes, expected)


def test_our_own_kernels_are_no_farther_from_float32_than_torchs(checkpoint):
    """The same prompt through three talkers; the bound on each is of sharp random weights."""
    x = torch.randn(1, 40, 128, generator=torch.Generator().manual_seed(1)).bfloat16()

    def prefill(talker, x):
        return talker.prefill(
            x, slice(0, 1), torch.tensor([0], device=x.device), torch.tensor([40], device=x.device), 40
        )

    exact = prefill(
        TorchRunner(checkpoint, EngineConfig(slots=1, max_positions=512), make_backend("plain")).talker, x.float()
    )
    source = load_checkpoint(ModelConfig(source="tiny", device="cuda", dtype="bfloat16"))
    moved = {}
    for form in ("plain", "fused"):
        talker = TorchRunner(source, EngineConfig(slots=1, max_positions=512), make_backend(form)).talker
        given = prefill(talker, x.cuda())
        moved[form] = [((one.cpu() - two).norm() / two.norm()).item() for one, two in zip(given, exact, strict=True)]
    assert max(moved["fused"]) < 0.05
    assert all(ours < 1.2 * torchs for ours, torchs in zip(moved["fused"], moved["plain"], strict=True))
