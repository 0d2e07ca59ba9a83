"""What the caller of a stream holds already, and whether it goes on elsewhere when its replica is gone.

A stream that broke off is asked for again with the codes that were delivered: the next replica forces them in one
prefill and goes on at the next frame, so the listener loses time and no sample. A text that ends its replica each time
must not do so for ever: only so many attempts in a row may come to nothing. No I/O, no clock.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from serve_app.speech import AudioChunk, SpeechRequest

VAIN_ATTEMPTS = 2
"""Attempts again for a stream that never spoke: what ends a replica mostly does so before its first frame."""

VAIN_ATTEMPTS_ONCE_SPOKEN = 6
"""Attempts again, in a row and without a frame, for one that has spoken: more likely it was in bad company."""

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0


class Resumption:
    """One text chunk on its way through as many streams as it takes.

    Attributes:
        lost: at least one stream of it broke off.
    """

    def __init__(self, request: SpeechRequest) -> None:
        """Start with what the request says was delivered before."""
        self._request = request
        self._codes: list[NDArray[np.int16]] = [] if request.delivered_codes is None else [request.delivered_codes]
        self._voice_digest = request.voice_digest
        self._rendering = request.rendering
        self.lost = False
        self._vain = 0

    @property
    def frames(self) -> int:
        """Frames held."""
        return sum(len(codes) for codes in self._codes)

    @property
    def request(self) -> SpeechRequest:
        """What is to be asked of the next stream."""
        if not self._codes:
            return self._request
        return replace(
            self._request,
            delivered_codes=np.concatenate(self._codes),
            voice_digest=self._voice_digest,
            rendering=self._rendering,
        )

    def add(self, chunk: AudioChunk) -> None:
        """Hold one audio chunk's codes, which clip they were spoken with, and by what."""
        self._codes.append(chunk.codes)
        self._rendering = chunk.rendering or self._rendering
        self._voice_digest = chunk.voice_digest or self._voice_digest
        self._vain = 0

    def is_otherwise(self, chunk: AudioChunk) -> bool:
        """Whether a chunk comes from a replica that need not make the samples that follow on those which are held."""
        return "" not in (self._rendering, chunk.rendering) and self._rendering != chunk.rendering

    def broke_off(self) -> float | None:
        """Count one stream that broke off.

        The first attempt again is made at once, later ones after longer and longer waits which differ from stream to
        stream, so that one that ends its replicas does not meet the same company again.

        Returns:
            Seconds to wait before the next attempt, or None: no more are made.
        """
        self.lost = True
        self._vain += 1
        if self._vain > (VAIN_ATTEMPTS_ONCE_SPOKEN if self._codes else VAIN_ATTEMPTS):
            return None
        if self._vain == 1:
            return 0.0
        spread = 0.5 + self._request.seed % 997 / 997
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (self._vain - 1) * spread)
