"""Ten thousand mutated frames to each dialect over a session: every answer is typed, and nothing raises."""

import json
import random

import pytest
from dialogue import Dialogue
from examples import FULL
from fuzzed_frames import conversations
from hypothesis import settings
from typed_answers import ANSWERS

from serve_app.config import SessionConfig
from serve_app.errors import CapacityError
from serve_app.protocol.deepgram import DeepgramDialect
from serve_app.protocol.deepgram_messages import read_query
from serve_app.protocol.dialects import FullDialect, RawDialect, ResearchDialect
from serve_app.protocol.speech_stream import SpeechStreamDialect

FRAMES = 10_000
LIMITS = SessionConfig(max_lead_s=3600)  # the clock of a Dialogue stands still: nobody is ahead of their listener


def opened(dialect):
    if dialect == "deepgram":
        start = read_query([])
        return Dialogue(DeepgramDialect(start), opening=[start], limits=LIMITS)
    made = {"full": FullDialect, "raw": RawDialect, "research": ResearchDialect, "stream": SpeechStreamDialect}
    return Dialogue(made[dialect](), limits=LIMITS)


@pytest.mark.parametrize("dialect", ANSWERS)
def test_mutated_frames_are_answered_by_type(dialect):
    count = FRAMES * settings().max_examples // FULL
    dice = random.Random(dialect)
    for conversation in conversations(dialect, min(250, count), count):
        dialogue, answers = opened(dialect), ANSWERS[dialect]()
        for sent in conversation.frames:
            dialogue.say(sent.data.decode() if sent.text else sent.data)
            for step in dice.choices(["speak", "audio", "fail", "hear"], [6, 2, 1, 3], k=dice.randint(0, 4)):
                act(dialogue, answers, step)
        finish(dialogue, answers)
        if dialect in ("stream", "deepgram"):
            check_end(dialogue, answers, dialect)


def act(dialogue, answers, step):
    match step:
        case "hear":
            for frame in dialogue.heard():
                answers.take(frame if isinstance(frame, bytes) else json.dumps(frame))
        case _ if dialogue.call is None:
            pass
        case "speak":
            dialogue.speak(calls=1)
        case "audio":
            dialogue.audio()
        case "fail":
            dialogue.fail(CapacityError("full", retry_after_ms=5))


def finish(dialogue, answers):
    """Speak and hear until nothing is left; a session waits with a long text until its client has heard some of it."""
    act(dialogue, answers, "hear")
    while dialogue.call is not None:
        dialogue.speak()
        act(dialogue, answers, "hear")


def check_end(dialogue, answers, dialect):
    """The next flush is answered, and the session closes."""
    flush, close = {"stream": ("input.done", "session.close"), "deepgram": ("Flush", "Close")}[dialect]
    before = answers.kinds.count({"stream": "session.done", "deepgram": "Flushed"}[dialect])
    dialogue.say({"type": flush})
    finish(dialogue, answers)
    assert answers.kinds.count({"stream": "session.done", "deepgram": "Flushed"}[dialect]) == before + 1
    dialogue.say({"type": close})
    finish(dialogue, answers)
    assert dialogue.closed.code == 1000
