"""One utterance: turns its text into text chunks and its audio into messages. No I/O, no clock."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.audio.encoders import encoder_for
from serve_app.audio.pcm import Timeline, milliseconds, seconds
from serve_app.audio.silence import leading_silence
from serve_app.audio.speed import SpeedFilter
from serve_app.config import SAMPLE_RATE_HZ, EngineConfig, PromptLayout, SessionConfig, TextConfig
from serve_app.errors import TextTooLongError
from serve_app.protocol.messages import (
    MAX_SEED,
    AudioMessage,
    Complete,
    Priority,
    SamplingFields,
    Segment,
    SpeechFields,
    Transport,
    Words,
)
from serve_app.protocol.outbox import Send
from serve_app.session.word_times import HeardText, SegmentWords, WordTime
from serve_app.speech import (
    UNLIMITED_SAMPLES,
    AudioChunk,
    FinishReason,
    Sampling,
    SilenceLimits,
    SpeechEnd,
    SpeechRequest,
)
from serve_app.text.chunker import Chunker
from serve_app.text.cleaning import Cleaner
from serve_app.text.lexicon import Lexicon
from serve_app.text.tags import Pause

SILENT_PIECE_SAMPLES = SAMPLE_RATE_HZ
"""A longer pause is sent in pieces of this size, to keep messages small and to wait for a client that does not read."""

_PLAIN_FIELDS = tuple(name for name in SpeechFields.model_fields if name != "sampling")

_PRIORITIES: dict[Priority, int] = {"high": -1, "normal": 0, "low": 1}


@dataclass(frozen=True, slots=True)
class SpeechOptions:
    """The speech options: the values of all fields of ``start``.

    Attributes:
        voice: a voice's id.
        language: lower case.
        encoding: encoding of the audio sent.
        sample_rate: sample rate of the audio sent, in Hz.
        transport: binary frames, or base64 within the messages.
        seed: None chooses a new seed for each utterance.
        sampling: overrides of the checkpoint's defaults.
        priority: priority among the streams that wait for a slot.
        normalize: whether numbers, dates and amounts are written as words for the model.
        prompt: how the talker gets the text; None leaves it to the voice and the configuration.
        loudness_lufs: level of the voice, which the session sets for each utterance; None: as the model makes it.
        speed: how fast the speech is compared with the model's; 2 is twice as fast.
        words: whether the client is told when each word is spoken.
        lexicon: the client's entries, in addition to those of the configuration and of its key.
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
    prompt: PromptLayout | None = None
    loudness_lufs: float | None = None
    speed: float = 1.0
    words: bool = False
    lexicon: Mapping[str, str] = field(default_factory=dict[str, str])

    def with_fields(self, fields: SpeechFields) -> "SpeechOptions":
        """Return a copy with the fields that a message gives; ``sampling`` is merged name by name."""
        given = {name: value for name in _PLAIN_FIELDS if (value := getattr(fields, name)) is not None}
        return replace(self, sampling=_merged(self.sampling, fields.sampling), **given)


def _merged(sampling: Sampling, fields: SamplingFields | None) -> Sampling:
    return sampling if fields is None else replace(sampling, **fields.model_dump(exclude_none=True))


class TextPipeline:
    """How an utterance's text is cleaned, cut and passed to the model.

    Attributes:
        config: what is removed, lengths of the text chunks, and how the talker gets the text, unless the client or the
            voice chooses.
        max_request_characters: the longest text that one stream of the engine accepts.
        lexicon: what is spoken for written words, unless the client's own entries replace it.
    """

    def __init__(
        self, config: TextConfig | None = None, max_request_characters: int = EngineConfig().max_chunk_characters
    ) -> None:
        self.config = config or TextConfig()
        self.max_request_characters = max_request_characters
        self.lexicon = Lexicon.of(self.config.lexicon)

    def extended(self, entries: Mapping[str, str]) -> "TextPipeline":
        """Return a pipeline whose lexicon has more entries; see :meth:`serve_app.text.lexicon.Lexicon.extended`."""
        pipeline = copy(self)
        pipeline.lexicon = self.lexicon.extended(entries)
        return pipeline

    def open(self, language: str) -> "OpenText":
        """Return a new pipeline for one utterance."""
        return OpenText(Cleaner(self.config), Chunker(language, self.config))

    def request_text(self, chunk: str, options: SpeechOptions) -> str:
        """Return the model's input for a text chunk.

        The entries of the lexicon are applied. Then the text is normalized if ``options`` says so, unless the result is
        too long.

        Raises:
            TextTooLongError: the text chunk is too long after the lexicon is applied.
        """
        written, chunk = chunk, self.lexicon.extended(options.lexicon).spoken(chunk)
        if len(chunk) > self.max_request_characters:
            grown = f"the lexicon makes {len(chunk)} characters of a text chunk of {len(written)}"
            raise TextTooLongError(f"{grown}; the limit is {self.max_request_characters}")
        if not options.normalize:
            return chunk
        from serve_app.text.numbers.normalize import normalize  # noqa: PLC0415 — the import takes 50 ms, so only on demand

        normalized = normalize(chunk, options.language, self.config.auto_language)
        return normalized if len(normalized) <= self.max_request_characters else chunk


class OpenText:
    """Turns text, pushed in any pieces, into text chunks and the pauses between them."""

    def __init__(self, cleaner: Cleaner, chunker: Chunker) -> None:
        self._cleaner = cleaner
        self._chunker = chunker

    def push(self, text: str) -> list[str | Pause]:
        """Accept more text; return the text chunks and pauses that later text can no longer change."""
        return self._cut(self._cleaner.push(text))

    def flush(self) -> list[str | Pause]:
        """Return everything that is left; more text may follow."""
        return [*self._cut(self._cleaner.flush()), *self._chunker.flush()]

    def _cut(self, pieces: list[str | Pause]) -> list[str | Pause]:
        """Cut text into text chunks; a pause ends the text chunk before it."""
        chunks: list[str | Pause] = []
        for piece in pieces:
            if isinstance(piece, str):
                chunks += self._chunker.push(piece)
            else:
                chunks += [*self._chunker.flush(), piece]
        return chunks


class Utterance:
    """One utterance, from its first text to its last audio.

    Attributes:
        number: its number in the session, from 1 on; unlike ids, numbers are never reused.
        utterance_id: the client's id, or a generated one.
        options: its speech options; the first ``speak`` fixes them.
        seed: the seed of its first text chunk.
        whole: its audio is buffered and sent in one piece.
        open: more text may follow.
        failed: it ended with an error.
        timeline: the audio made so far: speech at the requested speed, and pauses.
        sent_samples: the audio that was sent so far, including the message that is being sent.
        plays_until_s: when a client that plays audio as it arrives has played all audio made so far.
    """

    def __init__(
        self,
        number: int,
        utterance_id: str,
        options: SpeechOptions,
        text: OpenText,
        *,
        whole: bool,
        limits: SessionConfig,
    ) -> None:
        """Begin without text; ``limits`` bounds its audio."""
        assert options.seed is not None, "the session has chosen a seed"
        self.number = number
        self.utterance_id = utterance_id
        self.options = options
        self.seed = options.seed
        self.whole = whole
        self.open = True
        self.failed = False
        self.timeline = Timeline()
        self.sent_samples = 0
        self.plays_until_s = 0.0
        self.characters = 0
        self._text = text
        self._blank = True
        self._parts: deque[str | Pause] = deque()
        self._spoken_samples = 0  # that the generator made, before their speed was changed
        self._index = -1
        self._chunk = ""
        self._limits = limits
        self._silence: SilenceLimits | None = None
        self._trailing_samples = 0
        self._voice_digest = ""
        self._segment_due = False
        self._segment_samples = 0  # the timeline where the segment begins
        self._words: SegmentWords | None = None  # of the segment that is being spoken
        self._heard = HeardText() if options.words and not whole else None
        self._seq = 0
        self._speed = SpeedFilter(options.speed)
        self._encoder = encoder_for(options.encoding, options.sample_rate)
        self._pieces: list[bytes] = []
        self._finish_reason: FinishReason = "eos"
        self._generation_s = 0.0
        self._first_audio_s: float | None = None
        self._audible_s: float | None = None

    def add(self, text: str) -> None:
        """Append text."""
        self.characters += len(text)
        self._blank = self._blank and (not text or text.isspace())
        self._parts.extend(self._text.push(text))

    def flush(self) -> None:
        """Release the buffered text without waiting for the end of the sentence."""
        self._parts.extend(self._text.flush())

    def close(self) -> None:
        """Flush, and accept no more text."""
        self.flush()
        self.open = False

    @property
    def blank(self) -> bool:
        """Whether all text so far is white space; other text without anything to pronounce does not count as blank."""
        return self._blank

    @property
    def has_text(self) -> bool:
        """Whether a text chunk is next."""
        return bool(self._parts) and isinstance(self._parts[0], str)

    @property
    def has_pause(self) -> bool:
        """Whether a pause is next."""
        return bool(self._parts) and isinstance(self._parts[0], Pause)

    @property
    def begun(self) -> bool:
        """Whether a text chunk was passed to a generator, or a pause was sent to the client."""
        return self._index >= 0 or self.timeline.samples > 0

    def next_request(self, text: TextPipeline) -> SpeechRequest:
        """Return the request for the next text chunk; its ``segment`` shows the chunk as the client wrote it.

        Raises:
            TextTooLongError: see :meth:`TextPipeline.request_text`.
        """
        begun = self.begun
        chunk = self._parts.popleft()
        assert isinstance(chunk, str), "the caller checks has_text"
        self._chunk = chunk
        self._index += 1
        self._segment_due = True
        self._silence = silence_limits(self._limits, self._index, self._trailing_samples)
        spoken = text.request_text(self._chunk, self.options)
        if self.options.words and not self.whole:
            self._words = SegmentWords(self._chunk, spoken, self._limits.silence_level)
        return SpeechRequest(
            text=spoken,
            voice=self.options.voice,
            language=self.options.language,
            seed=chunk_seed(self.seed, self._index),
            sampling=self.options.sampling,
            listening=not self.whole,
            priority=_PRIORITIES[self.options.priority],
            begun=begun,
            voice_digest=self._voice_digest,
            prompt=self.options.prompt or text.config.prompt,
            silence=self._silence,
            loudness_lufs=self.options.loudness_lufs,
            speed=self.options.speed,
            words=self.options.words,
        )

    def audio(self, chunk: AudioChunk, now_s: float) -> list[Send]:
        """Return the messages for one audio chunk; none if the speed filter holds it back."""
        self._voice_digest = chunk.voice_digest or self._voice_digest
        self._trailing_samples = chunk.silent_samples
        self._spoken_samples += len(chunk.pcm)
        if chunk.spoken is None:
            self._words = self._heard = None  # this model cannot tell
        elif self._words is not None:
            self._words.add(chunk)
        return self._speech(self._speed.push(chunk.pcm), now_s)

    def _speech(self, pcm: NDArray[np.float32], now_s: float) -> list[Send]:
        """Return the messages for speech to send; at the beginning of a text chunk, ``segment`` comes first."""
        if not len(pcm):
            return []
        self._note_first(pcm, now_s)
        sends: list[Send] = []
        if self._segment_due and not self.whole:
            segment = Segment(
                utterance_id=self.utterance_id, index=self._index, text=self._chunk, start_ms=self.timeline.now_ms
            )
            sends.append(Send(segment, owner=self.number))
        if self._segment_due:
            self._segment_samples = self.timeline.samples
        self._segment_due = False
        return sends + self._sound(pcm)

    def pause(self, now_s: float) -> list[Send]:
        """Return the messages for at most one second of the next pause, which has no ``segment`` and no ``speed``."""
        pause = self._parts.popleft()
        assert isinstance(pause, Pause), "the caller checks has_pause"
        samples = min(pause.samples, SILENT_PIECE_SAMPLES)
        if samples < pause.samples:
            self._parts.appendleft(Pause(pause.samples - samples))
        pcm = np.zeros(samples, dtype=np.float32)
        self._note_first(pcm, now_s)
        return self._sound(pcm)

    def _note_first(self, pcm: NDArray[np.float32], now_s: float) -> None:
        """Record when the first samples are sent, and when the first sound is heard if they are played at once."""
        if self._first_audio_s is None:
            self._first_audio_s = now_s
        if self._audible_s is None:
            silent = leading_silence(pcm, self._limits.silence_level)
            if silent < len(pcm):
                plays_s = max(now_s, self._first_audio_s + seconds(self.timeline.samples))
                self._audible_s = plays_s + seconds(silent)

    def _sound(self, pcm: NDArray[np.float32]) -> list[Send]:
        payload = self._encoder.push(pcm)
        if self.whole:
            self.timeline.advance(len(pcm))
            self._pieces.append(payload)
            return []
        return [self._audio_message(payload, len(pcm), final=False)]

    def ended(self, end: SpeechEnd, generation_s: float, now_s: float) -> list[Send]:
        """Record the end of a text chunk and return the messages for the rest of its audio.

        The first text chunk that was cut short sets the utterance's finish reason.
        """
        self._generation_s += generation_s
        if self._finish_reason == "eos":
            self._finish_reason = end.finish_reason
        return [*self._speech(self._speed.flush(), now_s), *self._word_times(complete=end.finish_reason == "eos")]

    def _word_times(self, *, complete: bool) -> list[Send]:
        """End a segment and return the message with the times of its words, if they are known."""
        words, self._words = self._words, None
        if words is None or self._heard is None:
            return []
        times = self._placed(words.times(complete=complete))
        self._heard.add(self._chunk, times)
        message = Words(
            utterance_id=self.utterance_id,
            index=self._index,
            words=[
                (each.word.text, milliseconds(each.start_samples), milliseconds(each.end_samples)) for each in times
            ],
        )
        return [Send(message, owner=self.number)]

    def _placed(self, times: Sequence[WordTime]) -> list[WordTime]:
        """Return times of the segment's speech as times of the utterance's audio."""
        first, last = self._segment_samples, self.timeline.samples

        def at(samples: int) -> int:
            return min(first + round(samples / self.options.speed), last)

        return [replace(each, start_samples=at(each.start_samples), end_samples=at(each.end_samples)) for each in times]

    def heard_text(self, now_s: float) -> str | None:
        """Return the text up to the last word that a client has begun to play; None without word times."""
        if self._heard is None:
            return None
        unplayed = math.ceil(max(0.0, self.plays_until_s - now_s) * SAMPLE_RATE_HZ)
        played = min(self.timeline.samples - unplayed, self.sent_samples)
        if self._words is not None:
            self._heard.add(self._chunk, self._placed(self._words.times(complete=False)))
            self._words = None
        return self._heard.text(played)

    def finish(self, asked_s: float) -> list[Send]:
        """Return the final audio chunk and ``complete``.

        The final audio chunk carries only what an encoder or a resampler still held, unless the utterance is sent in
        one piece. Marking the last generated audio chunk as final would delay every audio chunk until the next one
        exists.

        Args:
            asked_s: when its first ``speak`` arrived, on the clock of :meth:`audio`.
        """
        samples = self.timeline.samples
        spoken = self._spoken_samples
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
            audible_ms=None if self._audible_s is None else round((self._audible_s - asked_s) * 1000),
            rtf=round(self._generation_s / seconds(spoken), 3) if spoken else 0.0,
            characters=self.characters,
            seed=self.seed,
            voice=self.options.voice,
        )
        return [last, Send(complete, owner=self.number, ends=self.number)]

    def _audio_message(self, payload: bytes, samples: int, *, final: bool) -> Send:
        start_ms = self.timeline.now_ms
        self.timeline.advance(samples)
        message = AudioMessage(
            utterance_id=self.utterance_id,
            seq=self._seq,
            start_ms=start_ms,
            duration_ms=self.timeline.now_ms - start_ms,
            final=final,
        )
        self._seq += 1
        options = self.options
        return Send(message, payload, options.transport, self.number, samples, encoding=options.encoding)


def silence_limits(limits: SessionConfig, index: int, trailing_samples: int) -> SilenceLimits | None:
    """Return how much silence the stream of a text chunk delivers; None if silence is not limited.

    Args:
        limits: the configuration.
        index: index of the text chunk in its utterance.
        trailing_samples: silence at the end of the audio of the text chunk before it.
    """
    kept = round(limits.leading_silence_kept_s * SAMPLE_RATE_HZ)
    between = None if limits.pause_between_chunks_s is None else round(limits.pause_between_chunks_s * SAMPLE_RATE_HZ)
    trailing = UNLIMITED_SAMPLES if between is None else max(0, between - kept)  # kept by the next text chunk
    if index == 0:
        left_out = round(limits.leading_silence_limit_s * SAMPLE_RATE_HZ)
        if not left_out and between is None:
            return None
        return SilenceLimits(limits.silence_level, kept, left_out, trailing)
    if between is None:
        return None
    return SilenceLimits(limits.silence_level, max(0, between - trailing_samples), trailing_samples=trailing)


def chunk_seed(seed: int, index: int) -> int:
    """Return the seed of an utterance's text chunk ``index``; the first chunk uses the utterance's seed.

    A text of one chunk therefore gets the same audio as the same request made directly to a generator.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & MAX_SEED


SeedSource = Callable[[], int]
"""Returns a seed for an utterance without one: 0 to :data:`serve_app.protocol.messages.MAX_SEED`."""
