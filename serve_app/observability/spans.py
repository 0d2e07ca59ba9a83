"""Which spans a session and a stream have, and what stands in them: the one place that a driver and a generator tell.

    session > utterance > text chunk > stream > queue, prefill, …

A session's is begun by what its request says of a trace, and a stream's by what comes with its request for speech, so
that all of them are one trace, whoever began it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from serve_app.errors import SpeechError, SynthesisError
from serve_app.observability.logging import bind
from serve_app.observability.tracing import Span, Tracer
from serve_app.protocol.messages import Cancelled, Complete, ErrorMessage, ServerMessage
from serve_app.protocol.outbox import Close
from serve_app.session.session import Call
from serve_app.speech import SpeechEnd, SpeechEvent, SpeechRequest, Trace, TraceContext

log = logging.getLogger(__name__)

MAX_AUDIO_EVENTS = 16
"""Audio chunks of a stream that are events of its span; the rest is in the numbers at its end."""


class SessionSpans:
    """The spans of one session; on its driver's event loop."""

    def __init__(
        self, tracer: Tracer, parent: TraceContext, session_id: str, dialect: str, clock: Callable[[], float]
    ) -> None:
        """Begin the session's own."""
        self._clock = clock
        self._session = tracer.span("session", parent, session_id=session_id, dialect=dialect)
        self._utterances: dict[str, Span] = {}
        self._chunk: Span | None = None
        self._began_s = 0.0
        self._finish_reason = "cancelled"
        self._failed: str | None = None
        self._frames = 0
        self.trace = Trace(session_id, context=self._session.context)

    def begin(self, call: Call) -> Call:
        """A text chunk's turn has come; the same call with its trace in its request."""
        request, name = call.request, call.utterance_id
        self._began_s = self._clock()
        utterance = self._utterances.get(name)
        if utterance is None:
            utterance = self._utterances[name] = self._session.child(
                "utterance",
                ago_s=self._began_s - call.asked_s,
                session_id=self.trace.session_id,
                utterance_id=name,
                voice=request.voice,
                language=request.language,
            )
        self._chunk = utterance.child("text chunk", characters=len(request.text), priority=request.priority)
        self._finish_reason, self._failed, self._frames = "cancelled", None, 0
        trace = Trace(self.trace.session_id, name, self._chunk.context)
        return replace(call, request=replace(request, trace=trace))

    def admitted(self) -> None:
        """The text chunk is through the gate."""
        if self._chunk is not None:
            self._chunk.stage("gate", 0.0, self._clock() - self._began_s)

    def heard(self, event: SpeechEvent) -> None:
        """Its stream said something."""
        if isinstance(event, SpeechEnd):
            self._finish_reason, self._failed = event.finish_reason, event.code
        elif self._chunk is not None:
            if self._frames == 0:
                self._chunk.event("first audio")
            self._frames += len(event.codes)

    def failed(self, error: SpeechError) -> None:
        """It came to nothing."""
        self._finish_reason, self._failed = "error", error.code

    def ended(self) -> None:
        """It is over, however."""
        if self._chunk is not None:
            self._chunk.end(failed=self._failed, finish_reason=self._finish_reason, frames=self._frames)
            self._chunk = None

    def said(self, message: ServerMessage) -> None:
        """The client was sent a message; some are the end of an utterance."""
        match message:
            case Complete() as done if done.utterance_id in self._utterances:
                self._utterances.pop(done.utterance_id).end(
                    finish_reason=done.finish_reason,
                    characters=done.characters,
                    duration_ms=done.duration_ms,
                    ttfa_ms=done.ttfa_ms,
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

    def close(self, last: Close) -> None:
        """The session is over, and with it whatever was left of it."""
        self.ended()
        for utterance in self._utterances.values():
            utterance.end(finish_reason="cancelled")
        self._utterances.clear()
        self._session.end(
            failed=SynthesisError.code if last.code == 1011 else None, close_code=last.code, reason=last.reason
        )


class StreamSpan:
    """One stream of a generator, in its log and in a span."""

    def __init__(self, tracer: Tracer, request: SpeechRequest, clock: Callable[[], float]) -> None:
        """Begin it; from here on the running task's log lines are about it."""
        bind(request.trace)
        trace = request.trace or Trace("")
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
            log.info("a stream goes on at frame %d", held, extra={"resumed_frames": held})

    def prepared(self) -> None:
        """Its voice is there and its text is tokenised; the engine gets it now."""
        self._prepared_s = self._clock() - self._began_s
        self._span.stage("prompt", 0.0, self._prepared_s)

    def heard(self, event: SpeechEvent) -> None:
        """It says something."""
        if isinstance(event, SpeechEnd):
            self._end = event
            return
        self._frames = event.first_frame + len(event.codes)
        self._chunks += 1
        if self._chunks <= MAX_AUDIO_EVENTS:
            self._span.event("audio chunk", first_frame=event.first_frame, frames=len(event.codes))

    def broke(self) -> None:
        """It raised what nobody expected; whoever calls it logs that."""
        self._end = SpeechEnd("error", self._frames, SynthesisError.code)

    def close(self) -> None:
        """It is over: by its end, or because its caller went away."""
        end = self._end or SpeechEnd("cancelled", self._frames)
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
        """Spans of what came before the first audio; between them others of the batch were served.

        Prefill follows the wait for a slot, and the codec's step is the last; the predictor's stands before that one.
        """
        at_s = self._prepared_s or 0.0
        if "queue" in timings_s:
            taken_s = at_s + timings_s["queue"]
            self._span.stage("queue", at_s, taken_s)
            self._span.stage("prefill", taken_s, taken_s + timings_s.get("prefill", 0.0))
        if "first_audio" in timings_s:
            heard_s = at_s + timings_s["first_audio"]
            decoding_s = heard_s - timings_s.get("codec", 0.0)
            self._span.stage("first predict", decoding_s - timings_s.get("predictor", 0.0), decoding_s)
            self._span.stage("first decode", decoding_s, heard_s)
