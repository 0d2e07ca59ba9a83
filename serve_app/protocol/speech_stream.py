"""The dialect of vLLM-Omni's and SGLang-Omni's ``/v1/audio/speech/stream``. No sockets.

A client configures the session, sends text as it is written, and flushes it; audio comes per sentence. Differences from
those servers are listed in docs/protocol.md.

Sources: vLLM-Omni, ``docs/serving/speech_api.md`` (0.29) and ``serving_speech_stream.py``; SGLang-Omni,
``sglang_omni/serve/speech_ws.py``; livekit-plugins-baseten 1.8.9, ``qwen3_tts.py``.
"""

from serve_app.errors import InvalidMessageError, SpeechError, WordTimesUnavailableError
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
    Start,
    Stop,
    Stopped,
    TextFields,
    Words,
)
from serve_app.protocol.outbox import Send
from serve_app.protocol.stream_messages import (
    InputCommit,
    InputCommitted,
    Output,
    SessionClose,
    SessionConfig,
    SessionConfigured,
    SessionDone,
    StreamError,
    is_config,
    read_stream,
)
from serve_app.protocol.stream_sentences import Sentences, add_audio, begin, end
from serve_app.protocol.turns import Turn, Turns


class SpeechStreamDialect:
    """The dialect of one socket."""

    name = "speech_stream"
    rules = DialectRules(stops_at_refused_start=True)

    def __init__(self) -> None:
        self._output = Output()
        self._turns: Turns[Sentences] = Turns()
        self._sentences = 0
        self._refused = False

    def read(self, frame: Frame) -> list[ReadMessage]:
        """Parse a client's frame."""
        message = read_stream(frame)
        match message:
            case Refusal():
                self._refused |= self._turns.open is None and is_config(frame)
                return [Refusal(message.error)]
            case SessionConfig():
                return [self._configured(message)]
            case TextFields() if self._refused:
                return [Refusal(InvalidMessageError("the last session.config was refused; allowed: a valid one first"))]
            case TextFields():
                fields = SpeechFields(encoding="pcm16", transport="binary", sample_rate=self._output.sample_rate)
                return self._turns.text(message.text, Sentences(self._output), fields)
            case SessionClose():
                dropped = self._turns.drop_text()
                return [Stop()] if dropped is None else [Cancel(utterance_id=dropped), Stop()]
            case _:
                state = Sentences(self._output) if self._turns.open is None else self._turns.open.state
                state.committed = isinstance(message, InputCommit)
                return [*self._turns.flush(state), *(Reply(answer) for answer in self._answers())]

    def write(self, send: Send) -> list[Frame]:
        """Return the frames of one item."""
        match send.message:
            case Segment() | AudioMessage() | Words() | Complete() as message:
                turn = self._turns.named(message.utterance_id)
                return [] if turn is None else self._speech(turn, message, send.payload or b"")
            case ErrorMessage(code=WordTimesUnavailableError.code):
                return []  # clients treat any error as the end of their text
            case ErrorMessage() as error:
                return self._failed(error)
            case Ready() as ready:
                return [self._ready(ready).to_json()]
            case Cancelled() | Stopped():
                return []
            case reply:
                return [reply.to_json()]

    def _speech(
        self, turn: Turn[Sentences], message: Segment | AudioMessage | Words | Complete, payload: bytes
    ) -> list[Frame]:
        match message:
            case Segment():
                return [*end(turn), *begin(turn, message.text, message.start_ms)]
            case AudioMessage():
                return [*add_audio(turn, payload, message.start_ms), *(end(turn) if message.final else [])]
            case Words():
                turn.state.words = message.words
                return []
            case Complete():
                return self._over(turn)

    def _configured(self, config: SessionConfig) -> Start | Refusal:
        if self._turns.open is not None:
            return Refusal(InvalidMessageError("session.config came within a text; allowed: after input.done"))
        start = config.start()
        try:
            self._output = self._output.changed(config, start)
        except SpeechError as error:
            self._refused = True
            return Refusal(error)
        self._refused = False
        return start

    def _ready(self, ready: Ready) -> SessionConfigured:
        return SessionConfigured(
            session_id=ready.session_id,
            voice=ready.voice,
            response_format=self._output.format,
            stream_audio=self._output.streamed,
            sample_rate=ready.sample_rate,
        )

    def _failed(self, error: ErrorMessage) -> list[Frame]:
        turn = self._turns.named(error.utterance_id)
        if turn is None and error.utterance_id is not None:
            return []  # the first error of the text was sent already
        message = StreamError(
            code=error.code,
            message=error.message,
            utterance_index=None if turn is None else turn.number,
            retry_after_ms=error.retry_after_ms,
        )
        if turn is None:
            return [message.to_json()]
        turn.failed = True
        return [message.to_json(), *self._over(turn)]

    def _over(self, turn: Turn[Sentences]) -> list[Frame]:
        """Return the last frames of a turn, and all answers that are due after it."""
        turn.over = True
        return [*end(turn), *(answer.to_json() for answer in self._answers())]

    def _answers(self) -> list[SessionDone | InputCommitted]:
        return [self._answer(turn.number, turn.state) for turn in self._turns.answered()]

    def _answer(self, number: int, turn: Sentences) -> SessionDone | InputCommitted:
        self._sentences += turn.count
        if turn.committed:
            total = self._sentences
            return InputCommitted(segment_index=number, segment_sentences=turn.count, total_sentences=total)
        return SessionDone(utterance_index=number, total_sentences=turn.count)
