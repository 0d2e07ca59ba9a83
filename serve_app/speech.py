"""What the ingress and a generator tell each other: one request down, audio chunks and one end up.

These values cross processes, so they are plain frozen dataclasses of numbers, strings and numpy arrays. Nothing
here knows of sockets, Ray or torch. Text is in no ``repr``, so that whatever logs one of them shows none.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_FRAME = 1920
"""PCM samples of one frame: 80 ms at 24 kHz."""

FRAME_S = 0.08
"""Seconds of one frame."""

FinishReason = Literal["eos", "length", "stalled", "cancelled", "error"]
"""Why a stream ended: the model said so, its budget ran out, it stopped saying anything, or from outside."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How codes are drawn; a None takes the checkpoint's own default (its ``generation_config.json``).

    Attributes:
        temperature: of codebook 0 (the talker); 0 means greedy, for the code predictor too.
        top_k: most probable codes kept; 0 keeps all.
        top_p: probability mass kept, in (0, 1].
        repetition_penalty: divides the logits of codes of codebook 0 that the stream has used.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class SpokenContext:
    """What the same voice said just before, which the next text should sound like a continuation of.

    Attributes:
        text: all that was said.
        codes: [F, 16] int16, all of its frames; at least one.
    """

    text: str = field(repr=False)
    codes: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class VoiceClip:
    """A voice that a session brought itself; it goes with every request, so that nobody has to keep it.

    Attributes:
        pcm16: [N] int16, mono, 24 kHz: checked and cut, as it is to be encoded.
        transcript: what it says; None where only the speaker is cloned.
        digest: hash of the clip and its transcript.
    """

    pcm16: NDArray[np.int16]
    transcript: str | None = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class TraceContext:
    """W3C trace context: what new spans are children of.

    Attributes:
        traceparent: version, trace, span and flags, well-formed; None without one.
        tracestate: what tracing systems say to each other beside it.
    """

    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]


@dataclass(frozen=True, slots=True)
class Trace:
    """Whose work something is, for log lines and spans alone: nothing is decided by it.

    Attributes:
        session_id: of the socket or the HTTP request.
        utterance_id: the client's own name for it, or one that was made up; None outside of an utterance.
        context: of the span around it.
    """

    session_id: str
    utterance_id: str | None = None
    context: TraceContext = TraceContext()


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text chunk to be spoken by one stream.

    Attributes:
        text: stripped and not empty.
        voice: id of a voice in the store.
        language: lower case, one of :data:`serve_app.config.Language`.
        seed: of the random numbers; they depend on (seed, frame, codebook) alone.
        sampling: overrides of the checkpoint's defaults.
        listening: somebody plays the audio as it comes: it is scheduled by slack and pauses when far ahead. False
            for a caller who wants the whole, which is made as fast as there is room.
        priority: 0 is normal, lower is served first among those who wait for a slot.
        delivered_codes: [F, 16] int16, frames of this very request that the caller already holds from a stream
            that broke off; the new stream goes on at frame F. None starts at the beginning.
        begun: earlier text of its utterance was spoken already: the listener would rather wait than lose the rest.
        context: the text chunk before this one, of the same utterance; it continues the voice's reference. It is no
            part of this request's own frames and audio. None speaks from the voice alone.
        clip: the voice, where its session brought it itself; ``voice`` is not looked up then.
        voice_digest: of the clip that earlier audio of the utterance was spoken with: what follows is spoken with that
            one too, whatever has become of ``voice`` meanwhile. Empty where there was none: with that of now.
        rendering: what made ``delivered_codes``, see :class:`AudioChunk`; empty without any.
        trace: for the generator's log lines and spans; None where nobody asks.
    """

    text: str = field(repr=False)
    voice: str
    language: str = "auto"
    seed: int = 0
    sampling: Sampling = Sampling()
    listening: bool = True
    priority: int = 0
    delivered_codes: NDArray[np.int16] | None = None
    begun: bool = False
    context: SpokenContext | None = None
    clip: VoiceClip | None = None
    voice_digest: str = ""
    rendering: str = ""
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The audio of some consecutive frames of a stream.

    Attributes:
        first_frame: index of its first frame within the stream.
        codes: [T, 16] int16; the caller keeps them to resume elsewhere.
        pcm: [T * 1920] float32 in [-1, 1], mono, 24 kHz.
        timings_s: of a stream's first audio chunk, seconds of what came before it: ``prompt`` (finding the voice),
            ``queue`` (waiting, for a slot and for the steps of others), ``prefill``, ``predictor``, ``codec``. Empty
            with later ones.
        voice_digest: of the clip that it is spoken with; the caller keeps it to go on with the same. Empty within the
            engine, which does not know it.
        rendering: model, number formats and kind of processor: replicas that say the same make the same samples of
            the same request. The caller keeps it, so that one that does not is noticed. Empty within the engine.
    """

    first_frame: int
    codes: NDArray[np.int16]
    pcm: NDArray[np.float32]
    timings_s: dict[str, float] = field(default_factory=dict[str, float])
    voice_digest: str = ""
    rendering: str = ""


@dataclass(frozen=True, slots=True)
class SpeechEnd:
    """The last thing that a stream says, whatever its end.

    Attributes:
        finish_reason: why it ended.
        frames: frames of the whole request, those already delivered included.
        code: wire code of the error when ``finish_reason`` is ``error``.
        message: its text.
        retry_after_ms: when trying again helps.
        timings_s: seconds of the stream's stages (``queue``, ``prefill``, ``predictor`` and ``codec`` up to its first
            audio, ``first_audio``, ``paused``: ahead of its listener, ``total``).
    """

    finish_reason: FinishReason
    frames: int
    code: str | None = None
    message: str | None = None
    retry_after_ms: int | None = None
    timings_s: dict[str, float] = field(default_factory=dict)


SpeechEvent = AudioChunk | SpeechEnd
"""What a generator's streaming call yields: any number of audio chunks, then exactly one end."""
