"""One utterance: its text on the way to text chunks, its audio on the way to messages. No I/O, no clock."""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.encoders import encoder_for
from serve_app.audio.pcm import Timeline, seconds
from serve_app.config import SAMPLE_RATE_HZ, EngineConfig, TextConfig
from serve_app.protocol.messages import (
    MAX_SEED,
    AudioMessage,
    Complete,
    Priority,
    SamplingFields,
    Segment,
    SpeechFields,
    Transport,
)
from serve_app.protocol.outbox import Send
from serve_app.session.continuity import Continuity
from serve_app.speech import AudioChunk, FinishReason, Sampling, SpeechEnd, SpeechRequest
from serve_app.text.chunker import Chunker, ChunkLimits
from serve_app.text.cleaning import Cleaner, TextCleaning
from serve_app.text.tags import Pause

SILENT_PIECE_SAMPLES = SAMPLE_RATE_HZ
"""A longer pause leaves in pieces of this, so that no message is large and a client that does not read stops it."""

_PRIORITIES: dict[Priority, int] = {"high": -1, "normal": 0, "low": 1}


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """How to speak: every field of ``start``, decided.

    Attributes:
        voice: a voice's id.
        language: lower case.
        encoding: of the audio sent.
        sample_rate: of the audio sent, in Hz.
        transport: binary frames, or base64 within the messages.
        seed: None makes one up for each utterance.
        sampling: overrides of the checkpoint's defaults.
        priority: among those who wait for a slot.
        normalize: numbers, dates and amounts are put into words for the model.
    """

    voice: str
    language: str = "auto"
    encoding: str = "pcm16"
    sample_rate: int = 24_000
    transport: Transport = "binary"
    seed: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    priority: Priority = "normal"
    normalize: bool = False

    def with_fields(self, fields: SpeechFields) -> "SpeechOptions":
        """This manner with what a message gives; ``sampling`` is merged name by name."""
        names = ("voice", "language", "encoding", "sample_rate", "transport", "seed", "priority", "normalize")
        given = {name: getattr(fields, name) for name in names if getattr(fields, name) is not None}
        return replace(self, sampling=_merged(self.sampling, fields.sampling), **given)


def _merged(sampling: Sampling, fields: SamplingFields | None) -> Sampling:
    return sampling if fields is None else replace(sampling, **fields.model_dump(exclude_none=True))


@dataclass(frozen=True, slots=True)
class TextPipeline:
    """How an utterance's text is cleaned, cut and given to the model.

    Attributes:
        cleaning: what is taken away.
        limits: of the text chunks.
        max_request_characters: the longest text that one stream of the engine takes.
    """

    cleaning: TextCleaning = field(default_factory=TextCleaning)
    limits: ChunkLimits = field(default_factory=ChunkLimits)
    max_request_characters: int = EngineConfig().max_chunk_characters

    @classmethod
    def configured(cls, config: TextConfig, max_request_characters: int) -> "TextPipeline":
        """The pipeline that a configuration asks for."""
        limits = ChunkLimits(
            config.first_chunk_characters, config.chunk_budget_characters, config.longest_chunk_characters
        )
        cleaning = TextCleaning(config.markdown, config.emoji, config.tags, config.reasoning)
        return cls(cleaning, limits, max_request_characters)

    def open(self, language: str) -> "OpenText":
        """A fresh pipeline for one utterance."""
        return OpenText(Cleaner(self.cleaning), Chunker(language, self.limits))

    def request_text(self, chunk: str, manner: SpeechOptions) -> str:
        """What the model is given for a text chunk: in words if ``manner`` asks for it, unless they do not fit."""
        if not manner.normalize:
            return chunk
        from serve_app.text.numbers.normalize import spell  # noqa: PLC0415 — 50 ms for who asks for it alone

        spelled = spell(chunk, manner.language)
        return spelled if len(spelled) <= self.max_request_characters else chunk


class OpenText:
    """Text pushed in any pieces comes out as text chunks that can be spoken, and the pauses between them."""

    def __init__(self, cleaner: Cleaner, chunker: Chunker) -> None:
        self._cleaner = cleaner
        self._chunker = chunker

    def push(self, text: str) -> list[str | Pause]:
        """The text chunks and pauses that are now certain."""
        return self._cut(self._cleaner.push(text))

    def flush(self) -> list[str | Pause]:
        """Everything that is left; more text may follow."""
        return [*self._cut(self._cleaner.flush()), *self._chunker.flush()]

    def _cut(self, pieces: list[str | Pause]) -> list[str | Pause]:
        """A pause ends the text chunk before it."""
        chunks: list[str | Pause] = []
        for piece in pieces:
            if isinstance(piece, str):
                chunks += self._chunker.push(piece)
            else:
                chunks += [*self._chunker.flush(), piece]
        return chunks


class Utterance:
    """What one ``speak`` asked for, from its first text to its last audio.

    Attributes:
        number: of its session, from 1 on; ids may be used again, numbers never are.
        utterance_id: the client's name for it, or a made-up one.
        manner: how it is spoken; fixed by its first ``speak``.
        seed: of its first text chunk.
        whole: its audio is sent in one piece.
        open: more text may come.
        failed: it ended with an error.
        timeline: how much of it was made.
        sent_samples: how much of it has left, or is leaving.
    """

    def __init__(
        self,
        number: int,
        utterance_id: str,
        manner: SpeechOptions,
        text: OpenText,
        *,
        whole: bool,
        context_frames: int = 0,
    ) -> None:
        """Begin one without text; a text chunk of up to ``context_frames`` frames is the next one's context."""
        assert manner.seed is not None, "an utterance's seed is decided"
        self.number = number
        self.utterance_id = utterance_id
        self.manner = manner
        self.seed = manner.seed
        self.whole = whole
        self.open = True
        self.failed = False
        self.timeline = Timeline()
        self.sent_samples = 0
        self.characters = 0
        self._text = text
        self._blank = True
        self._parts: deque[str | Pause] = deque()
        self._silent_samples = 0
        self._index = -1
        self._chunk = ""
        self._continuity = Continuity(context_frames)
        self._voice_digest = ""
        self._segment_due = False
        self._seq = 0
        self._encoder = encoder_for(manner.encoding, manner.sample_rate)
        self._pieces: list[bytes] = []
        self._finish_reason: FinishReason = "eos"
        self._generation_s = 0.0
        self._first_audio_s: float | None = None

    def add(self, text: str) -> None:
        """Take more text."""
        self.characters += len(text)
        self._blank = self._blank and (not text or text.isspace())
        self._parts.extend(self._text.push(text))

    def flush(self) -> None:
        """Stop waiting for the sentence to end."""
        self._parts.extend(self._text.flush())

    def close(self) -> None:
        """No more text comes."""
        self.flush()
        self.open = False

    @property
    def blank(self) -> bool:
        """All text it was given so far is white space; text that has nothing to pronounce is more than that."""
        return self._blank

    @property
    def has_text(self) -> bool:
        """A text chunk is ready to be spoken, next."""
        return bool(self._parts) and isinstance(self._parts[0], str)

    @property
    def has_pause(self) -> bool:
        """Silence is due, next."""
        return bool(self._parts) and isinstance(self._parts[0], Pause)

    @property
    def begun(self) -> bool:
        """At least one of its text chunks went to a generator, or some of its silence to the listener."""
        return self._index >= 0 or self._silent_samples > 0

    def next_request(self, text: TextPipeline) -> SpeechRequest:
        """The request of the next text chunk; there is one. Its ``segment`` shows the chunk as the client wrote it."""
        begun = self.begun
        chunk = self._parts.popleft()
        assert isinstance(chunk, str), "the caller has looked at has_text"
        self._chunk = chunk
        self._index += 1
        self._segment_due = True
        spoken = text.request_text(self._chunk, self.manner)
        return SpeechRequest(
            text=spoken,
            voice=self.manner.voice,
            language=self.manner.language,
            seed=chunk_seed(self.seed, self._index),
            sampling=self.manner.sampling,
            listening=not self.whole,
            priority=_PRIORITIES[self.manner.priority],
            begun=begun,
            context=self._continuity.begin(spoken),
            voice_digest=self._voice_digest,
        )

    def audio(self, chunk: AudioChunk, now_s: float) -> list[Send]:
        """Messages of one audio chunk, the ``segment`` first where a text chunk begins."""
        if self._first_audio_s is None:
            self._first_audio_s = now_s
        self._continuity.add(chunk.codes)
        self._voice_digest = chunk.voice_digest or self._voice_digest
        sends: list[Send] = []
        if self._segment_due and not self.whole:
            segment = Segment(
                utterance_id=self.utterance_id, index=self._index, text=self._chunk, start_ms=self.timeline.now_ms
            )
            sends.append(Send(segment, owner=self.number))
        self._segment_due = False
        return sends + self._sound(chunk.pcm)

    def pause(self, now_s: float) -> tuple[list[Send], int]:
        """The next silence, in pieces of at most a second: its messages and samples. It has no ``segment``."""
        pause = self._parts.popleft()
        assert isinstance(pause, Pause), "the caller has looked at has_pause"
        samples = min(pause.samples, SILENT_PIECE_SAMPLES)
        if samples < pause.samples:
            self._parts.appendleft(Pause(pause.samples - samples))
        if self._first_audio_s is None:
            self._first_audio_s = now_s
        self._silent_samples += samples
        return self._sound(np.zeros(samples, dtype=np.float32)), samples

    def _sound(self, pcm: NDArray[np.float32]) -> list[Send]:
        payload = self._encoder.push(pcm)
        if self.whole:
            self.timeline.advance(len(pcm))
            self._pieces.append(payload)
            return []
        return [self._audio_message(payload, len(pcm), final=False)]

    def ended(self, end: SpeechEnd, generation_s: float) -> None:
        """A text chunk was spoken to its end; the first that was cut short names the utterance's reason."""
        self._generation_s += generation_s
        self._continuity.end(end.finish_reason)
        if self._finish_reason == "eos":
            self._finish_reason = end.finish_reason

    def finish(self, asked_s: float) -> list[Send]:
        """The final audio chunk and ``complete``.

        The final chunk has no audio of its own unless the utterance is sent whole: waiting to know the last one before
        sending it would hold every chunk back by the time that the next one takes. It carries what an encoder or a
        resampler still held.

        Args:
            asked_s: when its first ``speak`` came, on the clock of :meth:`audio`.
        """
        self._continuity.forget()
        samples = self.timeline.samples
        spoken = samples - self._silent_samples
        if self.whole:
            self.timeline = Timeline()
            last = self._audio_message(b"".join([*self._pieces, self._encoder.flush()]), samples, final=True)
            self._pieces.clear()
        else:
            last = self._audio_message(self._encoder.flush(), 0, final=True)
        first_audio_s = asked_s if self._first_audio_s is None else self._first_audio_s
        complete = Complete(
            utterance_id=self.utterance_id,
            duration_ms=self.timeline.now_ms,
            finish_reason=self._finish_reason,
            ttfa_ms=round((first_audio_s - asked_s) * 1000),
            rtf=round(self._generation_s / seconds(spoken), 3) if spoken else 0.0,
            characters=self.characters,
            seed=self.seed,
            voice=self.manner.voice,
        )
        return [last, Send(complete, owner=self.number, ends=self.number)]

    def _audio_message(self, payload: bytes, samples: int, *, final: bool) -> Send:
        span = self.timeline.advance(samples)
        message = AudioMessage(
            utterance_id=self.utterance_id,
            seq=self._seq,
            start_ms=span.start_ms,
            duration_ms=span.duration_ms,
            final=final,
        )
        self._seq += 1
        manner = self.manner
        return Send(message, payload, manner.transport, self.number, samples, encoding=manner.encoding)


def chunk_seed(seed: int, index: int) -> int:
    """Seed of an utterance's ``index``-th text chunk; the first has the utterance's own.

    So that a text of one chunk sounds as the same request made to a generator directly.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & MAX_SEED


SeedSource = Callable[[], int]
"""Makes up the seed of an utterance whose client gives none: 0 to :data:`serve_app.protocol.messages.MAX_SEED`."""
