"""Deepgram's dialect, over a real session; and its query and HTTP request."""

import json

import pytest
from dialogue import FRAME_SAMPLES, Dialogue, kinds

from serve_app.config import SessionConfig
from serve_app.errors import CapacityError
from serve_app.protocol.deepgram import DeepgramDialect
from serve_app.protocol.deepgram_messages import read_query, read_request
from serve_app.protocol.messages import Refusal

FLUSH, CLEAR, CLOSE = ({"type": kind} for kind in ("Flush", "Clear", "Close"))


def speak(words):
    return {"type": "Speak", "text": words}


def connected(*query, **options):
    start = read_query(query)
    return Dialogue(DeepgramDialect(start), opening=[start], **options)


def test_a_socket_begins_with_its_metadata():
    (metadata,) = connected(("model", "austen")).heard()
    assert metadata["type"] == "Metadata"
    assert (metadata["request_id"], metadata["model_name"]) == ("s", "austen")
    assert set(metadata) == {"type", "request_id", "model_name", "model_version", "model_uuid"}


def test_text_is_bare_audio_and_a_flush_is_answered_after_it():
    dialogue = connected(("model", "austen"))
    dialogue.say(speak("One is "), speak("here. Two is there."), FLUSH)
    heard = dialogue.speak(2).heard()
    assert kinds(heard) == ["Metadata", "audio", "audio", "Flushed"]
    assert len(heard[1]) == 2 * 2 * FRAME_SAMPLES
    assert heard[-1] == {"type": "Flushed", "sequence_id": 0}
    assert dialogue.texts == ["One is here.", "Two is there."]
    assert {request.voice for request in dialogue.requests} == {"austen"}


def test_the_next_text_begins_after_the_flush_and_answers_are_counted():
    heard = connected().say(speak("One."), FLUSH, FLUSH, speak("Two."), FLUSH).speak().heard()
    assert kinds(heard) == ["Metadata", "audio", "Flushed", "Flushed", "audio", "Flushed"]
    assert [frame["sequence_id"] for frame in heard[1:] if not isinstance(frame, bytes) and "sequence_id" in frame] == [
        0,
        1,
        2,
    ]


def test_a_clear_stops_everything_and_no_flush_of_before_is_answered():
    dialogue = connected()
    dialogue.say(speak("One is here. And"), FLUSH, speak("Two is here. And")).audio()
    assert kinds(dialogue.heard()) == ["Metadata", "audio"]
    assert kinds(dialogue.say(CLEAR).heard()) == ["Cleared"]
    assert dialogue.call is None
    assert kinds(dialogue.say(speak("Three."), FLUSH).speak().heard()) == ["audio", "Flushed"]


def test_a_clear_revokes_audio_that_was_not_sent():
    dialogue = connected()
    dialogue.say(speak("One."), FLUSH).speak()
    assert kinds(dialogue.say(CLEAR).heard()) == ["Metadata", "Cleared"]


def test_a_clear_of_nothing_is_answered():
    assert kinds(connected().say(CLEAR, CLEAR).heard()) == ["Metadata", "Cleared", "Cleared"]


def test_a_close_speaks_everything_first():
    dialogue = connected().say(speak("One is here. And two"), CLOSE)
    assert kinds(dialogue.speak().heard()) == ["Metadata", "audio", "audio"]
    assert dialogue.closed.code == 1000


@pytest.mark.parametrize("frame", ["{", "[]", {"type": "Sing"}, {"type": "Speak"}, {"type": "Speak", "text": 7}, b"a"])
def test_a_frame_that_cannot_be_read_is_a_warning_and_changes_nothing(frame):
    dialogue = connected().say(speak("One is"), frame, speak(" here."), FLUSH)
    _metadata, warning, *rest = dialogue.speak().heard()
    assert (warning["type"], warning["code"], warning["warn_code"]) == ("Warning", "INVALID_MESSAGE", "INVALID_MESSAGE")
    assert warning["description"] == warning["warn_msg"]
    assert kinds(rest) == ["audio", "Flushed"]
    assert dialogue.texts == ["One is here."]


def test_a_failed_text_is_one_error_and_its_flush_is_answered():
    dialogue = connected().say(speak("One is here. And"))
    dialogue.fail(CapacityError("full", retry_after_ms=5))
    heard = dialogue.say(speak("Two."), FLUSH, speak("Three."), FLUSH).speak().heard()
    assert kinds(heard) == ["Metadata", "Error", "Flushed", "audio", "Flushed"]
    assert heard[1] == {"type": "Error", "code": "CAPACITY", "description": "full", "retry_after_ms": 5}


def test_a_text_that_is_too_long_is_an_error():
    dialogue = connected(limits=SessionConfig(max_text_characters=10)).say(speak("more than ten"), FLUSH)
    assert [(frame["type"], frame.get("code")) for frame in dialogue.heard()[1:]] == [
        ("Error", "TEXT_TOO_LONG"),
        ("Flushed", None),
    ]


@pytest.mark.parametrize(
    ("query", "encoding", "sample_rate"),
    [
        ([], "pcm16", 24_000),
        ([("encoding", "LINEAR16"), ("sample_rate", "16000"), ("mip_opt_out", "false")], "pcm16", 16_000),
        ([("encoding", "mulaw")], "mulaw", 8000),
        ([("encoding", "mulaw"), ("sample_rate", "16000"), ("speed", "1.0")], "mulaw", 16_000),
        ([("model", ""), ("encoding", "")], "pcm16", 24_000),
    ],
)
def test_the_query_is_the_sessions_start(query, encoding, sample_rate):
    start = read_query(query)
    assert (start.encoding, start.sample_rate, start.voice) == (encoding, sample_rate, None)


def test_the_speed_of_the_query_is_that_of_its_texts():
    dialogue = connected(("speed", "1.5")).say(speak("Hello."), FLUSH)
    assert dialogue.requests[0].speed == 1.5
    assert read_request([("speed", "0.7")], '{"text": "Hello."}').speed == 0.7


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (("encoding", "alaw"), "UNSUPPORTED_ENCODING"),
        (("sample_rate", "44100"), "UNSUPPORTED_ENCODING"),
        (("sample_rate", "fast"), "INVALID_MESSAGE"),
        (("speed", "2.3"), "INVALID_MESSAGE"),
        (("model", "a" * 101), "INVALID_MESSAGE"),
    ],
)
def test_a_wrong_query_is_refused_by_name(query, code):
    refusal = read_query([query])
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == code
    assert query[0] in refusal.error.message


def test_deepgrams_own_voices_mean_the_default_voice():
    assert connected(("model", "aura-2-andromeda-en")).heard()[0]["model_name"] == "makima"


@pytest.mark.parametrize(
    ("query", "response_format"),
    [
        ({}, "mp3"),
        ({"encoding": "linear16"}, "wav"),
        ({"encoding": "linear16", "container": "none"}, "pcm"),
        ({"encoding": "opus", "container": "OGG"}, "opus"),
        ({"encoding": "flac"}, "flac"),
    ],
)
def test_a_request_is_one_of_dialect_c(query, response_format):
    asked = read_request([*query.items(), ("model", "austen"), ("sample_rate", "16000")], json.dumps({"text": "Hi."}))
    assert (asked.input, asked.voice, asked.response_format, asked.sample_rate) == (
        "Hi.",
        "austen",
        response_format,
        16_000,
    )


@pytest.mark.parametrize(
    ("query", "body", "code"),
    [
        ({"encoding": "alaw"}, {"text": "Hi."}, "UNSUPPORTED_ENCODING"),
        ({"encoding": "opus", "container": "wav"}, {"text": "Hi."}, "UNSUPPORTED_ENCODING"),
        ({}, {"url": "https://example.com"}, "INVALID_MESSAGE"),
        ({"text": "Hi."}, {}, "INVALID_MESSAGE"),
        ({}, [], "INVALID_MESSAGE"),
    ],
)
def test_a_wrong_request_is_refused(query, body, code):
    refusal = read_request(list(query.items()), json.dumps(body))
    assert isinstance(refusal, Refusal)
    assert refusal.error.code == code
