"""Spans of a session and of a stream as a collector would get them, and whose trace they are."""

import asyncio
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from known_backend import KnownBackend, hear, say, served_by, socket_to
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.datastructures import Headers
from until import until
from written_lines import written

from serve_app.audio.loudness import Loudness
from serve_app.config import AppConfig, TracingConfig
from serve_app.errors import CapacityError, TextTooLongError
from serve_app.observability.observers import MAX_AUDIO_EVENTS
from serve_app.observability.otel import OtelTracer, otlp_tracer
from serve_app.observability.tracing import NoTracer, tracer_of
from serve_app.speech import AudioChunk, SpeechEnd, SpeechRequest, Trace, TraceContext
from serve_app.web.context import given_context
from serve_app.web.routes import build_web

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from serve_app.deployments.generator import Generator

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
STREAM = {"queue": 0.1, "prefill": 0.2, "predictor": 0.05, "codec": 0.01, "first_audio": 0.5, "total": 0.9}


class Kept:
    """A tracer whose spans stay here."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OtelTracer(provider)

    @property
    def spans(self):
        return self._exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def only(self, name):
        (span,) = self.named(name)
        return span


def seconds(span):
    return (span.end_time - span.start_time) / 1e9


def parent_of(span):
    return None if span.parent is None else span.parent.span_id


async def session(kept, backend, *messages, headers=None):
    """One socket that says some messages and waits for the end of each; what it was sent."""
    heard, before = [], len(kept.named("session"))
    async with served_by(build_web(backend, AppConfig(), tracer=kept.tracer)) as host:
        async with socket_to(host, "/api/v1/speak", additional_headers=headers or {}) as ws:
            for message in messages:
                await say(ws, **message)
                heard += await hear(ws, until=("complete", "error"))
        await until(lambda: len(kept.named("session")) > before)
    return heard


async def test_a_session_an_utterance_and_its_text_chunks_are_spans_of_the_proxys_trace():
    kept, backend = Kept(), KnownBackend()
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    text = "One sentence that is long enough. Another sentence that is long enough to be its own."
    await session(kept, backend, {"type": "speak", "text": text, "utterance_id": "u"}, headers=headers)
    whole, utterance, chunks = kept.only("session"), kept.only("utterance"), kept.named("text chunk")
    assert parent_of(whole) == int(SPAN_ID, 16)
    assert parent_of(utterance) == whole.context.span_id
    assert len(chunks) == len(backend.requests) == 2
    assert {parent_of(chunk) for chunk in chunks} == {utterance.context.span_id}
    assert {f"{span.context.trace_id:032x}" for span in kept.spans} == {TRACE_ID}
    for chunk, request in zip(chunks, backend.requests, strict=True):
        assert request.trace.context.traceparent == f"00-{TRACE_ID}-{chunk.context.span_id:016x}-01"
        assert request.trace.context.tracestate == "vendor=1"
        assert request.trace.utterance_id == "u"
        assert chunk.attributes["tts.characters"] == len(request.text)
        assert chunk.attributes["tts.frames"] == len(request.text)
        assert chunk.attributes["tts.finish_reason"] == "eos"
        assert [event.name for event in chunk.events] == ["first audio"]
    assert {parent_of(span) for span in kept.named("admission")} == {chunk.context.span_id for chunk in chunks}
    assert utterance.attributes["tts.finish_reason"] == "eos"
    assert utterance.attributes["tts.characters"] == len(text)
    assert utterance.attributes["tts.voice"] == "makima"
    assert whole.attributes["tts.close_code"] == 1000
    assert whole.attributes["tts.session_id"] == backend.requests[0].trace.session_id


async def test_no_attribute_or_event_holds_text():
    kept = Kept()
    spoken = {"type": "speak", "text": "Zanzibar is far.", "language": "english"}
    await session(kept, KnownBackend(), spoken, {"type": "speak", "text": "Zanzibar", "voice": "Zanzibar"})
    assert len(kept.spans) >= 4
    assert "Zanzibar" not in "".join(span.to_json() for span in kept.spans)


async def test_an_error_is_the_status_of_what_failed():
    kept, backend = Kept(), KnownBackend()
    backend.raises = CapacityError("full")
    await session(
        kept, backend, {"type": "speak", "text": "Hello."}, {"type": "speak", "text": "Hi.", "voice": "nobody"}
    )
    for name in ("text chunk", "utterance"):
        span = kept.only(name)
        assert (span.status.is_ok, span.status.description) == (False, "CAPACITY")
        assert span.attributes["tts.finish_reason"] == "error"
    (refused,) = kept.only("session").events
    assert (refused.name, refused.attributes["tts.code"]) == ("error", "VOICE_NOT_FOUND")


async def test_what_a_lost_client_leaves_is_ended_as_cancelled():
    kept, backend = Kept(), KnownBackend()
    backend.frame_delay_s = 0.01
    async with served_by(build_web(backend, AppConfig(), tracer=kept.tracer)) as host:
        async with socket_to(host, "/api/v1/speak") as ws:
            await say(ws, type="speak", text="A text that is spoken for a while, until nobody listens.")
            await hear(ws, until=("audio_chunk",))
            ws.transport.abort()
        await asyncio.wait_for(backend.idle.wait(), 5)
        await until(lambda: kept.named("session"))
    reasons = {name: kept.only(name).attributes["tts.finish_reason"] for name in ("text chunk", "utterance")}
    assert set(reasons.values()) == {"cancelled"}
    assert {span.name: span.context.trace_id for span in kept.spans}["admission"] == kept.only(
        "session"
    ).context.trace_id


async def test_an_utterances_span_begins_when_it_was_asked_for():
    kept, backend = Kept(), KnownBackend()
    backend.frame_delay_s = 0.01
    async with served_by(build_web(backend, AppConfig(), tracer=kept.tracer)) as host:
        async with socket_to(host, "/api/v1/speak") as ws:
            for name in ("a", "b"):
                await say(ws, type="speak", text="Twenty frames of it.", utterance_id=name)
            for _ in range(2):
                await hear(ws)
        await until(lambda: kept.named("session"))
    first, second = sorted(kept.named("utterance"), key=lambda span: span.end_time)
    assert second.attributes["tts.utterance_id"] == "b"
    assert second.start_time < first.end_time
    chunk = max(kept.named("text chunk"), key=lambda span: span.end_time)
    assert (chunk.start_time - second.start_time) / 1e9 > 0.1


async def test_without_a_tracer_the_proxys_trace_is_in_the_log_and_goes_on_to_the_generator():
    backend = KnownBackend()
    with written() as lines:
        async with served_by(build_web(backend, AppConfig())) as host:
            async with socket_to(host, "/api/v1/speak", additional_headers={"traceparent": PARENT}) as ws:
                await say(ws, type="speak", text="Hello.")
                await hear(ws)
            await until(lambda: any("close_code" in line for line in lines()))
    assert {line["trace_id"] for line in lines()} == {TRACE_ID}
    assert backend.requests[0].trace.context == TraceContext(PARENT)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "no trace",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "-more",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"{PARENT},{PARENT}",
        "x" * 100_000,
    ],
)
def test_a_malformed_parent_is_none(parent):
    headers = Headers(raw=[(b"traceparent", parent.encode()), (b"tracestate", b"a=b")])
    assert given_context(headers) == TraceContext()


def test_a_parent_is_taken_once_and_its_state_where_it_can_be_one():
    def given(*pairs):
        return given_context(Headers(raw=[(name.encode(), value.encode()) for name, value in pairs]))

    parent = ("traceparent", PARENT)
    assert given(parent) == TraceContext(PARENT)
    assert given(parent, parent) == TraceContext()
    assert given(parent, ("tracestate", "a=b"), ("tracestate", "c=d")) == TraceContext(PARENT, "a=b,c=d")
    assert given(parent, ("tracestate", "x" * 600)) == TraceContext(PARENT)
    assert given(("tracestate", "a=b")) == TraceContext()
    later = ("traceparent", f"42-{TRACE_ID}-{SPAN_ID}-01-what-will-be")
    assert given(later) == TraceContext(PARENT)


def test_a_share_of_the_traces_is_kept_and_a_parents_decision_counts():
    tracer = otlp_tracer(TracingConfig(endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=0), "Ingress", "r")
    own, sampled = (tracer.span("session", TraceContext(parent)) for parent in (None, PARENT))
    assert int(own.context.traceparent[-2:], 16) & 1 == 0
    assert sampled.context.traceparent.startswith(f"00-{TRACE_ID}-")
    assert sampled.context.traceparent.endswith("-01")
    assert sampled.child("utterance").context.trace_id == TRACE_ID


def test_a_replica_that_leaves_hands_over_what_has_ended():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    made = Generator.__new__(Generator)
    made._tracer = OtelTracer(provider)
    made._tracer.span("stream", TraceContext()).end()
    assert exporter.get_finished_spans() == ()
    made.__del__()
    assert [span.name for span in exporter.get_finished_spans()] == ["stream"]
    made._tracer = NoTracer()


def test_without_an_endpoint_there_are_no_traces():
    assert isinstance(tracer_of(TracingConfig(), "Ingress", "r"), NoTracer)


def test_an_endpoint_without_the_packages_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "serve_app.observability.otel", None)
    with pytest.raises(RuntimeError, match=r"qwen3-tts-serve\[tracing\]"):
        tracer_of(TracingConfig(endpoint="http://127.0.0.1:9"), "Ingress", "r")


# Streams of a generator.


def audio(first_frame, frames=1):
    return AudioChunk(first_frame, np.zeros((frames, 16), np.int16), np.zeros(frames * 1920, np.float32))


class Stream:
    def consumed(self, frames):
        pass

    def cancel(self):
        pass


def generator(kept, events, refusal=None):
    """One whose engine says what it is given."""
    made = Generator.__new__(Generator)
    made._config = AppConfig()
    made._tracer = kept.tracer
    made._replica = "generator-1"
    made.counted = []
    made._metrics = SimpleNamespace(ended=made.counted.append)

    def prepare(request, prompt):
        if refusal is not None:
            raise refusal
        return request

    def submit(prepared, deliver):
        for event in events:
            deliver(event)
        return Stream()

    async def prompt(voice, digest):
        await asyncio.sleep(0.02)
        return SimpleNamespace(digest="d", loudness=Loudness(-23.0, 0.5))

    made._prompt = prompt
    engine = SimpleNamespace(submit=submit)
    made._model = SimpleNamespace(runner=SimpleNamespace(prepare=prepare), engine=engine, watermark=None)
    return made


REQUEST = SpeechRequest("Zanzibar.", "austen", "english", trace=Trace("s-1", "u-1", TraceContext(PARENT)))


async def spoken(made, request=REQUEST):
    return [event async for event in made.speak(request)]


async def test_a_stream_is_a_span_of_its_text_chunks_trace_with_its_stages():
    kept = Kept()
    with written() as lines:
        events = [audio(0), audio(1, 4), SpeechEnd("eos", 5, timings_s=STREAM)]
        assert len(await asyncio.create_task(spoken(generator(kept, events)))) == 3
    stream = kept.only("stream")
    assert f"{stream.context.trace_id:032x}" == TRACE_ID
    assert parent_of(stream) == int(SPAN_ID, 16)
    assert dict(stream.attributes) == {
        "tts.session_id": "s-1",
        "tts.utterance_id": "u-1",
        "tts.voice": "austen",
        "tts.language": "english",
        "tts.characters": 9,
        "tts.frames": 5,
        "tts.finish_reason": "eos",
    }
    stages = {span.name: span for span in kept.spans if span is not stream}
    assert list(stages) == ["prompt", "queue", "prefill", "first predict", "first decode"]
    assert {parent_of(stage) for stage in stages.values()} == {stream.context.span_id}
    assert seconds(stages["prompt"]) >= 0.02
    for name, length_s in (("queue", 0.1), ("prefill", 0.2), ("first predict", 0.05), ("first decode", 0.01)):
        assert seconds(stages[name]) == pytest.approx(length_s, abs=1e-6)
    began_s = (stages["first decode"].end_time - stages["queue"].start_time) / 1e9
    assert began_s == pytest.approx(0.5, abs=1e-6)
    assert [event.attributes["tts.frames"] for event in stream.events] == [1, 4]
    (line,) = lines()
    assert line["message"] == "stream ended: eos, 5 frames"
    assert [line[name] for name in ("session_id", "utterance_id", "trace_id", "frames")] == ["s-1", "u-1", TRACE_ID, 5]
    assert line["timings_ms"]["first_audio"] == 500
    assert "Zanzibar" not in "".join(span.to_json() for span in kept.spans)


async def test_a_long_stream_has_few_events():
    kept = Kept()
    await asyncio.create_task(spoken(generator(kept, [*map(audio, range(60)), SpeechEnd("length", 60)])))
    assert len(kept.only("stream").events) == MAX_AUDIO_EVENTS
    assert kept.only("stream").attributes["tts.frames"] == 60


async def test_a_stream_that_goes_on_says_from_where():
    kept = Kept()
    held = SpeechRequest("Hello.", "austen", trace=REQUEST.trace, delivered_codes=np.zeros((7, 16), np.int16))
    with written() as lines:
        await asyncio.create_task(spoken(generator(kept, [audio(7), SpeechEnd("eos", 8)]), held))
    assert kept.only("stream").attributes["tts.resumed_frames"] == 7
    assert [line["message"] for line in lines()] == ["a stream resumes at frame 7", "stream ended: eos, 8 frames"]
    assert {line["session_id"] for line in lines()} == {"s-1"}


async def test_a_refused_stream_ends_with_its_code():
    kept = Kept()
    with written() as lines:
        (end,) = await asyncio.create_task(spoken(generator(kept, [], TextTooLongError("Zanzibar is too long"))))
    assert end.code == "TEXT_TOO_LONG"
    assert kept.only("stream").status.description == "TEXT_TOO_LONG"
    (line,) = lines()
    assert (line["level"], line["message"], line["code"]) == ("INFO", "stream refused: TEXT_TOO_LONG", "TEXT_TOO_LONG")
    assert line["utterance_id"] == "u-1"


async def test_a_stream_that_breaks_in_the_model_is_a_warning_and_an_error():
    kept = Kept()
    with written() as lines, pytest.raises(ZeroDivisionError):
        await asyncio.create_task(spoken(generator(kept, [], ZeroDivisionError())))
    assert kept.only("stream").status.description == "SYNTHESIS_ERROR"
    assert (lines()[0]["level"], lines()[0]["code"]) == ("WARNING", "SYNTHESIS_ERROR")


@pytest.mark.parametrize(
    ("events", "refusal", "reason"),
    [
        ([audio(0), SpeechEnd("length", 1)], None, "length"),
        ([], TextTooLongError("too long"), "error"),
        ([], ZeroDivisionError(), "error"),
        ([audio(0), None], None, "error"),
    ],
    ids=["ended", "refused", "broken before it began", "broken after it began"],
)
async def test_a_stream_is_counted_once_by_the_reason_of_its_span(events, refusal, reason):
    kept = Kept()
    made = generator(kept, events, refusal)
    await asyncio.gather(asyncio.create_task(spoken(made)), return_exceptions=True)
    assert made.counted == [reason]
    assert kept.only("stream").attributes["tts.finish_reason"] == reason


async def test_a_stream_whose_caller_goes_away_is_cancelled():
    kept = Kept()
    made = generator(kept, [audio(0), audio(1)])

    async def leave():
        speaking = made.speak(REQUEST)
        await anext(speaking)
        await speaking.aclose()

    await asyncio.create_task(leave())
    span = kept.only("stream")
    assert (span.attributes["tts.finish_reason"], span.attributes["tts.frames"]) == ("cancelled", 1)
    assert made.counted == ["cancelled"]
    assert span.status.is_ok or span.status.description is None


def test_a_span_that_goes_nowhere_takes_no_time():
    began_s = time.perf_counter()
    for _ in range(10_000):
        span = NoTracer().span("stream", TraceContext(PARENT), voice="v")
        span.event("audio chunk", frames=1)
        span.child("utterance").end(finish_reason="eos")
    assert time.perf_counter() - began_s < 1.0, "some microseconds each"
