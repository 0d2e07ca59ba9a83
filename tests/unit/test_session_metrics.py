import numpy as np
import pytest
from recorded import Recorded

from serve_app.cluster.admission import Backlog
from serve_app.errors import SynthesisError, UnauthorizedError
from serve_app.observability.session_metrics import IngressMetrics, SessionMetrics
from serve_app.protocol.messages import AudioMessage, Cancelled, Complete, error_message
from serve_app.protocol.outbox import Send
from serve_app.session.session import Call
from serve_app.speech import SAMPLES_PER_FRAME, AudioChunk, SpeechRequest

FRAMES = 10
CHUNK_S = FRAMES * 0.08
AUDIO = AudioMessage(utterance_id="u", seq=0, start_ms=0, duration_ms=800, final=False)


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def metrics(recorded):
    made = SessionMetrics(IngressMetrics(recorded), "full")
    made.opened()
    return made


def call(number=1, *, listening=True):
    return Call(number, SpeechRequest("Hello.", "austen", listening=listening), "u", 0.0, asked_s=0.0)


def audio(metrics, now_s):
    samples = FRAMES * SAMPLES_PER_FRAME
    item = Send(AUDIO, bytes(2 * samples), samples=samples, owner=1, encoding="pcm16")
    metrics.sent(item, 2 + len(item.payload), now_s)


def complete(metrics, now_s=10.0, reason="eos"):
    done = Complete(
        utterance_id="u",
        duration_ms=800,
        finish_reason=reason,
        ttfa_ms=1,
        audible_ms=41,
        rtf=0.25,
        characters=6,
        seed=1,
        voice="v",
    )
    metrics.sent(Send(done, ends=1), 2, now_s)


def first(timings_s):
    return AudioChunk(0, np.zeros((1, 16), np.int16), np.zeros(SAMPLES_PER_FRAME, np.float32), timings_s)


def test_the_time_to_first_audio_is_the_sum_of_its_parts(metrics, recorded):
    metrics.called(call(), 7.0)
    metrics.admitted(call(), 7.3)
    metrics.received(call(), first({"prompt": 0.01, "queue": 0.2, "prefill": 0.1, "predictor": 0.05, "codec": 0.04}))
    metrics.received(call(), first({}))
    audio(metrics, 8.0)
    audio(metrics, 8.1)
    assert recorded.histograms["ttfa_seconds"] == [1.0]
    parts = {key.split()[1]: values for key, values in recorded.histograms.items() if "part" in key}
    assert parts["queue"] == [pytest.approx(0.5)]
    assert parts["transport"] == [pytest.approx(0.3)]
    assert sum(value for (value,) in parts.values()) == pytest.approx(1.0)


def test_a_client_of_the_complete_audio_has_no_first_audio(metrics, recorded):
    metrics.called(call(listening=False), 0.0)
    audio(metrics, 5.0)
    assert "ttfa_seconds" not in recorded.histograms
    assert recorded.counters["audio_seconds pcm16"] == pytest.approx(CHUNK_S)


def test_an_underrun_is_counted_with_its_silence(metrics, recorded):
    metrics.called(call(), 0.0)
    audio(metrics, 1.0)
    audio(metrics, 1.5)
    audio(metrics, 3.0)
    complete(metrics)
    assert recorded.histograms["slack_seconds"] == [pytest.approx(0.3), 0.0]
    assert recorded.counters["underruns"] == 1
    assert recorded.counters["underrun_seconds"] == pytest.approx(3.0 - 1.0 - 2 * CHUNK_S)
    assert recorded.counters["utterances_underrun"] == 1
    assert recorded.counters["utterances eos"] == 1


def test_silence_for_lack_of_text_is_not_an_underrun(metrics, recorded):
    metrics.called(call(), 0.0)
    audio(metrics, 1.0)
    metrics.called(call(2), 4.0)
    audio(metrics, 4.2)
    complete(metrics)
    assert recorded.counters["underruns"] == 0
    assert recorded.counters["utterances_underrun"] == 0


def test_text_that_came_in_time_and_was_spoken_late_is_one(metrics, recorded):
    metrics.called(call(), 0.0)
    audio(metrics, 1.0)
    metrics.called(call(2), 1.5)
    audio(metrics, 4.2)
    assert recorded.counters["underruns"] == 1


def test_each_end_of_an_utterance_is_counted_once_by_its_reason(metrics, recorded):
    metrics.called(call(), 0.0)
    metrics.sent(Send(Cancelled(utterance_id="u", duration_ms=0)), 2, 1.0)
    metrics.called(call(), 1.0)
    metrics.sent(Send(error_message(SynthesisError("x"), "u"), ends=2), 2, 2.0)
    metrics.sent(Send(error_message(SynthesisError("x"), "u")), 2, 2.0)
    metrics.called(call(), 2.0)
    metrics.closed(None)
    ends = {key: times for key, times in recorded.counters.items() if key.startswith("utterances ")}
    assert ends == {"utterances cancelled": 1, "utterances error": 1, "utterances disconnected": 1}
    assert recorded.counters["errors SYNTHESIS_ERROR"] == 2
    assert recorded.counters["sessions_closed gone"] == 1


def test_sessions_are_counted_by_dialect_as_they_come_and_go(recorded):
    ingress = IngressMetrics(recorded)
    sessions = [SessionMetrics(ingress, "full") for _ in range(3)]
    for session in sessions:
        session.opened()
    ingress.now(Backlog(running=2, waiting=1, waiting_s=3.0))
    assert recorded.gauges == {"sessions full": 3, "chunks_running": 2, "chunks_waiting": 1}
    for session in sessions:
        session.closed(1000)
    ingress.now(Backlog(running=0, waiting=0, waiting_s=0.0))
    assert recorded.gauges["sessions full"] == 0
    assert recorded.counters["sessions_opened full"] == recorded.counters["sessions_closed 1000"] == 3


def test_a_refused_client_is_counted_too(recorded):
    IngressMetrics(recorded).refused(UnauthorizedError("no key"))
    assert recorded.counters == {"errors UNAUTHORIZED": 1}


def test_the_bytes_are_those_that_left(metrics, recorded):
    audio(metrics, 1.0)
    assert recorded.counters["audio_bytes pcm16"] == 2 + 2 * FRAMES * SAMPLES_PER_FRAME


def test_nothing_is_kept_of_an_utterance_that_has_ended(metrics):
    for _ in range(50):
        metrics.called(call(), 0.0)
        complete(metrics)
    assert metrics._playing == {}


def test_a_session_that_fails_internally_counts_as_an_error(metrics, recorded):
    metrics.called(call(), 0.0)
    metrics.closed(1011)
    assert recorded.counters["errors SYNTHESIS_ERROR"] == 1
    assert recorded.counters["utterances error"] == 1
    assert recorded.counters["sessions_closed 1011"] == 1


def test_what_alerts_look_at_is_there_before_it_counts(recorded):
    IngressMetrics(recorded)
    assert {"errors CAPACITY", "errors SYNTHESIS_ERROR", "utterances eos", "streams_resumed given_up"} <= recorded.seen
    assert recorded.counters == {}


def test_the_silence_before_the_first_sound_is_measured(metrics, recorded):
    metrics.called(call(), 0.0)
    audio(metrics, 1.0)
    complete(metrics)
    assert recorded.histograms["leading_silence_seconds"] == [0.04]
