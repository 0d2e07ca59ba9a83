"""The pure parts of the recipe in training/: no teacher, no model."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from training import alignment, codes, features, loop, phase, phones, reading, recordings, scores, shapes, shards
from training.phones import TripleTable
from training.shards import Spoken
from training.voice import Voice, envelope, random_voice, stretched

PITCH = st.lists(st.one_of(st.just(0.0), st.floats(70.0, 400.0)), min_size=1, max_size=60)


@examples(40)
@given(PITCH)
def test_a_frame_holds_whole_periods(pitch_hz):
    locked = phase.lock(np.array(pitch_hz))
    ends = locked.phase[phase.FRAME_SAMPLES - 1 :: phase.FRAME_SAMPLES]
    assert np.allclose(ends, np.rint(ends), atol=1e-6)
    assert len(locked.phase) == len(locked.codes) * phase.FRAME_SAMPLES >= len(pitch_hz) * phase.HOP_SAMPLES
    assert (np.diff(locked.phase) >= 0).all()


@examples(40)
@given(PITCH)
def test_the_pulses_of_a_frame_follow_from_its_pitch_code(pitch_hz):
    locked = phase.lock(np.array(pitch_hz))
    frames = phase.pulses(locked).reshape(len(locked.codes), -1)
    voiced = locked.voiced.reshape(len(locked.codes), -1).all(1)
    for code in np.unique(locked.codes[voiced]):
        same = frames[voiced & (locked.codes == code)]
        assert np.allclose(same, same[0], atol=1e-2 * np.abs(same).max())


def test_the_pitch_is_bent_by_little():
    pitch_hz = 200 + 40 * np.sin(np.arange(200) / 20)
    locked = phase.lock(pitch_hz)
    wanted = np.interp((np.arange(len(locked.pitch_hz)) + 0.5) / phase.HOP_SAMPLES - 0.5, np.arange(200), pitch_hz)
    semitones = 12 * np.log2(locked.pitch_hz / wanted)[: 199 * phase.HOP_SAMPLES]
    assert np.sqrt((semitones**2).mean()) < 0.6
    assert set(locked.codes) <= set(range(phase.PITCH_CODES))


def test_silence_has_the_unvoiced_code_alone():
    locked = phase.lock(np.zeros(20))
    assert (locked.codes == phase.UNVOICED).all()
    assert not phase.pulses(locked).any()


def test_pulses_are_harmonics_of_one_height():
    locked = phase.lock(np.full(64, 200.0))
    spectrum = np.abs(np.fft.rfft(phase.pulses(locked)[: 6 * phase.FRAME_SAMPLES]))
    harmonics = spectrum[6 * 16 :: 6 * 16][:50].copy()  # 16 periods a frame
    assert np.allclose(harmonics, harmonics[0], rtol=0.02)
    spectrum[:: 6 * 16] = 0
    assert spectrum.max() < 0.02 * harmonics[0]


def test_pitch_codes_fit_their_codebook():
    assert phase.PITCH_CODES <= shapes.CODES
    periods, bends = phase.periods_and_bends(np.arange(phase.PITCH_CODES))
    assert len(set(zip(periods.tolist(), bends.tolist(), strict=True))) == phase.PITCH_CODES


def test_noise_repeats_in_every_frame_and_is_white():
    size = np.abs(np.fft.rfft(phase.noise_pattern()))[1:-1]
    assert np.allclose(size, size[0], rtol=1e-3)


def test_stretching_moves_a_formant():
    spectrum = np.zeros((601, 3), np.float32)
    spectrum[100] = 1
    assert stretched(spectrum, 1.2).argmax(0).tolist() == [120] * 3
    assert stretched(spectrum, 1.0) is spectrum


def test_an_envelope_ignores_what_lies_between_harmonics():
    spectrum = np.full((601, 2), -9.0, np.float32)
    spectrum[::10] = 1.0  # harmonics of 200 Hz in bins of 20 Hz
    assert np.allclose(envelope(spectrum, np.full(2, 200.0), 1.0), 1.0)


@given(st.integers(0, 2**32))
def test_voices_have_coordinates_within_one(seed):
    assert all(abs(each) <= 1 + 1e-9 for each in random_voice(random.Random(seed)).coordinates())


def test_a_stress_mark_is_the_phoneme_behind_it_and_punctuation_a_pause():
    assert phones.sounds("_həlˈO, ju._") == "_həlOO_ ju__"


def test_a_frame_has_the_phonemes_of_its_three_units():
    at = phones.spoken_at(np.array([1 + phones.LEAD, 1, 2, 3]), 3)
    assert at.tolist() == [[0, 1, 2], [2, 3, 3], [3, 3, 3]]
    assert phones.triples("_ab_", at) == [("_", "a", "b"), ("b", "_", "_"), ("_", "_", "_")]


def test_a_rare_triple_becomes_one_of_the_same_phonemes_if_it_can():
    listing = [("a", "a", "a"), ("b", "b", "b"), ("a", "b", "b"), ("c", "c", "c")]
    table = TripleTable.of([[triple for number, triple in enumerate(listing) for _ in range(9 - number)]], 4)
    assert table.listing == listing
    assert [table.code(triple) for triple in [*listing, ("a", "a", "b"), ("c", "c", "a")]] == [0, 1, 2, 3, 2, 3]
    assert table.said([0, 0, 2, 3]) == "abc"


def test_features_of_a_frame_are_its_own():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(4 * 1920).astype(np.float32)
    changed = samples.copy()
    changed[2 * 1920 + 200 : 3 * 1920 - 200] = 0
    first, second = features.band_features(samples), features.band_features(changed)
    assert first.shape == (4, features.SIZE)
    assert np.array_equal(first[[0, 1, 3]], second[[0, 1, 3]])
    assert (first[2] != second[2]).any()


def test_k_means_finds_clusters():
    rng = np.random.default_rng(0)
    middles = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    points = np.repeat(middles, 50, 0) + rng.standard_normal((200, 2)).astype(np.float32) * 0.1
    found = codes.k_means(points, 4, rng, rounds=40)
    assert np.abs(points - found[codes.nearest(points, found)]).max() < 11
    assert ((points - found[codes.nearest(points, found)]) ** 2).mean() < (points.std() ** 2)


def spoken(rng, frames, text="one two", phonemes="_a b_"):
    return Spoken(
        text,
        phonemes,
        np.full(len(phonemes), frames),
        Voice(1.1, 0.9),
        rng.integers(0, phase.PITCH_CODES, frames),
        rng.standard_normal((frames, features.SIZE)).astype(np.float16),
        0,
    )


def test_a_shard_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    written = [spoken(rng, 5), spoken(rng, 3, "three", "_c_")]
    shards.write(tmp_path / "shard-0000", written, np.arange(8 * 1920, dtype=np.int16))
    (name,) = shards.names(tmp_path)
    found = shards.read(name)
    assert [each.first_frame for each in found] == [0, 5]
    for before, after in zip(written, found, strict=True):
        assert (before.text, before.phonemes, before.voice) == (after.text, after.phonemes, after.voice)
        for field in ("durations", "pitch_codes", "bands"):
            assert np.array_equal(getattr(before, field), getattr(after, field))
    assert shards.audio(name)[1920] == 1920


def test_codes_are_nearest_vectors_one_after_the_other(monkeypatch):
    monkeypatch.setattr(codes, "CODES", 8)
    rng = np.random.default_rng(0)
    utterances = [spoken(rng, 100) for _ in range(3)]
    books = codes.fit(utterances, 0)
    coded = books.encode(utterances[0])
    assert coded.shape == (100, shapes.GROUPS)
    assert np.array_equal(coded[:, 1], utterances[0].pitch_codes)
    residual = books.coordinates(utterances[0].bands)
    before = (residual**2).sum()
    for number, book in enumerate(books.sounds):
        residual = residual - book[coded[:, 2 + number]]
        assert (residual**2).sum() < before
        before = (residual**2).sum()


def test_a_frame_that_begins_later_has_the_sounds_that_are_then_spoken():
    pitch_hz = np.full(64, 230.0)
    pitch_hz[:8] = 0
    excitation = phase.lock(pitch_hz)
    samples = phase.pulses(excitation)
    whole = Spoken(
        "a",
        "_a_",
        np.array([4, 8, 20]),
        Voice(),
        excitation.codes,
        features.band_features(samples).astype(np.float16),
        0,
    )
    cut, rest = codes.later(whole, samples, 3)
    assert np.array_equal(rest, samples[1920 : 1920 + cut.frames * 1920])
    assert cut.durations.tolist() == [1, 8, 20]
    assert cut.bands.shape == (cut.frames, features.SIZE)
    periods, _ = phase.periods_and_bends(cut.pitch_codes[2:-2])
    assert set(periods.tolist()) <= {18, 19}  # 230 Hz are 18.4 periods a frame
    assert codes.later(whole, samples, 0)[0].durations.tolist() == [4, 8, 20]


def test_codebooks_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "CODES", 4)
    rng = np.random.default_rng(0)
    utterance = spoken(rng, 60)
    books = codes.fit([utterance], 0)
    books.save(tmp_path / "books.npz")
    assert np.array_equal(codes.Codebooks.load(tmp_path / "books.npz").encode(utterance), books.encode(utterance))


def test_utterances_with_predicted_codes_come_before_the_others_and_never_held_out_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(codes, "CODES", 4)
    monkeypatch.setattr(recordings, "HELD", 1)
    rng = np.random.default_rng(0)
    said = [spoken(rng, 20, "one"), spoken(rng, 15, "two"), spoken(rng, 25, "held")]
    books = codes.fit(said, 0)
    path = tmp_path / "data" / "shard-0000"
    path.parent.mkdir()
    shards.write(path, said, np.arange(60 * 1920).astype(np.int16))
    assert recordings.Recordings(tmp_path, books, predicted=True).texts == ["one", "two", "held"]
    np.save(codes.predicted_path(path), np.zeros((60, shapes.GROUPS), np.int16))
    found = recordings.Recordings(tmp_path, books, predicted=True)
    assert found.texts == ["one", "two", "one", "two", "held"]
    assert [len(coded) for coded in found.codes] == [20, 15, 20, 15, 25]
    assert [bool(coded.any()) for coded in found.codes] == [False, False, True, True, True]
    assert torch.equal(found.samples(1), found.samples(3))


def test_each_frame_speaks_a_token_of_its_word():
    #        0  1    2   tokens of "hi there"
    offsets = [(0, 2), (2, 5), (5, 8)]
    assert alignment.token_words("hi there", offsets) == [0, 1, 1]
    found = alignment.token_of_frames("hi there", offsets, "_h ðɛɹ_", np.array([0, 1, 3, 4, 5, 6]))
    assert found.tolist() == [0, 0, 1, 1, 2, 2]


def test_frames_speak_no_known_token_where_words_differ():
    assert (alignment.token_of_frames("19", [(0, 2)], "nIt tˈin", np.arange(4)) == alignment.UNKNOWN).all()


@given(st.text("abcd", min_size=1, max_size=8), st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_each_unit_of_a_text_that_was_said_right_is_at_its_sound(sounds, counts):
    heard = "".join(sound * count for sound, count in zip(sounds, counts, strict=False))
    path = alignment.aligned(heard, sounds)
    assert "".join(sounds[at] for at in path) == heard
    assert path[-1] == len(sounds) - 1
    assert set(np.diff(path)) <= {0, 1}


def test_a_sound_that_was_left_out_or_replaced_moves_no_other():
    assert alignment.aligned("aabbbdd", "abcd").tolist() == [0, 0, 1, 1, 1, 3, 3]
    path = alignment.aligned("aaxxccdd", "abcd").tolist()
    assert (path[:2], path[4:]) == ([0, 0], [2, 2, 3, 3])
    assert alignment.word_phonemes("_hI ðɛɹ ju_").tolist() == [1, 4, 8]


def a_reading(frames, tokens, voice=Voice()):  # noqa: B008
    codes_of = np.zeros((frames, shapes.GROUPS), np.int64)
    return reading.Reading(np.arange(tokens), codes_of, np.arange(frames) * tokens // frames, voice, "a")


def test_joined_readings_go_on_behind_one_another():
    both = reading.joined([a_reading(4, 2), a_reading(6, 3)], np.array([9]))
    assert both.tokens.tolist() == [0, 1, 9, 0, 1, 2]
    assert both.spoken.tolist() == [0, 0, 1, 1, 3, 3, 4, 4, 5, 5]
    assert both.codes.shape == (10, shapes.GROUPS)


def test_silence_at_the_ends_is_cut_to_what_a_listener_expects():
    said = [("_", "_")] * 5 + [("_", "a"), ("a", "b")] + [("_", "_")] * 9
    assert range(len(said))[reading.silent_ends(said)] == range(1, 10)


def test_of_the_silence_before_a_later_text_one_frame_is_kept():
    first, second = (replace(a_reading(6, 3), silent=silent) for silent in (2, 4))
    both = reading.joined([first, second], np.array([9]))
    np.testing.assert_array_equal(both.codes, np.concatenate([first.codes, second.codes[3:]]))
    assert both.spoken.tolist() == [0, 0, 1, 1, 2, 2, 5, 6, 6]
    assert both.silent == 2


@pytest.mark.parametrize("silence", [0, 1, 3, 4, 9])
def test_silence_after_a_reference_clip_is_read_and_not_spoken(silence):
    first, second, third = (replace(a_reading(6, 3), silent=silent) for silent in (2, 4, 4))
    all_ = reading.joined([first, second, third], np.array([9]), silence=silence)
    speech = second.codes[4:]
    silent = np.repeat(second.codes[:1], silence - 4, axis=0) if silence > 4 else second.codes[:0]
    before = np.concatenate([first.codes, silent, second.codes[max(0, 4 - silence) : 4]])
    np.testing.assert_array_equal(all_.codes, np.concatenate([before, speech, third.codes[3:]]))
    assert list(all_.given) == list(range(6, 6 + max(0, silence - 1)))


def test_only_a_reference_clip_is_read_as_it_was_heard():
    first, second = (replace(reading_, heard=reading_.codes + 1) for reading_ in (a_reading(4, 2), a_reading(6, 3)))
    both = reading.joined([first, second], np.array([9]), recorded=True)
    np.testing.assert_array_equal(both.heard, np.concatenate([first.codes + 1, second.codes]))
    assert reading.joined([first, second], np.array([9])).heard is None
    np.testing.assert_array_equal(reading.joined([first], np.array([9]), recorded=True).heard, first.codes)


def test_batches_hold_every_reading_and_stay_small():
    readings = [a_reading(frames, 1) for frames in range(5, 60)]
    stream = reading.batches(readings, 200, random.Random(0))
    seen = []
    while len(seen) < len(readings):
        batch = next(stream)
        assert len(batch) * max(len(each.codes) for each in batch) <= 200
        seen += [id(each) for each in batch]
    assert len(set(seen)) == len(readings)


def test_error_rates_count_all_words_alike():
    words, characters = scores.error_rates([("Hello there, you.", "hello their you"), ("One", "one")])
    assert words == pytest.approx(1 / 4)
    assert characters == pytest.approx(2 / 16)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_a_distance_is_the_same_both_ways_and_at_most_the_longer(first, second):
    found = scores.distance(first, second)
    assert found == scores.distance(second, first) <= max(len(first), len(second))
    assert (found == 0) == (first == second)


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.weight * x


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    def squared(model, _step):
        return {"loss": (model(torch.ones(1)) - 1).square().sum()}

    def judge(model, _step):
        return {"loss": float(squared(model, 0)["loss"])}

    plan = loop.Plan(minutes=0.002, rate=0.1, log_steps=5, judge_steps=5)
    first = loop.Run(tmp_path, Line(), plan)
    first.train(squared, judge)
    second = loop.Run(tmp_path, Line(), plan)
    assert second.step == first.step > 0
    assert torch.equal(second.model.weight, first.model.weight)
    assert torch.equal(second.mean.weight, first.mean.weight)
    assert second.optimizer.state_dict()["state"].keys() == first.optimizer.state_dict()["state"].keys()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"loss", "held loss"} <= {name for line in lines for name in line}
    capsys.readouterr()


def test_the_learning_rate_rises_stays_and_falls_with_the_root_of_the_steps():
    plan = loop.Plan(minutes=1, rate=1.0, full_rate_steps=1000)
    assert loop.learning_rate(0, plan) < loop.learning_rate(100, plan) < loop.learning_rate(500, plan) == 1.0
    assert loop.learning_rate(4000, plan) == pytest.approx(0.5)
