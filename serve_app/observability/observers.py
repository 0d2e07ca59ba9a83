"""The observers of a session and of a stream: each event is reported once, and becomes metrics, spans and log lines.

A session runner reports to a :class:`SessionObserver`, and a generator to a :class:`StreamObserver`. The spans are::

    session > utterance > text chunk > stream > queue, prefill, …

The parent of a session's span comes from the client's request, and the parent of a stream's span from the request for
speech. All of them therefore belong to one trace, which the client may have begun.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from serve_app.errors import SpeechError, SynthesisError
from serve_app.observability.generator_metrics import GeneratorMetrics
from serve_app.observability.logging import bind
from serve_app.observability.session_metrics import INTERNAL_ERROR, SessionMetrics
from serve_app.observability.tracing import Span, Tracer
from serve_app.protocol.messages import Cancelled, Complete, ErrorMessage, ServerMessage
from serve_app.protocol.outbox import Close, Send
from serve_app.session.session import Call
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest, Trace, TraceContext

log = logging.getLogger(__name__)

MAX_AUDIO_EVENTS = 16
"""Maximum number of a stream's audio chunks that become events of its span; the span's end has the totals."""


class SessionObserver:
    """The observer of one session; its runner calls it on the runner's event loop."""

    def __init__(
        self,
        metrics: SessionMetrics,
        tracer: Tracer,
        parent: TraceContext,
        session_id: str,
        clock: Callable[[], float],
    ) -> None:
        """Begin the session's span; ``metrics`` are those of the same new session."""
        self._metrics = metrics
        self._clock = clock
        self._session = tracer.span("session", parent, session_id=session_id, dialect=metrics.dialect)
        self._trace = Trace(session_id, context=self._session.context)
        self._utterances: dict[str, Span] = {}
        self._chunk: Span | None = None
        self._began_s = 0.0
        self._finish_reason = "cancelled"
        self._failed: str | None = None
        self._frames = 0

    def opened(self) -> None:
        """The session was opened. From now on, log lines of the running task carry its ids."""
        self._metrics.opened()
        bind(self._trace)

    def called(self, call: Call) -> None:
        """The session requests that a text chunk be spoken."""
        self._metrics.called(call, self._clock())

    def begun(self, call: Call) -> Call:
        """The text chunk's turn begins. Call this in a task of its own, and :meth:`ended` at the end of the turn.

        Returns:
            The call with the trace added to its request.
        """
        request, name = call.request, call.utterance_id
        self._began_s = self._clock()
        utterance = self._utterances.get(name)
        if utterance is None:
            utterance = self._utterances[name] = self._session.child(
                "utterance",
                ago_s=self._began_s - call.asked_s,
                session_id=self._trace.session_id,
                utterance_id=name,
                voice=request.voice,
                language=request.language,
            )
        self._chunk = utterance.child("text chunk", characters=len(request.text), priority=request.priority)
        self._finish_reason, self._failed, self._frames = "cancelled", None, 0
        trace = Trace(self._trace.session_id, name, self._chunk.context)
        bind(trace)
        return replace(call, request=replace(request, trace=trace))

    def admitted(self, call: Call) -> None:
        """The text chunk left the admission queue and may go to a generator."""
        now_s = self._clock()
        self._metrics.admitted(call, now_s)
        if self._chunk is not None:
            self._chunk.stage("admission", 0.0, now_s - self._began_s)

    def received(self, call: Call, event: SpeechEvent) -> None:
        """The text chunk's stream yielded an event."""
        self._metrics.received(call, event)
        if isinstance(event, SpeechEnd):
            self._finish_reason, self._failed = event.finish_reason, event.code
        elif self._chunk is not None:
            if self._frames == 0:
                self._chunk.event("first audio")
            self._frames += len(event.codes)

    def failed(self, error: SpeechError) -> None:
        """The text chunk failed."""
        self._finish_reason, self._failed = "error", error.code

    def ended(self) -> None:
        """The text chunk's turn is over, for any reason."""
        if self._chunk is not None:
            self._chunk.end(failed=self._failed, finish_reason=self._finish_reason, frames=self._frames)
            self._chunk = None

    def sent(self, item: Send, sent_bytes: int) -> None:
        """A message was sent to the client, as this many bytes."""
        self._metrics.sent(item, sent_bytes, self._clock())
        self._end_span(item.message)
        _log_end(item.message)

    def closed(self, last: Close, *, gone: bool) -> None:
        """The session is over; ``gone`` if its client disconnected first."""
        self._metrics.closed(None if gone else last.code)
        self.ended()
        for utterance in self._utterances.values():
            utterance.end(finish_reason="cancelled")
        self._utterances.clear()
        failed = SynthesisError.code if last.code == INTERNAL_ERROR else None
        self._session.end(failed=failed, close_code=last.code, reason=last.reason)
        log.info("closed: %s", last.reason, extra={"dialect": self._metrics.dialect, "close_code": last.code})

    def _end_span(self, message: ServerMessage) -> None:
        """End an utterance's span after its last message was sent."""
        match message:
            case Complete() as done if done.utterance_id in self._utterances:
                self._utterances.pop(done.utterance_id).end(
                    finish_reason=done.finish_reason,
                    characters=done.characters,
                    duration_ms=done.duration_ms,
                    ttfa_ms=done.ttfa_ms,
                    audible_ms=done.audible_ms,
                    rtf=done.rtf,
                )
            case Cancelled() as done if done.utterance_id in self._utterances:
                self._utterances.pop(done.utterance_id).end(finish_reason="cancelled", duration_ms=done.duration_ms)
            case ErrorMessage() as error if error.utterance_id in self._utterances:
                self._utterances.pop(error.utterance_id).end(failed=error.code, finish_reason="error")
            case ErrorMessage() as error:
                self._session.event("error", code=error.code)
            case _:
                pass


def _log_end(message: ServerMessage) -> None:
    """Log how an utterance ended, after its last message was sent."""
    match message:
        case Complete() as done:
            figures = {
                "utterance_id": done.utterance_id,
                "finish_reason": done.finish_reason,
                "duration_ms": done.duration_ms,
                "ttfa_ms": done.ttfa_ms,
                "audible_ms": done.audible_ms,
                "rtf": done.rtf,
                "characters": done.characters,
            }
            values = (done.duration_ms, done.ttfa_ms, done.rtf, done.finish_reason)
            log.info("complete: %d ms, TTFA %d ms, RTF %.3f, %s", *values, extra=figures)
        case Cancelled() as done:
            figures = {"utterance_id": done.utterance_id, "duration_ms": done.duration_ms}
            log.info("cancelled at %d ms", done.duration_ms, extra=figures)
        case ErrorMessage() as error:
            log.info("error: %s", error.code, extra={"utterance_id": error.utterance_id, "code": error.code})
        case _:
            pass


class StreamObserver:
    """The observer of one stream; its generator calls it."""

    def __init__(
        self, metrics: GeneratorMetrics, tracer: Tracer, request: SpeechRequest, clock: Callable[[], float]
    ) -> None:
        """Begin the stream's span. From now on, log lines of the running task carry the stream's ids."""
        bind(request.trace)
        trace = request.trace or Trace("")
        self._metrics = metrics
        self._clock = clock
        self._began_s = clock()
        self._prepared_s: float | None = None
        self._end: SpeechEnd | None = None
        self._chunks = 0
        held = None if request.delivered_codes is None else len(request.delivered_codes)
        self._frames = held or 0
        self._span = tracer.span(
            "stream",
            trace.context,
            session_id=trace.session_id,
            utterance_id=trace.utterance_id,
            voice=request.voice if request.clip is None else "inline",
            language=request.language,
            characters=len(request.text),
            resumed_frames=held,
        )
        if held is not None:
            log.info("a stream resumes at frame %d", held, extra={"resumed_frames": held})

    def prepared(self) -> None:
        """The voice prompt is available and the text is tokenized; the engine gets the request next."""
        self._prepared_s = self._clock() - self._began_s
        self._span.stage("prompt", 0.0, self._prepared_s)

    def produced(self, event: SpeechEvent) -> None:
        """The stream yielded an event."""
        if isinstance(event, SpeechEnd):
            self._end = event
            return
        self._frames = event.first_frame + len(event.codes)
        self._chunks += 1
        if self._chunks <= MAX_AUDIO_EVENTS:
            self._span.event("audio chunk", first_frame=event.first_frame, frames=len(event.codes))

    def crashed(self) -> None:
        """The stream raised an unexpected exception; the caller logs it."""
        self._end = SpeechEnd("error", self._frames, SynthesisError.code)

    def close(self) -> None:
        """The stream is over: it has ended, or its caller went away."""
        end = self._end or SpeechEnd("cancelled", self._frames)
        self._metrics.ended(end.finish_reason)
        self._stages(end.timings_s)
        self._span.end(failed=end.code, finish_reason=end.finish_reason, frames=end.frames)
        figures = {
            "finish_reason": end.finish_reason,
            "frames": end.frames,
            "code": end.code,
            "timings_ms": {name: round(1000 * value_s, 1) for name, value_s in end.timings_s.items()} or None,
        }
        if end.finish_reason != "error":
            log.info("stream ended: %s, %d frames", end.finish_reason, end.frames, extra=figures)
        elif end.code == SynthesisError.code:
            log.warning("stream failed after %d frames", end.frames, extra=figures)
        else:
            log.info("stream refused: %s", end.code, extra=figures)

    def _stages(self, timings_s: dict[str, float]) -> None:
        """Spans for the stages before the first audio. Between two stages, the engine may serve other streams.

        The prefill follows the wait for a slot. The first decode is the last stage; sampling the first frame comes
        before it.
        """
        at_s = self._prepared_s or 0.0
        if "queue" in timings_s:
            taken_s = at_s + timings_s["queue"]
            self._span.stage("queue", at_s, taken_s)
            self._span.stage("prefill", taken_s, taken_s + timings_s.get("prefill", 0.0))
        if "first_audio" in timings_s:
            first_audio_s = at_s + timings_s["first_audio"]
            decoding_s = first_audio_s - timings_s.get("codec", 0.0)
            self._span.stage("first predict", decoding_s - timings_s.get("predictor", 0.0), decoding_s)
            self._span.stage("first decode", decoding_s, first_audio_s)
