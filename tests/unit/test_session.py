"""The session's laws, with a numeric clock and no I/O."""

import json
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.pcm import milliseconds
from serve_app.config import SessionConfig, TextConfig, VoicesConfig
from serve_app.errors import CapacityError, InvalidMessageError, RateLimitedError
from serve_app.protocol.dialects import DialectRules
from serve_app.protocol.messages import (
    AudioMessage,
    Cancel,
    Cancelled,
    Complete,
    ErrorMessage,
    Flush,
    Preset,
    Ready,
    Refusal,
    SamplingFields,
    Segment,
    Speak,
    SpeakBuffered,
    Start,
    Stop,
    Stopped,
    Words,
    read_full,
)
from serve_app.protocol.outbox import Close, Send
from serve_app.session.session import INLINE_VOICE, Call, CancelCall, Drain, InlineVoice, Session, SessionSetup
from serve_app.session.utterance import SpeechOptions, TextPipeline, chunk_seed
from serve_app.speech import UNLIMITED_SAMPLES, AudioChunk, SpeechEnd, VoiceClip
from serve_app.text.tags import Pause
from serve_app.voices.voice import VoiceManifest, VoiceStatus

VOICES = {
    "makima": VoiceStatus("makima", "ready", "", None),
    "new": VoiceStatus("new", "pending", "", None),
    "broken": VoiceStatus("broken", "unavailable", "its reference audio is not there yet", None),
}


class Bars:
    """Text chunks end at a bar, so that tests say where; a tilde and samples between bars are a pause."""

    def __init__(self):
        self._rest = ""

    def push(self, text):
        *whole, self._rest = (self._rest + text).split("|")
        return [self._part(chunk.strip()) for chunk in whole if chunk.strip()]

    def flush(self):
        rest, self._rest = self._rest.strip(), ""
        return [self._part(rest)] if rest else []

    def _part(self, text):
        return Pause(int(text[1:])) if text[1:].isdecimal() else text


class BarPipeline(TextPipeline):
    def open(self, language):
        return Bars()


def chunk_of(frames, first_frame=0, value=0.25):
    return AudioChunk(
        first_frame, np.zeros((frames, 16), dtype=np.int16), np.full(frames * 1920, value, dtype=np.float32)
    )


@dataclass
class Bench:
    """A session with its caller: starts calls as asked, keeps what was sent."""

    limits: SessionConfig = field(default_factory=SessionConfig)
    rules: DialectRules = field(default_factory=DialectRules)
    voices: dict = field(default_factory=lambda: dict(VOICES))
    now_s: float = 0.0
    naming: VoicesConfig = field(default_factory=VoicesConfig)
    spend: object = field(default=lambda now_s: None)
    text: TextPipeline = field(default_factory=BarPipeline)

    def __post_init__(self):
        seeds = iter(range(1000, 10**9))
        setup = SessionSetup(
            session_id="s",
            options=SpeechOptions(voice="makima"),
            limits=self.limits,
            voices=self.voices,
            new_seed=lambda: next(seeds),
            text=self.text,
            rules=self.rules,
            naming=self.naming,
            spend=self.spend,
        )
        self.session = Session(setup, self.now_s)
        self.call = None
        self.calls = []
        self.cancelled_calls = []
        self.items = []

    def _perform(self, effects):
        for effect in effects:
            match effect:
                case Call():
                    assert self.call is None, "two calls in flight"
                    self.call = effect
                    self.calls.append(effect)
                case CancelCall():
                    assert self.call is not None
                    assert self.call.call_id == effect.call_id
                    self.cancelled_calls.append(effect.call_id)

    def say(self, *messages):
        for message in messages:
            self._perform(self.session.receive(message, self.now_s))
        return self

    def audio(self, frames=1, voice_digest=""):
        chunk = replace(chunk_of(frames), voice_digest=voice_digest)
        self._perform(self.session.event(self.call.call_id, chunk, self.now_s))
        return self

    def looking_at(self, *characters):
        """Audio whose frames speak these characters of the text."""
        chunk = replace(chunk_of(len(characters)), spoken=np.array(characters, np.int32))
        self._perform(self.session.event(self.call.call_id, chunk, self.now_s))
        return self

    def event(self, event):
        self._perform(self.session.event(self.call.call_id, event, self.now_s))
        return self

    def end(self, reason="eos", **more):
        self._perform(self.session.event(self.call.call_id, SpeechEnd(reason, 1, **more), self.now_s))
        return self.over()

    def fail(self, error):
        self._perform(self.session.failed(self.call.call_id, error, self.now_s))
        return self.over()

    def over(self):
        call, self.call = self.call, None
        self._perform(self.session.ended(call.call_id, self.now_s))
        return self

    def wait(self, seconds):
        self.now_s += seconds
        self._perform(self.session.tick(self.now_s))
        return self

    def drain(self, from_s=2.0, until_s=60.0):
        self._perform(self.session.drain(Drain(from_s, until_s, retry_after_ms=700), self.now_s))
        return self

    def send(self, count=10**9):
        """Send up to ``count`` items; what they were."""
        sent = []
        while len(sent) < count and (item := self.session.take(self.now_s)) is not None:
            sent.append(item)
            if isinstance(item, Send):
                self._perform(self.session.sent(self.now_s))
        self.items += sent
        return [item if isinstance(item, Close) else item.message for item in sent]

    def speak_all(self, frames=1):
        """Answer every call until none is left."""
        while self.call is not None:
            self.audio(frames).end()
        return self


def kinds(messages):
    return [message.type if not isinstance(message, Close) else "close" for message in messages]


def only(messages, kind):
    return [message for message in messages if isinstance(message, kind)]


def error_of(messages):
    errors = only(messages, ErrorMessage)
    assert len(errors) == 1, errors
    return errors[0]


def test_a_speak_on_a_fresh_socket_is_spoken_with_the_defaults():
    bench = Bench().say(Speak(text="Hello.", utterance_id="a"))
    assert bench.call.request.voice == "makima"
    assert bench.call.request.language == "auto"
    assert bench.call.request.seed == 1000
    messages = bench.audio(2).end().send()
    assert kinds(messages) == ["segment", "audio_chunk", "audio_chunk", "complete"]
    assert only(messages, Segment) == [Segment(utterance_id="a", index=0, text="Hello.", start_ms=0)]
    first, last = only(messages, AudioMessage)
    assert (first.seq, first.start_ms, first.duration_ms, first.final) == (0, 0, 160, False)
    assert (last.seq, last.start_ms, last.duration_ms, last.final) == (1, 160, 0, True)


def test_complete_says_what_was_spoken():
    bench = Bench().say(Speak(text="Hello.", utterance_id="a", seed=7))
    bench.now_s = 0.5
    bench.audio(10)
    bench.now_s = 2.0
    complete = only(bench.end("length").send(), Complete)[0]
    assert complete == Complete(
        utterance_id="a",
        duration_ms=800,
        finish_reason="length",
        ttfa_ms=500,
        audible_ms=500,
        rtf=2.5,
        characters=6,
        seed=7,
        voice="makima",
    )


def test_rtf_takes_the_generators_own_time_without_queue_and_pauses():
    bench = Bench().say(Speak(text="Hello.")).audio(10)
    timings_s = {"total": 3.0, "queue": 1.0, "paused": 1.6}
    assert only(bench.end(timings_s=timings_s).send(), Complete)[0].rtf == 0.5


def test_start_is_answered_by_ready_and_changes_the_defaults_of_later_utterances():
    bench = Bench().say(Start(language="german", seed=5), Start(sampling=SamplingFields(top_k=3)))
    ready = only(bench.send(), Ready)
    assert [each.language for each in ready] == ["german", "german"]
    assert ready[0].limits.max_text_characters == 20_000
    bench.say(Speak(text="Eins."), Start(language="french"), Speak(text="Zwei."))
    assert (bench.call.request.language, bench.call.request.seed) == ("german", 5)
    assert bench.call.request.sampling.top_k == 3
    assert bench.end().call.request.language == "french"


def test_a_preset_changes_the_defaults_without_an_answer():
    bench = Bench().say(Preset(language="german"), Speak(text="Eins."))
    assert bench.send() == []
    assert bench.call.request.language == "german"


def test_fields_of_speak_are_for_its_utterance_alone():
    bench = Bench().say(Speak(text="a", language="german", priority="high"), Speak(text="b"))
    assert (bench.call.request.language, bench.call.request.priority) == ("german", -1)
    bench.end()
    assert (bench.call.request.language, bench.call.request.priority) == ("auto", 0)


def test_normalize_spells_the_request_and_leaves_the_caption_as_it_was_written():
    bench = Bench().say(Speak(text="It is 5.|It was 6.", language="english", normalize=True), Speak(text="7"))
    requests = []
    while bench.call is not None:
        requests.append(bench.call.request.text)
        bench.audio().end()
    messages = bench.send()
    assert requests == ["It is five.", "It was six.", "7"]
    assert [segment.text for segment in only(messages, Segment)] == ["It is 5.", "It was 6.", "7"]
    assert only(messages, Complete)[0].characters == len("It is 5.|It was 6.")


def requests_with(configured=None, **speak):
    """The texts of the requests and of the captions."""
    bench = Bench(text=BarPipeline(TextConfig(lexicon=configured or {}))).say(Speak(**speak))
    requests = []
    while bench.call is not None:
        requests.append(bench.call.request.text)
        bench.audio().end()
    return requests, [segment.text for segment in only(bench.send(), Segment)]


def test_a_lexicon_changes_the_request_and_leaves_the_caption_as_it_was_written():
    text = "SQL is 5.|So is JSON."
    requests, captions = requests_with({"sql": "sequel", "json": "jason"}, text=text, lexicon={"JSON": "jay son"})
    assert requests == ["sequel is 5.", "So is jay son."]
    assert captions == ["SQL is 5.", "So is JSON."]


def test_the_lexicon_comes_before_numbers():
    fields = {"language": "english", "normalize": True, "lexicon": {"gpt-4": "G P T 4", "5": "V"}}
    assert requests_with(text="GPT-4, 5 and 6.", **fields)[0] == ["G P T four, V and six."]


def test_a_speak_replaces_the_entries_of_start_for_itself():
    bench = Bench(text=BarPipeline(TextConfig(lexicon={"a": "1"})))
    bench.say(Start(lexicon={"b": "2", "c": "3"}), Speak(text="a b c"), Speak(text="a b c", lexicon={"b": "4"}))
    bench.say(Start(lexicon={}), Speak(text="a b c"))
    requests = []
    while bench.call is not None:
        requests.append(bench.call.request.text)
        bench.audio().end()
    assert requests == ["1 2 3", "1 4 c", "1 b c"]


def test_a_text_that_the_lexicon_makes_too_long_fails_alone():
    text = BarPipeline(TextConfig(lexicon={"x": "long " * 9}), 20)
    bench = Bench(text=text).say(Speak(text="One.|x|Two.", utterance_id="a"), Speak(text="Three.", utterance_id="b"))
    bench.audio().end()
    assert bench.call.request.text == "Three."
    messages = bench.audio().end().send()
    error = error_of(messages)
    assert (error.code, error.utterance_id) == ("TEXT_TOO_LONG", "a")
    assert error.message == "the lexicon makes 44 characters of a text chunk of 1; the limit is 20"
    assert [done.utterance_id for done in only(messages, Complete)] == ["b"]
    assert bench.say(Stop()).send()[-1] == Close(1000, "stopped")


def test_normalize_is_a_default_of_the_session_that_ready_tells():
    bench = Bench().say(
        Start(language="german"), Start(normalize=True), Speak(text="5"), Speak(text="5", normalize=False)
    )
    assert [ready.normalize for ready in only(bench.send(), Ready)] == [False, True]
    assert bench.call.request.text == "fünf"
    assert bench.end().call.request.text == "5"


def test_a_later_speak_does_not_change_whether_numbers_are_spelled():
    bench = Bench().say(Speak(text="5|", utterance_id="a", final=False, language="english"))
    bench.say(Speak(text="6", utterance_id="a", normalize=True))
    error = error_of(bench.send())
    assert (error.code, error.utterance_id) == ("INVALID_MESSAGE", "a")


def test_a_text_chunk_whose_words_the_engine_does_not_take_is_left_in_digits():
    options = SpeechOptions(voice="makima", language="english", normalize=True)
    written, spelled = "I have 1000000 cats.", "I have one million cats."
    assert TextPipeline(max_request_characters=len(spelled)).request_text(written, options) == spelled
    assert TextPipeline(max_request_characters=len(spelled) - 1).request_text(written, options) == written


def test_text_chunks_are_spoken_one_call_after_the_other():
    bench = Bench().say(Speak(text="One.|Two.|Three.", utterance_id="a", seed=9))
    requests = []
    while bench.call is not None:
        requests.append(bench.call.request)
        bench.audio(3).end()
    assert [request.text for request in requests] == ["One.", "Two.", "Three."]
    assert [request.seed for request in requests] == [9, chunk_seed(9, 1), chunk_seed(9, 2)]
    messages = bench.send()
    assert [segment.start_ms for segment in only(messages, Segment)] == [0, 240, 480]
    assert [chunk.seq for chunk in only(messages, AudioMessage)] == [0, 1, 2, 3]
    assert kinds(messages).count("complete") == 1


def test_a_segment_waits_for_its_first_audio():
    bench = Bench().say(Speak(text="One."))
    assert bench.send() == []
    assert kinds(bench.audio().send()) == ["segment", "audio_chunk"]
    assert kinds(bench.audio().send()) == ["audio_chunk"]


def test_the_next_call_starts_while_earlier_audio_is_unsent():
    bench = Bench().say(Speak(text="One.|Two.")).audio(50).end()
    assert bench.call.request.text == "Two."


def test_utterances_are_spoken_in_the_order_of_their_first_speak():
    bench = Bench().say(
        Speak(text="a1.|", utterance_id="a", final=False),
        Speak(text="b1.", utterance_id="b"),
        Speak(text="a2.", utterance_id="a"),
    )
    texts = []
    while bench.call is not None:
        texts.append(bench.call.request.text)
        bench.audio().end()
    assert texts == ["a1.", "a2.", "b1."]
    ids = [message.utterance_id for message in bench.send()]
    assert ids == sorted(ids)


def test_an_open_utterance_speaks_its_chunks_as_they_become_certain():
    bench = Bench().say(Speak(text="One", utterance_id="a", final=False))
    assert bench.call is None
    bench.say(Speak(text=".|Tw", utterance_id="a", final=False))
    assert bench.call.request.text == "One."
    bench.audio().end()
    assert bench.call is None
    assert "complete" not in kinds(bench.send())
    bench.say(Speak(text="o.", utterance_id="a"))
    assert bench.call.request.text == "Two."
    assert kinds(bench.audio().end().send())[-1] == "complete"


@pytest.mark.parametrize("named", [True, False])
def test_flush_speaks_what_is_buffered_and_keeps_the_utterance_open(named):
    bench = Bench().say(Speak(text="Wait", utterance_id="a", final=False))
    bench.say(Flush(utterance_id="a") if named else Flush())
    assert bench.call.request.text == "Wait"
    bench.end().say(Speak(text="More", utterance_id="a"))
    assert bench.call.request.text == "More"


def test_an_open_utterance_may_be_closed_by_an_empty_speak():
    bench = Bench().say(Speak(text="One.|", utterance_id="a", final=False)).audio().end()
    messages = bench.say(Speak(text="", utterance_id="a")).send()
    assert [chunk.final for chunk in only(messages, AudioMessage)] == [False, True]
    assert kinds(messages)[-1] == "complete"


def test_more_text_must_be_spoken_as_the_first():
    bench = Bench().say(Speak(text="One", utterance_id="a", final=False, language="german"))
    assert bench.say(Speak(text="x", utterance_id="a", final=False, language="german")).send() == []
    error = error_of(bench.say(Speak(text="x", utterance_id="a", language="french")).send())
    assert (error.code, error.utterance_id) == ("INVALID_MESSAGE", "a")
    assert "language" in error.message


def test_an_open_utterance_needs_an_id():
    error = error_of(Bench().say(Speak(text="x", final=False)).send())
    assert error.code == "INVALID_MESSAGE"
    assert "utterance_id" in error.message


def test_an_id_that_is_being_spoken_is_not_begun_again():
    bench = Bench().say(Speak(text="a", utterance_id="a"), Speak(text="b", utterance_id="a"))
    error = error_of(bench.send())
    assert (error.code, error.utterance_id) == ("INVALID_MESSAGE", None)
    assert kinds(bench.speak_all().send())[-1] == "complete"


def test_an_id_may_be_used_again_after_its_end():
    bench = Bench().say(Speak(text="a", utterance_id="a")).speak_all()
    bench.say(Speak(text="b", utterance_id="a")).speak_all()
    assert kinds(bench.send()).count("complete") == 2


def test_late_text_of_a_cancelled_utterance_is_not_spoken():
    bench = Bench().say(Speak(text="a", utterance_id="a", final=False), Cancel(utterance_id="a"))
    bench.say(Speak(text="late|", utterance_id="a", final=False), Speak(text="last|", utterance_id="a"))
    assert kinds(bench.send()) == ["cancelled", "error", "error"]
    bench.say(Speak(text="new", utterance_id="a"))
    assert bench.call.request.text == "new"


def test_barge_in_takes_back_what_has_not_left():
    bench = Bench().say(Speak(text="One.|Two.", utterance_id="a")).audio(1).audio(4)
    assert kinds(bench.send(2)) == ["segment", "audio_chunk"]
    bench.say(Cancel(utterance_id="a"))
    assert bench.cancelled_calls == [1]
    assert bench.send() == [Cancelled(utterance_id="a", duration_ms=80)]
    bench.audio()
    assert bench.send() == []
    bench.over()
    assert bench.call is None


def test_what_is_under_way_at_a_cancel_counts_as_sent():
    bench = Bench().say(Speak(text="One.", utterance_id="a")).audio(1)
    bench.send(1)
    item = bench.session.take(0.0)
    assert item.samples == 1920
    bench.say(Cancel())
    bench.session.sent(0.0)
    assert bench.send() == [Cancelled(utterance_id="a", duration_ms=80)]


def test_an_utterance_that_was_made_but_not_sent_can_be_cancelled():
    bench = Bench().say(Speak(text="One.", utterance_id="a")).audio(9).end()
    assert bench.say(Cancel()).send() == [Cancelled(utterance_id="a", duration_ms=0)]


def test_a_cancel_that_crosses_the_end_is_not_answered():
    bench = Bench().say(Speak(text="One.", utterance_id="a")).speak_all()
    bench.send()
    assert bench.say(Cancel(utterance_id="a"), Cancel()).send() == []


@pytest.mark.parametrize(("cancelled", "needed_by_s"), [(None, 1.0), ("a", 1.0), ("earlier", 8.0)])
def test_a_cancel_after_the_end_stops_the_playback_of_what_was_sent(cancelled, needed_by_s):
    bench = Bench().say(Speak(text="One.", utterance_id="a")).audio(100).end()  # 8 s
    bench.send()
    bench.now_s = 1.0
    bench.say(Cancel(utterance_id=cancelled), Speak(text="Two.", utterance_id="b"))
    assert bench.call.needed_by_s == needed_by_s


def test_a_cancel_of_a_queued_utterance_does_not_change_when_the_speaking_one_goes_on():
    texts = {"a": "One.|Two.", "b": "Three."}
    bench = Bench().say(*(Speak(text=text, utterance_id=name) for name, text in texts.items())).audio(100).end()
    bench.send()
    bench.now_s = 1.0
    bench.say(Cancel(utterance_id="b"))
    assert bench.call is None
    assert bench.wait(1.0).call.request.text == "Two."  # six seconds before the audio ends


def test_a_cancelled_call_holds_the_next_one_back_until_it_is_over():
    bench = Bench().say(Speak(text="a", utterance_id="a"), Cancel(), Speak(text="b", utterance_id="b"))
    assert bench.call.request.text == "a"
    assert bench.over().call.request.text == "b"


def test_cancel_of_one_leaves_the_others():
    bench = Bench().say(*(Speak(text=name, utterance_id=name) for name in "abc"), Cancel(utterance_id="b"))
    messages = bench.speak_all().send()
    assert only(messages, Cancelled) == [Cancelled(utterance_id="b", duration_ms=0)]
    assert [each.utterance_id for each in only(messages, Complete)] == ["a", "c"]


def test_cancel_without_an_id_is_for_all_in_order():
    bench = Bench().say(*(Speak(text=name, utterance_id=name) for name in "abc"), Cancel())
    assert [each.utterance_id for each in only(bench.send(), Cancelled)] == ["a", "b", "c"]


def test_a_hundred_cancel_and_speak_pairs_end_once_each():
    bench = Bench()
    for _ in range(100):
        bench.say(Speak(text="again", utterance_id="a"))
        if bench.call.call_id in bench.cancelled_calls:
            bench.over()
        bench.audio()
        bench.say(Cancel())
    messages = bench.over().send()
    assert len(only(messages, Cancelled)) == 100
    assert only(messages, AudioMessage) == []
    assert bench.call is None


def test_a_failed_text_chunk_ends_its_utterance_and_no_other():
    bench = Bench().say(Speak(text="One.|Two.", utterance_id="a"), Speak(text="Three.", utterance_id="b")).audio()
    bench.end("error", code="CAPACITY", message="full", retry_after_ms=500)
    assert bench.call.request.text == "Three."
    messages = bench.speak_all().send()
    error = error_of(messages)
    assert (error.code, error.utterance_id, error.retry_after_ms, error.fatal) == ("CAPACITY", "a", 500, False)
    assert [each.utterance_id for each in only(messages, Complete)] == ["b"]
    assert [each.final for each in only(messages, AudioMessage) if each.utterance_id == "a"] == [False]


def test_a_cancel_after_a_failure_takes_back_its_audio_and_leaves_the_error_as_its_end():
    bench = Bench().say(Speak(text="a", utterance_id="a")).audio().end("error", code="SYNTHESIS_ERROR", message="x")
    assert kinds(bench.say(Cancel(utterance_id="a"), Cancel()).send()) == ["error"]


def test_a_call_that_raises_ends_its_utterance():
    bench = Bench().say(Speak(text="a", utterance_id="a")).fail(CapacityError("full", retry_after_ms=1))
    assert error_of(bench.send()).code == "CAPACITY"


@pytest.mark.parametrize("reason", ["cancelled", None])
def test_a_stream_that_breaks_off_is_an_error(reason):
    bench = Bench().say(Speak(text="a", utterance_id="a"))
    messages = (bench.end(reason) if reason else bench.over()).send()
    assert error_of(messages).code == "SYNTHESIS_ERROR"


def test_the_first_chunk_cut_short_names_the_reason():
    bench = Bench().say(Speak(text="One.|Two.|Three."))
    messages = bench.audio().end("length").audio().end("stalled").audio().end().send()
    assert only(messages, Complete)[0].finish_reason == "length"


@pytest.mark.parametrize("text", ["", "   ", " \n\u3000"])
def test_no_text_is_an_error(text):
    error = error_of(Bench().say(Speak(text=text, utterance_id="a")).send())
    assert (error.code, error.utterance_id) == ("TEXT_EMPTY", "a")
    bench = Bench().say(Speak(text=text, utterance_id="a", final=False), Speak(text=text, utterance_id="a"))
    assert error_of(bench.send()).code == "TEXT_EMPTY"


@pytest.mark.parametrize("kind", [Speak, SpeakBuffered])
@pytest.mark.parametrize("text", ["...", "—", "👍 👍", "**", "<think>Hm.</think>", "\ud83d", "<break time='0s'/>"])
def test_text_with_nothing_to_pronounce_is_complete_without_a_call(kind, text):
    bench = Bench(text=TextPipeline()).say(kind(text=text, utterance_id="a"), Speak(text="Next."))
    final, done = bench.send()
    assert (final.final, final.seq, final.duration_ms) == (True, 0, 0)
    assert (done.utterance_id, done.duration_ms, done.finish_reason, done.rtf) == ("a", 0, "eos", 0.0)
    assert [call.request.text for call in bench.calls] == ["Next."]


def test_open_text_with_nothing_to_pronounce_is_complete_when_it_is_stopped():
    bench = Bench(text=TextPipeline()).say(Speak(text="…", utterance_id="a", final=False))
    assert bench.send() == []
    assert kinds(bench.say(Stop()).send()) == ["audio_chunk", "complete", "stopped", "close"]


def test_halves_of_an_emoji_are_joined_over_messages_and_lone_ones_are_dropped():
    cleaning = TextPipeline(TextConfig(emoji="keep"))
    bench = Bench(text=cleaning).say(
        Speak(text="Hi \U0010d83d", utterance_id="a", final=False),
        Speak(text="\U0010de00 you \U0010d83d and", utterance_id="a", final=False),
        Speak(text="\ude00 me.", utterance_id="a"),
    )
    assert bench.call.request.text == "Hi 😀 you and me."
    assert only(bench.audio().send(), Segment)[0].to_json()


def test_a_pause_is_exactly_so_much_silence_between_two_calls():
    bench = Bench().say(Speak(text="One.|~19200|Two.", utterance_id="a")).audio(2)
    assert kinds(bench.send()) == ["segment", "audio_chunk"]
    silence = bench.end().send()
    assert [(message.type, message.start_ms, message.duration_ms) for message in silence] == [("audio_chunk", 160, 800)]
    assert bench.items[-1].payload == bytes(2 * 19200)
    segment, *_, done = bench.audio(1).end().send()
    assert (segment.index, segment.text, segment.start_ms) == (1, "Two.", 960)
    assert done.duration_ms == 160 + 800 + 80
    assert [call.request.seed for call in bench.calls] == [1000, chunk_seed(1000, 1)]


def test_a_pause_waits_for_the_audio_before_it_and_needs_no_call():
    bench = Bench().say(Speak(text="One.|~24", utterance_id="a")).audio()
    assert [message.duration_ms for message in only(bench.send(), AudioMessage)] == [80]
    assert [message.duration_ms for message in only(bench.end().send(), AudioMessage)] == [1, 0]
    bench = Bench().say(Speak(text="~12000"))
    assert bench.calls == []
    assert [message.type for message in bench.send()] == ["audio_chunk", "audio_chunk", "complete"]


def test_a_long_pause_leaves_by_the_second_and_no_faster_than_it_is_played():
    bench = Bench(limits=SessionConfig(max_lead_s=2)).say(Speak(text="~240000|~240000"))
    assert [message.duration_ms for message in bench.send()] == [1000, 1000, 1000]
    assert bench.session.next_deadline_s == 1
    assert len(bench.wait(1).send()) == 1
    sent = [message for _ in range(20) for message in bench.wait(1).send()]
    assert kinds(sent) == ["audio_chunk"] * 17 + ["complete"]
    assert sent[-1].duration_ms == 20_000


def test_a_pause_waits_for_a_client_that_does_not_read():
    bench = Bench(limits=SessionConfig(max_unsent_audio_s=2)).say(Speak(text="~240000"))
    assert bench.session.paused
    assert len(bench.wait(1).session._outbox) == 2
    assert bench.session.next_deadline_s > 1
    assert len(bench.send()) == 8  # up to the six seconds that a listener may be behind, and the one that has passed


def test_a_cancel_ends_a_pause_and_says_how_much_of_it_was_sent():
    bench = Bench().say(Speak(text="~240000", utterance_id="a"))
    bench.send(2)
    assert bench.say(Cancel()).send() == [Cancelled(utterance_id="a", duration_ms=2000)]


def test_pauses_are_part_of_buffered_audio_and_of_its_bound():
    bench = Bench().say(SpeakBuffered(text="One.|~36000|Two.")).audio(2).end().audio(1).end()
    audio, done = bench.send()
    assert (audio.duration_ms, done.duration_ms) == (1740, 1740)
    assert len(bench.items[0].payload) == 2 * (3 * 1920 + 36000)
    bench = Bench(limits=SessionConfig(max_whole_audio_s=5)).say(SpeakBuffered(text="~240000|~240000"))
    assert error_of(bench.send()).code == "TEXT_TOO_LONG"


def spoken_at(speed, text="One.|~19200|Two.", kind=Speak, frames=(4, 3, 5)):
    """An utterance of two text chunks; the first one's audio comes in two parts."""
    bench = Bench().say(kind(text=text, utterance_id="a", speed=speed))
    bench.audio(frames[0]).audio(frames[1]).end().audio(frames[2]).end()
    return bench, bench.send()


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.25, 2.0])
def test_all_times_follow_the_speed_and_a_pause_keeps_its_length(speed):
    bench, messages = spoken_at(speed)
    captions, chunks, done = only(messages, Segment), only(messages, AudioMessage), only(messages, Complete)[0]
    ends = [chunk.start_ms + chunk.duration_ms for chunk in chunks]
    assert [chunk.start_ms for chunk in chunks] == [0, *ends[:-1]]
    assert (
        done.duration_ms
        == ends[-1]
        == milliseconds(sum(len(item.payload) for item in bench.items if item.payload) // 2)
    )
    assert captions[0].start_ms == 0
    assert captions[1].start_ms - 800 == pytest.approx(7 * 80 / speed, abs=80)
    assert done.duration_ms - captions[1].start_ms == pytest.approx(5 * 80 / speed, abs=80)
    heard = np.frombuffer(b"".join(item.payload for item in bench.items if item.payload), dtype="<i2")
    (pause,) = np.split(heard, np.flatnonzero(np.diff(heard == 0)) + 1)[1::2]
    assert len(pause) == 19200
    assert [call.request.speed for call in bench.calls] == [speed, speed]


def test_speed_1_is_the_audio_without_a_speed():
    (plain, said), (asked, answered) = spoken_at(None), spoken_at(1.0)
    assert [item.payload for item in asked.items] == [item.payload for item in plain.items]
    assert answered == said


def test_buffered_audio_is_the_streamed_audio_at_any_speed():
    (streamed, _), (whole, messages) = spoken_at(1.5), spoken_at(1.5, kind=SpeakBuffered)
    parts = [item.payload for item in streamed.items if item.payload]
    assert whole.items[0].payload == b"".join(parts)
    assert messages[0].duration_ms == messages[1].duration_ms == milliseconds(len(whole.items[0].payload) // 2)


def test_the_real_time_factor_counts_what_the_generator_made():
    bench = Bench().say(Speak(text="One.", speed=2)).audio(10)
    assert only(bench.end(timings_s={"total": 0.4}).send(), Complete)[0].rtf == 0.5


def test_the_lead_of_a_listener_is_counted_in_the_audio_that_is_sent():
    bench = Bench(limits=SessionConfig(max_lead_s=6)).say(Speak(text="One.|Two.", speed=0.5)).audio(50).end()
    bench.send()
    assert bench.session.next_deadline_s == pytest.approx(2, abs=0.05)  # four seconds are eight at half the speed
    bench = Bench().say(Speak(text="One.|Two.", speed=2)).audio(50).end()
    assert bench.call.needed_by_s == pytest.approx(2, abs=0.05)


def test_limits_of_audio_count_the_audio_that_is_sent():
    limits = SessionConfig(max_whole_audio_s=1)
    assert (
        error_of(Bench(limits=limits).say(SpeakBuffered(text="a", speed=0.5)).audio(9).send()).code == "TEXT_TOO_LONG"
    )
    bench = Bench(limits=limits).say(SpeakBuffered(text="a", speed=2)).audio(20).end()
    assert only(bench.send(), Complete)[0].duration_ms == pytest.approx(800, abs=80)
    bench = Bench(limits=SessionConfig(max_unsent_audio_s=1)).say(Speak(text="a", speed=0.5)).audio(7)
    assert bench.session.paused


def test_speed_is_a_default_of_the_session_that_ready_tells():
    bench = Bench().say(Start(speed=1.5), Speak(text="a"), Speak(text="b", speed=1), Start(speed=1))
    assert [ready.speed for ready in only(bench.send(), Ready)] == [1.5, 1]
    assert bench.call.request.speed == 1.5
    assert bench.end().call.request.speed == 1
    bench = Bench().say(Speak(text="a", utterance_id="a", final=False), Speak(text="b", utterance_id="a", speed=2))
    assert error_of(bench.send()).code == "INVALID_MESSAGE"


def test_silence_is_not_part_of_the_real_time_factor():
    bench = Bench().say(Speak(text="One.|~240000"))
    bench.wait(0.08).audio(2).end()
    sent = [message for _ in range(20) for message in bench.wait(1).send()]
    assert only(sent, Complete)[0].rtf == 0.5


def test_too_much_text_says_the_limit():
    bench = Bench(limits=SessionConfig(max_text_characters=5, max_utterance_characters=8))
    error = error_of(bench.say(Speak(text="123456", utterance_id="a")).send())
    assert error.code == "TEXT_TOO_LONG"
    assert "5" in error.message
    bench.say(*(Speak(text="1234", utterance_id="b", final=False) for _ in range(3)))
    error = error_of(bench.send())
    assert (error.code, error.utterance_id) == ("TEXT_TOO_LONG", "b")
    assert "8" in error.message


def test_too_many_utterances_are_refused_and_the_rest_go_on():
    bench = Bench(limits=SessionConfig(max_queued_utterances=2))
    bench.say(*(Speak(text=name, utterance_id=name) for name in "abc"))
    error = error_of(bench.send())
    assert (error.code, error.utterance_id, error.fatal) == ("CAPACITY", "c", False)
    assert error.retry_after_ms is not None
    assert len(only(bench.speak_all().send(), Complete)) == 2


def test_an_unknown_voice_names_those_that_are_ready():
    error = error_of(Bench().say(Speak(text="a", voice="nobody", utterance_id="a")).send())
    assert (error.code, error.utterance_id) == ("VOICE_NOT_FOUND", "a")
    assert "makima" in error.message
    assert "broken" not in error.message


def test_an_unavailable_voice_gives_its_reason():
    error = error_of(Bench().say(Start(voice="broken")).send())
    assert error.code == "VOICE_NOT_FOUND"
    assert "not there yet" in error.message


def test_a_voice_that_waits_to_be_encoded_may_be_asked_for():
    assert Bench().say(Speak(text="a", voice="new")).call.request.voice == "new"


def test_a_voice_that_is_added_later_is_found():
    bench = Bench()
    bench.voices["late"] = VoiceStatus("late", "ready", "", None)
    assert bench.say(Speak(text="a", voice="late")).call is not None


def test_where_no_voices_are_known_the_generator_answers():
    assert Bench(voices={}).say(Speak(text="a", voice="nobody")).call is not None


def test_a_refused_message_about_open_text_ends_that_utterance():
    bench = Bench().say(Speak(text="a", utterance_id="a", final=False), Refusal(InvalidMessageError("x"), "a"))
    assert error_of(bench.send()).utterance_id == "a"
    assert bench.say(Cancel()).send() == []


def test_stop_speaks_what_is_queued_then_closes():
    bench = Bench().say(Speak(text="a"), Speak(text="b"), Stop(), Speak(text="c"))
    messages = bench.speak_all().send()
    assert kinds(messages)[-4:] == ["audio_chunk", "complete", "stopped", "close"]
    assert len(only(messages, Complete)) == 2
    assert "stopping" in error_of(messages).message
    assert messages[-1] == Close(1000, "stopped")


def test_stop_closes_what_is_open():
    bench = Bench().say(Speak(text="tail", utterance_id="a", final=False), Stop())
    assert bench.call.request.text == "tail"
    assert kinds(bench.speak_all().send())[-3:] == ["complete", "stopped", "close"]


def test_stop_of_an_idle_session_is_answered_at_once():
    assert Bench().say(Stop()).send() == [Stopped(), Close(1000, "stopped")]


def test_a_cancel_after_stop_still_silences():
    bench = Bench().say(Speak(text="a", utterance_id="a"), Stop()).audio(9).end().say(Cancel())
    assert kinds(bench.send()) == ["cancelled", "stopped", "close"]


def test_a_silent_client_is_closed():
    bench = Bench(limits=SessionConfig(idle_timeout_s=10)).wait(9.9)
    assert bench.session.next_deadline_s == 10
    assert bench.send() == []
    messages = bench.wait(0.2).send()
    assert (messages[0].code, messages[0].fatal) == ("SESSION_TIMEOUT", True)
    assert messages[1].code == 1008


def test_a_session_that_speaks_is_not_idle():
    bench = Bench(limits=SessionConfig(idle_timeout_s=10)).say(Speak(text="a"))
    bench.wait(50).audio()
    assert "error" not in kinds(bench.send())
    bench.end()
    bench.send()
    assert kinds(bench.wait(9).send()) == []
    assert kinds(bench.wait(2).send()) == ["error", "close"]


RESTARTED = Close(1012, "SERVICE_RESTART")


def test_an_idle_session_of_a_draining_replica_gets_an_error_and_is_closed():
    bench = Bench().drain()
    assert bench.send() == []
    assert bench.session.next_deadline_s == 2.0
    told, closed = bench.wait(2).send()
    assert (told.code, told.fatal, told.retry_after_ms) == ("SERVICE_RESTART", True, 700)
    assert closed == RESTARTED


def test_what_was_asked_for_is_spoken_to_its_end_before_the_session_is_told():
    bench = Bench().say(Speak(text="One.|Two."), Speak(text="Three.")).drain().wait(10)
    assert bench.session.close is None
    bench.speak_all()
    assert kinds(bench.send())[-3:] == ["complete", "error", "close"]
    assert len(only([item.message for item in bench.items[:-1]], Complete)) == 2


def test_a_first_message_that_is_on_its_way_when_the_replica_leaves_is_still_answered():
    bench = Bench().drain().wait(1.9).say(Speak(text="Hello."))
    bench.wait(5).speak_all()
    assert kinds(bench.send())[-3:] == ["complete", "error", "close"]


def test_what_is_not_spoken_in_time_is_cut_with_a_word():
    bench = Bench().say(Speak(text="Hello.", utterance_id="a")).audio().drain()
    bench.send()
    bench.wait(59.9)
    assert bench.session.close is None
    bench.wait(0.1)
    assert len(bench.cancelled_calls) == 1
    told, closed = bench.send()[-2:]
    assert (told.code, told.utterance_id, closed) == ("SERVICE_RESTART", None, RESTARTED)
    assert "unfinished utterances again" in told.message


def test_a_client_that_has_said_stop_is_answered_even_while_the_replica_leaves():
    bench = Bench().say(Speak(text="Hello."), Stop()).drain().wait(10).speak_all()
    assert bench.send()[-1] == Close(1000, "stopped")


def test_a_client_that_does_not_read_pauses_the_generator_then_is_closed():
    bench = Bench(limits=SessionConfig(max_unsent_audio_s=1, slow_client_timeout_s=5)).say(Speak(text="a|b"))
    bench.audio(4).audio(4)
    assert not bench.session.paused
    assert bench.audio(5).session.paused
    bench.send(2)
    assert not bench.session.paused
    bench.audio(4)
    assert bench.session.paused
    messages = bench.wait(5).send()
    assert kinds(messages) == ["error", "close"]
    assert (messages[0].code, messages[0].fatal, messages[1].code) == ("SLOW_CLIENT", True, 1008)
    assert bench.cancelled_calls == [1]


def test_unsent_bytes_pause_too():
    bench = Bench(limits=SessionConfig(max_unsent_bytes=1 << 16)).say(Speak(text="a", encoding="pcm_f32"))
    assert not bench.audio(8).session.paused
    assert bench.audio(1).session.paused


def test_a_client_that_reads_slowly_but_steadily_stays():
    bench = Bench(limits=SessionConfig(slow_client_timeout_s=5)).say(Speak(text="a"))
    for _ in range(20):
        bench.audio().wait(4).send(1)
    assert bench.session.close is None


def test_messages_that_the_client_does_not_read_are_bounded():
    bench = Bench()
    for _ in range(10_000):
        bench.say(Refusal(InvalidMessageError("x")))
    messages = bench.send()
    assert [message.code for message in messages] == ["SLOW_CLIENT", 1008]


def test_a_call_is_needed_when_all_that_was_made_is_played():
    bench = Bench().wait(1).say(Speak(text="One.|Two."), Speak(text="Three."))
    assert (bench.call.needed_by_s, bench.call.request.begun) == (1, False)
    bench.wait(1).audio(25).audio(25).end()  # from 2 s on, four seconds of it
    assert (bench.call.needed_by_s, bench.call.request.begun) == (6, True)
    bench.wait(7).audio(25).end()  # he waited from 6 to 9
    assert (bench.call.needed_by_s, bench.call.request.begun) == (11, False)


def test_an_utterance_asks_for_the_clip_that_it_began_with_and_the_next_one_for_none():
    bench = Bench().say(Speak(text="One.|Two.|Three."), Speak(text="Four."))
    assert bench.call.request.voice_digest == ""
    bench.audio(1, "d1").audio(1, "d1").end()
    assert bench.call.request.voice_digest == "d1"
    bench.audio().end()
    assert bench.call.request.voice_digest == "d1"
    bench.audio(1, "d1").end()
    assert (bench.call.request.text, bench.call.request.voice_digest) == ("Four.", "")


def test_a_call_after_a_cancel_is_needed_at_once():
    bench = Bench().say(Speak(text="One.")).audio(25).wait(1).say(Cancel()).over().say(Speak(text="Two."))
    assert bench.call.needed_by_s == 1


def test_the_next_text_chunk_waits_while_its_listener_has_much_to_play():
    bench = Bench(limits=SessionConfig(max_lead_s=6, idle_timeout_s=1)).say(Speak(text="One.|Two."))
    bench.audio(100).end()  # eight seconds
    first = bench.call
    bench.send()
    assert bench.session.next_deadline_s == 2
    bench.wait(1.9)
    assert bench.call is first
    bench.wait(0.2)
    assert bench.call.request.text == "Two."


def test_a_cancel_ends_the_wait_for_the_next_text_chunk():
    bench = Bench(limits=SessionConfig(max_lead_s=6)).say(Speak(text="One.|Two.")).audio(500).end()
    bench.say(Cancel(), Speak(text="Three."))
    assert bench.call.request.text == "Three."


def test_a_new_utterance_begins_at_once_however_much_there_is_to_play():
    bench = Bench(limits=SessionConfig(max_lead_s=6)).say(Speak(text="One.")).audio(500).end()
    bench.say(Speak(text="Two."))
    assert bench.call.request.text == "Two."


def test_buffered_audio_does_not_wait_for_a_listener():
    bench = Bench().say(SpeakBuffered(text="One.|Two.")).audio(500).end()
    assert bench.call.request.text == "Two."


def test_whole_audio_comes_in_one_piece():
    bench = Bench().say(SpeakBuffered(text="One.|Two.", utterance_id="a"))
    assert not bench.call.request.listening
    messages = bench.audio(2).audio(3).end().audio(1).end().send()
    assert kinds(messages) == ["audio_chunk", "complete"]
    assert (messages[0].seq, messages[0].duration_ms, messages[0].final) == (0, 480, True)
    assert len(bench.items[0].payload) == 6 * 1920 * 2
    assert messages[1].duration_ms == 480


def test_whole_audio_is_bounded():
    bench = Bench(limits=SessionConfig(max_whole_audio_s=0.2)).say(SpeakBuffered(text="a")).audio(2).audio(2)
    assert error_of(bench.send()).code == "TEXT_TOO_LONG"
    assert bench.cancelled_calls == [1]


def test_errors_in_order_wait_for_their_turn():
    bench = Bench(rules=DialectRules(errors_in_order=True)).say(Speak(text="a"), Speak(text=""), Speak(text="c"))
    spoken = ["segment", "audio_chunk", "audio_chunk", "complete"]
    assert kinds(bench.speak_all().send()) == [*spoken, "error", *spoken]


def test_errors_in_order_are_bounded():
    bench = Bench(rules=DialectRules(errors_in_order=True), limits=SessionConfig(max_queued_utterances=2))
    bench.say(*(Speak(text="a") for _ in range(20)))
    messages = bench.send()
    assert (messages[0].code, messages[0].fatal, messages[1].code) == ("CAPACITY", True, 1013)


TALE = "Once there was a fox. It met a hen, and said good morning! Was it polite? Nobody knows; the hen was gone. "


def requests_of(texts, **options):
    """Requests made with the real text pipeline for one utterance given in pieces."""
    setup = SessionSetup("s", SpeechOptions(voice="makima", seed=3, **options), SessionConfig(), VOICES, lambda: 0)
    session = Session(setup, 0.0)
    requests, effects = [], []
    for number, text in enumerate(texts, 1):
        speak = Speak(text=text, utterance_id="a", final=number == len(texts))
        effects += session.receive(speak, 0.0)
    while effects:
        call = effects.pop()
        requests.append((call.request.text, call.request.seed))
        session.event(call.call_id, SpeechEnd("eos", 0), 0.0)
        effects += session.ended(call.call_id, 0.0)
    return requests


@examples(30)
@given(st.lists(st.integers(0, 4 * len(TALE)), max_size=12))
def test_text_in_any_pieces_makes_the_same_requests(cuts):
    text = TALE * 4
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    requests = requests_of(pieces)
    assert requests == requests_of([text])
    assert len(requests) > 1


ACCOUNT = "On May 3, 2024 at 14:30 we sold 1,234 of them for $5.50 each. That is 12% more than in 1999, or not? "


@examples(30)
@given(st.lists(st.integers(0, 4 * len(ACCOUNT)), max_size=12))
def test_numbers_in_any_pieces_are_spelled_the_same_and_no_number_is_cut(cuts):
    text = ACCOUNT * 4
    edges = [0, *sorted(cuts), len(text)]
    requests = requests_of([text[start:end] for start, end in pairwise(edges)], language="english", normalize=True)
    assert requests == requests_of([text], language="english", normalize=True)
    assert len(requests) == len(requests_of([text], language="english"))
    spoken = " ".join(request for request, _ in requests)
    assert not any(character.isdigit() for character in spoken)
    assert spoken.count("one thousand two hundred thirty-four of them for five dollars fifty each.") == 4


WORDS = Speak(text="Ab cd.|~19200|Ef gh", utterance_id="a", words=True)


def test_the_words_of_a_segment_follow_its_audio():
    bench = Bench().say(WORDS)
    assert bench.call.request.words
    bench.looking_at(0, 0).looking_at(3, 3, 5).end().looking_at(0, 3).end()
    messages = bench.send()
    assert kinds(messages) == [
        "segment", "audio_chunk", "audio_chunk", "words", "audio_chunk", "segment", "audio_chunk", "words",
        "audio_chunk", "complete",
    ]  # fmt: skip
    assert only(messages, Words) == [
        Words(utterance_id="a", index=0, words=[("Ab", 0, 200), ("cd.", 200, 360)]),
        Words(utterance_id="a", index=1, words=[("Ef", 1200, 1320), ("gh", 1320, 1360)]),
    ]
    json = only(messages, Words)[1].to_json()
    assert json == '{"type":"words","utterance_id":"a","index":1,"words":[["Ef",1200,1320],["gh",1320,1360]]}'


def test_a_client_that_does_not_ask_gets_no_words():
    bench = Bench().say(Speak(text="Ab cd.", utterance_id="a"))
    assert not bench.call.request.words
    messages = bench.looking_at(0, 3).say(Cancel()).send()
    assert kinds(messages) == ["cancelled"]
    assert messages[0].heard_text is None


def test_buffered_audio_has_no_words():
    bench = Bench().say(Start(words=True), SpeakBuffered(text="Ab cd.")).looking_at(0, 3).end()
    assert kinds(bench.send()) == ["ready", "audio_chunk", "complete"]


@pytest.mark.parametrize("speed", [0.5, 1.25, 2.0])
def test_word_times_follow_the_speed_and_stay_inside_their_segment(speed):
    bench = Bench().say(Start(speed=speed), WORDS)
    bench.looking_at(*[0] * 4).looking_at(*[3] * 6).end().looking_at(*[0] * 5, *[3] * 5).end()
    messages = bench.send()
    captions, chunks = only(messages, Segment), only(messages, AudioMessage)
    first, second = only(messages, Words)
    assert first.words[1][1] == pytest.approx(4.5 * 80 / speed, abs=2)
    assert second.words[1][1] == pytest.approx(captions[1].start_ms + 5.5 * 80 / speed, abs=2)
    assert second.words[-1][2] == chunks[-1].start_ms
    assert first.words[0][2] == first.words[1][1] < first.words[1][2] <= captions[1].start_ms - 800


def test_the_words_are_the_written_ones_where_others_are_spoken():
    text = TextPipeline(TextConfig(lexicon={"cd": "see dee"}))
    bench = Bench(text=text).say(Speak(text="Ab cd ef", words=True, normalize=True, language="english"))
    assert bench.call.request.text == "Ab see dee ef"
    bench.looking_at(0, 3, 7, 7, 11).end()
    (words,) = only(bench.send(), Words)
    assert [word for word, _, _ in words.words] == ["Ab", "cd", "ef"]
    assert [start for _, start, _ in words.words] == [0, 120, 360]


def test_of_text_that_was_cut_short_the_words_that_were_reached_are_told():
    bench = Bench().say(Speak(text="Ab cd ef", words=True)).looking_at(0, 3).end("length")
    (words,) = only(bench.send(), Words)
    assert [word for word, _, _ in words.words] == ["Ab", "cd"]


def test_a_client_is_told_once_that_the_model_has_no_word_times():
    bench = Bench().say(Start(words=True), Speak(text="One.|Two.", utterance_id="a")).audio(2).audio(1).end()
    messages = bench.audio(1).say(Cancel()).send()
    assert kinds(messages) == ["ready", "error", "cancelled"]
    error = error_of(messages)
    assert (error.code, error.utterance_id, error.fatal) == ("WORD_TIMES_UNAVAILABLE", None, False)
    assert messages[-1].heard_text is None
    bench = Bench().say(Start(words=True), Speak(text="One.|Two."), Speak(text="Three.")).speak_all()
    messages = bench.send()
    assert kinds(messages).count("error") == 1
    assert kinds(messages).count("complete") == 2
    assert only(messages, Words) == []


@pytest.mark.parametrize(
    ("played_s", "heard"),
    [(0, ""), (0.01, "Ab"), (0.21, "Ab cd."), (1.0, "Ab cd."), (1.25, "Ab cd. Ef"), (9, "Ab cd. Ef gh")],
)
def test_a_cancel_is_told_the_text_that_was_played(played_s, heard):
    bench = Bench().say(WORDS).looking_at(0, 0, 3, 3, 5).end().looking_at(0, 3, 3)
    bench.send()
    bench.now_s = played_s
    (cancelled,) = bench.say(Cancel()).send()
    assert (cancelled.duration_ms, cancelled.heard_text) == (400 + 800 + 240, heard)


def test_what_was_not_sent_was_not_heard():
    bench = Bench().say(WORDS).looking_at(0, 0, 3, 3).end()
    bench.send(2)
    bench.now_s = 9.0
    assert bench.say(Cancel()).send() == [Cancelled(utterance_id="a", duration_ms=320, heard_text="Ab cd.")]
    bench = Bench().say(WORDS).looking_at(0, 0).looking_at(3, 3)
    bench.send(2)
    bench.now_s = 9.0
    assert bench.say(Cancel()).send() == [Cancelled(utterance_id="a", duration_ms=160, heard_text="Ab")]


def test_an_utterance_behind_another_is_heard_when_that_one_was_played():
    first, second = (Speak(text="Ab cd", utterance_id=name, words=True) for name in "ab")
    bench = Bench().say(first, second).looking_at(*[0] * 10, *[3] * 10).end().looking_at(0, 0, 3, 3)
    bench.send(3)  # the first one's final audio waits, so it can still be cancelled
    bench.now_s = 1.0
    cancelled = only(bench.say(Cancel()).send(), Cancelled)
    assert [(each.utterance_id, each.heard_text) for each in cancelled] == [("a", "Ab cd"), ("b", "")]


def refused(frame: dict):
    return read_full(json.dumps({"type": "speak", "text": "x", "utterance_id": "a", "speed": 3, **frame}))


def test_the_rest_of_an_utterance_whose_first_speak_was_refused_is_refused():
    rest = [Speak(text=text, utterance_id="a", final=text == "end") for text in ("more", "end")]
    bench = Bench().say(refused({"final": False}), *rest)
    assert bench.call is None
    assert kinds(bench.send()) == ["error"] * 3
    assert bench.say(Speak(text="new", utterance_id="a")).call.request.text == "new"


def test_after_a_refused_last_speak_the_id_is_free():
    bench = Bench().say(Speak(text="One.", utterance_id="a", final=False), refused({}))
    assert kinds(bench.send()) == ["error"]
    assert bench.say(Speak(text="new", utterance_id="a")).call.request.text == "new"


def test_an_utterance_that_waits_to_be_sent_gets_no_second_end():
    bench = Bench().say(Speak(text="One.", utterance_id="a")).speak_all()
    bench.say(Flush(utterance_id="a"), refused({}))
    messages = bench.send()
    assert kinds(messages) == ["segment", "audio_chunk", "audio_chunk", "complete", "error"]
    assert messages[-1].utterance_id is None


def test_words_is_a_default_of_the_session_that_ready_tells():
    bench = Bench().say(Start(words=True), Start(seed=1), Speak(text="a"), Speak(text="b", words=False))
    assert [ready.words for ready in only(bench.send(), Ready)] == [True, True]
    assert bench.call.request.words
    assert not bench.end().call.request.words


IDS = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["", "One.", "One.|", "One.|Two.|Three", "   ", "One.|~36000|Two.", "~480|", "|~24000"])
STEPS = st.one_of(
    st.builds(Speak, text=TEXTS, utterance_id=IDS | st.none(), final=st.booleans()),
    st.builds(SpeakBuffered, text=TEXTS, utterance_id=IDS | st.none()),
    st.builds(Flush, utterance_id=IDS | st.none()),
    st.builds(Cancel, utterance_id=IDS | st.none()),
    st.builds(
        Start,
        voice=st.sampled_from(["makima", "broken", None]),
        speed=st.sampled_from([None, 1.0, 1.5]),
        words=st.sampled_from([None, True]),
    ),
    st.builds(Refusal, st.just(InvalidMessageError("wrong")), IDS | st.none()),
    st.sampled_from(["audio", "audio", "words", "eos", "error", "over", "send", "send", "wait"]),
)


def _step(bench, step):
    if not isinstance(step, str):
        bench.say(step)
    elif step == "send":
        bench.send(2)
    elif step == "wait":
        bench.wait(1)
    elif bench.call is not None:
        words = lambda: bench.looking_at(0, 2)  # noqa: E731
        {
            "audio": bench.audio,
            "words": words,
            "eos": bench.end,
            "error": lambda: bench.end("error"),
            "over": bench.over,
        }[step]()


def _check_invariants(items):
    """Exactly one end for each utterance, nothing of it after; its audio consecutive and without gaps."""
    spoken, samples, current = {}, {}, None
    for item in items:
        message = item.message
        if not isinstance(message, AudioMessage | Segment):
            if isinstance(message, Complete | Cancelled | ErrorMessage) and message.utterance_id in spoken:
                chunks = spoken.pop(message.utterance_id)
                made = samples.pop(message.utterance_id)
                finals = [chunk.final for chunk in chunks]
                if isinstance(message, Complete):
                    assert finals == [False] * (len(finals) - 1) + [True]
                    assert message.duration_ms == milliseconds(made)
                else:
                    assert True not in finals or isinstance(message, ErrorMessage)
                if isinstance(message, Cancelled):
                    assert message.duration_ms == milliseconds(made)
                if current == message.utterance_id:
                    current = None
            continue
        assert current in (None, message.utterance_id), "audio of two utterances interleaves"
        current = message.utterance_id
        chunks = spoken.setdefault(current, [])
        start = samples.setdefault(current, 0)
        assert message.start_ms == milliseconds(start)
        if isinstance(message, AudioMessage):
            assert message.seq == len(chunks)
            assert len(item.payload) == item.samples * 2
            chunks.append(message)
            samples[current] += item.samples
    return spoken


@pytest.mark.parametrize("whole", [False, True])
def test_a_cancel_after_the_final_audio_has_left_comes_too_late(whole):
    kind = SpeakBuffered if whole else Speak
    bench = Bench().say(kind(text="One.", utterance_id="a"))
    bench.audio(2).send()
    (*_, last) = bench.end().send(1)
    assert isinstance(last, AudioMessage)
    assert last.final
    bench.say(Cancel(), Cancel(utterance_id="a"))
    (done,) = bench.send()
    assert isinstance(done, Complete)
    assert done.duration_ms == 160
    assert bench.say(Stop()).send()[-1] == Close(1000, "stopped")


@examples(200)
@given(st.lists(STEPS, max_size=40), st.integers(0, 40))
def test_a_draining_replica_keeps_the_invariants_and_ends_every_session_with_an_error(steps, drained_at):
    bench = Bench(limits=SessionConfig(max_unsent_audio_s=2, max_queued_utterances=4))
    for step in steps[:drained_at]:
        _step(bench, step)
    bench.drain(bench.now_s + 2, bench.now_s + 100)
    for step in steps[drained_at:]:
        _step(bench, step)
    bench.speak_all()
    bench.send()
    bench.wait(100).send()
    assert bench.items[-1] == RESTARTED
    assert bench.items[-2].message.code == "SERVICE_RESTART"
    left = _check_invariants(bench.items[:-1])
    assert all(not chunk.final for chunks in left.values() for chunk in chunks)


@examples(300)
@given(st.lists(STEPS, max_size=40))
def test_any_sequence_keeps_the_invariants(steps):
    bench = Bench(limits=SessionConfig(max_unsent_audio_s=2, max_queued_utterances=4))
    for step in steps:
        _step(bench, step)
    bench.speak_all()
    bench.say(Stop()).speak_all()
    while bench.session.close is None:
        bench.send()
        bench.wait(1).speak_all()
    bench.send()
    assert bench.items[-1] == Close(1000, "stopped")
    assert _check_invariants(bench.items[:-1]) == {}
    assert bench.session.close is not None


def own_clip(digest="d"):
    return VoiceClip(np.zeros(3, np.int16), None, digest)


def test_a_session_speaks_with_its_inline_voice_and_with_others():
    bench = Bench().say(InlineVoice(Start(voice_audio="AAAA", seed=7), own_clip()), Speak(text="One."))
    assert only(bench.send(), Ready)[0].voice == INLINE_VOICE
    assert (bench.call.request.voice, bench.call.request.clip.digest, bench.call.request.seed) == (INLINE_VOICE, "d", 7)
    bench.speak_all().say(Speak(text="Two.", voice="makima")).speak_all()
    assert (bench.calls[-1].request.voice, bench.calls[-1].request.clip) == ("makima", None)
    bench.say(Start(voice="makima"), Speak(text="Three.")).speak_all().say(
        Start(voice=INLINE_VOICE), Speak(text="Four.")
    )
    assert bench.call.request.clip is not None


def test_a_session_brings_one_voice_at_most():
    bench = Bench().say(InlineVoice(Start(voice_audio="AAAA"), own_clip()))
    bench.say(InlineVoice(Start(voice_audio="BBBB"), own_clip("other")))
    assert "already" in error_of(bench.send()).message
    bench.say(InlineVoice(Start(voice_audio="AAAA"), own_clip()), Speak(text="One."))
    assert bench.call.request.clip.digest == "d"


def test_a_voice_is_named_or_inline_not_both():
    bench = Bench().say(InlineVoice(Start(voice_audio="AAAA", voice="makima"), own_clip()), Speak(text="One."))
    assert "one of them" in error_of(bench.send()).message
    assert bench.call.request.clip is None


def test_no_session_speaks_with_the_inline_voice_of_another():
    bench = Bench().say(Speak(text="One.", voice=INLINE_VOICE))
    assert error_of(bench.send()).code == "VOICE_NOT_FOUND"


def limited(most):
    """A rate limit that refuses once it was asked ``most`` times."""
    asked = []

    def spend(now_s):
        asked.append(now_s)
        if len(asked) > most:
            raise RateLimitedError("enough", retry_after_ms=700)

    return spend, asked


def test_an_utterance_is_counted_once_when_it_begins_and_a_wrong_one_not_at_all():
    spend, asked = limited(9)
    bench = Bench(spend=spend, now_s=5.0)
    bench.say(Speak(text=""), Speak(text="x", voice="nobody"), Start(voice="makima"))
    assert asked == []
    bench.say(Speak(text="One", utterance_id="a", final=False), Speak(text=" two.", utterance_id="a"))
    assert asked == [5.0]


def test_an_utterance_beyond_the_rate_is_refused_up_to_its_last_text_and_the_session_goes_on():
    spend, asked = limited(1)
    bench = Bench(spend=spend)
    bench.say(Speak(text="One.", utterance_id="a"))
    bench.say(Speak(text="Two ", utterance_id="b", final=False), Speak(text="three.", utterance_id="b"))
    assert [call.utterance_id for call in bench.calls] == ["a"]
    refusals = only(bench.send(), ErrorMessage)
    assert [error.code for error in refusals] == ["RATE_LIMITED", "INVALID_MESSAGE"]
    assert refusals[0].retry_after_ms == 700
    assert len(asked) == 2
    assert bench.session.close is None


NAMED = VoicesConfig(default="makima", aliases={"nova": "new"})


def test_a_voice_is_named_in_any_way_and_reported_by_its_id():
    bench = Bench(naming=NAMED).say(Start(voice="NOVA"), Speak(text="One.", voice="Alloy"), Speak(text="Two."))
    bench.speak_all()
    sent = bench.send()
    assert only(sent, Ready)[0].voice == "new"
    assert [complete.voice for complete in only(sent, Complete)] == ["makima", "new"]
    assert [call.request.voice for call in bench.calls] == ["makima", "new"]


def test_an_open_utterance_may_name_its_voice_in_another_way_but_not_another_voice():
    bench = Bench(naming=NAMED).say(
        Speak(text="One|", utterance_id="a", final=False, voice="nova"),
        Speak(text="two|", utterance_id="a", final=False, voice="NEW"),
    )
    assert not only(bench.send(), ErrorMessage)
    bench.say(Speak(text="three", utterance_id="a", voice="makima"))
    assert only(bench.send(), ErrorMessage)[0].code == "INVALID_MESSAGE"


def test_an_alias_of_no_voice_is_not_found_and_the_default_is_not_taken_for_it():
    bench = Bench(naming=VoicesConfig(aliases={"nova": "nobody"})).say(Speak(text="Hi.", voice="nova"))
    (error,) = only(bench.send(), ErrorMessage)
    assert (error.code, "makima" in error.message) == ("VOICE_NOT_FOUND", True)
    assert bench.calls == []


def silent_chunk(pcm, silent_samples=0):
    return AudioChunk(0, np.zeros((1, 16), dtype=np.int16), pcm.astype(np.float32), silent_samples=silent_samples)


def test_the_first_text_chunk_keeps_a_soft_start_and_later_ones_what_is_left_of_the_pause():
    limits = SessionConfig(leading_silence_limit_s=0.3, leading_silence_kept_s=0.02, pause_between_chunks_s=0.25)
    bench = Bench(limits).say(Speak(text="One|two|three"))
    first = bench.call.request.silence
    assert (first.leading_samples, first.left_out_samples, first.trailing_samples) == (480, 7200, 5520)
    assert first.level == pytest.approx(10**-2.5)
    bench.event(silent_chunk(np.full(1920, 0.5), silent_samples=4800)).end()
    second = bench.call.request.silence
    assert (second.leading_samples, second.left_out_samples) == (1200, UNLIMITED_SAMPLES)
    bench.event(silent_chunk(np.full(1920, 0.5), silent_samples=first.trailing_samples)).end()
    assert bench.call.request.silence.leading_samples == 480


@pytest.mark.parametrize("silent_samples", [0, 100, 10**9])
def test_a_pause_between_text_chunks_is_never_longer_than_configured(silent_samples):
    limits = SessionConfig(leading_silence_kept_s=0.04, pause_between_chunks_s=0.4)
    bench = Bench(limits).say(Speak(text="One|two"))
    before = min(silent_samples, bench.call.request.silence.trailing_samples)
    bench.event(silent_chunk(np.full(1920, 0.5), silent_samples=before)).end()
    assert before + bench.call.request.silence.leading_samples == 0.4 * 24_000


def test_all_silence_is_sent_if_it_is_not_limited():
    limits = SessionConfig(leading_silence_limit_s=0, pause_between_chunks_s=None)
    bench = Bench(limits).say(Speak(text="One|two"))
    assert bench.call.request.silence is None
    bench.audio(1).end()
    assert bench.call.request.silence is None


def test_audio_without_samples_makes_no_message():
    bench = Bench().say(Speak(text="One", utterance_id="a")).audio(1)
    bench.event(silent_chunk(np.zeros(0), silent_samples=960))
    messages = bench.end().send()
    assert [message.duration_ms for message in only(messages, AudioMessage)] == [80, 0]


def test_complete_says_when_the_first_sound_is_heard():
    bench = Bench().say(Speak(text="One"))
    bench.now_s = 0.2
    bench.event(silent_chunk(np.zeros(1920)))
    bench.now_s = 0.25  # is played at 0.28, when the first 80 ms are over
    bench.event(silent_chunk(np.concatenate([np.zeros(720), np.full(1200, 0.5)])))
    complete = only(bench.end().send(), Complete)[0]
    assert (complete.ttfa_ms, complete.audible_ms) == (200, 310)


def test_complete_of_silence_does_not_say_when_it_is_heard():
    bench = Bench().say(Speak(text="One")).event(silent_chunk(np.zeros(1920)))
    assert only(bench.end().send(), Complete)[0].audible_ms is None


def test_a_request_chooses_where_its_text_goes_then_the_voice_then_the_configuration():
    named = {"name": "n", "audio": "a.wav", "language": "english", "speaker": "s", "licence": "l"}
    of_whole = VoiceStatus("whole", "ready", "", VoiceManifest(**named, prompt="whole"))
    of_none = VoiceStatus("plain", "ready", "", VoiceManifest(**named))
    bench = Bench(voices={"whole": of_whole, "plain": of_none, "makima": VOICES["makima"]})
    bench.say(
        Speak(text="A", voice="plain"),
        Speak(text="B|C", voice="whole"),
        Speak(text="D", voice="whole", prompt="streaming"),
        Start(prompt="whole"),
        Speak(text="E", voice="plain"),
    ).speak_all()
    assert [call.request.prompt for call in bench.calls] == ["streaming", "whole", "whole", "streaming", "whole"]
    assert only(bench.send(), Ready)[0].prompt == "whole"
    configured = Bench(text=BarPipeline(TextConfig(prompt="whole"))).say(Speak(text="A"))
    assert configured.call.request.prompt == "whole"


def test_an_utterance_keeps_its_layout_if_the_voice_changes_meanwhile():
    named = {"name": "n", "audio": "a.wav", "language": "english", "speaker": "s", "licence": "l"}
    voices = {"v": VoiceStatus("v", "ready", "", VoiceManifest(**named, prompt="whole"))}
    bench = Bench(voices=voices).say(Speak(text="A|B", voice="v"))
    voices["v"] = VoiceStatus("v", "ready", "", VoiceManifest(**named, prompt="streaming"))
    bench.audio(1).end()
    assert bench.call.request.prompt == "whole"


def test_an_utterance_has_one_level_the_voices_or_the_configured_one():
    named = {"name": "n", "audio": "a.wav", "language": "english", "speaker": "s", "licence": "l"}
    voices = {
        "own": VoiceStatus("own", "ready", "", VoiceManifest(**named, loudness_lufs=-23.0)),
        "plain": VoiceStatus("plain", "ready", "", VoiceManifest(**named)),
        "makima": VOICES["makima"],
        INLINE_VOICE: VoiceStatus(INLINE_VOICE, "ready", "", VoiceManifest(**named, loudness_lufs=-30.0)),
    }
    inline = InlineVoice(Start(), VoiceClip(np.zeros(72_000, np.int16), None, "d"))
    texts = [Speak(text="A|B|C", voice=name) for name in ("own", "plain", "makima")]
    for configured in (None, -16.0):
        bench = Bench(voices=voices, naming=VoicesConfig(loudness_lufs=configured))
        bench.say(*texts, inline, Speak(text="D|E")).speak_all()
        expected = [-23.0] * 3 + [configured] * 8
        assert [call.request.loudness_lufs for call in bench.calls] == expected


def test_an_utterance_keeps_its_level_if_the_voice_changes_meanwhile():
    named = {"name": "n", "audio": "a.wav", "language": "english", "speaker": "s", "licence": "l"}
    voices = {"v": VoiceStatus("v", "ready", "", VoiceManifest(**named, loudness_lufs=-20.0))}
    bench = Bench(voices=voices).say(Speak(text="A|B", voice="v"))
    voices["v"] = VoiceStatus("v", "ready", "", VoiceManifest(**named))
    bench.audio(1).end()
    assert bench.call.request.loudness_lufs == -20.0
