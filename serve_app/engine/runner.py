"""The seam between the engine and a model: what an engine asks of whatever computes.

The engine decides when; a runner does. Nothing here knows torch, and a test's runner is a few lines of numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serve_app.speech import SpeechRequest
from serve_app.voices.voice import VoicePrompt


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that a runner has checked and tokenised, ready for its prefill.

    Attributes:
        request: as it came.
        prefill_positions: talker positions that the prefill computes: a context's and delivered frames too, but not
            what is kept of the voice.
        max_frames: frames after which the stream ends with ``length``, delivered frames included.
        model_input: the runner's own; the engine hands it back untouched.
    """

    request: SpeechRequest
    prefill_positions: int
    max_frames: int
    model_input: object


@dataclass(frozen=True, slots=True)
class Frames:
    """What one pass of the code predictor gave, a row for each slot asked for.

    Attributes:
        codes: [B, 16] int16; meaningless where ``ended``.
        ended: [B] bool; True where the talker chose its end of speech instead of a frame.
    """

    codes: NDArray[np.int16]
    ended: NDArray[np.bool_]


class Runner(Protocol):
    """A model with a fixed number of slots. Every method but ``prepare`` is called from the engine's thread alone."""

    @property
    def slots(self) -> int:
        """How many streams it holds at once."""
        ...

    def prepare(self, request: SpeechRequest, voice: VoicePrompt) -> Prepared:
        """Check and tokenise a request, on any thread, without touching a slot.

        Raises:
            TextTooLongError: text, voice and the least budget of frames do not fit into a slot.
        """
        ...

    def prefill(self, slot: int, prepared: Prepared) -> None:
        """Fill a free slot: talker state up to the next frame's logits, codec state up to the next frame."""
        ...

    def predict(self, slots: Sequence[int]) -> Frames:
        """Draw the next frame of each slot: codebook 0 from the talker's logits, then the code predictor.

        Where the result did not end, the slot has one more frame to decode, and waits for ``talk``.
        """
        ...

    def talk(self, slots: Sequence[int]) -> None:
        """Run the talker over each slot's newest frame, up to the logits of the frame after it."""
        ...

    def decode(self, slots: Sequence[int], frames: int) -> NDArray[np.float32]:
        """Decode the oldest ``frames`` frames not yet decoded of each slot.

        Returns:
            [B, frames * 1920] float32 in [-1, 1].
        """
        ...

    def release(self, slot: int) -> None:
        """Forget a slot's stream; it can be filled again."""
        ...
