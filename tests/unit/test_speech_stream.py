"""The dialect of vLLM-Omni's and SGLang-Omni's stream, over a real session."""

import base64

import pytest
from dialogue import FRAME_SAMPLES, Dialogue, kinds

from serve_app.audio.pcm import WAV_HEADER_BYTES
from serve_app.config import SessionConfig
from serve_app.errors import CapacityError
from serve_app.protocol.speech_stream import SpeechStreamDialect
from serve_app.protocol.turns import MAX_TURNS

FRAME_BYTES = 2 * FRAME_SAMPLES
CONFIG = {"type": "session.config", "voice": "austen", "response_format": "pcm", "stream_audio": True}
DONE = {"type": "input.done"}


def text(words):
    return {"type": "input.text", "text": words}


@pytest.fixture
def dialogue():
    return Dialogue(SpeechStreamDialect())


def test_a_text_is_sentences_of_bare_audio_and_one_answer_to_the_flush(dialogue):
    heard = dialogue.say(CONFIG, text("One is here. "), text("Two is"), text(" there."), DONE).speak(2).heard()
    configured, *rest = heard
    assert configured == {
        "type": "session.configured",
        "session_id": "s",
        "voice": "austen",
        "response_format": "pcm",
        "stream_audio": True,
        "sample_rate": 24000,
    }
    assert kinds(rest) == ["audio.start", "audio", "audio.done"] * 2 + ["session.done"]
    assert rest[0] == {
        "type": "audio.start",
        "utterance_index": 0,
        "sentence_index": 0,
        "sentence_text": "One is here.",
        "format": "pcm",
        "sample_rate": 24000,
    }
    assert len(rest[1]) == 2 * FRAME_BYTES
    assert rest[5] == {
        "type": "audio.done",
        "utterance_index": 0,
        "sentence_index": 1,
        "total_bytes": 2 * FRAME_BYTES,
        "error": False,
    }
    assert rest[-1] == {"type": "session.done", "utterance_index": 0, "total_sentences": 2}
    assert {request.voice for request in dialogue.requests} == {"austen"}


def test_a_sentence_is_spoken_before_the_flush(dialogue):
    dialogue.say(text("One is here. "), text("Two"))
    assert dialogue.texts == ["One is here."]
    assert kinds(dialogue.speak().heard()) == ["audio.start", "audio"]


def test_every_flush_is_answered_once_and_in_order(dialogue):
    dialogue.say(text("One."), DONE, DONE, text("  \n"), DONE, text("Two."), DONE, DONE)
    assert dialogue.heard() == []  # the first one still speaks
    done = [frame for frame in dialogue.speak().heard() if not isinstance(frame, bytes)]
    done = [frame for frame in done if frame["type"] == "session.done"]
    assert [(one["utterance_index"], one["total_sentences"]) for one in done] == [
        (0, 1),
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 0),
    ]


def test_a_flush_of_nothing_is_answered_at_once_and_counts_against_no_limit():
    def spend(now_s):
        raise AssertionError("nothing is spoken")

    dialogue = Dialogue(SpeechStreamDialect(), spend=spend).say(DONE)
    assert dialogue.heard() == [{"type": "session.done", "utterance_index": 0, "total_sentences": 0}]
    assert dialogue.requests == []


def test_the_configuration_is_kept_and_can_be_changed_between_texts(dialogue):
    dialogue.say(CONFIG, text("One."), DONE, text("Two."), DONE)
    dialogue.say({"type": "session.config", "voice": "makima", "seed": 5}, text("Three."), DONE)
    dialogue.speak().heard()
    assert [request.voice for request in dialogue.requests] == ["austen", "austen", "makima"]
    assert dialogue.requests[-1].seed == 5


def test_a_configuration_waits_for_the_flush(dialogue):
    dialogue.say(text("One"), {"type": "session.config", "voice": "austen"}, DONE)
    error, *rest = dialogue.speak().heard()
    assert (error["type"], error["code"]) == ("error", "INVALID_MESSAGE")
    assert kinds(rest)[-1] == "session.done"
    assert dialogue.requests[0].voice == "makima"


def test_what_the_others_clients_send_beside_is_ignored(dialogue):
    extra = {"task_type": "Base", "instructions": "softly", "max_new_tokens": 9, "initial_codec_chunk_frames": 1}
    dialogue.say({**CONFIG, **extra, "language": "Auto", "speed": 1.0, "split_granularity": "clause", "mood": 3})
    assert kinds(dialogue.heard()) == ["session.configured"]


def test_the_configuration_may_be_nested(dialogue):
    dialogue.say({"type": "session.config", "session": {"voice": "austen"}})
    assert dialogue.heard()[0]["voice"] == "austen"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"voice": "nobody"}, "VOICE_NOT_FOUND"),
        ({"language": "latin"}, "UNSUPPORTED_LANGUAGE"),
        ({"response_format": "mp3"}, "UNSUPPORTED_ENCODING"),
        ({"response_format": "wav", "stream_audio": True}, "UNSUPPORTED_ENCODING"),
        ({"sample_rate": 44_100}, "UNSUPPORTED_ENCODING"),
        ({"speed": 2.5}, "INVALID_MESSAGE"),
        ({"task_type": "VoiceDesign"}, "INVALID_MESSAGE"),
        ({"ref_audio": "https://example.com/a.wav"}, "INVALID_MESSAGE"),
        ({"word_timestamps": True, "stream_audio": False}, "UNSUPPORTED_ENCODING"),
        ({"word_timestamps": True, "response_format": "wav"}, "UNSUPPORTED_ENCODING"),
        ({"timestamp_type": "character"}, "INVALID_MESSAGE"),
        ({"session": {"seed": "x"}}, "INVALID_MESSAGE"),
    ],
)
def test_a_wrong_configuration_is_an_error_that_names_it(dialogue, fields, code):
    (error,) = dialogue.say({"type": "session.config", **fields}).heard()
    assert (error["type"], error["code"]) == ("error", code)
    assert "allowed" in error["message"] or "must be" in error["message"] or "ready" in error["message"]


def test_after_a_wrong_voice_nothing_is_said_in_another(dialogue):
    dialogue.say({"type": "session.config", "voice": "nobody"}, text("Hello."), DONE)
    heard = dialogue.heard()
    assert kinds(heard) == ["error", "error", "session.done"]
    assert dialogue.requests == []


@pytest.mark.parametrize("fields", [{"speed": 2.5}, {"response_format": "wav", "stream_audio": True}, {"voice": 7}])
def test_after_a_refused_configuration_nothing_is_said_until_one_is_accepted(dialogue, fields):
    dialogue.say({**CONFIG, **fields}, text("Hello."), DONE)
    assert kinds(dialogue.heard()) == ["error", "error", "session.done"]
    dialogue.say(CONFIG, text("Hello."), DONE).speak()
    assert kinds(dialogue.heard()) == ["session.configured", "audio.start", "audio", "audio.done", "session.done"]
    assert [request.voice for request in dialogue.requests] == ["austen"]


def test_speed_and_lexicon_are_those_of_the_configuration(dialogue):
    dialogue.say({**CONFIG, "speed": 1.5, "lexicon": {"Dr": "Doctor"}}, text("Dr Who."), DONE)
    assert (dialogue.requests[0].speed, dialogue.requests[0].text) == (1.5, "Doctor Who.")


TIMES = {"timestamp_type": "word", "timestamp_transport_strategy": "sync"}


def test_the_times_of_words_follow_the_audio_of_their_sentence_and_count_from_its_beginning(dialogue):
    dialogue.say({**CONFIG, **TIMES}, text("One is here. Two is there."), DONE)
    assert dialogue.call.request.words
    dialogue.audio(5, spoken=[0, 0, 4, 4, 7]).end()
    dialogue.audio(5, spoken=[0, 0, 4, 4, 7]).end()
    done = [frame for frame in dialogue.heard() if not isinstance(frame, bytes) and frame["type"] == "audio.done"]
    assert [one["timestamp_info"]["word_alignment"]["words"] for one in done] == [
        ["One", "is", "here."],
        ["Two", "is", "there."],
    ]
    for one in done:
        times = one["timestamp_info"]["word_alignment"]
        assert times["word_start_times_seconds"] == [0.0, 0.2, 0.36]
        assert times["word_end_times_seconds"] == pytest.approx([0.2, 0.36, 0.392], abs=0.002)


def test_word_times_as_json_come_in_a_part_of_their_own_behind_the_audio(dialogue):
    dialogue.say({**CONFIG, "word_timestamps": True}, text("One is here. Two is there."), DONE)
    for _ in range(2):
        dialogue.audio(3, spoken=[0, 0, 4]).audio(2, spoken=[4, 7]).end()
    heard = dialogue.heard()[1:]
    assert kinds(heard) == ["audio.start", *["audio.chunk"] * 3, "audio.done"] * 2 + ["session.done"]
    sentences = [["One", "is", "here."], ["Two", "is", "there."]]
    for number, (start, first, second, times, done) in enumerate((heard[:5], heard[5:10])):
        assert start["word_timestamps"] is True
        assert [part["chunk_id"] for part in (first, second, times)] == [0, 1, 2]
        assert {part["sentence_index"] for part in (first, second, times)} == {number}
        assert (first["timestamps"], second["timestamps"], times["audio_b64"]) == (None, None, "")
        size = sum(len(base64.b64decode(part["audio_b64"])) for part in (first, second))
        assert size == done["total_bytes"] == 5 * FRAME_BYTES
        assert [word["word"] for word in times["timestamps"]] == sentences[number]
        assert [word["start_ms"] for word in times["timestamps"]] == [0, 200, 360]
        assert "timestamp_info" not in done


def test_unknown_word_times_are_null(dialogue):
    dialogue.say({**CONFIG, "word_timestamps": True}, text("One is here."), DONE).speak()
    parts = [frame for frame in dialogue.heard() if frame["type"] == "audio.chunk"]
    assert [(bool(part["audio_b64"]), part["timestamps"]) for part in parts] == [(True, None), (False, None)]


def test_a_checkpoint_without_word_times_speaks_without_them_and_without_an_error(dialogue):
    dialogue.say({**CONFIG, **TIMES}, text("One is here."), DONE).speak()
    heard = dialogue.heard()
    assert kinds(heard) == ["session.configured", "audio.start", "audio", "audio.done", "session.done"]
    assert "timestamp_info" not in heard[3]


def test_a_reference_is_the_voice_whatever_the_name(dialogue):
    clip = base64.b64encode(bytes(1000)).decode()
    dialogue.say({**CONFIG, "ref_audio": clip, "ref_text": "Words."}, text("Hello."), DONE)
    assert dialogue.heard()[0]["voice"] == "inline"
    assert dialogue.requests[0].clip is not None


def test_texts_after_a_config_that_the_session_refuses_are_refused_until_one_is_accepted(dialogue):
    unknown = {"type": "session.config", "voice": "nobody"}
    heard = dialogue.say(CONFIG, unknown, text("Hello."), DONE).heard()
    assert kinds(heard) == ["session.configured", "error", "error", "session.done"]
    assert "last configuration was refused" in heard[2]["message"]
    assert dialogue.requests == []
    heard = dialogue.say({"type": "session.config", "speed": 1.2}, text("Hello."), DONE).speak().heard()
    assert kinds(heard)[0] == "session.configured"
    assert [(request.voice, request.speed) for request in dialogue.requests] == [("austen", 1.2)]


def test_a_second_reference_that_is_refused_is_not_spoken_with_the_first(dialogue):
    first, second = ({"ref_audio": base64.b64encode(bytes(size)).decode(), "ref_text": "Words."} for size in (100, 200))
    dialogue.say({**CONFIG, **first})
    dialogue.clip = "another"
    heard = dialogue.say({**CONFIG, **second}, text("Hello."), DONE).heard()
    assert kinds(heard) == ["session.configured", "error", "error", "session.done"]
    assert dialogue.requests == []


def test_non_streaming_mode_is_the_layout_of_the_text(dialogue):
    dialogue.say({**CONFIG, "non_streaming_mode": True}, text("Hello."), DONE)
    assert dialogue.requests[0].prompt == "whole"


@pytest.mark.parametrize(
    ("config", "header_bytes"),
    [({"response_format": "wav"}, WAV_HEADER_BYTES), ({"response_format": "pcm", "stream_audio": False}, 0)],
)
def test_a_sentence_in_one_frame(dialogue, config, header_bytes):
    dialogue.say({"type": "session.config", **config}, text("Hello there."), DONE)
    frames = dialogue.audio().audio(2).end().heard()[1:]
    assert kinds(frames) == ["audio.start", "audio", "audio.done", "session.done"]
    assert len(frames[1]) == header_bytes + 3 * FRAME_BYTES == frames[2]["total_bytes"]
    assert not header_bytes or int.from_bytes(frames[1][header_bytes - 4 : header_bytes], "little") == 3 * FRAME_BYTES


def test_a_sentence_in_one_frame_is_limited(dialogue, monkeypatch):
    monkeypatch.setattr("serve_app.protocol.stream_sentences.MAX_SENTENCE_BYTES", 2 * FRAME_BYTES)
    dialogue.say({"type": "session.config", "stream_audio": False}, text("Hello there."), DONE)
    frames = dialogue.audio().audio().audio().end().heard()[1:]
    assert kinds(frames) == ["audio.start", "audio", "audio.done"] * 2 + ["session.done"]
    assert [len(frames[1]), len(frames[4])] == [2 * FRAME_BYTES, FRAME_BYTES]
    assert frames[3]["sentence_text"] == ""


def test_a_failed_sentence_in_one_frame_is_not_sent(dialogue):
    dialogue.say({"type": "session.config", "stream_audio": False}, text("Hello there."), DONE).audio()
    dialogue.fail(CapacityError("full"))
    frames = dialogue.heard()[1:]
    assert kinds(frames) == ["audio.start", "error", "audio.done", "session.done"]
    assert (frames[2]["total_bytes"], frames[2]["error"]) == (0, True)


def test_the_audio_has_the_rate_that_is_announced(dialogue):
    dialogue.say({"type": "session.config", "sample_rate": 48_000}, text("Hello there."), DONE)
    frames = dialogue.speak(10).heard()
    assert frames[1]["sample_rate"] == 48_000
    assert sum(len(frame) for frame in frames if isinstance(frame, bytes)) == 20 * FRAME_BYTES


def test_a_failed_text_is_one_error_and_its_flush_is_answered(dialogue):
    dialogue.say(text("One is here. "), text("Two is here. ")).audio()
    dialogue.fail(CapacityError("full", retry_after_ms=5))
    heard = dialogue.heard()
    assert kinds(heard) == ["audio.start", "audio", "error", "audio.done"]
    assert heard[2] == {
        "type": "error",
        "code": "CAPACITY",
        "message": "full",
        "utterance_index": 0,
        "retry_after_ms": 5,
    }
    assert heard[3]["error"] is True
    assert kinds(dialogue.say(text("Three. "), text("Four."), DONE).heard()) == ["session.done"]
    assert kinds(dialogue.say(text("Five."), DONE).speak().heard())[-1] == "session.done"


def test_tokens_that_cross_the_failure_add_no_errors(dialogue):
    dialogue.say(text("One is here. And")).fail(CapacityError("full"))
    assert kinds(dialogue.say(text("Two. "), text("Three."), DONE, text("Four."), DONE).speak().heard()) == [
        "error",
        "session.done",
        "audio.start",
        "audio",
        "audio.done",
        "session.done",
    ]


def test_a_refused_flush_waits_for_those_before_it():
    dialogue = Dialogue(SpeechStreamDialect(), limits=SessionConfig(max_queued_utterances=1))
    dialogue.say(text("One."), DONE, text("Two."), DONE)
    assert kinds(dialogue.heard()) == ["error"]
    assert kinds(dialogue.speak().heard())[-2:] == ["session.done", "session.done"]


def test_a_commit_is_a_flush_with_an_answer_of_its_own(dialogue):
    commit = {"type": "input.commit"}
    heard = dialogue.say(text("One. "), commit, commit, text("Two."), DONE).speak().heard()
    committed = [frame for frame in heard if not isinstance(frame, bytes) and frame["type"] == "input.committed"]
    assert committed == [
        {"type": "input.committed", "segment_index": 0, "segment_sentences": 1, "total_sentences": 1},
        {"type": "input.committed", "segment_index": 1, "segment_sentences": 0, "total_sentences": 1},
    ]
    assert heard[-1] == {"type": "session.done", "utterance_index": 2, "total_sentences": 1}


def test_a_close_finishes_what_was_flushed_and_drops_the_rest(dialogue):
    dialogue.say(text("One."), DONE, text("Two is here. And"), {"type": "session.close"})
    assert kinds(dialogue.speak().heard()) == ["audio.start", "audio", "audio.done", "session.done"]
    assert dialogue.texts == ["One."]
    assert (dialogue.closed.code, dialogue.closed.reason) == (1000, "stopped")


def test_a_break_before_the_first_word_is_audio_too(dialogue):
    dialogue.say(text('<break time="80ms"/>One.'), DONE)
    heard = dialogue.speak().heard()
    assert kinds(heard) == ["audio.start", "audio", "audio.done"] * 2 + ["session.done"]
    assert [heard[0]["sentence_text"], heard[3]["sentence_text"]] == ["", "One."]


def test_nothing_to_pronounce_is_answered(dialogue):
    assert kinds(dialogue.say(text("..."), DONE).speak().heard()) == ["session.done"]


def test_flushes_that_wait_are_limited(dialogue):
    dialogue.say(text("One."), *[DONE] * (MAX_TURNS + 10))
    heard = dialogue.heard()
    assert kinds(heard) == ["error"] * 10
    assert {error["code"] for error in heard} == {"CAPACITY"}
    assert kinds(dialogue.speak().heard()).count("session.done") == MAX_TURNS


def test_an_id_of_the_client_is_nothing_to_this_dialect(dialogue):
    dialogue.say(text("One is here. "), {"type": "input.text", "text": 5, "utterance_id": "0"}, DONE)
    assert kinds(dialogue.speak().heard()) == ["error", "audio.start", "audio", "audio.done", "session.done"]
