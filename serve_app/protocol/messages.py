"""The wire messages of every dialect, and what a client is told about one that is wrong.

Pydantic checks types, names and ranges here, once; limits that depend on the configuration (text lengths, voices)
are the session's. Nothing here knows of sockets, sessions or audio.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import unquote

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from serve_app.config import SAMPLE_RATE_HZ
from serve_app.errors import (
    InvalidMessageError,
    SpeechError,
    UnsupportedEncodingError,
    UnsupportedLanguageError,
)
from serve_app.languages import LANGUAGES, NamedLanguage
from serve_app.text.characters import shown, with_halves_kept

ENCODINGS = ("pcm16", "pcm_f32", "mulaw", "opus")
"""Of a socket's audio."""
FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
"""Of an HTTP answer's audio, as OpenAI's clients name them."""
SAMPLE_RATES_HZ = (8000, 16_000, SAMPLE_RATE_HZ, 48_000)
MAX_SEED = 2**53 - 1
"""Largest integer that every JSON reader keeps exact."""
MAX_TRANSCRIPT_CHARACTERS = 2000
_LANGUAGE = f"one of {', '.join(LANGUAGES)}, or a code or tag of one, as en, en-US"
_VOICE = "a voice's id, name or alias, 1 to 100 characters"
_OTHER_VOICE = "speaker"
"""What vLLM-Omni's and SGLang-Omni's clients may call ``voice``."""
_CLIP = "a clip as base64, or as a data URL (data:audio/wav;base64,…); no other URL, no path"

_BASE64 = re.compile(r"(?!/[^/])[A-Za-z0-9+/]*={0,2}")
"""No audio begins with the bytes that one slash is, so that is a path; mp3 and aac begin with two."""
_URL_SAFE = str.maketrans("-_", "+/")
"""The last two digits of RFC 4648's alphabet for URLs, and those of the usual one."""
_BLANK_IS_ABSENT = ("voice", "language")
"""Fields that forms and configurations send as an empty string where nothing was chosen."""
_EXACT_INTEGERS = 2.0**53

BYTE_ORDER_MARK = "\ufeff"
"""What some editors and libraries put before UTF-8 text; no JSON reader has to take it (RFC 8259, section 8.1)."""

Transport = Literal["binary", "base64"]
Priority = Literal["low", "normal", "high"]
JsonObject = dict[str, Any]
M = TypeVar("M")


def _encoding(given: str) -> str:
    if given not in ENCODINGS:
        raise PydanticCustomError(
            "UNSUPPORTED_ENCODING",
            "encoding {given} is not supported; allowed: {allowed}",
            {"given": shown(given), "allowed": ", ".join(ENCODINGS)},
        )
    return given


def _sample_rate(given: int) -> int:
    if given not in SAMPLE_RATES_HZ:
        raise PydanticCustomError(
            "UNSUPPORTED_ENCODING",
            "sample_rate {given} is not supported; allowed: {allowed}",
            {"given": shown(given), "allowed": ", ".join(map(str, SAMPLE_RATES_HZ))},
        )
    return given


def _format(given: str) -> str:
    if given.lower() not in FORMATS:
        raise PydanticCustomError(
            "UNSUPPORTED_ENCODING",
            "response_format {given} is not supported; allowed: {allowed}",
            {"given": shown(given), "allowed": ", ".join(FORMATS)},
        )
    return given.lower()


def _clip(given: str) -> str:
    """A clip's base64 in its usual alphabet and padded, out of a data URL if it is one.

    Raises:
        ValueError: anything else: another URL, a path, no base64. The field's description explains it.
    """
    scheme, colon, data = given.strip().partition(":")
    if colon:
        head, comma, data = data.partition(",")
        if scheme.lower() != "data" or not comma or not head.lower().endswith(";base64"):
            raise ValueError(given)
        data = unquote(data)
    else:
        data = scheme
    base64 = "".join(data.split()).translate(_URL_SAFE)
    digits = base64.rstrip("=")
    if not _BASE64.fullmatch(base64) or len(digits) % 4 == 1:
        raise ValueError(given)
    return digits + "=" * (-len(digits) % 4)


def _no_list(given: object) -> object:
    """An empty list of what is not taken asks for nothing."""
    return None if given == [] else given


Nothing = Annotated[None, BeforeValidator(_no_list)]
"""A field that has to be left out, or be empty."""


def _voice_id(given: object) -> object:
    """OpenAI's clients name a voice of one's own as an object with its ``id``."""
    voice = cast("JsonObject", given).get("id", given) if isinstance(given, dict) else given
    return None if _is_blank(voice) else voice


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _integral(value: object) -> object:
    """JSON has one kind of number: ``5.0`` is 5, which some clients write so. Those beyond 2^53 are not exact."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_INTEGERS
    return int(cast("float", value)) if exact else value


def _speakable_name(given: str) -> str:
    if not given.isascii() or not given.isprintable():
        raise PydanticCustomError("not_ascii", "must be printable ASCII")
    return given


UtteranceId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_speakable_name)]
_UTTERANCE_ID = "1 to 128 printable ASCII characters"


class ClientFields(BaseModel):
    """What everything that a client sends shares.

    An explicit null is the same as leaving the field out, and so is a blank voice or language. ``5.0`` is 5.
    """

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, given: object) -> object:
        """Nulls of unknown names stay: those are refused where unknown names are."""
        if not isinstance(given, dict):
            return given
        fields = cast("JsonObject", given)
        return {name: _integral(value) for name, value in fields.items() if not cls._is_left_out(name, value)}

    @classmethod
    def _is_left_out(cls, name: str, value: object) -> bool:
        absent = value is None or (name in _BLANK_IS_ABSENT and _is_blank(value))
        return absent and name in cls.model_fields


class ClientMessage(ClientFields):
    """What all messages of dialect B from a client share: exact types, and no field that it does not know."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SamplingFields(ClientMessage):
    """``sampling``: what is left out keeps the checkpoint's own value."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="a number from 0 to 2")
    top_k: int | None = Field(default=None, ge=0, le=2048, description="an integer from 0 to 2048")
    top_p: float | None = Field(default=None, gt=0, le=1, description="a number above 0, up to 1")
    repetition_penalty: float | None = Field(default=None, ge=0.5, le=2, description="a number from 0.5 to 2")


class SpeechFields(ClientMessage):
    """The fields of ``start``, which a ``speak`` may carry for its utterance alone; None means not given."""

    voice: str | None = Field(default=None, min_length=1, max_length=100, description=_VOICE)
    language: NamedLanguage | None = Field(default=None, description=_LANGUAGE)
    encoding: Annotated[str, AfterValidator(_encoding)] | None = Field(
        default=None, description=f"one of {', '.join(ENCODINGS)}"
    )
    sample_rate: Annotated[int, AfterValidator(_sample_rate)] | None = Field(
        default=None, description=f"one of {', '.join(map(str, SAMPLE_RATES_HZ))}"
    )
    transport: Transport | None = Field(default=None, description='"binary" or "base64"')
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description=f"an integer from 0 to {MAX_SEED}")
    sampling: SamplingFields | None = Field(
        default=None, description="an object of temperature, top_k, top_p and repetition_penalty"
    )
    priority: Priority | None = Field(default=None, description='"low", "normal" or "high"')
    normalize: bool | None = Field(default=None, description="true or false")


class Start(SpeechFields):
    """Sets the session's defaults; fields left out keep their value."""

    type: Literal["start"] = Field(default="start", description='"start"')
    voice_audio: Annotated[str, AfterValidator(_clip)] | None = Field(default=None, min_length=1, description=_CLIP)
    voice_transcript: str | None = Field(
        default=None,
        max_length=MAX_TRANSCRIPT_CHARACTERS,
        description=f"what voice_audio says, at most {MAX_TRANSCRIPT_CHARACTERS} characters",
    )


class Preset(Start):
    """A :class:`Start` that wants no answer: what a query string gives; no message carries it."""


class Speak(SpeechFields):
    """Text to say, or more of it."""

    type: Literal["speak"] = Field(default="speak", description='"speak"')
    text: str = Field(description="a string")
    utterance_id: UtteranceId | None = Field(default=None, description=_UTTERANCE_ID)
    final: bool = Field(default=True, description="true or false")


class SpeakBuffered(Speak):
    """A :class:`Speak` whose audio is wanted in one piece; dialect A asks for it, no wire carries it."""


class Flush(ClientMessage):
    """Speak what is buffered of an open utterance, or of all that are open."""

    type: Literal["flush"] = Field(default="flush", description='"flush"')
    utterance_id: UtteranceId | None = Field(default=None, description=_UTTERANCE_ID)


class Cancel(ClientMessage):
    """Stop one utterance, or all."""

    type: Literal["cancel"] = Field(default="cancel", description='"cancel"')
    utterance_id: UtteranceId | None = Field(default=None, description=_UTTERANCE_ID)


class Stop(ClientMessage):
    """Finish what is queued, then close."""

    type: Literal["stop"] = Field(default="stop", description='"stop"')


class Synthesize(ClientFields):
    """Dialect A's only request; unknown fields are ignored, known ones are exact."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["synthesize"] = Field(default="synthesize", description='"synthesize"')
    text: str = Field(description="a string")
    voice: str | None = Field(default=None, min_length=1, max_length=100, description=_VOICE)
    language: NamedLanguage = Field(default="english", description=_LANGUAGE)
    stream: bool = Field(default=True, description="true or false")


class SpeechBody(ClientFields):
    """``POST /v1/audio/speech``: OpenAI's fields, those of other servers for a reference, and some of ours.

    Others are ignored, as its clients send many. ``model`` and ``instructions`` are taken and change nothing: one model
    is served, and it takes no instructions. A field that asks for another voice than the answer would have is refused.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    input: str = Field(description="a string")
    model: str | None = Field(default=None, description="a string")
    instructions: str | None = Field(default=None, description="a string")
    voice: Annotated[str | None, BeforeValidator(_voice_id)] = Field(
        default=None,
        min_length=1,
        max_length=100,
        validation_alias=AliasChoices("voice", _OTHER_VOICE),
        description=f'{_VOICE}, or an object with it as "id"',
    )
    response_format: Annotated[str, AfterValidator(_format)] = Field(
        default="mp3", description=f"one of {', '.join(FORMATS)}"
    )
    stream_format: Literal["audio", "sse"] = Field(default="audio", description='"audio" or "sse"')
    speed: float = Field(default=1.0, ge=1, le=1, description="1: the model speaks at its own speed")
    language: NamedLanguage | None = Field(default=None, description=_LANGUAGE)
    ref_audio: Annotated[str, AfterValidator(_clip)] | None = Field(default=None, min_length=1, description=_CLIP)
    ref_text: str | None = Field(
        default=None,
        max_length=MAX_TRANSCRIPT_CHARACTERS,
        description=f"what ref_audio says, at most {MAX_TRANSCRIPT_CHARACTERS} characters",
    )
    x_vector_only_mode: bool = Field(default=False, description="true or false")
    task_type: Literal["Base", "CustomVoice"] | None = Field(
        default=None, description='"Base" or "CustomVoice": a voice or a reference is spoken with, none is designed'
    )
    references: Nothing = Field(default=None, description="left out: a reference is given as ref_audio and ref_text")
    speaker_embedding: Nothing = Field(default=None, description="left out: a reference is given as ref_audio")
    sample_rate: Annotated[int, AfterValidator(_sample_rate)] = Field(
        default=SAMPLE_RATE_HZ, description=f"one of {', '.join(map(str, SAMPLE_RATES_HZ))}"
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description=f"an integer from 0 to {MAX_SEED}")
    sampling: SamplingFields | None = Field(
        default=None, description="an object of temperature, top_k, top_p and repetition_penalty"
    )
    priority: Priority | None = Field(default=None, description='"low", "normal" or "high"')
    normalize: bool | None = Field(default=None, description="true or false")

    def reference(self) -> Start | None:
        """The voice that it brings, if it brings one."""
        if self.ref_audio is None:
            return None
        transcript = None if self.x_vector_only_mode else self.ref_text
        return Start(voice_audio=self.ref_audio, voice_transcript=transcript, language=self.language)

    def speak(self, voice: str, *, whole: bool = False) -> Speak:
        """What it asks of a session: exact samples, which the answer's own encoder takes.

        Args:
            voice: by its id, in the place of the one that is named here.
            whole: nobody listens while it is made.
        """
        kind = SpeakBuffered if whole else Speak
        return kind(
            text=self.input,
            voice=voice,
            language=self.language,
            encoding="pcm_f32",
            sample_rate=SAMPLE_RATE_HZ,
            seed=self.seed,
            sampling=self.sampling,
            priority=self.priority,
            normalize=self.normalize,
        )


class RawSpeak(ClientFields):
    """``speak`` of ``framing=raw``; lenient, because its client could not be asked."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["speak"] = Field(description='"speak"')
    text: str = Field(description="a string")
    voice: str | None = Field(default=None, min_length=1, max_length=100, description=_VOICE)


class RawCancel(ClientFields):
    """``cancel`` of ``framing=raw``: everything."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["cancel"] = Field(description='"cancel"')


class RawStop(ClientFields):
    """``stop`` of ``framing=raw``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["stop"] = Field(description='"stop"')


class ServerMessage(BaseModel):
    """What all messages to a client share: immutable, and None is left out of the JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """One text frame."""
        return self.model_dump_json(exclude_none=True)


class Limits(ServerMessage):
    """Bounds of this session, so that a client need not find them by hitting them."""

    max_text_characters: int
    max_utterance_characters: int
    max_queued_utterances: int
    max_message_bytes: int
    idle_timeout_s: float


class Ready(ServerMessage):
    """Answer to ``start``: the defaults as they now stand."""

    type: Literal["ready"] = "ready"
    session_id: str
    voice: str
    language: str
    encoding: str
    sample_rate: int
    transport: Transport
    normalize: bool
    limits: Limits


class Segment(ServerMessage):
    """The text chunk whose audio begins at ``start_ms`` of its utterance."""

    type: Literal["segment"] = "segment"
    utterance_id: str
    index: int
    text: str
    start_ms: int


class AudioMessage(ServerMessage):
    """Announces one audio chunk; with base64 transport it carries it in ``data``."""

    type: Literal["audio_chunk"] = "audio_chunk"
    utterance_id: str
    seq: int
    start_ms: int
    duration_ms: int
    final: bool
    data: str | None = None


class Complete(ServerMessage):
    """An utterance was spoken to its end."""

    type: Literal["complete"] = "complete"
    utterance_id: str
    duration_ms: int
    finish_reason: str
    ttfa_ms: int
    rtf: float
    characters: int
    seed: int
    voice: str


class Cancelled(ServerMessage):
    """An utterance was cancelled; ``duration_ms`` of it had been sent."""

    type: Literal["cancelled"] = "cancelled"
    utterance_id: str
    duration_ms: int


class Stopped(ServerMessage):
    """Everything queued was spoken; the close follows."""

    type: Literal["stopped"] = "stopped"


class ErrorMessage(ServerMessage):
    """What went wrong; with ``utterance_id`` it is also the end of that utterance."""

    type: Literal["error"] = "error"
    code: str
    message: str
    utterance_id: str | None = None
    retry_after_ms: int | None = None
    fatal: bool = False


def error_message(error: SpeechError, utterance_id: str | None = None, *, fatal: bool = False) -> ErrorMessage:
    """The message that tells a client of an error."""
    return ErrorMessage(
        code=error.code,
        message=error.message,
        utterance_id=utterance_id,
        retry_after_ms=error.retry_after_ms,
        fatal=fatal,
    )


class ResearchAudio(ServerMessage):
    """Dialect A: some PCM16, base64."""

    type: Literal["audio"] = "audio"
    data: str
    sample_rate: int
    final: bool


class ResearchComplete(ServerMessage):
    """Dialect A: a request was answered."""

    type: Literal["complete"] = "complete"
    duration_ms: int


class ResearchError(ServerMessage):
    """Dialect A: a request, or its synthesis, failed."""

    type: Literal["error"] = "error"
    code: str
    message: str
    retry_after_ms: int | None = None


class RawAudioEnd(ServerMessage):
    """``framing=raw``: no more audio of this ``speak``."""

    type: Literal["audio_end"] = "audio_end"


class SpeechAudioDelta(ServerMessage):
    """``stream_format: "sse"``: some of the audio."""

    type: Literal["speech.audio.delta"] = "speech.audio.delta"
    audio: str


class SpeechUsage(ServerMessage):
    """What an answer took; in characters and frames, since OpenAI's tokens are none of this model's."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class SpeechAudioDone(ServerMessage):
    """``stream_format: "sse"``: there is no more."""

    type: Literal["speech.audio.done"] = "speech.audio.done"
    usage: SpeechUsage


def openai_error(error: SpeechError) -> JsonObject:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(error.http_status, "invalid_request_error" if error.http_status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that could not be taken, in the place of the message.

    Attributes:
        error: what the client is told.
        utterance_id: the utterance that the message was about, where that could still be read.
    """

    error: SpeechError
    utterance_id: str | None = None


FullMessage = Start | Speak | Flush | Cancel | Stop
RawMessage = RawSpeak | RawCancel | RawStop
_FULL: TypeAdapter[FullMessage] = TypeAdapter(Annotated[FullMessage, Field(discriminator="type")])
_RAW: TypeAdapter[RawMessage] = TypeAdapter(Annotated[RawMessage, Field(discriminator="type")])
_SYNTHESIZE = TypeAdapter(Synthesize)
_FULL_MODELS: dict[str, type[BaseModel]] = {
    "start": Start,
    "speak": Speak,
    "flush": Flush,
    "cancel": Cancel,
    "stop": Stop,
}
_RAW_MODELS: dict[str, type[BaseModel]] = {"speak": RawSpeak, "cancel": RawCancel, "stop": RawStop}
_RESEARCH_MODELS: dict[str, type[BaseModel]] = {"synthesize": Synthesize}
_SPEECH = TypeAdapter(SpeechBody)


def read_full(frame: str | bytes) -> FullMessage | Refusal:
    """Read one text frame of dialect B."""
    return _read(frame, _FULL, _FULL_MODELS)


def read_raw(frame: str | bytes) -> RawMessage | Refusal:
    """Read one text frame of ``framing=raw``."""
    return _read(frame, _RAW, _RAW_MODELS)


def read_research(frame: str | bytes) -> Synthesize | Refusal:
    """Read one request of dialect A; ``type`` may be left out where there is a ``text``."""
    return _read(frame, _SYNTHESIZE, _RESEARCH_MODELS, default_type="synthesize")


def read_speech(body: str) -> SpeechBody | Refusal:
    """Read the body of ``POST /v1/audio/speech``."""
    message = _object(body)
    if isinstance(message, Refusal):
        return message
    try:
        return _SPEECH.validate_python(message)
    except ValidationError as error:
        return Refusal(_explained(error, "speech", {"speech": SpeechBody}))


def read_presets(query: Sequence[tuple[str, str]]) -> Preset | Refusal:
    """Read the fields of ``start`` from a query string; the fields of ``sampling`` stand beside the others.

    Numbers, true and false are written as in JSON. A name that is no field of ``start`` is refused, as it would be in a
    message.
    """
    fields: JsonObject = {}
    sampling: JsonObject = {}
    for name, value in query:
        if name in SamplingFields.model_fields:
            sampling[name] = _number(value)
        elif name in ("seed", "sample_rate"):
            fields[name] = _number(value)
        elif name == "normalize":
            fields[name] = {"true": True, "false": False}.get(value, value)
        elif name in ("type", "sampling", "voice_audio", "voice_transcript"):
            return Refusal(InvalidMessageError(f"{name} is not accepted in a query; allowed: {_PRESETS}"))
        else:
            fields[name] = value
    if sampling:
        fields["sampling"] = sampling
    try:
        return Preset.model_validate(fields)
    except ValidationError as error:
        return Refusal(_explained(error, "start", _FULL_MODELS))


_PRESETS = ", ".join(sorted({*SpeechFields.model_fields, *SamplingFields.model_fields} - {"sampling"}))


def _number(text: str) -> object:
    """The number that a query's value is, or the text itself, which validation then refuses by name."""
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def _read(
    frame: str | bytes,
    adapter: TypeAdapter[M],
    models: Mapping[str, type[BaseModel]],
    default_type: str | None = None,
) -> M | Refusal:
    if isinstance(frame, bytes):
        return Refusal(InvalidMessageError("binary frames are not accepted; allowed: JSON text frames"))
    message = _object(frame)
    if isinstance(message, Refusal):
        return message
    if default_type is not None and message.get("type") is None and "text" in message:
        message["type"] = default_type
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in models:
        return Refusal(InvalidMessageError(_wrong_type(message, models)), _utterance_id(message))
    try:
        return adapter.validate_python(message)
    except ValidationError as error:
        return Refusal(_explained(error, kind, models), _utterance_id(message))


def _object(frame: str) -> JsonObject | Refusal:
    try:
        fields = from_json(with_halves_kept(frame.removeprefix(BYTE_ORDER_MARK)), allow_inf_nan=False)
    except ValueError as error:
        return Refusal(InvalidMessageError(f"the message is not valid JSON: {error}"))
    if not isinstance(fields, dict):
        return Refusal(InvalidMessageError(f"the message is {_kind(fields)}; allowed: a JSON object"))
    return cast("JsonObject", fields)


def _wrong_type(message: JsonObject, models: Mapping[str, type[BaseModel]]) -> str:
    allowed = ", ".join(f'"{kind}"' for kind in models)
    if "type" not in message:
        return f"the message has no type; allowed: {allowed}"
    return f"type {shown(message['type'])} is not known; allowed: {allowed}"


def _utterance_id(message: JsonObject) -> str | None:
    try:
        return _UTTERANCE_IDS.validate_python(message.get("utterance_id"))
    except ValidationError:
        return None


_UTTERANCE_IDS: TypeAdapter[str] = TypeAdapter(UtteranceId, config=ConfigDict(strict=True))


def _explained(error: ValidationError, kind: str, models: Mapping[str, type[BaseModel]]) -> SpeechError:
    """The first fault of a message as an error that names the field, what was given and what is allowed."""
    detail = error.errors(include_url=False, include_context=True)[0]
    if detail["type"] == UnsupportedLanguageError.code:
        return UnsupportedLanguageError(detail["msg"])
    if detail["type"] == UnsupportedEncodingError.code:
        return UnsupportedEncodingError(detail["msg"])
    path = [str(part) for part in detail["loc"] if part != kind]
    return InvalidMessageError(_fault(detail, kind, path, models[kind]))


def _fault(detail: ErrorDetails, kind: str, path: list[str], model: type[BaseModel]) -> str:
    for name in path[:-1]:
        model = SamplingFields if name == "sampling" else model
    place = shown(".".join(path)).strip('"')
    if detail["type"] == "extra_forbidden":
        owner = " of ".join([f"'{name}'" for name in reversed(path[:-1])] + [f"'{kind}'"])
        return f"unknown field {place} in {owner}; allowed: {', '.join(sorted(model.model_fields))}"
    described = model.model_fields.get("voice" if path[-1] == _OTHER_VOICE else path[-1])
    allowed = described.description if described is not None else detail["msg"]
    if detail["type"] == "missing":
        return f"'{kind}' needs {place}: {allowed}"
    return f"{place} must be {allowed}; given: {shown(detail['input'])}"


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
