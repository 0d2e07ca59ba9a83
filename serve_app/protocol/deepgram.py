"""The dialect of Deepgram's WebSocket ``/v1/speak``. No sockets.

Sources: deepgram-sdk 7.17.0, ``speak/v1``; Deepgram's documentation of text to speech over WebSockets; the services of
pipecat-ai 1.14.0 and livekit-plugins-deepgram 1.8.9.
"""

import uuid

from serve_app.protocol.deepgram_messages import (
    Clear,
    Cleared,
    CloseSocket,
    Failed,
    Flushed,
    FlushText,
    Metadata,
    Warned,
    read_deepgram,
)
from serve_app.protocol.dialects import DialectRules, Frame
from serve_app.protocol.messages import (
    AudioMessage,
    Cancel,
    Cancelled,
    Complete,
    ErrorMessage,
    ReadMessage,
    Ready,
    Refusal,
    Reply,
    Segment,
    SpeechFields,
    Stop,
    Stopped,
    TextFields,
)
from serve_app.protocol.outbox import Send
from serve_app.protocol.turns import Turns


class DeepgramDialect:
    """The dialect of one socket."""

    name = "deepgram"
    rules = DialectRules()

    def __init__(self, fields: SpeechFields) -> None:
        """Speak as the query asks; ``fields`` go with every text, so that none is spoken in another voice."""
        self._fields = fields
        self._turns: Turns[None] = Turns()
        self._answers = 0

    def read(self, frame: Frame) -> list[ReadMessage]:
        """Parse a client's frame."""
        message = read_deepgram(frame)
        match message:
            case Refusal():
                return [Refusal(message.error)]
            case TextFields():
                return self._turns.text(message.text, None, self._fields)
            case FlushText():
                return [*self._turns.flush(None), *(Reply(answer) for answer in self._flushed())]
            case Clear():
                self._turns.drop_all()
                return [Cancel(), Reply(Cleared(sequence_id=self._sequence_id()))]
            case CloseSocket():
                return [Stop()]

    def write(self, send: Send) -> list[Frame]:
        """Return the frames of one item."""
        match send.message:
            case AudioMessage() as audio:
                known = self._turns.named(audio.utterance_id) is not None
                return [send.payload] if send.payload and known else []
            case Complete() as complete:
                return self._over(complete.utterance_id)
            case ErrorMessage() as error:
                return self._failed(error)
            case Ready() as ready:
                model = str(uuid.uuid5(uuid.NAMESPACE_OID, ready.voice))
                return [Metadata(request_id=ready.session_id, model_name=ready.voice, model_uuid=model).to_json()]
            case Segment() | Cancelled() | Stopped():
                return []
            case reply:
                return [reply.to_json()]

    def _failed(self, error: ErrorMessage) -> list[Frame]:
        turn = self._turns.named(error.utterance_id)
        if turn is None and error.utterance_id is not None:
            return []  # the first error of the text was sent already
        if turn is None and not error.fatal:
            code, text = error.code, error.message
            return [Warned(code=code, description=text, warn_code=code, warn_msg=text).to_json()]
        failed = Failed(code=error.code, description=error.message, retry_after_ms=error.retry_after_ms)
        if turn is not None:
            turn.failed = True
        return [failed.to_json(), *self._over(error.utterance_id)]

    def _over(self, utterance_id: str | None) -> list[Frame]:
        turn = self._turns.named(utterance_id)
        if turn is not None:
            turn.over = True
        return [answer.to_json() for answer in self._flushed()]

    def _flushed(self) -> list[Flushed]:
        return [Flushed(sequence_id=self._sequence_id()) for _ in self._turns.answered()]

    def _sequence_id(self) -> int:
        self._answers += 1
        return self._answers - 1
