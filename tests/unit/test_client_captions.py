"""Captions and word times of the agents' plugins: from messages of the service to text with times."""

from hypothesis import given
from hypothesis import strategies as st

from qwen3_tts_client.captions import UNAVAILABLE, Captions, Timed

SEGMENTS = st.lists(
    st.lists(st.sampled_from(["one", "two", "zwei,", "三", "four."]), min_size=1, max_size=4), max_size=5
)


def segment(index, text, start_ms=0):
    return {"type": "segment", "index": index, "text": text, "start_ms": start_ms}


def words(index, *timed):
    return {"type": "words", "index": index, "words": [list(word) for word in timed]}


COMPLETE = {"type": "complete"}


@given(SEGMENTS, st.data())
def test_joined_they_are_what_was_written(segments, data):
    texts = [" ".join(said) for said in segments]
    spaces = data.draw(st.lists(st.sampled_from([" ", "", "\n\n"]), min_size=len(texts), max_size=len(texts)))
    written = "".join(text + space for text, space in zip(texts, spaces, strict=True))
    wanted = data.draw(st.booleans())
    captions = Captions(words=wanted)
    told = []
    for index, text in enumerate(texts):
        told += captions.read(segment(index, text, 1000 * index), written)
        if wanted and data.draw(st.booleans()):  # a segment may have no word times
            told += captions.read(
                words(index, *((word, 1000 * index, 1000 * index + 1) for word in text.split())), written
            )
    told += captions.read(COMPLETE, written)
    assert "".join(timed.text for timed in told) == written
    assert [timed.start_s for timed in told] == sorted(timed.start_s for timed in told)


@given(SEGMENTS, st.integers(0, 12), st.booleans())
def test_a_connection_that_begins_again_repeats_nothing(segments, cut, wanted):
    texts = [" ".join(said) for said in segments]
    messages = []
    for index, text in enumerate(texts):
        messages += [segment(index, text), words(index, *((word, 0, 1) for word in text.split()))]
    messages.append(COMPLETE)

    def read(captions, messages):
        return [timed for message in messages for timed in captions.read(message, " ".join(texts))]

    resumed = Captions(words=wanted)
    told = read(resumed, messages[: min(cut, len(messages) - 1)])
    resumed.restart()
    assert told + read(resumed, messages) == read(Captions(words=wanted), messages)


def test_a_caption_has_no_end_and_a_word_has_one():
    captions = Captions(words=True)
    assert captions.read(segment(0, "Hello there."), "Hello there. You.") == []
    assert captions.read(words(0, ("Hello", 0, 400), ("there.", 450, 800)), "Hello there. You.") == [
        Timed("Hello ", 0.0, 0.4),
        Timed("there. ", 0.45, 0.8),
    ]
    assert captions.read(segment(1, "You.", 900), "Hello there. You.") == []
    assert captions.read(COMPLETE, "Hello there. You.") == [Timed("You.", 0.9, None)]


def test_text_that_was_written_differently_is_followed_by_a_space():
    captions = Captions(words=False)
    told = captions.read(segment(0, "Twelve kilograms."), "12 kg. Yes.")
    told += captions.read(segment(1, "Yes."), "12 kg. Yes.")
    assert [timed.text for timed in told] == ["Twelve kilograms. ", "Yes."]


def test_other_messages_tell_nothing():
    captions = Captions(words=True)
    captions.read(segment(0, "Hello."), "Hello.")
    assert captions.read({"type": "audio_chunk", "seq": 0}, "Hello.") == []
    assert captions.read({"type": "a later version's", "index": 7}, "Hello.") == []
    assert [timed.text for timed in captions.read(COMPLETE, "Hello.")] == ["Hello."]


def test_captions_do_not_wait_for_word_times_that_never_come():
    captions = Captions(words=True)
    written = "Hello there. You."
    assert captions.read({"type": "error", "code": UNAVAILABLE}, written) == []
    assert captions.read(segment(0, "Hello there."), written) == [Timed("Hello there. ", 0.0, None)]
    assert captions.read(segment(1, "You.", 900), written) == [Timed("You.", 0.9, None)]
    late = Captions(words=True)
    late.read(segment(0, "Hello there."), written)
    assert late.read({"type": "error", "code": UNAVAILABLE}, written) == [Timed("Hello there. ", 0.0, None)]
