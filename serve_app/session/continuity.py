"""What one text chunk leaves to the next one of its utterance: its text with its codes, or nothing.

It knows neither sessions nor models: when chunks are spoken is the session's business, how a context is heard the
model's.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.speech import FinishReason, SpokenContext


class Continuity:
    """The text chunk spoken last, in bounded memory: 32 bytes a frame."""

    def __init__(self, max_frames: int) -> None:
        """Keep chunks of up to ``max_frames`` frames; 0 keeps none."""
        self._max_frames = max_frames
        self._text = ""
        self._codes: list[NDArray[np.int16]] = []
        self._frames = 0

    def begin(self, text: str) -> SpokenContext | None:
        """Turn to the next text chunk; the context that the one before it left."""
        context = SpokenContext(self._text, np.concatenate(self._codes)) if self._codes else None
        self.forget()
        self._text = text
        return context

    def add(self, codes: NDArray[np.int16]) -> None:
        """Keep the next frames of the text chunk, [T, 16]; none of them once they are too many."""
        self._frames += len(codes)
        if self._frames > self._max_frames:
            self._codes.clear()
        else:
            self._codes.append(codes.copy())  # its buffer is that of a whole message, samples included

    def end(self, reason: FinishReason) -> None:
        """Note how the text chunk ended; one that was cut short leaves nothing, as its codes lack some of its text."""
        if reason != "eos":
            self.forget()

    def forget(self) -> None:
        """Leave nothing."""
        self._text = ""
        self._codes.clear()
        self._frames = 0
