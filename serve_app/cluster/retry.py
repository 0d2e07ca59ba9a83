"""Builds the requests that resume an interrupted stream on another replica, and limits the retries. No I/O, no clock.

An interrupted stream is requested again with the codes that were delivered. The next replica forces these codes in one
prefill and continues at the next frame, so the listener loses time but no sample. A text that crashes its replica each
time must not do so forever, so the number of consecutive attempts without a frame is limited.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve_app.speech import AudioChunk, SpeechRequest

MAX_RETRIES = 2
"""Retries for an utterance without a single frame: a text that crashes replicas mostly does so before its first
frame."""

MAX_RETRIES_AFTER_AUDIO = 6
"""Consecutive retries without a frame, if the stream or an earlier text chunk of its utterance had frames: probably
another stream crashes its replicas."""

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0


class Resumption:
    """One text chunk and the streams that it takes until it is complete.

    Attributes:
        generator: id of the generator that made the latest audio chunk; empty before the first one.
        lost: whether at least one of its streams was interrupted.
    """

    def __init__(self, request: SpeechRequest) -> None:
        """Start with the request's ``delivered_codes``."""
        self._request = request
        self._codes: list[NDArray[np.int16]] = [] if request.delivered_codes is None else [request.delivered_codes]
        self._voice_digest = request.voice_digest
        self._rendering = request.rendering
        self._silence = request.silence
        self.generator = ""
        self.lost = False
        self._retries = 0

    @property
    def frames(self) -> int:
        """Number of delivered frames."""
        return sum(len(codes) for codes in self._codes)

    @property
    def request(self) -> SpeechRequest:
        """The request for the next stream."""
        if not self._codes:
            return self._request
        return replace(
            self._request,
            delivered_codes=np.concatenate(self._codes),
            voice_digest=self._voice_digest,
            rendering=self._rendering,
            silence=self._silence,
        )

    def add(self, chunk: AudioChunk) -> None:
        """Keep one audio chunk's codes, its generator, its voice digest, its rendering and the silence at its end."""
        self._codes.append(chunk.codes)
        self.generator = chunk.generator or self.generator
        if self._silence is not None:
            self._silence = replace(self._silence, delivered_samples=chunk.silent_samples)
        self._rendering = chunk.rendering or self._rendering
        self._voice_digest = chunk.voice_digest or self._voice_digest
        self._retries = 0

    def has_other_rendering(self, chunk: AudioChunk) -> bool:
        """Return whether an audio chunk comes from another model, number format or processor; samples may not match."""
        return "" not in (self._rendering, chunk.rendering) and self._rendering != chunk.rendering

    def count_interruption(self) -> float | None:
        """Count one interrupted stream.

        The first retry is immediate. The waits before later retries grow and differ between streams, so that a stream
        that crashes its replicas does not meet the same streams in a batch again.

        Returns:
            Seconds to wait before the next attempt; None if there are no more attempts.
        """
        self.lost = True
        self._retries += 1
        if self._retries > (MAX_RETRIES_AFTER_AUDIO if self._codes or self._request.begun else MAX_RETRIES):
            return None
        if self._retries == 1:
            return 0.0
        spread = 0.5 + self._request.seed % 997 / 997
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (self._retries - 1) * spread)
