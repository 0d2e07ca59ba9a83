"""The messages of Deepgram's ``/v1/speak``, :mod:`serve_app.protocol.deepgram`, and the request of its HTTP API."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.errors import UnsupportedEncodingError
from serve_app.protocol.messages import (
    FASTEST,
    SAMPLE_RATES_HZ,
    SLOWEST,
    SPEED,
    ClientFields,
    Encoding,
    Format,
    Lower,
    Refusal,
    SampleRate,
    ServerMessage,
    SpeechBody,
    Start,
    TextFields,
    among,
    read_fields,
    read_message,
    read_object,
)
from serve_app.text.characters import shown

ENCODINGS: dict[str, Encoding] = {"linear16": "pcm16", "mulaw": "mulaw"}
"""Encodings over the WebSocket, and their names in the session."""
FORMATS: dict[tuple[str, str | None], Format] = {
    ("linear16", None): "wav",
    ("linear16", "wav"): "wav",
    ("linear16", "none"): "pcm",
    ("mp3", None): "mp3",
    ("mp3", "none"): "mp3",
    ("opus", None): "opus",
    ("opus", "ogg"): "opus",
    ("flac", None): "flac",
    ("aac", None): "aac",
}
"""Formats of the HTTP API: encoding and container, and their name in dialect C."""
MULAW_RATE_HZ = 8000


class Query(ClientFields):
    """The query of the WebSocket; other names are ignored, as Deepgram's clients send some that mean nothing here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str | None = Field(default=None, max_length=100, description="a voice's id, name or alias")
    encoding: Annotated[str, Lower, among("encoding", ENCODINGS)] = Field(
        default="linear16", description=f"one of {', '.join(ENCODINGS)}"
    )
    sample_rate: SampleRate | None = Field(default=None, description=f"one of {', '.join(map(str, SAMPLE_RATES_HZ))}")
    speed: float | None = Field(default=None, ge=SLOWEST, le=FASTEST, description=SPEED)


class Request(Query):
    """An HTTP request: its query, and the text of its body."""

    encoding: Annotated[str, Lower] = Field(default="mp3", description="a string")
    container: Annotated[str, Lower] | None = Field(default=None, description="a string")
    text: str = Field(strict=True, description="a string")


class FlushText(BaseModel):
    """``Flush``: speak everything, and answer ``Flushed``."""


class Clear(BaseModel):
    """``Clear``: stop, drop everything, and answer ``Cleared``."""


class CloseSocket(BaseModel):
    """``Close``: speak everything, then close."""


_MODELS: dict[str, type[TextFields | FlushText | Clear | CloseSocket]] = {
    "Speak": TextFields,
    "Flush": FlushText,
    "Clear": Clear,
    "Close": CloseSocket,
}


class Metadata(ServerMessage):
    """The first message of a socket; ``model_name`` is the voice, and ``model_uuid`` a hash of its name."""

    type: Literal["Metadata"] = "Metadata"
    request_id: str
    model_name: str
    model_version: str = "1"
    model_uuid: str


class Flushed(ServerMessage):
    """Answer to ``Flush``: all audio of the text before it was sent."""

    type: Literal["Flushed"] = "Flushed"
    sequence_id: int


class Cleared(ServerMessage):
    """Answer to ``Clear``."""

    type: Literal["Cleared"] = "Cleared"
    sequence_id: int


class Warned(ServerMessage):
    """A frame was refused and has no effect. ``warn_code`` and ``warn_msg`` are the names that some clients read."""

    type: Literal["Warning"] = "Warning"
    code: str
    description: str
    warn_code: str
    warn_msg: str


class Failed(ServerMessage):
    """A text was not spoken to its end, or the socket closes now."""

    type: Literal["Error"] = "Error"
    code: str
    description: str
    retry_after_ms: int | None = None


def read_deepgram(frame: str | bytes) -> TextFields | FlushText | Clear | CloseSocket | Refusal:
    """Read one text frame."""
    return read_message(frame, _MODELS)


def read_query(query: Sequence[tuple[str, str]]) -> Start | Refusal:
    """Read the query of the WebSocket."""
    asked = read_fields(_given(query), "query", Query)
    if isinstance(asked, Refusal):
        return asked
    rate_hz = asked.sample_rate or (MULAW_RATE_HZ if asked.encoding == "mulaw" else SAMPLE_RATE_HZ)
    return Start(
        voice=asked.model,
        encoding=ENCODINGS[asked.encoding],
        sample_rate=rate_hz,
        transport="binary",
        speed=asked.speed,
    )


def read_request(query: Sequence[tuple[str, str]], body: str) -> SpeechBody | Refusal:
    """Read an HTTP request as one of dialect C."""
    fields = read_object(body)
    if isinstance(fields, Refusal):
        return fields
    asked = read_fields({**_given(query), "text": fields.get("text")}, "request", Request)
    if isinstance(asked, Refusal):
        return asked
    wanted = (asked.encoding, asked.container)
    if wanted not in FORMATS:
        allowed = ", ".join(f"{name} ({container})" if container else name for name, container in FORMATS)
        given = shown(f"{asked.encoding} ({asked.container or 'default'})")
        return Refusal(
            UnsupportedEncodingError(f"encoding and container {given} are not supported; allowed: {allowed}")
        )
    rate_hz = asked.sample_rate or SAMPLE_RATE_HZ
    return SpeechBody(
        input=asked.text,
        voice=asked.model,
        response_format=FORMATS[wanted],
        sample_rate=rate_hz,
        speed=asked.speed,
    )


def _given(query: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in query if value.strip()}
