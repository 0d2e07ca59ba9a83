"""The sentences of a turn of vLLM-Omni's and SGLang-Omni's stream, as frames: start, audio, word times, end."""

import base64
from dataclasses import dataclass, field

from serve_app.audio.pcm import wav_header
from serve_app.protocol.dialects import Frame
from serve_app.protocol.stream_messages import (
    AudioDone,
    AudioPart,
    AudioStart,
    Output,
    TimestampInfo,
    WordAlignment,
    WordTimestamp,
)
from serve_app.protocol.turns import Turn

MAX_SENTENCE_BYTES = 8 << 20
"""Audio of a sentence that is not streamed, and of the pauses after it; the rest is sent as another sentence."""


@dataclass(slots=True)
class Sentences:
    """The sentences of one turn.

    Attributes:
        output: how they are sent.
        count: how many have begun.
        committed: whether the turn ended with ``input.commit``.
        sending: whether the last one has begun and not ended.
        start_ms: where its audio begins in the utterance.
        words: its words, if they are known: text, and begin and end in the utterance in ms.
        parts: how many parts of the last one were sent, if they are sent as JSON.
        size_bytes: size of its audio so far.
        pieces: its audio, if it is not streamed.
    """

    output: Output
    count: int = 0
    committed: bool = False
    sending: bool = False
    start_ms: int = 0
    words: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    parts: int = 0
    size_bytes: int = 0
    pieces: list[bytes] = field(default_factory=list)


def begin(turn: Turn[Sentences], text: str, start_ms: int) -> list[Frame]:
    """Return the beginning of a sentence, whose audio begins at ``start_ms`` of the utterance."""
    sentences = turn.state
    start = AudioStart(
        utterance_index=turn.number,
        sentence_index=sentences.count,
        sentence_text=text,
        format=sentences.output.format,
        sample_rate=sentences.output.sample_rate,
        word_timestamps=sentences.output.in_parts or None,
    )
    sentences.count += 1
    sentences.parts = 0
    sentences.sending = True
    sentences.start_ms = start_ms
    sentences.size_bytes = 0
    return [start.to_json()]


def add_audio(turn: Turn[Sentences], pcm: bytes, start_ms: int) -> list[Frame]:
    """Return the frames for some audio; audio before the first sentence is a pause."""
    sentences = turn.state
    if not pcm:
        return []
    frames = [] if sentences.sending else begin(turn, "", start_ms)
    sentences.size_bytes += len(pcm)
    if sentences.output.in_parts:
        return [*frames, _part(turn, base64.b64encode(pcm).decode(), None)]
    if sentences.output.streamed:
        return [*frames, pcm]
    sentences.pieces.append(pcm)
    return [*frames, *end(turn)] if sentences.size_bytes >= MAX_SENTENCE_BYTES else frames


def end(turn: Turn[Sentences]) -> list[Frame]:
    """Return the end of the sentence that is being sent; the audio of a failed one is dropped unless it is streamed."""
    sentences = turn.state
    if not sentences.sending:
        return []
    sentences.sending = False
    frames: list[Frame] = []
    if turn.failed and not sentences.output.streamed:
        sentences.size_bytes = 0
    elif sentences.pieces:
        pcm = b"".join(sentences.pieces)
        header = wav_header(len(pcm), sentences.output.sample_rate) if sentences.output.format == "wav" else b""
        sentences.size_bytes = len(header) + len(pcm)
        frames.append(header + pcm)
    sentences.pieces.clear()
    if sentences.output.in_parts:
        frames.append(_part(turn, "", _relative(sentences)))
    done = AudioDone(
        utterance_index=turn.number,
        sentence_index=sentences.count - 1,
        total_bytes=sentences.size_bytes,
        error=turn.failed,
        timestamp_info=_alignment(sentences),
    )
    sentences.words = []
    return [*frames, done.to_json()]


def _part(turn: Turn[Sentences], audio: str, words: list[WordTimestamp] | None) -> Frame:
    """Return some audio of a sentence in base64, or without audio the times of its words; None if there are none."""
    sentences = turn.state
    part = AudioPart(
        utterance_index=turn.number,
        sentence_index=sentences.count - 1,
        chunk_id=sentences.parts,
        audio_b64=audio,
        timestamps=words,
    )
    sentences.parts += 1
    return part.to_json()


def _alignment(sentences: Sentences) -> TimestampInfo | None:
    """Return the times of the words in the format of Baseten; None if they are sent otherwise or not known."""
    words = None if sentences.output.in_parts else _relative(sentences)
    if words is None:
        return None
    return TimestampInfo(
        word_alignment=WordAlignment(
            words=[each.word for each in words],
            word_start_times_seconds=[each.start_ms / 1000 for each in words],
            word_end_times_seconds=[each.end_ms / 1000 for each in words],
        )
    )


def _relative(sentences: Sentences) -> list[WordTimestamp] | None:
    """Return when the words of a sentence are spoken, counted from its first sample; None if it is not known."""
    if not sentences.words:
        return None
    first_ms = sentences.start_ms
    return [
        WordTimestamp(word=text, start_ms=max(0, start_ms - first_ms), end_ms=max(0, end_ms - first_ms))
        for text, start_ms, end_ms in sentences.words
    ]
