"""Computes one step on the device, over the tensors of all slots; the engine decides which slots run when.

No step waits for the device, branches on a tensor's value or allocates memory that outlives the call. Every step can
therefore be captured as a CUDA graph; the same functions run on a CPU.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.model.backends.protocol import Backend
from serve_app.model.code_predictor import CodePredictor
from serve_app.model.codec import Codec
from serve_app.model.kv_cache import Rows
from serve_app.model.prompt import PromptBuilder
from serve_app.model.sampling import SamplingTensors, penalise, uniforms
from serve_app.model.talker import Talker

_MIN_FRAMES = 2
"""The talker may not end before this many frames; upstream's ``min_new_tokens``."""

_RESERVED_CODES = 1024
"""Codes at the end of the talker's vocabulary that are tags, not sounds; upstream suppresses all of them but EOS."""

CODE_RING_FRAMES = 64
"""Maximum number of a slot's frames kept on the device until they are decoded; an audio chunk has at most 25."""


@dataclass(frozen=True, slots=True)
class SamplingShape:
    """How many codes sampling must consider; known on the host, and part of a graph's shape.

    Attributes:
        talker_keep: maximum number of codes that any slot's talker may choose from; None if every slot is greedy.
        predictor_keep: the same for the code predictor.
    """

    talker_keep: int | None
    predictor_keep: int | None


class SlotTensors:
    """The state of every slot on the device, besides keys, values and the codec's state."""

    def __init__(self, rows: int, prompts: PromptBuilder, talker: Talker, positions: int) -> None:
        """Allocate ``rows`` slots, zeroed.

        Args:
            rows: number of slots, including a spare one.
            prompts: gives width, dtype and device.
            talker: gives the vocabulary.
            positions: maximum number of positions of a slot.
        """
        table, vocabulary = prompts.codes.table, talker.vocabulary
        device, dtype, width = table.device, table.dtype, table.shape[1]
        self.hidden = torch.zeros(rows, width, dtype=dtype, device=device)
        self.logits = torch.zeros(rows, vocabulary, device=device)
        self.seen = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.text = torch.zeros(rows, positions, width, dtype=dtype, device=device)
        self.codes = torch.zeros(rows, CODE_RING_FRAMES, prompts.codes.groups, dtype=torch.int64, device=device)
        self.seeds = torch.zeros(rows, dtype=torch.int64, device=device)
        self.frames = torch.zeros(rows, dtype=torch.int64, device=device)
        self.decoded = torch.zeros(rows, dtype=torch.int64, device=device)
        self.positions = torch.zeros(rows, dtype=torch.int64, device=device)
        self.talker_sampling = SamplingTensors(rows, device)
        self.predictor_sampling = SamplingTensors(rows, device)

    @property
    def bytes_per_slot(self) -> int:
        """Bytes that one slot holds here."""
        tensors = (self.hidden, self.logits, self.seen, self.text, self.codes)
        return sum(tensor[0].numel() * tensor.element_size() for tensor in tensors)


class Steps:
    """Prompts, and the three steps of a frame: sample its codes, feed them to the talker, decode them."""

    def __init__(
        self,
        talker: Talker,
        predictor: CodePredictor,
        codec: Codec,
        prompts: PromptBuilder,
        slots: SlotTensors,
        backend: Backend,
        eos: int,
    ) -> None:
        """Work on ``slots`` in place; ``eos`` is the talker's code that ends a stream."""
        self._talker = talker
        self._predictor = predictor
        self._codec = codec
        self._prompts = prompts
        self._slots = slots
        self._eos = eos
        device = slots.logits.device
        suppressed = torch.arange(talker.vocabulary, device=device) >= talker.vocabulary - _RESERVED_CODES
        suppressed[eos] = False
        self._suppressed = suppressed  # [V] bool
        self._true = torch.ones((), dtype=torch.bool, device=device)
        self._all_rows = torch.arange(len(slots.hidden), device=device)
        self._sample_codes = backend.sample
        self.device = device
        self.reads_length = talker.reads_length
        self.talker_vocabulary = talker.vocabulary
        self.predictor_vocabulary = predictor.vocabulary

    def clear(self, row: int) -> None:
        """Reset a slot's counters."""
        for counter in (self._slots.frames, self._slots.decoded, self._slots.positions):
            counter[row] = 0

    def empty_prompts(self, batch: int, length: int) -> Tensor:
        """Return zeros [batch, length, H] in place of prompts, to capture a prefill."""
        return self._slots.text.new_zeros(batch, length, self._slots.text.shape[2])

    def prefill(self, x: Tensor, rows: Rows, starts: Tensor, lengths: Tensor, length: int) -> None:
        """Run prompts, which gives the logits of the frame after each; see :meth:`Talker.prefill`.

        Args:
            x: [B, T, H].
            rows: the B slots.
            starts: [B] int64.
            lengths: [B] int64.
            length: at least ``starts + T`` of every slot.
        """
        slots = self._slots
        slots.hidden[rows], slots.logits[rows] = self._talker.prefill(x, rows, starts, lengths, length)
        slots.positions[rows] = starts + lengths

    def sample_frame(self, rows: Rows, sampling: SamplingShape) -> Tensor:
        """Sample the next frame of some slots and write it into their ring buffers.

        Args:
            rows: the B slots; advances their frame counters.
            sampling: how many codes sampling considers.

        Returns:
            [B, Q] int64; codebook 0 is the end-of-speech code where a stream ends.
        """
        slots = self._slots
        frames = slots.frames[rows].clone()
        uniform = uniforms(slots.seeds[rows], frames, slots.codes.shape[2])  # [B, Q]
        logits = penalise(slots.logits[rows], slots.seen[rows], slots.talker_sampling.repetition_penalty[rows])
        logits = logits.masked_fill(self._suppressed, float("-inf"))
        logits[:, self._eos].masked_fill_(frames < _MIN_FRAMES, float("-inf"))
        first = self._sample_codes(logits, uniform[:, 0], slots.talker_sampling, rows, sampling.talker_keep)
        codes = self._predictor.sample_frame(
            slots.hidden[rows], first, uniform, slots.predictor_sampling, rows, sampling.predictor_keep
        )
        indices = self._all_rows[rows]
        slots.seen.index_put_((indices, first), self._true)
        slots.codes.index_put_((indices, frames % CODE_RING_FRAMES), codes)
        slots.frames[rows] = frames + 1
        return codes

    def talker_step(self, rows: Rows, length: int) -> None:
        """Run the talker on the newest frame of some slots, which gives the logits of the frame after it.

        Args:
            rows: the B slots; advances their positions.
            length: positions that attention covers; more than any of these slots has filled.
        """
        slots, indices = self._slots, self._all_rows[rows]
        newest, positions = slots.frames[rows] - 1, slots.positions[rows].clone()
        codes = slots.codes[indices, newest % CODE_RING_FRAMES]  # [B, Q]
        x = self._prompts.codes.of_frames(codes) + slots.text[indices, newest]
        slots.hidden[rows], slots.logits[rows] = self._talker.step(x, rows, positions, length)
        slots.positions[rows] = positions + 1

    def decode(self, rows: Rows, frames: int) -> Tensor:
        """Decode the oldest ``frames`` undecoded frames of some slots.

        Returns:
            [B, frames * 1920] float32 in [-1, 1].
        """
        assert frames <= CODE_RING_FRAMES, "older frames are no longer in the ring"
        slots, indices = self._slots, self._all_rows[rows]
        decoded = slots.decoded[rows].clone()
        places = (decoded[:, None] + torch.arange(frames, device=self.device)) % CODE_RING_FRAMES  # [B, T]
        pcm = self._codec.decode(slots.codes[indices[:, None], places], rows)
        slots.decoded[rows] = decoded + frames
        return pcm
