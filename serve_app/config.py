"""The application's whole configuration, as it stands under ``args:`` of a file in ``configs/``.

One model per part of the graph; unknown keys are refused, every name carries its unit. Nothing here reads a
file, a clock or the environment.
"""

import unicodedata
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
"""What a client may ask for: ten languages by name, or none given (``auto``)."""

SAMPLE_RATE_HZ = 24_000
"""Rate of everything that the model hears and says."""


class Settings(BaseModel):
    """What all configuration models share: immutable, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Settings):
    """Which checkpoint is loaded, where to, and in which number format."""

    source: str = Field(
        default="tiny",
        description="Hub id, local directory, or one of the words `tiny` and `full-random` (random weights).",
    )
    revision: str | None = Field(default=None, description="Commit or tag of a hub id; none means its main branch.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto` takes CUDA where it is.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Talker and code predictor. `auto`: bfloat16, float32 for `tiny`.",
    )
    weights: Literal["plain", "int8", "int4", "torch"] = Field(
        default="plain",
        description="Of talker and code predictor. `int8`: on a CPU, rounded to 8 bits, as are their inputs; `int4`:"
        " the code predictor's layers to 4 bits, which nobody has heard yet; `torch`: plain, multiplied by torch's own"
        " kernels alone, to compare with. What a stream says depends on it.",
    )
    codec_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="Codec decoder. `auto`: float32 on a CPU, where bfloat16 is no faster; else as `dtype`.",
    )
    threads: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None,
        description="CPU threads of one generator; none means all cores of the machine.",
    )

    @field_validator("weights", mode="before")
    @classmethod
    def _is_chosen_once(cls, weights: object) -> object:
        if weights == "auto":
            raise PydanticCustomError(
                "weights_are_chosen_once",
                "'auto' is gone: each replica measured for itself, and one that goes on with another's stream has to"
                " compute as that one did; allowed: 'plain' (exact), 'int8' (faster on a CPU at few streams), 'int4',"
                " 'torch'",
            )
        return weights


class EngineConfig(Settings):
    """One generator's engine: how many streams, how long, how far ahead."""

    slots: int = Field(default=10, ge=1, le=64, description="Streams that one generator runs at the same time.")
    max_positions: int = Field(
        default=1024,
        ge=128,
        le=8192,
        description="Talker positions of one slot: voice prompt, text and frames together (12.5 frames a second).",
    )
    max_chunk_characters: int = Field(
        default=600, ge=20, le=5000, description="Longest text that one stream takes; the ingress cuts well below it."
    )
    max_waiting_streams: int = Field(
        default=20,
        ge=0,
        le=1000,
        description="Text chunks that may wait, for each replica; one more is answered with CAPACITY.",
    )
    budget_frames_per_character: float = Field(
        default=2.5,
        gt=0,
        le=100,
        description="Frames after which a stream that did not stop is ended with `length`, for each character;"
        " ideographs and kana count as three. Speech takes about 0.9.",
    )
    budget_min_frames: int = Field(default=75, ge=2, description="The same budget's floor, for very short texts.")
    max_lead_s: float = Field(default=8.0, gt=0.16, description="Audio ahead of its listener at which a stream pauses.")
    newcomer_patience_s: float = Field(
        default=1.0,
        gt=0,
        description="How long a burst of newcomers is gathered before the first of them gets its first frame.",
    )
    audio_chunk_max_frames: int = Field(
        default=4, ge=1, le=25, description="Most frames (80 ms each) of one audio chunk; the first has one."
    )
    stall_guard_s: float | None = Field(
        default=4.0,
        gt=0,
        description="A stream that repeats itself or is silent for so long ends as `stalled`. Off on random weights.",
    )
    failed_steps_until_unhealthy: int = Field(
        default=3, ge=1, description="Failed steps in a row after which the replica asks to be replaced."
    )
    step_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="A step of the model that takes so long is stuck, and the replica asks to be replaced; the longest"
        " are prefills, some seconds on a CPU.",
    )
    voice_cache_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        description="Bound of what one replica keeps of voices: prompts, codec states, prompt prefixes; each.",
    )


class TextConfig(Settings):
    """What happens to text between a client and the model; docs/chunking.md has the reasons for the defaults."""

    first_chunk_characters: int = Field(
        default=60,
        ge=4,
        le=1000,
        description="The first text chunk ends at the first clause longer than a quarter of this; later ones grow by"
        " it. A CJK or Hangul character counts as two, here and in the other two lengths.",
    )
    chunk_budget_characters: int = Field(
        default=220,
        ge=4,
        le=5000,
        description="Several sentences share a text chunk up to this; half of it is what a late one wants to reach.",
    )
    longest_chunk_characters: int = Field(
        default=300,
        ge=20,
        le=5000,
        description="No text chunk is longer, a longer sentence is cut; at most `engine.max_chunk_characters`.",
    )
    markdown: bool = Field(default=True, description="Markdown's marks are taken away before text is spoken.")
    emoji: Literal["drop", "keep"] = Field(
        default="drop", description="`drop` also takes pictures and symbols that no one says: arrows, boxes, stars."
    )
    tags: bool = Field(
        default=True,
        description="Known tags of SSML and HTML are taken away, `<break>` is silence, and HTML's entities become their"
        " characters.",
    )
    reasoning: Literal["drop", "keep"] = Field(
        default="drop",
        description="`drop` takes a language model's reasoning away, `<think>…</think>` with everything in it.",
    )
    normalize: bool = Field(
        default=False,
        description="Numbers, dates, times and amounts are put into words before the model sees them, for clients that"
        " do not say whether they want that.",
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

    min_replicas: int = Field(default=1, ge=0, description="Generators that are always there; 0: none without work.")
    max_replicas: int = Field(
        default=1, ge=1, description="Most generators; the load decides where it is above `generator.min_replicas`."
    )
    num_cpus: float = Field(default=1.0, ge=0, description="Logical CPUs that Ray reserves for a replica.")
    num_gpus: float = Field(default=0.0, ge=0, le=8, description="Share of a GPU of a replica; 0 runs on the CPU.")
    graceful_shutdown_timeout_s: float = Field(
        default=120.0, gt=0, description="How long a leaving replica may finish its streams: above the longest chunk."
    )
    startup_wait_s: float = Field(
        default=3600.0,
        ge=0,
        description="How long a replica that starts waits for weights, a usable voice, the hub or GPU memory that are"
        " not there yet, before its start has failed; 0 fails at once. `tts-serve` takes 0 unless the file names it.",
    )


class ScalingConfig(Settings):
    """When generator replicas come and go, between `generator.min_replicas` and `max_replicas`; docs/scaling.md."""

    look_back_s: float = Field(default=60.0, gt=0, description="Streams and arrivals are averaged over so long.")
    react_s: float = Field(default=10.0, gt=0, description="The same for what counts as now; at most a third of it.")
    headroom: float = Field(
        default=1.5,
        ge=0,
        description="Slots to spare, in square roots of the streams of `look_back_s`: as many streams vary by one.",
    )
    cold_start_s: float = Field(
        default=30.0,
        ge=0,
        description="From the order of a replica to its first stream, a new node's start included; rising load is met"
        " so early.",
    )
    crowding: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="How much longer a stream takes in a full replica than alone, as a share of the time alone: what"
        " half empty replicas do is judged by what fewer, full ones could.",
    )
    drain_s: float = Field(default=10.0, gt=0, description="Work that waits is to be through within this time.")
    late_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of listeners near an underrun from which replicas are too full; 1 switches it off.",
    )
    downscale_delay_s: float = Field(default=120.0, ge=0, description="Less need for so long ends replicas.")
    downscale_to_zero_delay_s: float = Field(
        default=600.0, ge=0, description="No need for so long ends the last one, where `min_replicas` is 0."
    )

    @model_validator(mode="after")
    def _check_windows(self) -> Self:
        if self.react_s > self.look_back_s / 3:
            raise ValueError(f"react_s is {self.react_s:g}; a third of look_back_s, {self.look_back_s:g}, is the most")
        return self


HostName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])$")]
"""A host without scheme, port and path."""


class IngressConfig(Settings):
    """Replicas of the ingress deployment."""

    replicas: int = Field(default=1, ge=1, le=64, description="Ingress replicas.")
    num_cpus: float = Field(default=0.5, ge=0, description="Logical CPUs that Ray reserves for a replica.")
    max_sessions: int = Field(default=1000, ge=1, description="Sockets of one ingress replica.")
    graceful_shutdown_timeout_s: float = Field(
        default=600.0,
        ge=10,
        le=3600,
        description="How long a replica that is being replaced may go on speaking: above the longest utterance. It"
        " stays so long even when its sockets have ended. Serve reads it from the environment of its nodes:"
        " docs/deploying.md.",
    )
    label_selector: dict[str, str] = Field(
        default={},
        description="Labels of the nodes that may hold a replica, as in Ray's option of that name. Empty: any node.",
    )
    max_connections_per_address: int | None = Field(
        default=None,
        ge=1,
        description="Connections of one source address to one node's HAProxy; more are cut off at once. None: no limit,"
        " as it has to be where clients come through a proxy. Serve's HAProxy reads it from the environment:"
        " docs/deploying.md.",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="Origins beside the page's own that a browser may connect from, as `https://host:port`; `*`: any.",
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        default=(),
        description="Names that a request may have as its `Host`, without ports, beside `localhost`, `127.0.0.1` and"
        " `[::1]`; `*`: any. Without a name here every `Host` is served, except where the service listens on loopback"
        " and asks for no API keys: docs/security.md has the reason.",
    )


VOICE_ID = r"[a-z0-9][a-z0-9_-]{0,62}"
"""What a voice's id looks like: it is a directory's name, so it holds nothing that a path could."""

MAX_ALIASES = 1000


def folded(name: str) -> str:
    """A voice's name as names are compared: in any case, and however its letters are composed."""
    return unicodedata.normalize("NFC", name.strip().casefold())


class VoicesConfig(Settings):
    """The voice store: where voices lie, how they are named, which one is spoken by default, how much is kept."""

    path: str = Field(
        default="voices",
        description="Directory of `<id>/manifest.json`; docs/deploying.md says where a relative one is looked for.",
    )
    default: str = Field(default="makima", description="Voice of a client that names none.")
    aliases: dict[
        Annotated[str, Field(min_length=1, max_length=100)], Annotated[str, Field(pattern=f"^{VOICE_ID}$")]
    ] = Field(
        default={},
        max_length=MAX_ALIASES,
        description="Other names of voices, in any case, as `nova: austen`; an id comes before an alias. OpenAI's"
        " built-in names mean the default voice where they are no voice's name and no alias.",
    )
    uploads: str | None = Field(
        default=None,
        description="Directory that uploaded voices are kept in, writable; an application keeps its own in a directory"
        " of its name there. None: `.uploaded` in `path`.",
    )
    max_uploaded: int = Field(default=1000, ge=0, le=100_000, description="Uploaded voices; about 1.5 MB each at most.")
    max_bytes: int = Field(
        default=256 << 20,
        ge=1 << 20,
        description="Prompts held in memory, in bytes; so many of uploaded voices, and so many of those in `path`,"
        " which uploaded ones never drive out.",
    )
    ttl_s: float = Field(
        default=86_400.0, gt=0, description="An uploaded voice's prompt unused for so long leaves the memory."
    )
    max_inline_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="Clips that sessions of one ingress replica brought themselves (`start.voice_audio`), in bytes.",
    )

    @field_validator("aliases")
    @classmethod
    def _fold_aliases(cls, given: dict[str, str]) -> dict[str, str]:
        """Aliases by their folded names; two of one name that mean different voices are refused."""
        aliases: dict[str, str] = {}
        for name, voice in given.items():
            if not folded(name) or aliases.setdefault(folded(name), voice) != voice:
                raise PydanticCustomError(
                    "alias", "the alias {name} is blank, or stands there twice with different voices", {"name": name}
                )
        return aliases


class SessionConfig(Settings):
    """Limits of one client's session."""

    max_text_characters: int = Field(default=5000, ge=1, le=100_000, description="Text of one `speak`.")
    max_utterance_characters: int = Field(
        default=20_000, ge=1, le=1_000_000, description="Text of one utterance, all its `speak`s together."
    )
    continuity: bool = Field(
        default=False,
        description="Each text chunk is spoken with the one before it, text and codes, as a continuation of the voice's"
        " reference. Off until somebody has heard with real weights what it does.",
    )
    continuity_max_frames: int = Field(
        default=250,
        ge=1,
        le=2000,
        description="A text chunk of more frames (12.5 a second) is not given to the next one; nor is one that would"
        " leave less room in `engine.max_positions` than the next text's budget of frames.",
    )
    max_lead_s: float = Field(
        default=6.0,
        gt=0,
        description="Audio that a listener still has to play at which the next text chunk is not begun yet. With what"
        " one stream may be ahead (`engine.max_lead_s`) it stays below the 20 s in which a client has to answer a ping,"
        " which stands in line behind the audio.",
    )
    idle_timeout_s: float = Field(default=300.0, gt=0, description="Silence of the client that ends its socket.")
    max_queued_utterances: int = Field(default=32, ge=1, description="Utterances that may wait on one socket.")
    max_message_bytes: int = Field(default=1 << 20, ge=1024, description="Largest message taken from a client.")
    max_unsent_audio_s: float = Field(
        default=20.0, gt=0, description="Audio made for a client that does not read; beyond it generation waits."
    )
    max_unsent_bytes: int = Field(
        default=4 << 20, ge=1 << 16, description="The same bound in bytes of encoded audio, whichever comes first."
    )
    max_whole_audio_s: float = Field(
        default=900.0, gt=0, description="Audio of one answer that is sent in one piece (`stream: false`, POST)."
    )
    slow_client_timeout_s: float = Field(
        default=30.0, gt=0, description="A client that reads nothing for so long is closed with SLOW_CLIENT."
    )

    @property
    def context_frames(self) -> int:
        """Most frames of a text chunk that are kept for the next one; 0 while continuity is off."""
        return self.continuity_max_frames if self.continuity else 0


class AdmissionConfig(Settings):
    """The queue of text chunks in front of the generators; of each ingress replica."""

    max_waiting: int = Field(default=200, ge=0, le=100_000, description="Text chunks that may wait at the same time.")
    start_deadline_s: float = Field(
        default=15.0,
        gt=0,
        description="A text that would not start within this time is answered with CAPACITY at once; one that did not,"
        " after it.",
    )
    resume_deadline_s: float = Field(
        default=60.0,
        gt=0,
        description="A stream whose replica was lost, and the rest of an utterance that is being spoken, wait so long"
        " for a generator, if that is longer: set it above the time of loading a model.",
    )
    stall_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="A stream of which nothing came for so long is taken for lost and goes on at another generator:"
        " above the longest step of an engine, and above `engine.max_lead_s`, for which a stream may pause.",
    )
    priority_step_s: float = Field(
        default=10.0, ge=0, description="How much sooner `high` is needed than `normal`, and `normal` than `low`."
    )
    max_streams_per_key: int | None = Field(
        default=None, ge=1, description="Streams of one API key at a time; more of its texts wait. None: no limit."
    )

    def patience_s(self, *, begun: bool) -> float:
        """How long a text may wait for a stream: longer where its listener would lose the rest of what he hears."""
        return max(self.start_deadline_s, self.resume_deadline_s) if begun else self.start_deadline_s


class AccessConfig(Settings):
    """API keys; without a file nobody is asked for one. docs/security.md."""

    keys_file: str | None = Field(
        default=None,
        description="File with the keys' hashes, as `tts-keys` prints them; a mounted secret. None: no key is needed.",
    )
    reload_s: float = Field(
        default=5.0, gt=0, description="A changed file counts after so long; one that cannot be read changes nothing."
    )


class LogsConfig(Settings):
    """What the replicas write; docs/logs.md."""

    format: Literal["json", "text"] = Field(
        default="json", description="`json`: one object for each line, of Serve's own lines too; `text`: for eyes."
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Of this package's own lines; those of Serve follow its `logging_config`."
    )


class TracingConfig(Settings):
    """OpenTelemetry spans, off without an endpoint; docs/logs.md."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://[^@\s]+$",
        description="Where spans go by OTLP over HTTP, as `http://collector:4318/v1/traces`. None: nowhere.",
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the traces that begin here; one that comes with a request keeps what was decided there.",
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
                "text.longest_chunk_characters is {longest}, and one stream of the engine takes {allowed} characters"
                " (engine.max_chunk_characters): lower the first or raise the second",
                {"longest": longest, "allowed": allowed},
            )
        return self
