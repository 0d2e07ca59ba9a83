"""The dialects of the wire: each turns a client's frames into the session's messages, and its answers into frames.

The session speaks dialect B alone; what the others leave out or say differently is decided here, and nowhere else.
No sockets.
"""

import base64
from typing import Protocol

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.protocol.messages import (
    AudioMessage,
    Cancel,
    Cancelled,
    Complete,
    ErrorMessage,
    FullMessage,
    RawAudioEnd,
    RawCancel,
    RawSpeak,
    Refusal,
    ResearchAudio,
    ResearchComplete,
    ResearchError,
    Speak,
    SpeakBuffered,
    Stop,
    read_full,
    read_raw,
    read_research,
)
from serve_app.protocol.outbox import Send

Frame = str | bytes
"""What one WebSocket frame carries: text or binary."""


class Dialect(Protocol):
    """How one kind of client talks.

    Attributes:
        name: in logs.
        errors_in_order: see :class:`serve_app.session.session.SessionSetup`.
        encoding: of the audio as it leaves, where that is not what the session encodes it to.
    """

    name: str
    errors_in_order: bool
    encoding: str | None

    def read(self, frame: Frame) -> FullMessage | Refusal:
        """What a client's frame says."""
        ...

    def write(self, send: Send) -> list[Frame]:
        """The frames of one item, in order; none where the dialect has no word for it."""
        ...


class FullDialect:
    """Dialect B, as it is."""

    name = "full"
    errors_in_order = False
    encoding: str | None = None

    def read(self, frame: Frame) -> FullMessage | Refusal:
        """See :meth:`Dialect.read`."""
        return read_full(frame)

    def write(self, send: Send) -> list[Frame]:
        """See :meth:`Dialect.write`; an audio chunk is two frames, or one with base64 transport."""
        if send.payload is None:
            return [send.message.to_json()]
        if send.transport == "binary":
            return [send.message.to_json(), send.payload]
        return [send.message.model_copy(update={"data": _base64(send.payload)}).to_json()]


class ResearchDialect:
    """Dialect A: one request after another, audio as base64."""

    name = "research"
    errors_in_order = True
    encoding: str | None = None

    def read(self, frame: Frame) -> FullMessage | Refusal:
        """See :meth:`Dialect.read`."""
        request = read_research(frame)
        if isinstance(request, Refusal):
            return request
        speak = Speak if request.stream else SpeakBuffered
        return speak(text=request.text, voice=request.voice, language=request.language)

    def write(self, send: Send) -> list[Frame]:
        """See :meth:`Dialect.write`."""
        match send.message:
            case AudioMessage() as audio:
                data = _base64(send.payload or b"")
                return [ResearchAudio(data=data, sample_rate=SAMPLE_RATE_HZ, final=audio.final).to_json()]
            case Complete() as complete:
                return [ResearchComplete(duration_ms=complete.duration_ms).to_json()]
            case ErrorMessage() as error:
                return [
                    ResearchError(code=error.code, message=error.message, retry_after_ms=error.retry_after_ms).to_json()
                ]
            case _:
                return []


class RawDialect:
    """``framing=raw``: bare PCM16 frames, and ``audio_end`` after the last of each ``speak``.

    Its client's exact field names are unconfirmed. Every ``speak`` ends in one ``audio_end`` or one error, a
    cancelled one in ``audio_end`` too, so that a client who counts them is never out of step.
    """

    name = "raw"
    errors_in_order = True
    encoding: str | None = None

    def read(self, frame: Frame) -> FullMessage | Refusal:
        """See :meth:`Dialect.read`."""
        message = read_raw(frame)
        match message:
            case RawSpeak():
                return Speak(text=message.text, voice=message.voice, encoding="pcm16")
            case RawCancel():
                return Cancel()
            case Refusal():
                return message
            case _:
                return Stop()

    def write(self, send: Send) -> list[Frame]:
        """See :meth:`Dialect.write`."""
        match send.message:
            case AudioMessage():
                return [send.payload] if send.payload else []
            case Complete() | Cancelled():
                return [RawAudioEnd().to_json()]
            case ErrorMessage() as error:
                return [error.to_json()]
            case _:
                return []


def _base64(payload: bytes) -> str:
    return base64.b64encode(payload).decode("ascii")
