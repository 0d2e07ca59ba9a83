"""The interface between the engine and a model.

The engine decides when a step runs; a runner computes it. This module does not import torch, and the tests use a small
runner in numpy.
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
    """A request that a runner has checked and tokenized, ready for its prefill.

    Attributes:
        request: the request, unchanged.
        prefill_positions: talker positions that the prefill computes, including delivered frames, but without the
            cached prefix of the voice.
        max_frames: frames after which the stream ends with ``length``, including delivered frames.
        model_input: private to the runner; the engine passes it back unchanged.
    """

    request: SpeechRequest
    prefill_positions: int
    max_frames: int
    model_input: object


@dataclass(frozen=True, slots=True)
class Frames:
    """Result of one pass of the code predictor; one row for each requested slot.

    Attributes:
        codes: [B, 16] int16; undefined where ``ended``.
        ended: [B] bool; True where the talker sampled its end-of-speech token instead of a frame.
    """

    codes: NDArray[np.int16]
    ended: NDArray[np.bool_]


class Runner(Protocol):
    """A model with a fixed number of slots. All methods except ``prepare`` are called only on the engine's thread."""

    @property
    def slots(self) -> int:
        """Number of streams that it can hold at once."""
        ...

    def prepare(self, request: SpeechRequest, voice: VoicePrompt) -> Prepared:
        """Check and tokenize a request. Safe on any thread; does not touch a slot.

        Raises:
            TextTooLongError: text, voice and the minimum frame budget do not fit into a slot.
        """
        ...

    def prefill(self, slots: Sequence[int], prepared: Sequence[Prepared]) -> None:
        """Fill free slots together, so that each slot is ready to sample its next frame and to decode it.

        If it raises, all of these slots stay free.

        Raises:
            SpeechError: one of the requests is refused.
        """
        ...

    def sample_frame(self, slots: Sequence[int]) -> Frames:
        """Sample the next frame of each slot: codebook 0 from the talker's logits, the others with the code predictor.

        A stream that did not end has one more frame to decode, and needs ``talker_step`` next.
        """
        ...

    def talker_step(self, slots: Sequence[int]) -> None:
        """Run the talker on each slot's newest frame, which gives the logits of the frame after it."""
        ...

    def decode(self, slots: Sequence[int], frames: int) -> NDArray[np.float32]:
        """Decode the oldest ``frames`` undecoded frames of each slot.

        Returns:
            [B, frames * 1920] float32 in [-1, 1].
        """
        ...

    def spoken(self, slot: int, prepared: Prepared, frames: range) -> NDArray[np.int32] | None:
        """Return the character of the request's text that each given frame of a slot speaks.

        Returns:
            [len(frames)] int32, -1 before the text; None if the model cannot tell.
        """
        ...

    def release(self, slot: int) -> None:
        """Discard a slot's stream, so that the slot can be filled again."""
        ...
