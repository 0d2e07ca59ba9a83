"""AudioSeal's watermark, with random weights in the shapes of its streaming generator."""

import sys

import numpy as np
import pytest
import torch
from audioseal.libs.moshi.utils.compile import no_compile
from random_watermark import random_generator, saved

from serve_app.config import ModelConfig, WatermarkConfig
from serve_app.model.locate import CheckpointError
from serve_app.model.watermark import load_watermark

CPU = torch.device("cpu")
PCM = np.random.default_rng(0).normal(0, 0.1, 6 * 1920).astype(np.float32)


@pytest.fixture(scope="module")
def generator():
    """AudioSeal's own generator."""
    return random_generator()


@pytest.fixture(scope="module")
def weights(generator, tmp_path_factory):
    return saved(generator, tmp_path_factory.mktemp("audioseal"))


def marked(watermark, *pieces):
    states = watermark.begin()
    return np.concatenate([watermark.mark(piece, states) for piece in pieces])


@pytest.mark.parametrize("cuts", [[], [1920], [320, 640, 4160], list(range(1920, len(PCM), 1920))])
def test_pieces_are_marked_as_audioseal_marks_the_whole(generator, weights, cuts):
    watermark = load_watermark(WatermarkConfig(weights=weights, message=0x8001, strength=0.5), CPU)
    message = torch.tensor([[1] + [0] * 14 + [1]])
    with torch.inference_mode(), no_compile():
        mark = generator.get_watermark(torch.from_numpy(PCM)[None, None], message=message)[0, 0].numpy()
    assert np.abs(mark).max() > 1e-3
    np.testing.assert_allclose(marked(watermark, *np.split(PCM, cuts)), PCM + 0.5 * mark, atol=1e-6)


def test_weights_in_two_parts_are_loaded(generator, weights, tmp_path):
    parts = {}
    for name, value in torch.load(weights)["model"].items():
        if value.ndim == 3:
            parts |= {f"{name}_v": value, f"{name}_g": value.norm(dim=(1, 2), keepdim=True)}
        else:
            parts[name] = value
    assert any(name.endswith("weight_g") for name in parts)
    torch.save({"model": parts}, tmp_path / "parts.pth")
    in_parts, whole = (
        load_watermark(WatermarkConfig(weights=str(each)), CPU) for each in (tmp_path / "parts.pth", weights)
    )
    np.testing.assert_allclose(marked(in_parts, PCM), marked(whole, PCM), atol=1e-5)


def test_samples_stay_within_full_scale(weights):
    watermark = load_watermark(WatermarkConfig(weights=weights, strength=2), CPU)
    assert np.abs(marked(watermark, np.sign(PCM))).max() == 1


def test_streams_take_turns_and_do_not_change_each_other(weights):
    watermark = load_watermark(WatermarkConfig(weights=weights), CPU)
    texts = [PCM, PCM[::-1]]
    alone = [marked(watermark, pcm) for pcm in texts]
    states = [watermark.begin() for _ in texts]
    turns = [
        [watermark.mark(pcm[at : at + 1920], state) for pcm, state in zip(texts, states, strict=True)]
        for at in range(0, len(PCM), 1920)
    ]
    for whole, pieces in zip(alone, zip(*turns, strict=True), strict=True):
        np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


@pytest.mark.parametrize("samples", [0, 1, 319, 321, 1919])
def test_any_number_of_samples_is_marked_as_if_silence_came_before(weights, samples):
    watermark = load_watermark(WatermarkConfig(weights=weights), CPU)
    silence = np.zeros(-samples % 320, np.float32)
    whole = marked(watermark, np.concatenate([silence, PCM[:samples], PCM[:1920]]))
    np.testing.assert_allclose(marked(watermark, PCM[:samples], PCM[:1920]), whole[len(silence) :], atol=1e-6)


def test_what_is_no_sound_is_marked_as_silence(weights):
    watermark = load_watermark(WatermarkConfig(weights=weights), CPU)
    broken = PCM[:1920].copy()
    broken[700] = np.nan
    assert np.isfinite(marked(watermark, broken, PCM[:1920])[1920:]).all()


def test_messages_differ_in_their_marks(weights):
    marks = [marked(load_watermark(WatermarkConfig(weights=weights, message=each), CPU), PCM) for each in (0, 1)]
    assert np.abs(marks[0] - marks[1]).max() > 1e-4


def test_a_file_that_does_not_have_the_weights_is_refused(tmp_path, monkeypatch, weights):
    with pytest.raises(CheckpointError, match="not a file"):
        load_watermark(WatermarkConfig(weights=str(tmp_path / "absent.pth")), CPU)
    for content in (b"", b"no weights", b"PK\x03\x04"):
        (tmp_path / "broken.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="streaming generator"):
            load_watermark(WatermarkConfig(weights=str(tmp_path / "broken.pth")), CPU)
    torch.save({"model": {"other": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="streaming generator"):
        load_watermark(WatermarkConfig(weights=str(tmp_path / "other.pth")), CPU)
    partial = {name: value for name, value in torch.load(weights)["model"].items() if name.startswith("encoder")}
    torch.save({"model": partial}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other names"):
        load_watermark(WatermarkConfig(weights=str(tmp_path / "other.pth")), CPU)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="streaming generator"):
        load_watermark(WatermarkConfig(weights=str(tmp_path / "list.pth")), CPU)
    monkeypatch.setitem(sys.modules, "audioseal", None)
    with pytest.raises(CheckpointError, match=r"pip install 'qwen3-tts-serve\[watermark\]'"):
        load_watermark(WatermarkConfig(weights=weights), CPU)


@pytest.mark.parametrize("wrong", [{}, {"weights": ""}, {"message": 65536}, {"strength": 0}])
def test_settings_out_of_range_are_refused(wrong):
    wrong = {"weights": "a", **wrong} if wrong else wrong
    with pytest.raises(ValueError, match="watermark"):
        ModelConfig(watermark=wrong)
