import itertools
import time

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.session.word_times import HeardText, SegmentWords, WordTime, monotone, times_of, words_of
from serve_app.speech import AudioChunk

LEVEL = 0.01
FRAME = 1920


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The lake was cold, but clear.", ["The", "lake", "was", "cold,", "but", "clear."]),
        ("Yes – no … (maybe)", ["Yes –", "no …", "(maybe)"]),
        ("“ Quoted ” it's 5 % & more", ["“ Quoted ”", "it's", "5", "%", "&", "more"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("東京の Tokyo2 タワー", ["東", "京", "の", "Tokyo2", "タ", "ワ", "ー"]),
        ("안녕 세상!", ["안녕", "세상!"]),
        ("one\n two\t three ", ["one", "two", "three"]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_words_are_separated_by_spaces_and_keep_their_punctuation(text, words):
    assert [word.text for word in words_of(text, text)] == words


@given(st.text(max_size=60))
def test_the_words_together_are_the_text(text):
    words = words_of(text, text)
    assert "".join("".join(word.text for word in words).split()) == "".join(text.split())
    assert [text[: word.written_end].rstrip() for word in words] == [text[: word.written_end] for word in words]


def test_a_word_begins_and_ends_at_what_is_read_aloud():
    words = words_of("Well, (so) it is.", "Well, (so) it is.")
    assert [(word.begin, word.end) for word in words] == [(0, 4), (7, 9), (11, 14), (14, 16)]


@pytest.mark.parametrize(
    ("written", "spoken", "shares"),
    [
        ("It costs $5.50 today.", "It costs five dollars and fifty cents today.",
         ["It ", "costs ", "five dollars and fifty cents ", "today"]),
        ("See Dr. Who at 5 pm", "See Doctor Who at five p m", ["See ", "Doctor ", "Who ", "at ", "five ", "p m"]),
        ("no change", "No change", ["No ", "change"]),
        ("gone word", "word", ["", "word"]),
    ],
)  # fmt: skip
def test_written_words_share_what_is_spoken_for_them(written, spoken, shares):
    words = words_of(written, spoken)
    assert [spoken[word.begin : word.end] for word in words] == shares
    assert [word.text for word in words] == written.split()


@given(st.text("ab, 5.$", max_size=40), st.text("ab, 5.$", max_size=60))
def test_words_of_any_two_texts_are_in_order(written, spoken):
    words = words_of(written, spoken)
    assert [word.text for word in words] == [word.text for word in words_of(written, written)]
    places = [place for word in words for place in (word.begin, word.end)]
    assert all(0 <= place <= len(spoken) for place in places)
    assert sorted(word.begin for word in words) == [word.begin for word in words]
    assert all(word.begin <= word.end for word in words)


def test_a_long_text_is_matched_in_little_time():
    began_s = time.thread_time()
    words_of("a b " * 500, "b a a " * 500)
    assert time.thread_time() - began_s < 2


def brute_force(looked):
    values = sorted(set(looked))
    best = dict.fromkeys(values, 0)
    for each in looked:
        best = {v: min(best[u] for u in values if u <= v) + min(abs(v - each), 12) for v in values}
    return min(best.values())


@given(st.lists(st.integers(-1, 40), max_size=25))
def test_the_path_never_decreases_and_none_differs_less(looked):
    given = np.array(looked, np.int32)
    path = monotone(given)
    assert len(path) == len(given)
    assert (np.diff(path) >= 0).all()
    if looked:
        assert np.minimum(np.abs(path - given), 12).sum() == brute_force(looked)


def test_a_frame_that_looks_far_away_moves_no_word():
    looked = np.array([0, 0, 4, 4, 90, 4, 8, 8, -1, 8], np.int32)
    assert monotone(looked).tolist() == [0, 0, 4, 4, 4, 4, 8, 8, 8, 8]


def test_a_word_begins_in_the_middle_of_its_first_frame_and_ends_where_the_next_one_begins():
    text = "ab cd, ef"
    looked = np.array([0, 0, 3, 3, 3, 5, 5, 7, 7, 7], np.int32)
    found = [(word.text, begin / FRAME, end / FRAME) for word, begin, end in
             times_of(words_of(text, text), looked, len(text), complete=True)]  # fmt: skip
    assert found == [("ab", 0, 2.5), ("cd,", 2.5, 5.5), ("ef", 7.5, 10)]


def test_a_word_that_no_frame_looks_at_has_its_place_by_its_letters():
    text = "abcd e fghi"
    looked = np.array([0, 0, 0, 0, 0, 0, 0, 7, 7], np.int32)
    found = times_of(words_of(text, text), looked, len(text), complete=True)
    assert [begin / FRAME for _, begin, _ in found] == pytest.approx([0, 7.5 * 5 / 7, 7.5])


def test_words_that_were_not_reached_are_left_out_of_what_was_cut_short():
    text = "ab cd ef"
    found = times_of(words_of(text, text), np.array([0, 3, 3], np.int32), len(text), complete=False)
    assert [word.text for word, _, _ in found] == ["ab", "cd"]


def chunks_of(looked, sizes, left_out=0, pcm=None):
    """Audio chunks of the frames, cut as ``sizes`` say; the first has no ``left_out`` samples."""
    pcm = np.full(len(looked) * FRAME, 0.25, np.float32) if pcm is None else pcm
    cuts = [0, *np.unique(np.clip(np.cumsum(sizes), 1, len(looked))), len(looked)] if len(looked) else [0]
    for begin, end in itertools.pairwise(cuts):
        if begin < end:
            sound = pcm[begin * FRAME + (left_out if begin == 0 else 0) : end * FRAME]
            yield AudioChunk(begin, np.zeros((end - begin, 16), np.int16), sound, spoken=looked[begin:end])


@given(
    st.text("ab ,.5", min_size=1, max_size=40),
    st.lists(st.integers(-1, 45), max_size=30),
    st.lists(st.integers(1, 8), max_size=5),
    st.integers(0, FRAME - 1),
    st.booleans(),
)
def test_words_are_in_order_and_inside_the_segment_however_its_audio_is_cut(text, looked, sizes, left_out, complete):
    looked = np.minimum(np.array(looked, np.int32), len(text) - 1)
    found = []
    for cut in (sizes, [1] * len(looked)):
        segment = SegmentWords(text, text, LEVEL)
        for chunk in chunks_of(looked, [1, *cut], left_out):
            segment.add(chunk)
        found.append(segment.times(complete=complete))
    assert found[0] == found[1]
    samples = max(0, len(looked) * FRAME - left_out)
    places = [place for each in found[0] for place in (each.start_samples, each.end_samples)]
    assert places == sorted(places)
    assert all(0 <= place <= samples for place in places)
    if complete and len(looked):
        assert [each.word for each in found[0]] == segment.words


def test_no_word_begins_before_the_first_sound():
    pcm = np.full(6 * FRAME, 0.25, np.float32)
    pcm[: 2 * FRAME + 480] = 0
    segment = SegmentWords("ab cd", "ab cd", LEVEL)
    for chunk in chunks_of(np.array([0, 0, 0, 3, 3, 3], np.int32), [1, 1, 1], pcm=pcm):
        segment.add(chunk)
    assert [each.start_samples for each in segment.times(complete=True)] == [2 * FRAME + 480, 3 * FRAME + 960]


def test_silence_that_is_left_out_moves_the_words():
    plain, cut = (SegmentWords("ab cd", "ab cd", LEVEL) for _ in range(2))
    looked = np.array([0, 0, 3, 3], np.int32)
    for segment, left_out in ((plain, 0), (cut, 600)):
        for chunk in chunks_of(looked, [1], left_out):
            segment.add(chunk)
    before, after = (segment.times(complete=True)[1].start_samples for segment in (plain, cut))
    assert before - after == 600


@examples(30)
@given(st.lists(st.lists(st.integers(0, 100), min_size=1, max_size=4), max_size=4), st.integers(0, 500))
def test_the_text_that_was_heard_grows_with_the_audio_and_begins_the_text(lengths, samples):
    heard, whole, at = HeardText(), [], 0
    for number, starts in enumerate(lengths):
        text = " ".join(f"w{number}{n}" for n in range(len(starts)))
        segment = SegmentWords(text, text, LEVEL)
        times = [(word, at + start) for word, start in zip(segment.words, sorted(starts), strict=True)]
        heard.add(text, [time_of(word, start) for word, start in times])
        whole.append(text)
        at += 100
    assert " ".join(whole).startswith(heard.text(samples))
    assert heard.text(samples + 50).startswith(heard.text(samples))
    assert heard.text(0) == ""
    assert heard.text(at + 1) == " ".join(whole)


def time_of(word, start):
    return WordTime(word, start, start)


def test_chinese_segments_are_joined_without_a_space():
    heard = HeardText()
    for text in ("你好。", "世界。"):
        heard.add(text, [time_of(word, 0) for word in words_of(text, text)])
    assert heard.text(1) == "你好。世界。"
