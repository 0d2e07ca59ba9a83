"""What a text chunk leaves to the next one, by itself and through a session."""

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from test_session import STEPS, Bench, _step

from serve_app.config import SessionConfig
from serve_app.protocol.messages import Cancel, Flush, Speak, SpeakBuffered
from serve_app.session.continuity import Continuity
from serve_app.speech import AudioChunk, SpokenContext

ON = SessionConfig(continuity=True, continuity_max_frames=10)


def codes_of(frames, first=0):
    return np.arange(first * 16, (first + frames) * 16, dtype=np.int16).reshape(frames, 16)


class Teller(Bench):
    """A bench whose audio has codes that tell which frame of which call they are."""

    def audio(self, frames=1):
        first = self.frames.setdefault(self.call.call_id, 0)
        self.frames[self.call.call_id] += frames
        codes = codes_of(frames, first) + self.call.call_id
        chunk = AudioChunk(first, codes, np.zeros(frames * 1920, np.float32))
        self._perform(self.session.event(self.call.call_id, chunk, self.now_s))
        return self

    def __post_init__(self):
        super().__post_init__()
        self.frames = {}

    @property
    def context(self):
        return self.call.request.context


def assert_context(context, text, codes):
    assert isinstance(context, SpokenContext)
    assert context.text == text
    assert context.codes.dtype == np.int16
    np.testing.assert_array_equal(context.codes, codes)


def test_a_text_chunk_leaves_its_text_and_all_its_codes_to_the_next_one_alone():
    continuity = Continuity(max_frames=10)
    assert continuity.begin("One.") is None
    continuity.add(codes_of(3))
    continuity.add(codes_of(2, first=3))
    continuity.end("eos")
    assert_context(continuity.begin("Two."), "One.", codes_of(5))
    continuity.end("eos")
    assert continuity.begin("Three.") is None


@pytest.mark.parametrize("reason", ["length", "stalled"])
def test_a_text_chunk_that_was_cut_short_leaves_nothing(reason):
    continuity = Continuity(max_frames=10)
    continuity.begin("One.")
    continuity.add(codes_of(3))
    continuity.end(reason)
    assert continuity.begin("Two.") is None


@pytest.mark.parametrize("max_frames", [0, 1, 4, 10, 11])
def test_memory_is_bounded_and_a_longer_text_chunk_leaves_nothing(max_frames):
    continuity = Continuity(max_frames)
    continuity.begin("One.")
    for first in range(11):
        continuity.add(codes_of(1, first))
        assert sum(len(codes) for codes in continuity._codes) <= max_frames
    continuity.end("eos")
    assert (continuity.begin("Two.") is None) == (max_frames < 11)


def test_what_is_kept_is_not_the_buffer_of_the_message_it_came_in():
    codes = codes_of(3)
    continuity = Continuity(max_frames=10)
    continuity.begin("One.")
    continuity.add(codes)
    codes[:] = 0
    assert_context(continuity.begin("Two."), "One.", codes_of(3))


def test_requests_carry_no_context_by_default():
    bench = Teller().say(Speak(text="One.|Two.|Three."))
    while bench.call is not None:
        assert bench.context is None
        bench.audio(3).end()
    assert len(bench.calls) == 3


@pytest.mark.parametrize("speak", [Speak, SpeakBuffered])
def test_each_text_chunk_is_spoken_with_the_one_before_it(speak):
    bench = Teller(limits=ON).say(speak(text="One.|Two.|Three."))
    assert bench.context is None
    bench.audio(1).audio(4).end()
    assert_context(bench.context, "One.", codes_of(5) + 1)
    bench.audio(2).end()
    assert bench.call.request.text == "Three."
    assert_context(bench.context, "Two.", codes_of(2) + 2)


def test_a_context_is_the_text_that_was_spoken_not_the_one_that_was_written():
    bench = Teller(limits=ON).say(Speak(text="It was 1.|It is 2.", language="english", normalize=True))
    bench.audio(3).end()
    assert bench.call.request.text == "It is two."
    assert_context(bench.context, "It was one.", codes_of(3) + 1)


def test_text_that_comes_later_is_spoken_with_what_was_said_before():
    bench = Teller(limits=ON).say(Speak(text="One", utterance_id="a", final=False), Flush()).audio(3).end()
    bench.wait(20).say(Speak(text="two.", utterance_id="a"))
    assert_context(bench.context, "One", codes_of(3) + 1)


def test_an_utterance_starts_without_the_one_before_it():
    bench = Teller(limits=ON).say(Speak(text="One.", utterance_id="a"), Speak(text="Two.|Three.", utterance_id="b"))
    bench.audio(3).end()
    assert bench.call.request.text == "Two."
    assert bench.context is None
    bench.audio(3).end()
    assert_context(bench.context, "Two.", codes_of(3) + 2)


def test_a_text_chunk_that_was_cut_short_or_too_long_is_not_a_context():
    bench = Teller(limits=ON).say(Speak(text="One.|Two.|Three.|Four."))
    bench.audio(3).end("length")
    assert bench.context is None
    bench.audio(6).audio(5).end()
    assert bench.context is None
    bench.audio(10).end()
    assert_context(bench.context, "Three.", codes_of(10) + 3)


def test_after_a_cancel_nothing_of_the_utterance_is_a_context():
    bench = Teller(limits=ON).say(Speak(text="One.|Two.", utterance_id="a")).audio(3).end().audio(1)
    bench.say(Cancel(utterance_id="a"), Speak(text="New.|Newer.", utterance_id="a"))
    bench.audio(2).over()  # what the cancelled call still yielded
    assert bench.call.request.text == "New."
    assert bench.context is None
    bench.audio(1).end()
    assert_context(bench.context, "New.", codes_of(1) + 3)


def test_an_utterance_that_waits_to_be_sent_keeps_no_codes():
    bench = Teller(limits=ON).say(Speak(text="One.", utterance_id="a")).audio(3).end()
    (utterance,) = bench.session._leaving.values()
    assert not utterance._continuity._codes


@examples(150)
@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_a_context_is_the_text_chunk_before_of_the_same_utterance(steps):
    bench = Teller(limits=SessionConfig(continuity=True, continuity_max_frames=2, max_queued_utterances=4))
    for step in steps:
        _step(bench, step)
    bench.speak_all()
    for before, call in zip([None, *bench.calls], bench.calls, strict=False):
        context = call.request.context
        if context is None:
            continue
        assert before.utterance_id == call.utterance_id
        assert call.request.seed > 10**9, "a first text chunk has the utterance's own seed, which the bench makes up"
        assert context.text == before.request.text
        assert 1 <= bench.frames[before.call_id] <= 2
        np.testing.assert_array_equal(context.codes, codes_of(bench.frames[before.call_id]) + before.call_id)
