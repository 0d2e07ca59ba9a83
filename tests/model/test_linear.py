import copy
import dataclasses
import importlib.util
from types import SimpleNamespace

import pytest
import torch
from named_backends import make_backend
from precision import assert_within_ulps

from serve_app.config import AppConfig, EngineConfig, ModelConfig
from serve_app.model import factory
from serve_app.model.backends.cpu.compiled_stack import CompiledStack
from serve_app.model.backends.cpu.tiled_linear import TiledLinear
from serve_app.model.backends.cuda import requirements
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.backends.torch.torch_stack import TorchStack
from serve_app.model.checkpoint import CheckpointError
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.code_predictor import CodePredictor
from serve_app.model.factory import choose_backend
from serve_app.model.runner import TorchRunner
from serve_app.model.sampling import SamplingTensors
from serve_app.speech import Sampling, SpeechRequest

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="torch's CPU wheels come without Triton"
)


def matrices(rows, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(48, 64, generator=generator).to(dtype)
    x = torch.randn(rows, 2, 64, generator=generator).to(dtype)[:, -1:]  # as a state's last position lies
    return weight, x, torch.randn(rows, 1, 48, generator=generator).to(dtype)


@pytest.mark.parametrize("rows", [1, 3, 10, 100])
def test_a_plain_weight_is_multiplied_within_a_rounding(rows):
    weight, x, residual = matrices(rows, torch.bfloat16)
    exact = x.double() @ weight.double().T
    linear = PlainLinear(weight)
    assert_within_ulps(linear(x), exact, 1, of=exact.abs().max())
    total = exact + residual.double()  # rounded twice
    assert_within_ulps(linear(x, residual), total, 2, of=total.abs().max())
    assert linear.nbytes == weight.nbytes


@pytest.mark.parametrize("rows", [1, 10])
def test_an_int8_weight_is_off_by_its_steps_alone(rows):
    weight, x, residual = matrices(rows, torch.bfloat16)
    exact = x.float() @ weight.float().T
    error = (TiledLinear(weight, "int8")(x).float() - exact).std() / exact.std()
    assert error < 0.015
    with_residual = TiledLinear(weight, "int8")(x, residual).float()
    assert (with_residual - exact - residual.float()).std() / exact.std() < 0.02
    assert weight.numel() < TiledLinear(weight, "int8").nbytes < 2 * weight.numel()


def test_an_int8_row_does_not_depend_on_its_batch():
    weight, x, residual = matrices(10, torch.bfloat16)
    x[3] *= 1000  # a scale of the batch would crush the others
    together = TiledLinear(weight, "int8")(x, residual)
    for row in range(10):
        alone = TiledLinear(weight, "int8")(x[row : row + 1], residual[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)


def config(weights, slots=4):
    return AppConfig(model=ModelConfig(weights=weights), engine=EngineConfig(slots=slots, max_positions=512))


def test_int8_moves_the_logits_little_and_bfloat16_less(checkpoint, bfloat16_checkpoint, voices):
    """The bound is this checkpoint's: sharp random weights magnify every rounding, trained ones are smoother."""
    logits = {}
    for name, backend, source in (
        ("float32", "plain", checkpoint),
        ("bfloat16", "packed", bfloat16_checkpoint),
        ("int8", "int8", bfloat16_checkpoint),
    ):
        runner = TorchRunner(source, EngineConfig(slots=1, max_positions=512), make_backend(backend, source.dtype))
        request = SpeechRequest("Hello there.", "austen", "english", sampling=Sampling(temperature=0))
        runner.prefill([0], [runner.prepare(request, voices["austen"])])
        logits[name] = runner.slot_tensors.logits[0]
    spread = logits["float32"].std()
    moved = {name: ((logits[name] - logits["float32"]).std() / spread).item() for name in ("bfloat16", "int8")}
    assert moved["bfloat16"] < 0.1
    assert moved["bfloat16"] < moved["int8"] < 0.25


def test_int8_and_int4_move_the_code_predictors_logits_so_far(checkpoint, bfloat16_checkpoint):
    """Of all fifteen codebooks, the same codes forced; the bounds are this checkpoint's, see above."""
    sources = {"plain": checkpoint, **dict.fromkeys(("packed", "int8", "int4"), bfloat16_checkpoint)}
    logits = {}
    for backend, source in sources.items():
        seen = []
        runner = TorchRunner(source, EngineConfig(slots=1, max_positions=512), make_backend(backend, source.dtype))

        def choose(codebook, row, seen=seen):
            seen.append(row[0])
            return torch.tensor([17 * codebook])

        width = runner.prompts.codes.table.shape[1]
        hidden = torch.randn(1, width, generator=torch.Generator().manual_seed(1)).to(source.dtype)
        with torch.inference_mode():
            runner.predictor.step_through(hidden, torch.tensor([5]), choose)
        logits[backend] = torch.stack(seen)
    plain = logits["plain"]
    moved = {backend: ((rows - plain).std() / plain.std()).item() for backend, rows in logits.items()}
    assert moved["packed"] < moved["int8"] < moved["int4"]
    assert moved["int8"] < 0.1
    assert moved["int4"] < 0.5


@pytest.mark.parametrize(("weights", "backend"), [("plain", "packed"), ("int8", "int8"), ("int4", "int4")])
def test_the_configured_form_is_taken(bfloat16_checkpoint, weights, backend):
    assert choose_backend(config(weights), bfloat16_checkpoint).label == backend


@needs_triton
def test_on_a_gpu_bfloat16_is_fused_where_kernels_can_be_compiled(bfloat16_checkpoint, monkeypatch, caplog):
    on_gpu = dataclasses.replace(bfloat16_checkpoint, device=torch.device("cuda"))
    monkeypatch.setattr(factory, "what_is_missing", lambda device: None)
    assert choose_backend(config("plain"), on_gpu).label == "fused"
    assert choose_backend(config("torch"), on_gpu).label == "plain"
    assert not caplog.text
    assert choose_backend(config("plain"), dataclasses.replace(on_gpu, dtype=torch.float32)).label == "plain"
    assert "our kernels read bfloat16, not float32" in caplog.text
    monkeypatch.setattr(factory, "what_is_missing", lambda device: "there is no Triton")
    assert choose_backend(config("plain"), on_gpu).label == "plain"
    assert "there is no Triton" in caplog.text


def test_torchs_products_are_taken_where_they_are_asked_for(bfloat16_checkpoint):
    assert choose_backend(config("torch"), bfloat16_checkpoint).label == "plain"


def test_what_kernels_need_is_asked_for_one_after_the_other(monkeypatch, tmp_path):
    gpu, capability, found = torch.device("cuda"), [(7, 5)], [None]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for another platform" in requirements.what_is_missing(gpu)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: found[0])
    monkeypatch.setattr(requirements.shutil, "which", {}.get)
    monkeypatch.setattr(requirements, "_python_headers", lambda: tmp_path)
    monkeypatch.delenv("CC", raising=False)
    assert "compute capability 7.5, and the kernels need 8.0" in requirements.what_is_missing(gpu)
    capability[0] = (9, 0)
    assert "Triton is not installed" in requirements.what_is_missing(gpu)
    found[0] = "a specification"
    assert "compiler" in requirements.what_is_missing(gpu)
    monkeypatch.setenv("CC", "cc")
    assert str(tmp_path) in requirements.what_is_missing(gpu)
    (tmp_path / "Python.h").touch()
    assert requirements.what_is_missing(gpu) is None


@pytest.mark.parametrize("backend", ["packed", "int8"])
def test_states_of_a_wider_talker_are_projected_to_the_predictors_width_in_any_batch(bfloat16_checkpoint, backend):
    upstream = bfloat16_checkpoint.model.talker.code_predictor
    talker = copy.deepcopy(bfloat16_checkpoint.model.talker.config)
    talker.hidden_size = 2 * upstream.config.hidden_size
    torch.manual_seed(0)
    module = type(upstream)(upstream.config, talker).eval().bfloat16()
    torch.nn.init.normal_(module.small_to_mtp_projection.bias)
    states, embedded = torch.randn(2, 3, talker.hidden_size).bfloat16()
    first = torch.nn.Embedding(8, talker.hidden_size).bfloat16()
    embedding = CodeEmbedding(SimpleNamespace(model=SimpleNamespace(codec_embedding=first), code_predictor=module))
    embedding.table[:3] = embedded
    predictor = CodePredictor(module, embedding, make_backend(backend, torch.bfloat16), slots=3)

    def logits_of(rows):
        seen = []

        def choose(_codebook, logits):
            seen.append(logits)
            return logits.argmax(-1)

        firsts = torch.arange(3)  # whose embeddings are those of the states
        predictor.step_through(states[rows], firsts[rows], choose)
        return torch.stack(seen)

    together = logits_of(slice(0, 3))
    for row in range(3):
        assert torch.equal(logits_of(slice(row, row + 1))[:, 0], together[:, row])
    stepped = predictor.step_through(states, torch.arange(3), lambda _codebook, logits: logits.argmax(-1))
    greedy = SamplingTensors(3, torch.device("cpu"))
    in_one_call = predictor.sample_frame(states, torch.arange(3), torch.zeros(3, 16), greedy, slice(0, 3), None)
    assert torch.equal(in_one_call, stepped)
    inputs = module.small_to_mtp_projection(torch.stack((states, embedded), dim=1))
    expected = module.lm_head[0](module.model(inputs_embeds=inputs).last_hidden_state[:, -1]).float()
    assert (together[0] - expected).std() / expected.std() < (0.02 if backend == "packed" else 0.1)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_rounded_weights_are_refused_where_they_cannot_be_computed(checkpoint, weights):
    with pytest.raises(CheckpointError, match=f"'{weights}', which needs a CPU and bfloat16"):
        choose_backend(config(weights), checkpoint)


def test_each_backend_has_matmuls_of_its_own():
    weight, bias, x = torch.randn(8, 8), torch.randn(8), torch.randn(3, 8)
    assert isinstance(make_backend("plain").linear(weight), PlainLinear)
    assert isinstance(make_backend("packed").linear(weight), TiledLinear)
    assert isinstance(make_backend("int8").linear(weight.bfloat16()), TiledLinear)
    for name in ("plain", "packed"):
        exact = x.double() @ weight.double().T + bias.double()
        assert_within_ulps(make_backend(name).linear(weight, bias)(x), exact, 8, of=exact.abs().max())


def test_an_exact_matmul_keeps_its_weight_beside_rounded_ones():
    weight, x, _ = matrices(3, torch.bfloat16)
    exact = x.double() @ weight.double().T
    for name in ("plain", "packed", "int8", "int4"):
        linear = make_backend(name, torch.bfloat16).linear(weight, exact=True)
        assert_within_ulps(linear(x), exact, 1, of=exact.abs().max())


@pytest.mark.parametrize("weights", ["plain", "int8", "torch"])
def test_a_bfloat16_codec_is_refused_on_a_cpu(bfloat16_checkpoint, weights):
    rounded = dataclasses.replace(bfloat16_checkpoint, codec_dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="codec_dtype is 'bfloat16', which needs a GPU; allowed on a CPU: 'auto'"):
        choose_backend(config(weights), rounded)
    assert choose_backend(config("torch"), dataclasses.replace(rounded, device=torch.device("cuda"))).label == "plain"


@pytest.mark.parametrize(
    ("backend", "stack"),
    [("plain", TorchStack), ("packed", CompiledStack), ("int8", CompiledStack), ("int4", CompiledStack)],
)
def test_a_stack_on_a_cpu_is_compiled_unless_its_weights_stay_as_they_are(bfloat16_checkpoint, backend, stack):
    runner = TorchRunner(
        bfloat16_checkpoint, EngineConfig(slots=1, max_positions=512), make_backend(backend, torch.bfloat16)
    )
    assert isinstance(runner.talker.stack, stack)
    assert isinstance(runner.predictor.stack, stack)


def test_a_float32_stack_is_compiled_too(checkpoint):
    runner = TorchRunner(
        checkpoint, EngineConfig(slots=1, max_positions=512), choose_backend(config("plain"), checkpoint)
    )
    assert isinstance(runner.talker.stack, CompiledStack)
    assert isinstance(runner.predictor.stack, CompiledStack)


@needs_triton
def test_a_fused_runner_has_fused_stacks_and_heads(bfloat16_checkpoint):
    runner = TorchRunner(bfloat16_checkpoint, EngineConfig(slots=1, max_positions=512), make_backend("fused"))
    plain = TorchRunner(bfloat16_checkpoint, EngineConfig(slots=1, max_positions=512), make_backend("plain"))
    for ours, torchs in ((runner.talker, plain.talker), (runner.predictor, plain.predictor)):
        assert type(ours.stack).__name__ == "FusedStack"
        assert ours.weight_bytes == torchs.weight_bytes
    assert type(runner.talker._head).__name__ == "FusedLinear"
