import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from serve_app.config import AppConfig, EngineConfig, GeneratorConfig, ModelConfig
from serve_app.errors import SpeechError
from serve_app.model import checkpoint as module
from serve_app.model import factory, memory
from serve_app.model.checkpoint import layouts_of, load_checkpoint, origin
from serve_app.model.factory import LoadedModel, load_model
from serve_app.model.locate import DEMO, CheckpointError
from serve_app.model.upstream import import_qwen_tts
from serve_app.speech import SpeechEnd, SpeechRequest
from serve_app.startup import NotYetError
from serve_app.voices.voice import Reference


def test_a_prompt_is_what_upstream_makes_of_the_clip(checkpoint, voices):
    rate_hz = 24_000
    pcm = (0.2 * np.sin(np.arange(4 * rate_hz) * 0.03)).astype(np.float32)
    ours = checkpoint.encode(Reference("v", pcm, rate_hz, "words", "d"))
    (theirs,) = checkpoint.upstream.create_voice_clone_prompt(ref_audio=(pcm, rate_hz), ref_text="words")
    np.testing.assert_array_equal(ours.codes, theirs.ref_code.numpy())
    np.testing.assert_array_equal(ours.speaker_embedding, theirs.ref_spk_embedding.numpy())
    assert ours.codes.shape == (50, 16)
    assert voices["xvector"].codes is None


def test_a_hub_id_that_cannot_be_had_names_the_choices(offline):
    with pytest.raises(NotYetError) as refused:
        load_checkpoint(ModelConfig(source="nobody/has-this-model"))
    for word in ("nobody/has-this-model", "Qwen/Qwen3-TTS-12Hz-0.6B-Base", "local directory", "'tiny'"):
        assert word in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu():
    with pytest.raises(CheckpointError, match="no GPU"):
        load_checkpoint(ModelConfig(source="tiny", device="cuda"))


def test_the_description_says_that_weights_are_random(checkpoint):
    assert checkpoint.weights == "random"
    assert "noise, not speech" in checkpoint.description


def test_the_demonstration_voice_is_known_by_its_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(DEMO.parent)
    assert [origin(path) for path in (DEMO, Path("demo"), tmp_path)] == ["demo", "demo", "trained"]


def test_upstreams_own_sampling_defaults_are_taken(checkpoint):
    assert dataclasses.astuple(checkpoint.talker_sampling) == (0.9, 50, 1.0, 1.05)
    assert dataclasses.astuple(checkpoint.predictor_sampling) == (0.9, 50, 1.0, 1.0)


def test_a_checkpoint_knows_all_layouts_unless_its_configuration_lists_them(checkpoint):
    assert checkpoint.layouts == layouts_of(None) == ("streaming", "whole")
    assert layouts_of(["whole"]) == ("whole",)
    for wrong in ([], ["streaming", "other"], [{}], "streaming", {"streaming": True}):
        with pytest.raises(CheckpointError, match=r"prompt_layouts .*; allowed: a list of streaming, whole"):
            layouts_of(wrong)


def test_the_demonstration_voice_is_not_loaded_for_a_layout_that_it_was_not_trained_with():
    config = {"model": {"source": "demo", "device": "cpu"}, "text": {"prompt": "whole"}}
    with pytest.raises(
        CheckpointError, match=r"text\.prompt is 'whole', which demo was not trained with; .*'streaming'"
    ):
        load_model(AppConfig.model_validate(config))


def test_importing_qwen_tts_twice_gives_the_same_module():
    assert import_qwen_tts() is import_qwen_tts()


@pytest.fixture(scope="module")
def speaker():
    config = AppConfig(
        model=ModelConfig(source="tiny", device="cpu", threads=1), engine=EngineConfig(slots=2, max_positions=512)
    )
    loaded = load_model(config)
    loaded.engine.start()
    yield loaded
    loaded.engine.stop()


def test_the_warm_up_speaks_a_whole_sentence(speaker: LoadedModel, voices, caplog):
    caplog.set_level("INFO")
    speaker.warm_up(voices["austen"])
    assert "warm-up" in caplog.text
    assert speaker.engine.healthy
    assert speaker.engine.load.running == 0


def test_a_failing_warm_up_is_an_error(speaker: LoadedModel, voices, monkeypatch):
    def broken(slots, prepared):
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(speaker.runner, "prefill", broken)
    with pytest.raises(SpeechError, match="warm-up"):
        speaker.warm_up(voices["austen"])


def test_a_device_without_memory_refuses_that_stream_alone(speaker: LoadedModel, voices, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(speaker.runner.talker, "prefill", full)
    with pytest.raises(SpeechError) as refused:
        speaker.warm_up(voices["austen"])
    assert refused.value.code == "CAPACITY"
    monkeypatch.undo()
    speaker.warm_up(voices["austen"])


def test_an_end_is_the_last_thing_said(speaker: LoadedModel, voices):
    events = []
    stream = speaker.engine.submit(speaker.runner.prepare(SpeechRequest("a", "v"), voices["xvector"]), events.append)
    stream.cancel()
    speaker.warm_up(voices["xvector"])
    assert [type(event) for event in events].count(SpeechEnd) == 1
    assert isinstance(events[-1], SpeechEnd)


def without_memory(monkeypatch, free_bytes):
    """A GPU on which a model ran out of memory, as torch tells it; how often it was given back what was loaded."""
    emptied = []

    def fails(*_arguments, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(factory, "load_checkpoint", fails)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, 100 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 1 << 30)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    return emptied


def test_gpu_memory_that_others_hold_is_waited_for_and_what_was_loaded_is_given_back(monkeypatch):
    emptied = without_memory(monkeypatch, 1 << 20)
    with pytest.raises(NotYetError, match="GPU memory") as missing:
        load_model(AppConfig())
    assert emptied == [1]
    assert missing.value.check_again_s == memory.CHECK_AGAIN_S
    assert missing.value.__context__ is None  # which would keep what was loaded


def test_gpu_memory_that_will_never_be_enough_is_an_error(monkeypatch):
    without_memory(monkeypatch, 90 << 30)
    with pytest.raises(CheckpointError, match=r"generator\.num_gpus"):
        load_model(AppConfig(generator=GeneratorConfig(num_gpus=0.02)))


def test_a_checkpoint_with_other_weights_anywhere_has_another_fingerprint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(8 << 20)
    file = tmp_path / "model.safetensors"
    file.write_bytes(weights)
    seen = {module._fingerprint(tmp_path, torch.float32, torch.float32)}
    for part in range(8):
        changed = weights.copy()
        changed[part << 20 : (part + 1) << 20] = b"x" * (1 << 20)
        file.write_bytes(changed)
        seen.add(module._fingerprint(tmp_path, torch.float32, torch.float32))
    seen.add(module._fingerprint(tmp_path, torch.bfloat16, torch.float32))
    seen.add(module._fingerprint(tmp_path, torch.bfloat16, torch.bfloat16))
    assert len(seen) == 11
