"""The application's whole configuration: what ``args:`` contains in a file in ``configs/``.

One model per section. Unknown keys are refused, and every name ends with its unit. Nothing here reads a file, a clock
or the environment.
"""

import unicodedata
import warnings
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

Language = Literal[
    "auto",
    "chinese",
    "english",
    "japanese",
    "korean",
    "german",
    "french",
    "russian",
    "portuguese",
    "spanish",
    "italian",
]
"""What a client may request: one of ten languages, or ``auto``."""

PromptLayout = Literal["streaming", "whole"]
"""How the talker gets a text: one token with each frame, or all of it before the first frame."""

LexiconEntries = dict[
    Annotated[str, Field(min_length=1, max_length=60, pattern=r"[^\s\p{C}]")],
    Annotated[str, Field(min_length=1, max_length=200, pattern=r"[\p{L}\p{N}]")],
]
"""What is written, and what is spoken for it, which needs a letter or a digit."""

MAX_LEXICON_ENTRIES = 1000
"""Of the configuration, and of one API key."""

SAMPLE_RATE_HZ = 24_000
"""Sample rate of the model's input and output."""

Lufs = Annotated[float, Field(ge=-40, le=-10)]
"""A level of speech: integrated loudness by ITU-R BS.1770."""


class Settings(BaseModel):
    """Base of all configuration models: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


MAX_FRAMES_AHEAD = 12
"""Largest ``frames_ahead`` of an alignment head: about a second."""


class AlignmentHeadConfig(Settings):
    """The attention head that word times are read from, see :class:`serve_app.model.checkpoint.AlignmentHead`."""

    layer: int = Field(ge=0)
    head: int = Field(ge=0)
    frames_ahead: int = Field(ge=0, le=MAX_FRAMES_AHEAD)


class WatermarkConfig(Settings):
    """The watermark in generated speech, see :mod:`serve_app.model.watermark`."""

    weights: str = Field(min_length=1)
    message: int = Field(default=0, ge=0, lt=1 << 16)
    strength: float = Field(default=1.0, gt=0, le=2)


class ModelConfig(Settings):
    """Which checkpoint is loaded, on which device, and in which number format."""

    source: str = Field(
        default="tiny",
        description=(
            "Hub id, local directory, `demo` (a small English voice in the package), or `tiny`, `tiny-1.7b`,"
            " `full-random` or `full-random-1.7b` (random weights)."
        ),
    )
    revision: str | None = Field(default=None, description="Commit or tag of a hub id; null: its main branch.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto` uses CUDA if it is available.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Number format of talker and code predictor. `auto`: bfloat16, or float32 for `demo` and `tiny`.",
    )
    weights: Literal["plain", "int8", "int4", "torch"] = Field(
        default="plain",
        description="Weight format of talker and code predictor. `plain`: as `dtype`. `int8`: on a CPU, weights and"
        " inputs are rounded to 8 bits, which was faster at one to ten streams. `int4`: as `int8`, but the code"
        " predictor's layers are rounded to 4 bits. Neither was checked by listening with the released weights."
        " `torch`: as `plain`, but only with torch's own operations, including the codec; for comparison. A stream's"
        " codes depend on this choice.",
    )
    codec_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Number format of the codec decoder. `auto`: float32 on a CPU, the only format there;"
        " otherwise as `dtype`.",
    )
    threads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None,
        description="CPU threads of one generator; null: all cores of the machine.",
    )
    alignment_head: AlignmentHeadConfig | None = Field(
        default=None,
        description="The talker's attention head for word times: an object with `layer`, `head` and `frames_ahead`, as"
        " `tts-heads` prints it; docs/engine.md. null: the head that the checkpoint's `config.json` names, if any.",
    )
    watermark: WatermarkConfig | None = Field(
        default=None,
        description="Adds AudioSeal's watermark to all speech: an object with `weights` (the file"
        " `generator_streaming.pth`), `message` (0 to 65535, default 0) and `strength` (above 0, at most 2; default 1);"
        " docs/marking.md."
        " null: no watermark.",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _is_chosen_once(cls, weights: object) -> object:
        if weights == "auto":
            raise PydanticCustomError(
                "weights_are_chosen_once",
                "'auto' was removed: each replica chose for itself, but one that resumes another's stream must compute"
                " in the same way; allowed: 'plain' (exact), 'int8' or 'int4' (faster, on a CPU), 'torch'",
            )
        return weights


class EngineConfig(Settings):
    """One generator's engine: how many streams, how long they may be, how far they run ahead."""

    slots: int = Field(default=10, ge=1, le=64, description="Streams that one generator runs at the same time.")
    max_positions: int = Field(
        default=1024,
        ge=128,
        le=8192,
        description="Talker positions of one slot, shared by voice prompt, text and frames (12.5 frames a second).",
    )
    max_chunk_characters: int = Field(
        default=600,
        ge=20,
        le=5000,
        description="Longest text of one stream; the ingress cuts text into much shorter chunks.",
    )
    max_waiting_streams: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Text chunks that may wait in each replica; further ones are refused with CAPACITY.",
    )
    budget_frames_per_character: float = Field(
        default=2.5,
        gt=0,
        le=100,
        description="Frames allowed for each character: a stream that has not stopped by then ends with `length`."
        " Ideographs and kana count as three characters. Speech takes about 0.9 frames per character.",
    )
    budget_min_frames: int = Field(
        default=75, ge=2, description="Minimum number of frames allowed for a stream, for very short texts."
    )
    max_lead_s: float = Field(
        default=8.0, gt=0.16, description="A stream pauses when its audio is this far ahead of its listener."
    )
    new_request_patience_s: float = Field(
        default=1.0,
        gt=0,
        description="How long new requests of a burst are collected before the first of them gets its first frame.",
    )
    audio_chunk_max_frames: int = Field(
        default=4,
        ge=1,
        le=25,
        description="Maximum number of frames (80 ms each) in one audio chunk; the first audio chunk has one.",
    )
    stall_guard_s: float | None = Field(
        default=4.0,
        gt=0,
        description="A stream that repeats itself or is silent for this long ends as `stalled`. Off with random"
        " weights.",
    )
    failed_steps_until_unhealthy: int = Field(
        default=3,
        ge=1,
        description="Failed steps in a row after which the replica becomes unhealthy and Serve replaces it.",
    )
    step_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="A model step that takes longer is considered stuck, and Serve replaces the replica. The longest"
        " steps are prefills, which take some seconds on a CPU.",
    )
    voice_cache_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        description="Maximum bytes of voices that one replica caches; the limit applies to prompts, codec states and"
        " prompt prefixes separately.",
    )

    @model_validator(mode="before")
    @classmethod
    def _accepts_the_old_name(cls, given: object) -> object:
        old, new = "newcomer_patience_s", "new_request_patience_s"
        if not isinstance(given, dict) or old not in given or new in given:
            return given
        warnings.warn(
            f"engine.{old} is now engine.{new}; the next release drops the old name", FutureWarning, stacklevel=2
        )
        return {new if key == old else key: value for key, value in given.items()}


class TextConfig(Settings):
    """How text is prepared and cut into text chunks; docs/chunking.md explains the defaults."""

    first_chunk_characters: int = Field(
        default=60,
        ge=4,
        le=1000,
        description="The first text chunk ends at the first clause that makes it at least a quarter of this long. The"
        " target length of each later chunk grows by this much. A CJK or Hangul character counts as two,"
        " here and in the next two keys.",
    )
    chunk_budget_characters: int = Field(
        default=220,
        ge=4,
        le=5000,
        description="A text chunk of several sentences is at most this long; the target length of late chunks is half"
        " of it.",
    )
    longest_chunk_characters: int = Field(
        default=300,
        ge=20,
        le=5000,
        description="Longest text chunk; a longer sentence is cut. At most `engine.max_chunk_characters`.",
    )
    markdown: bool = Field(default=True, description="Remove Markdown markup before text is spoken.")
    emoji: Literal["drop", "keep"] = Field(
        default="drop",
        description="`drop` removes emoji, pictographs, and symbols that are not spoken: arrows, boxes, stars.",
    )
    tags: bool = Field(
        default=True,
        description="Remove known SSML and HTML tags, turn `<break>` and `[pause 1s]` into silence, and decode HTML"
        " entities.",
    )
    reasoning: Literal["drop", "keep"] = Field(
        default="drop",
        description="`drop` removes a language model's reasoning: `<think>…</think>` and its content.",
    )
    normalize: bool = Field(
        default=False,
        description="Turn numbers, dates, times and amounts into words, for clients that do not choose.",
    )
    auto_language: Language = Field(
        default="auto",
        description="Language of these words if a request's language is `auto` and the script of the text identifies"
        " none, as Latin script. With `auto` they stay as they are written.",
    )
    lexicon: LexiconEntries = Field(
        default={},
        max_length=MAX_LEXICON_ENTRIES,
        description="What is spoken for a written word, as `SQL: sequel`: docs/chunking.md has the rules. API keys and"
        " requests can add entries.",
    )
    prompt: PromptLayout = Field(
        default="streaming",
        description="How the talker gets the text, for clients and voices that do not choose. `streaming`: one token"
        " with each frame, so that the first audio comes early. `whole`: all of it before the first frame.",
    )

    @model_validator(mode="after")
    def _lengths_are_in_order(self) -> Self:
        lengths = (self.first_chunk_characters, self.chunk_budget_characters, self.longest_chunk_characters)
        if list(lengths) != sorted(lengths):
            raise PydanticCustomError(
                "chunk_lengths_out_of_order",
                "first_chunk_characters ({first}) <= chunk_budget_characters ({budget}) <="
                " longest_chunk_characters ({longest}) must hold",
                {"first": lengths[0], "budget": lengths[1], "longest": lengths[2]},
            )
        return self


class GeneratorConfig(Settings):
    """Replicas of the generator deployment."""

    min_replicas: int = Field(
        default=1, ge=0, description="Minimum number of generators; 0: none while there is no work."
    )
    max_replicas: int = Field(
        default=1,
        ge=1,
        description="Maximum number of generators; if it exceeds `generator.min_replicas`, the number follows the"
        " load.",
    )
    num_cpus: float = Field(default=1.0, ge=0, description="Logical CPUs that Ray reserves for a replica.")
    num_gpus: float = Field(default=0.0, ge=0, le=8, description="Share of a GPU for each replica; 0 runs on the CPU.")
    graceful_shutdown_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="How long a replica that is shutting down may finish its streams: longer than the longest text"
        " chunk.",
    )
    startup_wait_s: float = Field(
        default=3600.0,
        ge=0,
        description="How long a starting replica waits for weights, a usable voice, the hub or GPU memory before its"
        " start fails; 0 fails at once. With `tts-serve` the default is 0.",
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise PydanticCustomError(
                "replicas_out_of_order",
                "min_replicas is {least} and max_replicas is {most}; allowed: min_replicas up to max_replicas",
                {"least": self.min_replicas, "most": self.max_replicas},
            )
        return self


class ScalingConfig(Settings):
    """When generators are added and removed, between `generator.min_replicas` and `max_replicas`; docs/scaling.md."""

    look_back_s: float = Field(default=60.0, gt=0, description="Window over which streams and arrivals are averaged.")
    react_s: float = Field(
        default=10.0,
        gt=0,
        description="Short window that represents the current load; at most a third of `look_back_s`.",
    )
    headroom: float = Field(
        default=1.5,
        ge=0,
        description="Spare slots, as a multiple of the square root of the average number of streams: that is how much"
        " the number fluctuates.",
    )
    cold_start_s: float = Field(
        default=30.0,
        ge=0,
        description="Time from requesting a replica to its first stream, including the start of a new node. The"
        " policy reacts to rising load this far ahead.",
    )
    crowding: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="How much longer a stream takes in a full replica than alone, as a share of its time alone. The"
        " policy uses it to estimate what fewer, fuller replicas could do.",
    )
    drain_s: float = Field(default=10.0, gt=0, description="Target time within which waiting work should be finished.")
    late_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of listeners close to an underrun above which replicas count as too full; 1 switches this"
        " off.",
    )
    downscale_delay_s: float = Field(
        default=120.0, ge=0, description="How long the need must stay lower before replicas are removed."
    )
    downscale_to_zero_delay_s: float = Field(
        default=600.0,
        ge=0,
        description="How long there must be no work before the last replica is removed, if `min_replicas` is 0.",
    )

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if self.react_s > self.look_back_s / 3:
            raise ValueError(
                f"react_s is {self.react_s:g}; allowed: up to a third of look_back_s ({self.look_back_s:g})"
            )
        return self


HostName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])$")]
"""A host without scheme, port and path."""


class IngressConfig(Settings):
    """Replicas of the ingress deployment."""

    replicas: int = Field(default=1, ge=1, le=64, description="Ingress replicas.")
    num_cpus: float = Field(default=0.5, ge=0, description="Logical CPUs that Ray reserves for a replica.")
    max_sessions: int = Field(default=1000, ge=1, description="Maximum number of sockets of one ingress replica.")
    graceful_shutdown_timeout_s: float = Field(
        default=600.0,
        ge=10,
        le=3600,
        description="How long a replica that is being replaced may finish speaking: longer than the longest"
        " utterance. It stays this long even after its sockets have closed. Serve reads the value from the"
        " environment of its nodes: docs/deploying.md.",
    )
    label_selector: dict[str, str] = Field(
        default={},
        description="Labels of the nodes that may run a replica, as in Ray's option of that name. Empty: any node.",
    )
    max_connections_per_address: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of connections from one source address to one node's HAProxy; further ones are"
        " closed at once. null: no limit, which is needed if clients connect through a proxy. Serve's"
        " HAProxy reads the value from the environment: docs/deploying.md.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Further origins that a browser may connect from, as `https://host:port`; `*`: any. The page's"
        " own origin is always allowed.",
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        default=(),
        description="Allowed names in a request's `Host`, without ports, in addition to `localhost`, `127.0.0.1` and"
        " `[::1]`; `*`: any. If empty, every `Host` is served, unless the service listens on loopback and"
        " requires no API keys: docs/security.md explains why.",
    )


VOICE_ID = r"[a-z0-9][a-z0-9_-]{0,62}"
"""Pattern of a voice's id. The id names a directory, so it contains no path separator and no dot."""

MAX_ALIASES = 1000


def folded(name: str) -> str:
    """Normalize a voice's name for comparison: case-folded, stripped, and in Unicode form NFC."""
    return unicodedata.normalize("NFC", name.strip().casefold())


class VoicesConfig(Settings):
    """Voices: where they are, how they are named, which one is the default, how much is kept."""

    path: str = Field(
        default="voices",
        description="Directory with `<id>/manifest.json`; docs/deploying.md says how a relative path is resolved.",
    )
    default: str = Field(default="makima", description="Voice for clients that do not choose one.")
    aliases: dict[
        Annotated[str, Field(min_length=1, max_length=100)], Annotated[str, Field(pattern=f"^{VOICE_ID}$")]
    ] = Field(
        default={},
        max_length=MAX_ALIASES,
        description="Other names for voices, case-insensitive, as `nova: austen`; an id takes precedence over an"
        " alias. OpenAI's built-in names mean the default voice unless a voice or an alias has that name.",
    )
    uploads: str | None = Field(
        default=None,
        description="Writable directory for uploaded voices; each application uses a subdirectory with its own name."
        " null: `.uploaded` in `path`.",
    )
    max_uploaded: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="Maximum number of uploaded voices; each takes about 1.5 MB at most.",
    )
    max_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        description="Maximum bytes of voice prompts in memory. The limit applies separately to uploaded voices and to"
        " those in `path`, so uploaded voices never evict the others.",
    )
    ttl_s: float = Field(
        default=86_400.0, gt=0, description="How long an unused prompt of an uploaded voice stays in memory."
    )
    loudness_lufs: Lufs | None = Field(
        default=None,
        description="Level of speech (integrated loudness, ITU-R BS.1770) for voices whose manifest names none. Each"
        " voice gets one gain, from the loudness of its clip, of at most 12 dB; docs/voices.md. null: samples stay as"
        " the model makes them.",
    )
    max_inline_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="Maximum bytes of inline clips (`start.voice_audio`) in the sessions of one ingress replica.",
    )

    @field_validator("aliases")
    @classmethod
    def _fold_aliases(cls, given: dict[str, str]) -> dict[str, str]:
        """Key aliases by their folded names; refuse equal names for different voices."""
        aliases: dict[str, str] = {}
        for name, voice in given.items():
            if not folded(name) or aliases.setdefault(folded(name), voice) != voice:
                raise PydanticCustomError(
                    "alias", "the alias {name} is blank, or is given twice with different voices", {"name": name}
                )
        return aliases


class SessionConfig(Settings):
    """Limits of one client's session."""

    max_text_characters: int = Field(
        default=20_000, ge=1, le=100_000, description="Maximum length of the text in one `speak`."
    )
    max_utterance_characters: int = Field(
        default=20_000,
        ge=1,
        le=1_000_000,
        description="Maximum length of the text of one utterance, with all of its `speak` messages.",
    )
    leading_silence_limit_s: float = Field(
        default=0.5,
        ge=0,
        le=5,
        description="Maximum silence that is left out at the beginning of an utterance, so that its first word is"
        " heard sooner; 0 sends all of it.",
    )
    leading_silence_kept_s: float = Field(
        default=0.04, ge=0, le=1, description="Audio before the first sound that is sent, so that its start is soft."
    )
    silence_level_dbfs: float = Field(
        default=-50.0,
        ge=-96,
        le=-20,
        description="Audio is silence while the RMS amplitude of 10 ms is below this level.",
    )
    pause_between_chunks_s: float | None = Field(
        default=0.4,
        ge=0,
        le=5,
        description="Maximum silence between two text chunks of an utterance, counting the end of the first and the"
        " beginning of the second together. More is left out; null sends all of it.",
    )
    max_lead_s: float = Field(
        default=6.0,
        gt=0,
        description="The next text chunk does not start while the listener has more audio than this left to play."
        " Together with the lead of one stream (`engine.max_lead_s`) it should stay below 20 s: a client"
        " has to answer a ping within this time, and the ping is queued behind the audio.",
    )
    idle_timeout_s: float = Field(
        default=300.0, gt=0, description="Time without a message from the client after which the socket is closed."
    )
    max_queued_utterances: int = Field(
        default=32, ge=1, description="Maximum number of utterances that wait on one socket."
    )
    max_message_bytes: int = Field(default=1 << 20, ge=1024, description="Largest message accepted from a client.")
    max_unsent_audio_s: float = Field(
        default=20.0,
        gt=0,
        description="Maximum audio that is kept for a client that does not read; beyond it generation waits.",
    )
    max_unsent_bytes: int = Field(
        default=4 << 20,
        ge=1 << 16,
        description="The same limit in bytes of encoded audio; the first limit reached applies.",
    )
    max_whole_audio_s: float = Field(
        default=1500.0,
        gt=0,
        description="Maximum audio in a buffered response (`stream: false`, POST): 72 MB of memory if it is all used.",
    )
    slow_client_timeout_s: float = Field(
        default=30.0, gt=0, description="A client that reads nothing for this long is disconnected with SLOW_CLIENT."
    )

    @property
    def silence_level(self) -> float:
        """``silence_level_dbfs`` as an RMS amplitude; 1 is full scale."""
        return 10 ** (self.silence_level_dbfs / 20)


class AdmissionConfig(Settings):
    """The admission queue of text chunks in each ingress replica."""

    max_waiting: int = Field(
        default=200, ge=0, le=100_000, description="Maximum number of text chunks that wait at the same time."
    )
    start_deadline_s: float = Field(
        default=15.0,
        gt=0,
        description="A text that cannot start within this time is refused with CAPACITY: at once if that is"
        " foreseeable, otherwise when the time is over.",
    )
    resume_deadline_s: float = Field(
        default=60.0,
        gt=0,
        description="How long a stream whose replica was lost, the rest of an utterance that is being spoken, and a"
        " text of a batch wait for a generator, if this is longer than `start_deadline_s`. Set it above the time"
        " that loading a model takes.",
    )
    stall_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="A stream that delivers nothing for this long counts as lost and continues on another generator."
        " It must be above the longest step of an engine and above `engine.max_lead_s`, for which a stream"
        " may pause.",
    )
    priority_step_s: float = Field(
        default=10.0,
        ge=0,
        description="How much earlier the deadline of `high` is than that of `normal`, and of `normal` than that of"
        " `low`.",
    )
    max_streams_per_key: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of simultaneous streams of one API key; its further texts wait. null: no limit.",
    )

    reserved_streams: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Streams of an ingress replica that batches leave free, so that a new listener's first text starts"
        " at once. A batch may always have one stream.",
    )

    def patience_s(self, *, begun: bool) -> float:
        """How long a text may wait for a stream: longer if the listener would lose the rest of a started utterance."""
        return max(self.start_deadline_s, self.resume_deadline_s) if begun else self.start_deadline_s


class AccessConfig(Settings):
    """API keys; without a file none is required. docs/security.md."""

    keys_file: str | None = Field(
        default=None,
        description="File with the hashes of the keys, as `tts-keys` prints them; a mounted secret. null: no key is"
        " required.",
    )
    reload_s: float = Field(
        default=5.0,
        gt=0,
        description="Time after which changes of the file take effect; a file that cannot be read changes nothing.",
    )


class LogsConfig(Settings):
    """The replicas' logs; docs/logs.md."""

    format: Literal["json", "text"] = Field(
        default="json", description="`json`: one object per line, including Serve's own lines; `text`: for people."
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Level of this package's own lines; those of Serve follow its `logging_config`."
    )


class TracingConfig(Settings):
    """OpenTelemetry spans; off without an endpoint. docs/logs.md."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^@\s]+$",
        description="Where to send spans by OTLP over HTTP, as `http://collector:4318/v1/traces`. null: no tracing.",
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the traces that begin here; a trace that arrives with a request keeps its own sampling"
        " decision.",
    )


class AppConfig(Settings):
    """Arguments of :func:`serve_app.app.build_app`."""

    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    text: TextConfig = TextConfig()
    generator: GeneratorConfig = GeneratorConfig()
    scaling: ScalingConfig = ScalingConfig()
    ingress: IngressConfig = IngressConfig()
    voices: VoicesConfig = VoicesConfig()
    session: SessionConfig = SessionConfig()
    admission: AdmissionConfig = AdmissionConfig()
    access: AccessConfig = AccessConfig()
    logs: LogsConfig = LogsConfig()
    tracing: TracingConfig = TracingConfig()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        if self.admission.stall_timeout_s <= self.engine.max_lead_s:
            raise PydanticCustomError(
                "pauses_taken_for_stalls",
                "admission.stall_timeout_s is {stall} and must be above engine.max_lead_s, {lead}: a stream may pause"
                " that long",
                {"stall": self.admission.stall_timeout_s, "lead": self.engine.max_lead_s},
            )
        longest, allowed = self.text.longest_chunk_characters, self.engine.max_chunk_characters
        if longest > allowed:
            raise PydanticCustomError(
                "chunks_longer_than_the_engine_takes",
                "text.longest_chunk_characters is {longest}, but a stream accepts at most {allowed} characters"
                " (engine.max_chunk_characters): lower the first or raise the second",
                {"longest": longest, "allowed": allowed},
            )
        return self
