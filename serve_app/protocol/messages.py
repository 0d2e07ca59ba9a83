"""The messages of every dialect, and the errors for invalid ones.

Pydantic checks types, names and ranges here, once. The session checks limits that depend on the configuration, such as
text lengths and voices. This module knows nothing about sockets, sessions or audio.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, cast, get_args
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

from serve_app.audio.mark import DIGITAL_SOURCE_TYPE
from serve_app.config import SAMPLE_RATE_HZ, LexiconEntries, PromptLayout
from serve_app.errors import (
    InvalidMessageError,
    SpeechError,
    UnsupportedEncodingError,
    UnsupportedLanguageError,
)
from serve_app.languages import LANGUAGES, NamedLanguage
from serve_app.text.characters import shown, with_halves_kept

Encoding = Literal["pcm16", "pcm_f32", "mulaw", "opus"]
"""Encodings of audio over a WebSocket. :mod:`serve_app.audio.encoders` encodes them."""
Format = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
"""Formats of audio over HTTP, with the names of OpenAI's API. Other dialects map their own names to these."""
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
FORMATS: tuple[Format, ...] = get_args(Format)
SAMPLE_RATES_HZ = (8000, 16_000, SAMPLE_RATE_HZ, 48_000)
SLOWEST, FASTEST = 0.5, 2.0
"""Range of ``speed``; beyond it the filter becomes audible."""
MAX_SEED = 2**53 - 1
"""Largest integer that every JSON parser represents exactly."""
MAX_TRANSCRIPT_CHARACTERS = 2000
_LANGUAGE = f"one of {', '.join(LANGUAGES)}, or a code or tag of one, such as en or en-US"
_VOICE = "a voice's id, name or alias, 1 to 100 characters"
_OTHER_VOICE = "speaker"
"""Another name of ``voice``, which clients of vLLM-Omni and SGLang-Omni may use."""
SPEED = f"a number from {SLOWEST:g} to {FASTEST:g}"
MAX_LEXICON_FIELDS = 100
MAX_BATCH_ITEMS = 64
"""Maximum number of texts in one batch."""
FRAME_MS = 80
LEXICON = (
    f"an object of at most {MAX_LEXICON_FIELDS} entries: what is written (1 to 60 characters), and what is spoken for"
    " it (1 to 200 characters, with a letter or a digit)"
)
_CLIP = "a clip as base64 or as a data URL (data:audio/wav;base64,…); no other URL, no path"

_BASE64 = re.compile(r"(?!/[^/])[A-Za-z0-9+/]*={0,2}")
"""A value that begins with a single slash is a path and not base64: the base64 of mp3 and aac begins with two slashes,
and no other audio begins with one."""
_URL_SAFE = str.maketrans("-_", "+/")
"""Maps the last two characters of RFC 4648's URL-safe alphabet to those of the standard one."""
_BLANK_IS_ABSENT = ("voice", "language")
"""Fields that forms and configurations send as an empty string if nothing was chosen."""
_EXACT_INTEGERS = 2.0**53

INLINE_VOICE = "inline"
"""Name of a session's inline voice, within the session."""

BYTE_ORDER_MARK = "\ufeff"
"""Some editors and libraries put this mark before UTF-8 text; JSON parsers may reject it (RFC 8259, section 8.1)."""

Transport = Literal["binary", "base64"]
Priority = Literal["low", "normal", "high"]
JsonObject = dict[str, Any]
M = TypeVar("M", bound=BaseModel)


def among(field: str, allowed: Collection[str] | Collection[int]) -> AfterValidator:
    """Return a validator of an audio field; it refuses other values with ``UNSUPPORTED_ENCODING``."""

    def check(given: str | int) -> str | int:
        if given not in allowed:
            raise PydanticCustomError(
                "UNSUPPORTED_ENCODING",
                "{field} {given} is not supported; allowed: {allowed}",
                {"field": field, "given": shown(given), "allowed": ", ".join(map(str, allowed))},
            )
        return given

    return AfterValidator(check)


SampleRate = Annotated[int, among("sample_rate", SAMPLE_RATES_HZ)]
Lower = AfterValidator(str.lower)


def _clip(given: str) -> str:
    """Return a clip's base64, padded and in the standard alphabet; a data URL is unpacked.

    Raises:
        ValueError: the value is another URL, a path or not base64. The field's description explains what is allowed.
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
    """Treat an empty list like an absent field."""
    return None if given == [] else given


Nothing = Annotated[None, BeforeValidator(_no_list)]
"""A field that is not supported: it must be absent or empty."""


def _voice_id(given: object) -> object:
    """Accept a voice as an object with its ``id``, as OpenAI's clients send custom voices."""
    voice = cast("JsonObject", given).get("id", given) if isinstance(given, dict) else given
    return None if _is_blank(voice) else voice


def _is_left_blank(name: str, value: object) -> bool:
    return name in _BLANK_IS_ABSENT and _is_blank(value)


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _integral(value: object) -> object:
    """Convert ``5.0`` to 5, because some clients write integers like this; inexact numbers above 2^53 stay."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_INTEGERS
    return int(cast("float", value)) if exact else value


def _speakable_name(given: str) -> str:
    if not given.isascii() or not given.isprintable():
        raise PydanticCustomError("not_ascii", "must be printable ASCII")
    return given


UtteranceId = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_speakable_name)]
_UTTERANCE_ID = "1 to 128 printable ASCII characters"


class ClientFields(BaseModel):
    """Base of everything that a client sends.

    An explicit null counts as an absent field, and so does a blank voice or language. ``5.0`` counts as 5.
    """

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, given: object) -> object:
        """Drop absent fields and convert integers; unknown fields with null stay, so that they are refused."""
        if not isinstance(given, dict):
            return given
        fields = cast("JsonObject", given)
        return {name: _integral(value) for name, value in fields.items() if not cls._is_left_out(name, value)}

    @classmethod
    def _is_left_out(cls, name: str, value: object) -> bool:
        absent = value is None or _is_left_blank(name, value)
        return absent and name in cls.model_fields


class ClientMessage(ClientFields):
    """Base of all client messages of dialect B: strict types and no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SamplingFields(ClientMessage):
    """``sampling``: absent fields keep the checkpoint's values."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="a number from 0 to 2")
    top_k: int | None = Field(default=None, ge=0, le=2048, description="an integer from 0 to 2048")
    top_p: float | None = Field(default=None, gt=0, le=1, description="a number above 0, up to 1")
    repetition_penalty: float | None = Field(default=None, ge=0.5, le=2, description="a number from 0.5 to 2")


class SpeechFields(ClientMessage):
    """The fields of ``start``, which a ``speak`` may also carry for its own utterance; None means absent."""

    voice: str | None = Field(default=None, min_length=1, max_length=100, description=_VOICE)
    language: NamedLanguage | None = Field(default=None, description=_LANGUAGE)
    encoding: Annotated[str, among("encoding", ENCODINGS)] | None = Field(
        default=None, description=f"one of {', '.join(ENCODINGS)}"
    )
    sample_rate: SampleRate | None = Field(default=None, description=f"one of {', '.join(map(str, SAMPLE_RATES_HZ))}")
    transport: Transport | None = Field(default=None, description='"binary" or "base64"')
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description=f"an integer from 0 to {MAX_SEED}")
    sampling: SamplingFields | None = Field(
        default=None, description="an object of temperature, top_k, top_p and repetition_penalty"
    )
    priority: Priority | None = Field(default=None, description='"low", "normal" or "high"')
    normalize: bool | None = Field(default=None, description="true or false")
    prompt: PromptLayout | None = Field(default=None, description='"streaming" or "whole"')
    speed: float | None = Field(default=None, ge=SLOWEST, le=FASTEST, description=SPEED)
    words: bool | None = Field(default=None, description="true or false")
    lexicon: LexiconEntries | None = Field(default=None, max_length=MAX_LEXICON_FIELDS, description=LEXICON)


class Start(SpeechFields):
    """Sets the session's defaults; absent fields keep their value."""

    type: Literal["start"] = Field(default="start", description='"start"')
    voice_audio: Annotated[str, AfterValidator(_clip)] | None = Field(default=None, min_length=1, description=_CLIP)
    voice_transcript: str | None = Field(
        default=None,
        max_length=MAX_TRANSCRIPT_CHARACTERS,
        description=f"what voice_audio says, at most {MAX_TRANSCRIPT_CHARACTERS} characters",
    )


class Preset(Start):
    """A :class:`Start` without an answer, made from a query string; it is not a message of its own."""


class Speak(SpeechFields):
    """Text to speak, or more text of an open utterance."""

    type: Literal["speak"] = Field(default="speak", description='"speak"')
    text: str = Field(description="a string")
    utterance_id: UtteranceId | None = Field(default=None, description=_UTTERANCE_ID)
    final: bool = Field(default=True, description="true or false")


class SpeakBuffered(Speak):
    """A :class:`Speak` with buffered audio; dialect A and HTTP make it, and it is not a message of its own."""


class Flush(ClientMessage):
    """Speak the buffered text of one open utterance, or of all."""

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
    """The only request of dialect A; unknown fields are ignored, known ones are strict."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["synthesize"] = Field(default="synthesize", description='"synthesize"')
    text: str = Field(description="a string")
    voice: str | None = Field(default=None, min_length=1, max_length=100, description=_VOICE)
    language: NamedLanguage = Field(default="english", description=_LANGUAGE)
    stream: bool = Field(default=True, description="true or false")


class CompatibleFields(ClientFields):
    """How to speak: the fields that clients of OpenAI, vLLM-Omni and SGLang-Omni send, and some of our own.

    Unknown fields are ignored, because clients send many. ``model`` and ``instructions`` are accepted without effect:
    there is one model, and it takes no instructions. A field that asks for a voice in a way that the service does not
    support is refused.
    """

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    model: str | None = Field(default=None, description="a string")
    instructions: str | None = Field(default=None, description="a string")
    voice: Annotated[str | None, BeforeValidator(_voice_id)] = Field(
        default=None,
        min_length=1,
        max_length=100,
        validation_alias=AliasChoices("voice", _OTHER_VOICE),
        description=f'{_VOICE}, or an object with it as "id"',
    )
    speed: float | None = Field(default=None, ge=SLOWEST, le=FASTEST, description=SPEED)
    language: NamedLanguage | None = Field(default=None, description=_LANGUAGE)
    ref_audio: Annotated[str, AfterValidator(_clip)] | None = Field(default=None, min_length=1, description=_CLIP)
    ref_text: str | None = Field(
        default=None,
        max_length=MAX_TRANSCRIPT_CHARACTERS,
        description=f"what ref_audio says, at most {MAX_TRANSCRIPT_CHARACTERS} characters",
    )
    x_vector_only_mode: bool = Field(default=False, description="true or false")
    task_type: Literal["Base", "CustomVoice"] | None = Field(
        default=None, description='"Base" or "CustomVoice": voices cannot be designed from a description'
    )
    references: Nothing = Field(default=None, description="absent: use ref_audio and ref_text for a reference")
    speaker_embedding: Nothing = Field(default=None, description="absent: use ref_audio for a reference")
    sample_rate: SampleRate = Field(
        default=SAMPLE_RATE_HZ, description=f"one of {', '.join(map(str, SAMPLE_RATES_HZ))}"
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED, description=f"an integer from 0 to {MAX_SEED}")
    sampling: SamplingFields | None = Field(
        default=None, description="an object of temperature, top_k, top_p and repetition_penalty"
    )
    priority: Priority | None = Field(default=None, description='"low", "normal" or "high"')
    normalize: bool | None = Field(default=None, description="true or false")
    prompt: PromptLayout | None = Field(default=None, description='"streaming" or "whole"')
    lexicon: LexiconEntries | None = Field(default=None, max_length=MAX_LEXICON_FIELDS, description=LEXICON)

    def reference(self) -> Start | None:
        """Return the inline voice of the request, if there is one."""
        if self.ref_audio is None:
            return None
        transcript = None if self.x_vector_only_mode else self.ref_text
        return Start(voice_audio=self.ref_audio, voice_transcript=transcript, language=self.language)


class SpeechBody(CompatibleFields):
    """``POST /v1/audio/speech``."""

    input: str = Field(description="a string")
    response_format: Annotated[str, Lower, among("response_format", FORMATS)] = Field(
        default="mp3", description=f"one of {', '.join(FORMATS)}"
    )
    stream_format: Literal["audio", "sse"] = Field(default="audio", description='"audio" or "sse"')

    def speak(self, voice: str, *, whole: bool = False) -> Speak:
        """Return the message for the session; it asks for exact samples, which the response's own encoder encodes.

        Args:
            voice: the id of the voice, which replaces the name in the request.
            whole: whether the audio is buffered, because the client does not play it as it arrives.
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
            prompt=self.prompt,
            speed=self.speed,
            lexicon=self.lexicon,
        )

    def speak_in_batch(self, voice: str) -> Speak:
        """Return the message for a text of a batch: nobody waits for its audio, which is encoded as it is made.

        The audio of ``wav`` is bare PCM16, because the header of a complete file has its length.

        Args:
            voice: the id of the voice, which replaces the name in the request.
        """
        encoding = "pcm16" if self.response_format in ("wav", "pcm") else self.response_format
        fields = {"encoding": encoding, "sample_rate": self.sample_rate, "priority": "low"}
        return self.speak(voice, whole=True).model_copy(update=fields)


class TextFields(ClientFields):
    """Text of a dialect whose texts have no id; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    text: str = Field(description="a string")


class RawSpeak(ClientFields):
    """``speak`` of ``framing=raw``; lenient, because the fields of its client are unconfirmed."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    type: Literal["speak"] = Field(description='"speak"')
    text: str = Field(description="a string")
    voice: str | None = Field(default=None, min_length=1, max_length=100, description=_VOICE)


class RawCancel(ClientFields):
    """``cancel`` of ``framing=raw``: cancels everything."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["cancel"] = Field(description='"cancel"')


class RawStop(ClientFields):
    """``stop`` of ``framing=raw``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["stop"] = Field(description='"stop"')


class ServerMessage(BaseModel):
    """Base of all messages to a client: immutable, and None is left out of the JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Return the message as one text frame."""
        return self.model_dump_json(exclude_none=True)


class Limits(ServerMessage):
    """The limits of this session."""

    max_text_characters: int
    max_utterance_characters: int
    max_queued_utterances: int
    max_message_bytes: int
    idle_timeout_s: float


class Ready(ServerMessage):
    """Answer to ``start`` with the new defaults."""

    type: Literal["ready"] = "ready"
    session_id: str
    voice: str
    language: str
    encoding: str
    sample_rate: int
    transport: Transport
    normalize: bool
    prompt: PromptLayout | None = None
    speed: float
    words: bool
    digital_source_type: str = DIGITAL_SOURCE_TYPE
    limits: Limits


class Segment(ServerMessage):
    """The text chunk whose audio begins at ``start_ms`` of its utterance."""

    type: Literal["segment"] = "segment"
    utterance_id: str
    index: int
    text: str
    start_ms: int


class Words(ServerMessage):
    """When each word of a segment is spoken: its text, and where it begins and ends in its utterance, in ms.

    It follows the segment's audio.
    """

    type: Literal["words"] = "words"
    utterance_id: str
    index: int
    words: list[tuple[str, int, int]]


class AudioMessage(ServerMessage):
    """Announces one audio chunk; with base64 transport, ``data`` has the audio."""

    type: Literal["audio_chunk"] = "audio_chunk"
    utterance_id: str
    seq: int
    start_ms: int
    duration_ms: int
    final: bool
    data: str | None = None


class Complete(ServerMessage):
    """An utterance was spoken to its end.

    ``ttfa_ms`` is the time until its first samples were sent, and ``audible_ms`` until a client that plays them at once
    hears the first sound; absent if nothing was audible.
    """

    type: Literal["complete"] = "complete"
    utterance_id: str
    duration_ms: int
    finish_reason: str
    ttfa_ms: int
    audible_ms: int | None = None
    rtf: float
    characters: int
    seed: int
    voice: str


class Cancelled(ServerMessage):
    """An utterance was cancelled; ``duration_ms`` of it had been sent.

    ``heard_text`` is the text up to the last word that a client that plays the samples at once has begun to play;
    absent unless the client asked for ``words``.
    """

    type: Literal["cancelled"] = "cancelled"
    utterance_id: str
    duration_ms: int
    heard_text: str | None = None


class Stopped(ServerMessage):
    """Everything queued was spoken; the close follows."""

    type: Literal["stopped"] = "stopped"


class ErrorMessage(ServerMessage):
    """An error; with ``utterance_id`` it is also the end of that utterance."""

    type: Literal["error"] = "error"
    code: str
    message: str
    utterance_id: str | None = None
    retry_after_ms: int | None = None
    fatal: bool = False


def error_message(error: SpeechError, utterance_id: str | None = None, *, fatal: bool = False) -> ErrorMessage:
    """Return the message that reports an error to a client."""
    return ErrorMessage(
        code=error.code,
        message=error.message,
        utterance_id=utterance_id,
        retry_after_ms=error.retry_after_ms,
        fatal=fatal,
    )


class ResearchAudio(ServerMessage):
    """Dialect A: some PCM16 audio as base64."""

    type: Literal["audio"] = "audio"
    data: str
    sample_rate: int
    final: bool


class ResearchComplete(ServerMessage):
    """Dialect A: a request is complete."""

    type: Literal["complete"] = "complete"
    duration_ms: int


class ResearchError(ServerMessage):
    """Dialect A: a request, or its synthesis, failed."""

    type: Literal["error"] = "error"
    code: str
    message: str
    retry_after_ms: int | None = None


class RawAudioEnd(ServerMessage):
    """``framing=raw``: the end of the audio of a ``speak``."""

    type: Literal["audio_end"] = "audio_end"


class SpeechAudioDelta(ServerMessage):
    """``stream_format: "sse"``: some of the audio."""

    type: Literal["speech.audio.delta"] = "speech.audio.delta"
    audio: str


class SpeechUsage(ServerMessage):
    """The usage of a request in characters and frames, because OpenAI's tokens do not exist here."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class SpeechAudioDone(ServerMessage):
    """``stream_format: "sse"``: the end of the audio."""

    type: Literal["speech.audio.done"] = "speech.audio.done"
    usage: SpeechUsage


class BatchSuccess(ServerMessage):
    """``POST /v1/audio/speech/batch``: a text that was spoken.

    ``audio_data`` is base64. The server writes it in pieces, into the JSON of a message without it.
    """

    index: int
    status: Literal["success"] = "success"
    audio_data: str = ""
    media_type: str
    usage: SpeechUsage
    duration_ms: int
    finish_reason: str
    seed: int
    voice: str


class BatchError(ServerMessage):
    """``POST /v1/audio/speech/batch``: a text that was refused or failed."""

    index: int
    status: Literal["error"] = "error"
    error: str
    code: str
    retry_after_ms: int | None = None


def usage_of(complete: Complete) -> SpeechUsage:
    """Return the usage of an utterance: its characters, and its frames of 80 ms."""
    frames = complete.duration_ms // FRAME_MS
    return SpeechUsage(
        input_tokens=complete.characters, output_tokens=frames, total_tokens=complete.characters + frames
    )


def openai_error(error: SpeechError) -> JsonObject:
    """Return an error in OpenAI's format."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(error.http_status, "invalid_request_error" if error.http_status < 500 else "server_error")
    return {"error": {"message": error.message, "type": kind, "param": None, "code": error.code}}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Takes the place of a message that is refused.

    Attributes:
        error: the error for the client.
        utterance_id: the utterance of the message, if it could be parsed.
        final: of a ``speak``, whether it is the last one of its utterance; None for other messages.
        of_start: whether it takes the place of a ``start``.
    """

    error: SpeechError
    utterance_id: str | None = None
    final: bool | None = None
    of_start: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """A dialect's own answer to a message; the session sends it in order with its own messages.

    Attributes:
        message: the answer.
    """

    message: ServerMessage


FullMessage = Start | Speak | Flush | Cancel | Stop
ReadMessage = FullMessage | Refusal | Reply
"""What a dialect makes of a client's frame."""
RawMessage = RawSpeak | RawCancel | RawStop
_FULL_MODELS: dict[str, type[FullMessage]] = {
    "start": Start,
    "speak": Speak,
    "flush": Flush,
    "cancel": Cancel,
    "stop": Stop,
}
_RAW_MODELS: dict[str, type[RawMessage]] = {"speak": RawSpeak, "cancel": RawCancel, "stop": RawStop}
_RESEARCH_MODELS: dict[str, type[Synthesize]] = {"synthesize": Synthesize}


def read_full(frame: str | bytes) -> FullMessage | Refusal:
    """Read one text frame of dialect B."""
    return read_message(frame, _FULL_MODELS)


def read_raw(frame: str | bytes) -> RawMessage | Refusal:
    """Read one text frame of ``framing=raw``."""
    return read_message(frame, _RAW_MODELS)


def read_research(frame: str | bytes) -> Synthesize | Refusal:
    """Read one request of dialect A; ``type`` may be absent if there is a ``text``."""
    return read_message(frame, _RESEARCH_MODELS, default_type="synthesize")


def read_speech(body: str) -> SpeechBody | Refusal:
    """Read the body of ``POST /v1/audio/speech``."""
    message = read_object(body)
    return message if isinstance(message, Refusal) else read_fields(message, "speech", SpeechBody)


def read_batch(body: str) -> list[object] | Refusal:
    """Read the body of ``POST /v1/audio/speech/batch``.

    Returns:
        One value per text: an object with the fields of :class:`SpeechBody`, in which the fields of the batch fill in
        what the item leaves out; or what was given, if that is not an object. :func:`read_batch_item` checks each.
    """
    message = read_object(body)
    if isinstance(message, Refusal):
        return message
    allowed = f"an array of 1 to {MAX_BATCH_ITEMS} objects with an input each"
    items = message.pop("items", None)
    if not isinstance(items, list) or not items:
        return Refusal(InvalidMessageError(f"a batch needs 'items': {allowed}; given: {shown(items)}"))
    given = cast("list[object]", items)
    if len(given) > MAX_BATCH_ITEMS:
        return Refusal(InvalidMessageError(f"the batch has {len(given)} items; allowed: {allowed}"))
    return [_with_defaults(cast("JsonObject", item), message) if isinstance(item, dict) else item for item in given]


def _with_defaults(item: JsonObject, defaults: JsonObject) -> JsonObject:
    """Fill in the fields that an item leaves out.

    An item that names a voice or has a clip of its own gets neither from the defaults. The clip would replace the
    voice, and the transcript would be that of another clip.
    """
    own = {name: value for name, value in item.items() if value is not None and not _is_left_blank(name, value)}
    names_voice = any(not _is_blank(own.get(name, "")) for name in ("voice", _OTHER_VOICE, "ref_audio"))
    dropped = _WHOSE_VOICE if names_voice else ()
    shared = {name: value for name, value in defaults.items() if name not in dropped and value is not None}
    return {"response_format": "wav", **shared, **own}


_WHOSE_VOICE = ("voice", _OTHER_VOICE, "ref_audio", "ref_text")


def read_batch_item(item: object) -> SpeechBody | Refusal:
    """Check one text of a batch."""
    if not isinstance(item, dict):
        return Refusal(InvalidMessageError(f"the item is {_kind(item)}; allowed: an object with an input"))
    return read_fields(cast("JsonObject", item), "speech", SpeechBody)


def read_presets(query: Sequence[tuple[str, str]]) -> Preset | Refusal:
    """Read the fields of ``start`` and of its ``sampling`` from a query string.

    Numbers, true and false are written as in JSON. A name that is not a field of ``start`` is refused, as in a message.
    """
    fields: JsonObject = {}
    sampling: JsonObject = {}
    for name, value in query:
        if name in SamplingFields.model_fields:
            sampling[name] = _number(value)
        elif name in ("seed", "sample_rate", "speed"):
            fields[name] = _number(value)
        elif name in ("normalize", "words"):
            fields[name] = {"true": True, "false": False}.get(value, value)
        elif name in ("type", *_NOT_IN_A_QUERY, "voice_audio", "voice_transcript"):
            return Refusal(InvalidMessageError(f"{name} is not accepted in a query; allowed: {_PRESETS}"))
        else:
            fields[name] = value
    if sampling:
        fields["sampling"] = sampling
    return read_fields(fields, "start", Preset)


_NOT_IN_A_QUERY = ("sampling", "lexicon")
_PRESETS = ", ".join(sorted({*SpeechFields.model_fields, *SamplingFields.model_fields}.difference(_NOT_IN_A_QUERY)))


def _number(text: str) -> object:
    """Parse a number in a query; other text is returned as it is, so that validation refuses it by name."""
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        return text
    return value if isinstance(value, int | float) and not isinstance(value, bool) else text


def read_message(frame: str | bytes, models: Mapping[str, type[M]], default_type: str | None = None) -> M | Refusal:
    """Read one text frame of a dialect.

    Args:
        frame: JSON; a binary frame is refused.
        models: the dialect's messages by ``type``.
        default_type: the ``type`` of a message without one that has a ``text``.
    """
    if isinstance(frame, bytes):
        return Refusal(InvalidMessageError("binary frames are not accepted; allowed: JSON text frames"))
    message = read_object(frame)
    if isinstance(message, Refusal):
        return message
    if default_type is not None and message.get("type") is None and "text" in message:
        message["type"] = default_type
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in models:
        return Refusal(InvalidMessageError(_wrong_type(message, models)), _utterance_id(message))
    read = read_fields(message, kind, models[kind])
    if not isinstance(read, Refusal):
        return read
    final = message.get("final") is not False if kind == "speak" else None
    return replace(read, utterance_id=_utterance_id(message), final=final)


def read_fields(fields: Mapping[str, object], kind: str, model: type[M]) -> M | Refusal:
    """Read the fields of a message or a request; ``kind`` is its name in an error."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        return Refusal(_explained(error, kind, model))


def read_object(frame: str) -> JsonObject | Refusal:
    """Read a JSON object."""
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


def _explained(error: ValidationError, kind: str, model: type[BaseModel]) -> SpeechError:
    """Return the error for the first fault of a message: the field, what was given and what is allowed."""
    detail = error.errors(include_url=False, include_context=True)[0]
    if detail["type"] == UnsupportedLanguageError.code:
        return UnsupportedLanguageError(detail["msg"])
    if detail["type"] == UnsupportedEncodingError.code:
        return UnsupportedEncodingError(detail["msg"])
    path = [str(part) for part in detail["loc"] if part != kind]
    return InvalidMessageError(_fault(detail, kind, path, model))


def _fault(detail: ErrorDetails, kind: str, path: list[str], model: type[BaseModel]) -> str:
    place = shown(".".join(path)).strip('"')
    if path[0] == "lexicon" and len(path) > 1:
        return f"the entry {shown(path[1])} of lexicon is wrong; allowed: {LEXICON}; given: {shown(detail['input'])}"
    for name in path[:-1]:
        model = SamplingFields if name == "sampling" else model
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
