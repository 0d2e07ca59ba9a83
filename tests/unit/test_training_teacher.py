import random

import numpy as np
import pytest

pytest.importorskip("hibari", reason="the teacher is in the extra 'training'")
pytest.importorskip("wordfreq", reason="the words are in the extra 'training'")

from training import phase, phones
from training.features import band_features
from training.sentences import sentence
from training.teacher import Teacher
from training.voice import Voice


@pytest.fixture(scope="module")
def teacher():
    return Teacher()


def test_an_utterance_has_whole_frames_and_a_duration_for_each_phoneme(teacher):
    said = teacher.say("Nobody knows.", Voice(1.1, 0.7))
    frames = len(said.pitch_codes)
    assert len(said.phonemes) == len(said.durations)
    assert len(said.samples) == frames * phase.FRAME_SAMPLES
    assert frames == int(np.ceil(said.durations.sum() / phones.UNITS))
    assert 0.02 < said.samples.std() < 0.3
    assert band_features(said.samples).shape[0] == frames
    said_sounds = phones.triples(said.phonemes, phones.spoken_at(said.durations, frames))
    assert {sound for triple in said_sounds for sound in triple} >= set("nObd")


def test_a_lower_voice_has_fewer_periods_a_frame(teacher):
    low, high = (teacher.say("Nobody knows.", Voice(1.0, pitch)) for pitch in (0.65, 1.2))
    medians = [np.median(phase.periods_and_bends(each.pitch_codes[each.pitch_codes > 0])[0]) for each in (low, high)]
    assert medians[0] / medians[1] == pytest.approx(0.65 / 1.2, rel=0.1)


def test_several_sentences_are_not_one_utterance(teacher):
    assert teacher.say("One. Two more.", Voice()) is None


def test_sentences_follow_from_the_seed_and_have_single_spaces():
    texts = [sentence(random.Random(seed)) for seed in range(50)]
    assert texts == [sentence(random.Random(seed)) for seed in range(50)]
    assert len(set(texts)) > 45
    assert not any("  " in text or text != text.strip() for text in texts)
