"""Keeps the text and the codes of a text chunk as context for the next one of its utterance.

This module does not know when chunks are spoken, or how a model uses the context.
"""

import numpy as np
from numpy.typing import NDArray

from serve_app.speech import FinishReason, SpokenContext


class Continuity:
    """The last spoken text chunk, in bounded memory: 32 bytes per frame."""

    def __init__(self, max_frames: int) -> None:
        """Keep chunks of up to ``max_frames`` frames; 0 keeps none."""
        self._max_frames = max_frames
        self._text = ""
        self._codes: list[NDArray[np.int16]] = []
        self._frames = 0

    def begin(self, text: str) -> SpokenContext | None:
        """Begin the next text chunk; return the context from the one before it."""
        context = SpokenContext(self._text, np.concatenate(self._codes)) if self._codes else None
        self.forget()
        self._text = text
        return context

    def add(self, codes: NDArray[np.int16]) -> None:
        """Keep the next frames of the text chunk, [T, 16]; if they exceed the limit, keep none at all."""
        self._frames += len(codes)
        if self._frames > self._max_frames:
            self._codes.clear()
        else:
            self._codes.append(codes.copy())  # the original shares its buffer with a whole message and its samples

    def end(self, reason: FinishReason) -> None:
        """End the text chunk; one that was cut short leaves no context, because its codes lack some of its text."""
        if reason != "eos":
            self.forget()

    def forget(self) -> None:
        """Drop the context."""
        self._text = ""
        self._codes.clear()
        self._frames = 0
