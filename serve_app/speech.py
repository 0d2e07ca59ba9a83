"""The values that the ingress and a generator exchange: one request, then audio chunks and one end.

They cross processes, so they are frozen dataclasses of numbers, strings and numpy arrays. This module knows nothing
about sockets, Ray or torch. Text is excluded from every ``repr``, so that it cannot reach a log.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serve_app.config import PromptLayout

SAMPLES_PER_FRAME = 1920
"""PCM samples of one frame: 80 ms at 24 kHz."""

FRAME_S = 0.08
"""Seconds of one frame."""

FinishReason = Literal["eos", "length", "stalled", "cancelled", "error"]
"""Why a stream ended: the model ended it, it reached its length limit, it stalled, it was cancelled, or it failed."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How codes are sampled; None means the checkpoint's default (from its ``generation_config.json``).

    Attributes:
        temperature: temperature of codebook 0 (the talker); 0 means greedy, for the code predictor too.
        top_k: number of most probable codes to keep; 0 keeps all.
        top_p: probability mass to keep, in (0, 1].
        repetition_penalty: divides the logits of the codes of codebook 0 that the stream has already used.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class VoiceClip:
    """A session's inline voice. Every request carries it, so that no other process has to store it.

    Attributes:
        pcm16: [N] int16, mono, 24 kHz: checked, cut and ready to be encoded.
        transcript: the words of the clip; None if only the speaker embedding is used.
        digest: hash of the clip and its transcript.
    """

    pcm16: NDArray[np.int16]
    transcript: str | None = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A W3C trace context: the parent of new spans.

    Attributes:
        traceparent: version, trace, span and flags, well-formed; None if there is no parent.
        tracestate: additional data of tracing systems.
    """

    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]


@dataclass(frozen=True, slots=True)
class Trace:
    """Identifies the session and utterance of some work, for log lines and spans only.

    Attributes:
        session_id: the id of the socket's session or of the HTTP request.
        utterance_id: the client's id, or a generated one; None outside an utterance.
        context: the context of the enclosing span.
    """

    session_id: str
    utterance_id: str | None = None
    context: TraceContext = TraceContext()


UNLIMITED_SAMPLES = 1 << 40
"""More samples than any stream has."""


@dataclass(frozen=True, slots=True)
class SilenceLimits:
    """How much silence a stream delivers; :mod:`serve_app.audio.silence` applies it. Counts are samples at 24 kHz.

    Attributes:
        level: RMS amplitude below which 10 ms are silent.
        leading_samples: silence to keep before the first sound.
        left_out_samples: maximum silence to leave out before the first sound.
        trailing_samples: maximum silence to deliver at the end.
        delivered_samples: if a stream is resumed, the silence at the end of the audio that was already delivered.
    """

    level: float
    leading_samples: int
    left_out_samples: int = UNLIMITED_SAMPLES
    trailing_samples: int = UNLIMITED_SAMPLES
    delivered_samples: int = 0


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """One text chunk for one stream.

    Attributes:
        text: stripped and not empty.
        voice: id of a voice in the library.
        language: lower case, one of :data:`serve_app.config.Language`.
        seed: seed of the random numbers, which depend only on (seed, frame, codebook).
        sampling: overrides of the checkpoint's defaults.
        listening: whether the audio is played as it arrives. If so, the stream is scheduled by slack and pauses when
            it is far ahead. If not, the caller wants the complete audio, which is made as fast as capacity allows.
        priority: 0 is normal; among waiting streams, lower values are served first.
        delivered_codes: [F, 16] int16, frames of this request that the caller already has from a stream that was
            interrupted; the new stream continues at frame F. None starts at the beginning.
        begun: whether earlier text of the utterance was already spoken, so that waiting is better than losing the rest.
        clip: the session's inline voice; if it is given, ``voice`` is not looked up.
        voice_digest: digest of the clip that spoke the earlier audio of the utterance. The stream uses the same clip,
            even if ``voice`` has changed since. Empty uses the current clip.
        rendering: the rendering of ``delivered_codes``, see :class:`AudioChunk`; empty without delivered codes.
        prompt: how the talker gets the text: with the frames, or all of it before them.
        silence: how much silence to deliver; None delivers all.
        loudness_lufs: the level that the voice's gain aims at, see :mod:`serve_app.audio.loudness`; None leaves samples
            as the model makes them.
        speed: how fast the listener plays the audio, because the caller changes its speed; 2 is twice as fast. The
            audio itself does not change.
        words: whether audio chunks say which character each frame speaks.
        trace: for the generator's log lines and spans; None if there is no trace.
        generators: ids of the generators that are expected to answer; the router prefers them. None if they are not
            known.
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
    clip: VoiceClip | None = None
    voice_digest: str = ""
    rendering: str = ""
    prompt: PromptLayout = "streaming"
    silence: SilenceLimits | None = None
    loudness_lufs: float | None = None
    speed: float = 1.0
    words: bool = False
    trace: Trace | None = None
    generators: frozenset[str] | None = None

    @property
    def batch(self) -> bool:
        """Whether it is a text of a batch: it has no listener, comes after all others, and can wait."""
        return self.priority > 0 and not self.listening


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The audio of consecutive frames of a stream. The last one may be empty: the silence of its frames was left out.

    Attributes:
        first_frame: index of its first frame in the stream.
        codes: [T, 16] int16; the caller keeps them, so that another generator can resume the stream.
        pcm: [N] float32 in [-1, 1], mono, 24 kHz: 1920 samples a frame, less the silence that the request leaves out.
        timings_s: in the first audio chunk of a stream, the seconds of each stage before it: ``prompt`` (looking up the
            voice), ``queue`` (waiting for a slot and for the steps of other streams), ``prefill``, ``predictor``,
            ``codec``. Empty in later chunks.
        voice_digest: digest of the clip that it is spoken with; the caller keeps it to continue with the same clip.
            Empty inside the engine, which does not know it.
        silent_samples: silence at the end of the stream's audio so far; 0 if the request limits no silence.
        rendering: model, number formats and kind of processor. Replicas with the same rendering make the same samples
            for the same request, apart from the watermark, which begins anew in a resumed stream. The caller keeps it
            to detect a change. Empty inside the engine.
        spoken: [T] int32, the index of the character of the request's text that each frame speaks; -1 before the text.
            None if the request does not ask for ``words``, or if the model cannot tell.
        generator: id of the generator. Empty inside the engine, which does not know it.
    """

    first_frame: int
    codes: NDArray[np.int16]
    pcm: NDArray[np.float32]
    timings_s: dict[str, float] = field(default_factory=dict[str, float])
    voice_digest: str = ""
    rendering: str = ""
    silent_samples: int = 0
    spoken: NDArray[np.int32] | None = None
    generator: str = ""


@dataclass(frozen=True, slots=True)
class SpeechEnd:
    """The last event of every stream.

    Attributes:
        finish_reason: why the stream ended.
        frames: frames of the whole request, including those delivered earlier.
        code: code of the error if ``finish_reason`` is ``error``.
        message: message of the error.
        retry_after_ms: milliseconds after which a retry may succeed.
        timings_s: seconds of the stream's stages: ``queue``, ``prefill``, ``predictor`` and ``codec`` until the first
            audio, ``first_audio``, ``paused`` (far ahead of the listener) and ``total``.
    """

    finish_reason: FinishReason
    frames: int
    code: str | None = None
    message: str | None = None
    retry_after_ms: int | None = None
    timings_s: dict[str, float] = field(default_factory=dict)


SpeechEvent = AudioChunk | SpeechEnd
"""A generator's streaming call yields any number of audio chunks, then exactly one end."""
