"""The dialects: each translates a client's frames into the session's messages, and the session's answers into frames.

The session uses dialect B only. All differences of the other dialects are handled here, in
:mod:`serve_app.protocol.speech_stream` and in :mod:`serve_app.protocol.deepgram`. No sockets.

A new dialect is a class with the methods of :class:`Dialect`, in a module of this package. A method of
:class:`serve_app.web.websocket.Sockets` makes it for each socket, and :mod:`serve_app.web.routes` has its path.
"""

import base64
from dataclasses import dataclass
from typing import Protocol

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.protocol.messages import (
    AudioMessage,
    Cancel,
    Cancelled,
    Complete,
    ErrorMessage,
    RawAudioEnd,
    RawCancel,
    RawSpeak,
    ReadMessage,
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
"""The content of one WebSocket frame: text or binary."""


@dataclass(frozen=True, slots=True)
class DialectRules:
    """How the sessions of a dialect differ from others, besides their messages.

    Attributes:
        errors_in_order: whether the error for a refused utterance is sent in the utterance's turn; for dialects whose
            messages have no id.
        stops_at_refused_start: whether texts are refused after a ``start`` that was refused, until another one is
            accepted; for dialects whose texts do not name their voice.
    """

    errors_in_order: bool = False
    stops_at_refused_start: bool = False


class Dialect(Protocol):
    """The protocol of one kind of client.

    Attributes:
        name: its name in logs.
        rules: how a session of this dialect behaves.
    """

    name: str
    rules: DialectRules

    def read(self, frame: Frame) -> list[ReadMessage]:
        """Parse a client's frame; return what the session receives, in order, possibly nothing."""
        ...

    def write(self, send: Send) -> list[Frame]:
        """Return the frames of one item in order; none if the dialect has no such message."""
        ...


class FullDialect:
    """Dialect B, without translation."""

    name = "full"
    rules = DialectRules()

    def read(self, frame: Frame) -> list[ReadMessage]:
        """Parse a client's frame."""
        return [read_full(frame)]

    def write(self, send: Send) -> list[Frame]:
        """Return the message; an audio chunk takes two frames, or one with base64 transport."""
        if send.payload is None:
            return [send.message.to_json()]
        if send.transport == "binary":
            return [send.message.to_json(), send.payload]
        return [send.message.model_copy(update={"data": _base64(send.payload)}).to_json()]


class ResearchDialect:
    """Dialect A: one request after another, audio as base64."""

    name = "research"
    rules = DialectRules(errors_in_order=True)

    def read(self, frame: Frame) -> list[ReadMessage]:
        """Parse one request: a text to speak, streamed or buffered."""
        request = read_research(frame)
        if isinstance(request, Refusal):
            return [request]
        speak = Speak if request.stream else SpeakBuffered
        return [speak(text=request.text, voice=request.voice, language=request.language)]

    def write(self, send: Send) -> list[Frame]:
        """Return one frame for audio, the end or an error; none for other messages."""
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
    """``framing=raw``: bare PCM16 frames, and ``audio_end`` after the last frame of each ``speak``.

    The exact field names of its client are unconfirmed. Every ``speak`` ends with exactly one ``audio_end`` or one
    error; a cancelled one also ends with ``audio_end``. A client can therefore count the ends.
    """

    name = "raw"
    rules = DialectRules(errors_in_order=True)

    def read(self, frame: Frame) -> list[ReadMessage]:
        """Parse a client's frame."""
        message = read_raw(frame)
        match message:
            case RawSpeak():
                return [Speak(text=message.text, voice=message.voice, encoding="pcm16")]
            case RawCancel():
                return [Cancel()]
            case Refusal():
                return [message]
            case _:
                return [Stop()]

    def write(self, send: Send) -> list[Frame]:
        """Return bare audio, and a text frame at the end or for an error; none for other messages."""
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
