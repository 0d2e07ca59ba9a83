"""What only a GPU can show; skipped where torch sees none."""

import numpy as np
import pytest
import torch
from test_runner import COMBINATIONS, GREEDY, prepare, speak, whole_decode

from serve_app.config import AppConfig, EngineConfig, GeneratorConfig, ModelConfig
from serve_app.model.checkpoint import load_checkpoint
from serve_app.model.codec import Codec
from serve_app.model.factory import load_speaker
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
    return load_speaker(config)


@pytest.fixture(scope="module")
def speaker():
    return load("float32")


@pytest.fixture(scope="module")
def plain():
    checkpoint = load_checkpoint(ModelConfig(source="tiny", device="cuda", dtype="float32"))
    return TorchRunner(checkpoint, EngineConfig(slots=10, max_positions=512), "plain")


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
    codec = Codec(decoder, rows=3, dtype=torch.float32, device=torch.device("cuda"))
    codes = torch.randint(0, decoder.config.codebook_size, (2, 320, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = decoder(codes.transpose(1, 2))[:, 0]
    rows, parts, begin = torch.tensor([2, 0], device="cuda"), [], 0
    for frames in (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 88):
        parts.append(codec.decode(codes[:, begin : begin + frames].cuda(), rows).cpu())
        begin += frames
    assert begin == 320
    np.testing.assert_allclose(torch.cat(parts, dim=1).numpy(), expected.numpy(), atol=1e-5)


def test_graphs_are_kept_in_bfloat16_too():
    assert load("bfloat16").runner.graph_fallbacks == 0
