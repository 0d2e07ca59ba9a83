"""A replica's log says why it does not get the fastest code."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from test_linear import config

from serve_app.config import EngineConfig
from serve_app.model import checkpoint as checkpoint_module
from serve_app.model import factory, slow_paths
from serve_app.model.backends.cpu.cpu_backend import CpuBackend
from serve_app.model.backends.cpu.tiles import lossless
from serve_app.model.checkpoint import attention_of
from serve_app.model.factory import choose_backend, load_model
from serve_app.model.sampling import SamplingParams
from serve_app.model.slow_paths import Matrix

CUDA = torch.device("cuda")
DRAW = SamplingParams(0.9, 50, 1.0)


@pytest.mark.parametrize(
    ("flavour", "wide", "rounded", "says"),
    [
        ("avx512_vnni", True, True, []),
        ("avx512_vnni", True, False, []),
        ("avx2", True, False, []),
        ("avx2", True, True, ["no VNNI"]),
        ("avx_vnni", False, True, ["no AVX-512"]),
        ("avx2", False, True, ["no AVX-512", "no VNNI"]),
        ("portable", False, True, ["no AVX2"]),
    ],
)
def test_what_a_cpu_lacks_is_said(flavour, wide, rounded, says):
    found = slow_paths.of_cpu(flavour, wide=wide, rounded=rounded)
    assert len(found) == len(says)
    assert all(words in sentence for words, sentence in zip(says, found, strict=True))


@pytest.mark.parametrize(
    ("talker", "predictor", "device", "says"),
    [
        (DRAW, DRAW, "cpu", []),
        (DRAW, DRAW, "gpu", []),
        (SamplingParams(0.9, 300, 1.0), DRAW, "cpu", ["torch draws codebook 0: sampling keeps 300 codes"]),
        (
            DRAW,
            SamplingParams(0.9, 0, 1.0),
            "cpu",
            ["one codebook after the other, not as one compiled call: sampling keeps 2048"],
        ),
        (DRAW, SamplingParams(0.0, 0, 1.0), "cpu", []),
        (SamplingParams(0.9, 0, 1.0), DRAW, "gpu", ["sampling keeps 3072 codes, more than 64"]),
        (DRAW, SamplingParams(0.9, 65, 1.0), "gpu", ["sampling keeps 65 codes, more than 64"]),
        (SamplingParams(0.9, 0, 1.0), SamplingParams(0.9, 0, 1.0), "torch", []),
    ],
)
def test_sampling_that_considers_too_many_codes_is_said(talker, predictor, device, says):
    found = slow_paths.of_sampling(talker, predictor, (3072, 2048), on_cpu=device == "cpu", graphed=device == "gpu")
    assert len(found) == len(says)
    assert all(words in sentence for words, sentence in zip(says, found, strict=True))


def stack(hidden, gated, heads, kv_heads, dim, vocabulary):
    return SimpleNamespace(
        hidden_size=hidden, intermediate_size=gated, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=dim, vocab_size=vocabulary,
    )  # fmt: skip


def talker_of(talker, predictor):
    talker.code_predictor_config = predictor
    return talker


@pytest.mark.parametrize("hidden", [1024, 2048])
def test_the_releases_shapes_fit_the_kernels_of_a_gpu(hidden):
    talker = talker_of(stack(hidden, 3 * hidden, 16, 8, 128, 3072), stack(1024, 3072, 16, 8, 128, 2048))
    matrices, dims = slow_paths.matrices_of(talker)
    assert len(matrices) == 10 + (hidden == 2048)
    assert slow_paths.of_gpu(matrices, dims) == []


def test_shapes_that_do_not_fit_the_kernels_of_a_gpu_are_said_with_their_sizes():
    talker = talker_of(stack(1536, 4608, 12, 2, 96, 3072), stack(1024, 3000, 16, 8, 128, 2050))
    matrices, dims = slow_paths.matrices_of(talker)
    assert Matrix("code predictor's projection", 1024, 1536) in matrices
    masked, padded = slow_paths.of_gpu(matrices, dims)
    for words in ("attention output [1536, 1152]", "code predictor's down [1024, 3000]", "head [2050, 1024]"):
        assert words in masked
    assert "talker's down" not in masked
    assert "heads of 96" in padded


def test_each_backend_on_a_gpu_says_why_it_is_not_a_faster_one(bfloat16_checkpoint, checkpoint, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(factory, "what_is_missing", lambda device: "there is no Triton")
    on_gpu = dataclasses.replace(bfloat16_checkpoint, device=CUDA)
    for weights, given, says in (
        ("plain", on_gpu, "kernels cannot be compiled, because there is no Triton"),
        ("plain", dataclasses.replace(on_gpu, dtype=torch.float32), "our kernels read bfloat16, not float32"),
        ("torch", on_gpu, "because model.weights is 'torch'"),
        ("torch", checkpoint, "because model.weights is 'torch'"),
    ):
        caplog.clear()
        assert choose_backend(config(weights), given).label == "plain"
        assert says in caplog.text
        assert len(caplog.records) == 1


def test_a_voice_that_is_not_encoded_by_flash_attention_is_said(monkeypatch, caplog):
    caplog.set_level("INFO")
    installed = []
    monkeypatch.setattr(checkpoint_module.importlib.util, "find_spec", lambda name: installed or None)
    assert attention_of(torch.device("cpu"), torch.bfloat16) == "sdpa"
    assert not caplog.text
    assert attention_of(CUDA, torch.bfloat16) == attention_of(CUDA, torch.float32) == "sdpa"
    assert [record.message.partition("because ")[2] for record in caplog.records] == [
        "flash-attn is not installed",
        "the model is loaded in float32",
    ]
    installed.append("flash_attn")
    assert attention_of(CUDA, torch.bfloat16) == "flash_attention_2"


def test_what_a_load_finds_is_in_the_log_with_one_line_for_each_reason(bfloat16_checkpoint, monkeypatch, caplog):
    """A checkpoint whose defaults keep all codes, on a CPU that lacks everything."""
    caplog.set_level("INFO")
    every = SamplingParams(0.9, 0, 1.0)
    given = dataclasses.replace(bfloat16_checkpoint, talker_sampling=every, predictor_sampling=every)
    monkeypatch.setattr(factory, "load_checkpoint", lambda *_: given)
    monkeypatch.setattr(factory, "this_cpus", lambda: "portable")
    monkeypatch.setattr(factory, "WIDE", False)
    whole = config("plain").model_copy(update={"engine": EngineConfig(slots=1, max_positions=128)})
    load_model(whole, keep_upstream=True)
    slower = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(slower) == 3
    assert all(message.startswith("slower: ") for message in slower)
    assert "compiled for" in caplog.text


def test_the_kernels_of_a_gpu_are_asked_for_the_shapes_that_are_loaded(bfloat16_checkpoint):
    backend = CpuBackend(lossless(torch.bfloat16))
    backend.label = "fused"
    runner = SimpleNamespace(talker=SimpleNamespace(vocabulary=3072), predictor=SimpleNamespace(vocabulary=2048))
    reasons = factory._slower_because(dataclasses.replace(bfloat16_checkpoint, device=CUDA), backend, runner)
    assert any("talker's down [128, " in reason for reason in reasons)
