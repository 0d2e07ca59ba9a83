"""``tts-heads``: it finds the trained heads of the demonstration voice, and none in random weights."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli import heads
from serve_app.config import AlignmentHeadConfig, ModelConfig
from serve_app.errors import VoiceInvalidError
from serve_app.model.alignment_scores import GOOD, expected_characters, head_scores, score_of
from serve_app.model.checkpoint import AlignmentHead, CheckpointError, load_checkpoint
from serve_app.voices.voice import scan

VOICES = Path(__file__).parents[2] / "voices"
FRAMES, TOKENS, CHARACTERS = 100, 30, 130  # about as many as in 8 s with the released tokenizer


@pytest.fixture(scope="module")
def clip():
    (found,) = [voice for voice in scan(VOICES) if voice.reference is not None]
    return found.reference


def test_the_demonstration_voices_aligned_layer_is_found(demo, clip):
    configured = demo.model.talker.model.config._attn_implementation
    scores = head_scores(replace(demo, alignment_head=None), clip, "english")
    assert len(scores) == 16
    good = {(each.head.layer, each.head.head): each.head.frames_ahead for each in scores if each.score >= GOOD}
    assert (1, 0) in good.keys() <= {(1, 0), (2, 2)}
    assert (scores[0].head.layer, scores[0].head.head) == (1, 0)
    assert good[1, 0] <= 1
    assert max(good.values()) <= 2
    assert demo.model.talker.model.config._attn_implementation == configured


def test_no_head_of_random_weights_is_good_enough(clip):
    tiny = load_checkpoint(ModelConfig(source="tiny", device="cpu", dtype="float32"))
    best = [head_scores(tiny, clip, "english")[0].score]
    for seed, sharpness in enumerate((1, 1, 2, 4, 8)):
        torch.manual_seed(seed)
        for name, weight in tiny.model.talker.model.named_parameters():
            if "layers" in name and weight.dim() > 1:
                torch.nn.init.normal_(weight, 0, sharpness / weight.shape[1] ** 0.5)
        both = [replace(tiny, layouts=(layout,)) for layout in ("streaming", "whole")]
        best += [head_scores(each, clip, "english")[0].score for each in both]
    assert max(best) < GOOD / 2


@pytest.mark.parametrize("change", [{"transcript": None}, {"pcm": np.zeros(72_000, np.float32)}, {"seconds": 2}])
def test_a_clip_that_says_too_little_is_refused(checkpoint, clip, change):
    seconds = change.pop("seconds", None)
    pcm = clip.pcm[: seconds and seconds * clip.sample_rate_hz]
    with pytest.raises(VoiceInvalidError, match="heads are scored on"):
        head_scores(checkpoint, replace(clip, **{"pcm": pcm, **change}), "english")


def scored(looked, tokens=TOKENS):
    """Score a head on a clip whose text is spoken evenly."""
    characters = np.r_[-1, np.arange(tokens) * CHARACTERS // tokens].astype(np.int32)
    expected = (np.arange(FRAMES) + 0.5) / FRAMES * CHARACTERS
    return score_of(np.eye(tokens + 1, dtype=np.float32)[looked], characters, CHARACTERS, expected)


def in_step(frames_ahead=0, tokens=TOKENS):
    return 1 + np.minimum(tokens - 1, (np.arange(FRAMES) + frames_ahead) * tokens // FRAMES)


def test_a_head_that_follows_the_text_scores_almost_one():
    assert scored(in_step())[0] > 0.9


@given(st.integers(0, 5))
def test_the_frames_that_a_head_looks_ahead_are_found(frames_ahead):
    score, found = scored(in_step(frames_ahead))
    assert score > GOOD
    assert abs(found - frames_ahead) <= 1


@given(st.integers(0, FRAMES), st.sampled_from([TOKENS, 70, FRAMES]))
def test_a_fixed_distance_is_not_alignment(distance, tokens):
    assert scored(np.clip(1 + np.arange(FRAMES) - distance, 0, tokens), tokens)[0] < 0.5


def test_of_two_heads_the_sharper_one_scores_higher():
    blurred = np.full((FRAMES, TOKENS + 1), 0.3 / TOKENS, np.float32)
    blurred[np.arange(FRAMES), in_step()] = 0.7
    characters = np.r_[-1, np.arange(TOKENS) * CHARACTERS // TOKENS].astype(np.int32)
    expected = (np.arange(FRAMES) + 0.5) / FRAMES * CHARACTERS
    assert 0.6 < score_of(blurred, characters, CHARACTERS, expected)[0] < scored(in_step())[0]


@given(st.integers(0, TOKENS))
def test_one_place_is_not_alignment(token):
    assert scored(np.full(FRAMES, token))[0] < 0.3


@given(st.integers(0, 10_000))
def test_chance_is_not_alignment(seed):
    assert scored(np.random.default_rng(seed).integers(0, TOKENS + 1, FRAMES))[0] < 0.5


@given(st.integers(0, 10_000), st.floats(0, 0.1))
def test_a_frame_that_looks_elsewhere_costs_about_itself(seed, share):
    random = np.random.default_rng(seed)
    looked = np.where(random.random(FRAMES) < share, random.integers(0, TOKENS + 1, FRAMES), in_step())
    assert scored(looked)[0] > GOOD


@given(st.integers(0, 40), st.integers(0, 40))
def test_no_character_is_expected_in_silence(before, after):
    speech = np.sin(np.arange(50 * 1920) * 0.1).astype(np.float32)
    pcm = np.concatenate([np.zeros(before * 1920, np.float32), speech, np.zeros(after * 1920, np.float32)])
    expected = expected_characters(pcm, 24_000, before + 50 + after, CHARACTERS)
    assert not expected[:before].any()
    assert np.allclose(expected[before : before + 50], (np.arange(50) + 0.5) / 50 * CHARACTERS)
    assert np.allclose(expected[before + 50 :], CHARACTERS)


def test_the_configurations_head_comes_before_the_checkpoints():
    named = AlignmentHeadConfig(layer=1, head=3, frames_ahead=2)
    config = ModelConfig(source="demo", device="cpu", alignment_head=named)
    assert load_checkpoint(config).alignment_head == AlignmentHead(1, 3, 2)
    wrong = config.model_copy(update={"alignment_head": named.model_copy(update={"layer": 4})})
    with pytest.raises(CheckpointError, match=r"in the service's configuration \(model\) .* layer from 0 to 3"):
        load_checkpoint(wrong)


@pytest.fixture
def config_of(tmp_path):
    def write(source):
        path = tmp_path / f"{source}.yaml"
        args = {"model": {"source": source}, "voices": {"path": str(VOICES), "default": "austen"}}
        path.write_text(yaml.safe_dump({"applications": [{"import_path": "serve_app.app:build", "args": args}]}))
        return str(path)

    return write


def test_the_command_prints_what_the_configuration_takes(config_of, capsys):
    assert heads.main([config_of("demo"), "--show", "3"]) == 0
    *table, _, line = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    assert ModelConfig(**yaml.safe_load(line)).alignment_head.layer in (1, 2)
    assert heads.main([config_of("tiny")]) == 1
    assert "No head is good enough" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["absent.yaml"], "cannot read absent.yaml"),
        (["{empty}"], "must have exactly one application"),
        (["{tiny}", "--voice", "nobody"], "voice 'nobody' in .* is not there; allowed: austen"),
        (["{tiny}", "--voice", "makima"], "has no clip: .*; allowed: austen"),
        (["{nowhere}"], "model.source"),
    ],
)
def test_the_command_says_what_is_wrong(config_of, tmp_path, capsys, given, said):
    (tmp_path / "empty.yaml").write_text("[]")
    files = {"empty": str(tmp_path / "empty.yaml"), "tiny": config_of("tiny"), "nowhere": config_of("nowhere")}
    assert heads.main([each.format(**files) for each in given]) == 1
    assert re.search(said, capsys.readouterr().err)
