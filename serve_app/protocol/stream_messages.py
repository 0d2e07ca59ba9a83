"""The messages of vLLM-Omni's and SGLang-Omni's stream, :mod:`serve_app.protocol.speech_stream`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, model_validator

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.errors import UnsupportedEncodingError
from serve_app.protocol.messages import (
    CompatibleFields,
    Format,
    Lower,
    Refusal,
    ServerMessage,
    Start,
    TextFields,
    among,
    read_message,
    read_object,
)

FORMATS: tuple[Format, ...] = ("pcm", "wav")


class SessionConfig(CompatibleFields):
    """``session.config``: fields that are left out keep their value; those of SGLang-Omni may be within ``session``."""

    type: Literal["session.config"] = Field(description='"session.config"')
    response_format: Annotated[str, Lower, among("response_format", FORMATS)] | None = Field(
        default=None, description='"pcm" or "wav"'
    )
    stream_audio: bool | None = Field(default=None, description="true or false")
    non_streaming_mode: bool | None = Field(default=None, description="true or false")
    timestamp_type: Literal["word"] | None = Field(default=None, description='"word"')
    timestamp_transport_strategy: Literal["sync"] | None = Field(default=None, description='"sync"')
    word_timestamps: bool | None = Field(default=None, description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, given: object) -> object:
        fields = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
        inner = fields.get("session")
        return {**cast("dict[str, Any]", inner), "type": fields["type"]} if isinstance(inner, dict) else given

    def start(self) -> Start:
        """Return the message for the session."""
        layout = {None: self.prompt, True: "whole", False: "streaming"}[self.non_streaming_mode]
        reference = self.reference()
        return Start(
            voice=self.voice if reference is None else None,
            voice_audio=None if reference is None else reference.voice_audio,
            voice_transcript=None if reference is None else reference.voice_transcript,
            language=self.language,
            encoding="pcm16",
            sample_rate=self.sample_rate if "sample_rate" in self.model_fields_set else None,
            seed=self.seed,
            sampling=self.sampling,
            priority=self.priority,
            normalize=self.normalize,
            prompt=cast("Any", layout),
            speed=self.speed,
            lexicon=self.lexicon,
            words=True if self.timestamp_type is not None else self.word_timestamps,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """How audio is sent.

    Attributes:
        format: ``pcm`` or ``wav``.
        streamed: whether a sentence's audio is sent as it is made, or in one frame.
        in_parts: whether a sentence's audio and then its word times are sent as JSON, as vLLM-Omni sends them.
        sample_rate: in Hz.
    """

    format: str = "pcm"
    streamed: bool = True
    in_parts: bool = False
    sample_rate: int = SAMPLE_RATE_HZ

    def changed(self, config: SessionConfig, start: Start) -> "Output":
        """Return the output after a ``session.config``, whose message for the session is ``start``.

        Raises:
            UnsupportedEncodingError: WAV cannot be streamed, because its header has its length; word times as JSON need
                streamed audio.
        """
        given = config.response_format
        streamed = self.streamed if given is None else given == "pcm"
        streamed = streamed if config.stream_audio is None else config.stream_audio
        if streamed and (given or self.format) != "pcm":
            raise UnsupportedEncodingError("stream_audio: true needs response_format pcm; allowed: pcm, or false")
        in_parts = self.in_parts if config.word_timestamps is None else config.word_timestamps
        if in_parts and not streamed:
            raise UnsupportedEncodingError("word_timestamps: true needs stream_audio: true; allowed: both, or neither")
        return Output(given or self.format, streamed, in_parts, start.sample_rate or self.sample_rate)


class InputDone(BaseModel):
    """``input.done``: speak everything, and answer ``session.done``."""


class InputCommit(BaseModel):
    """``input.commit``: the same, answered by ``input.committed``."""


class SessionClose(BaseModel):
    """``session.close``: drop the text that was not flushed, finish the rest, and close."""


ClientMessage = SessionConfig | TextFields | InputDone | InputCommit | SessionClose
_MODELS: dict[str, type[ClientMessage]] = {
    "session.config": SessionConfig,
    "input.text": TextFields,
    "input.done": InputDone,
    "input.commit": InputCommit,
    "session.close": SessionClose,
}


def is_config(frame: str | bytes) -> bool:
    """Return whether a frame is a ``session.config``, valid or not."""
    message = read_object(frame) if isinstance(frame, str) else None
    return isinstance(message, dict) and message.get("type") == "session.config"


def read_stream(frame: str | bytes) -> ClientMessage | Refusal:
    """Read one text frame."""
    return read_message(frame, _MODELS)


class SessionConfigured(ServerMessage):
    """Answer to ``session.config``."""

    type: Literal["session.configured"] = "session.configured"
    session_id: str
    voice: str
    response_format: str
    stream_audio: bool
    sample_rate: int


class AudioStart(ServerMessage):
    """The audio of a sentence follows."""

    type: Literal["audio.start"] = "audio.start"
    utterance_index: int
    sentence_index: int
    sentence_text: str
    format: str
    sample_rate: int
    word_timestamps: bool | None = None


class WordTimestamp(ServerMessage):
    """One word, and where it begins and ends in its sentence's audio."""

    word: str
    start_ms: int
    end_ms: int


class AudioPart(ServerMessage):
    """Some audio of a sentence, or after all of it the times of its words; null if they are not known."""

    type: Literal["audio.chunk"] = "audio.chunk"
    utterance_index: int
    sentence_index: int
    chunk_id: int
    audio_b64: str
    timestamps: list[WordTimestamp] | None

    def to_json(self) -> str:
        """Return the message as one text frame; ``timestamps`` is always there."""
        return self.model_dump_json()


class WordAlignment(ServerMessage):
    """The words of a sentence, and when each begins and ends in its audio."""

    words: list[str]
    word_start_times_seconds: list[float]
    word_end_times_seconds: list[float]


class TimestampInfo(ServerMessage):
    """The times of a sentence, in the format of Baseten."""

    word_alignment: WordAlignment


class AudioDone(ServerMessage):
    """The audio of a sentence is complete, or broke off with an error."""

    type: Literal["audio.done"] = "audio.done"
    utterance_index: int
    sentence_index: int
    total_bytes: int
    error: bool
    timestamp_info: TimestampInfo | None = None


class SessionDone(ServerMessage):
    """Answer to ``input.done``."""

    type: Literal["session.done"] = "session.done"
    utterance_index: int
    total_sentences: int


class InputCommitted(ServerMessage):
    """Answer to ``input.commit``."""

    type: Literal["input.committed"] = "input.committed"
    segment_index: int
    segment_sentences: int
    total_sentences: int


class StreamError(ServerMessage):
    """An error; with ``utterance_index`` it is about that text."""

    type: Literal["error"] = "error"
    code: str
    message: str
    utterance_index: int | None = None
    retry_after_ms: int | None = None
