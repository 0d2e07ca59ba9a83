"""The model behind the engine: talker, code predictor and codec over one pool of slots.

It implements :class:`serve_app.engine.runner.Runner`; when anything runs is not its business.
"""

import math
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve_app.config import EngineConfig
from serve_app.engine.runner import Frames, Prepared
from serve_app.errors import CapacityError, SynthesisError, TextTooLongError
from serve_app.model.checkpoint import Checkpoint
from serve_app.model.code_predictor import CodePredictor
from serve_app.model.codec import Codec, CodecState
from serve_app.model.kv_cache import as_rows
from serve_app.model.linear import WeightForm
from serve_app.model.prompt import PromptBuilder, PromptTokens
from serve_app.model.sampling import Draw, DrawRows, draw, penalise, uniforms
from serve_app.model.talker import Talker
from serve_app.speech import CODE_GROUPS, Sampling, SpeechRequest
from serve_app.voices import BoundedCache, VoicePrompt

_LEAST_FRAMES = 2
"""Frames before which the talker may not end; upstream's ``min_new_tokens``."""

_RESERVED_CODES = 1024
"""Codes at the end of the talker's vocabulary that are tags, not sounds; upstream suppresses them but for EOS."""

_CODE_RING_FRAMES = 64
"""Frames of a slot kept on the device until they are decoded; an audio chunk has at most 25."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What ``prepare`` found out about a request."""

    tokens: PromptTokens
    voice: VoicePrompt
    talker_draw: Draw
    predictor_draw: Draw


@dataclass(frozen=True, slots=True)
class VoiceState:
    """A voice on the device: computed once, used by every stream that speaks with it.

    Attributes:
        speaker: [H], the speaker embedding.
        reference: [1 + T, H], the reference's codes embedded; None in x-vector mode.
        codec: the codec's state after the reference's codes; None in x-vector mode.
    """

    speaker: Tensor
    reference: Tensor | None
    codec: CodecState | None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        reference = 0 if self.reference is None else self.reference.numel() * self.reference.element_size()
        return 4 * self.speaker.numel() + reference + (0 if self.codec is None else self.codec.nbytes)


class TorchRunner:
    """Slots of a real model."""

    def __init__(self, checkpoint: Checkpoint, settings: EngineConfig, form: WeightForm) -> None:
        """Allocate every slot and take the weights out of a checkpoint.

        Args:
            checkpoint: loaded; its language model may be dropped afterwards, its encoder is still needed.
            settings: the engine's configuration.
            form: how the weights of talker and code predictor are kept.
        """
        talker = checkpoint.model.talker
        device, slots = checkpoint.device, settings.slots
        self._settings = settings
        self._checkpoint_draws = (checkpoint.talker_draw, checkpoint.predictor_draw)
        self._device = device
        self.prompts = PromptBuilder(checkpoint)
        self.talker = Talker(talker, slots=slots, positions=settings.max_positions, form=form)
        self.predictor = CodePredictor(talker.code_predictor, slots=slots, form=form)
        self.codec = Codec(
            checkpoint.model.speech_tokenizer.model.decoder,
            rows=slots + 1,  # the last is no stream's: voices are decoded there
            dtype=checkpoint.codec_dtype,
            device=device,
        )
        self._voices = BoundedCache[str, VoiceState](settings.voice_cache_bytes, lambda state: state.nbytes)
        hidden = self.prompts.code_table.shape[1]
        eos: int = talker.config.codec_eos_token_id
        self._eos = eos
        suppressed = torch.arange(self.talker.vocabulary, device=device) >= self.talker.vocabulary - _RESERVED_CODES
        suppressed[eos] = False
        self._suppressed = suppressed  # [V] bool
        self._hidden = torch.zeros(slots, hidden, dtype=checkpoint.dtype, device=device)
        self._logits = torch.zeros(slots, self.talker.vocabulary, device=device)
        self._seen = torch.zeros(slots, self.talker.vocabulary, dtype=torch.bool, device=device)
        self._text = torch.zeros(slots, settings.max_positions, hidden, dtype=checkpoint.dtype, device=device)
        self._codes = torch.zeros(slots, _CODE_RING_FRAMES, CODE_GROUPS, dtype=torch.int64, device=device)
        self._seeds = torch.zeros(slots, dtype=torch.int64, device=device)
        self._frames = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=device)
        self._talker_draws, self._predictor_draws = DrawRows(slots, device), DrawRows(slots, device)
        self._filled = [0] * slots  # positions in use, the host's copy of _positions
        self._drawn = [0] * slots  # frames drawn, the host's copy of _frames
        self._decoded = [0] * slots

    @property
    def slots(self) -> int:
        """How many streams it holds at once."""
        return len(self._filled)

    def prepare(self, request: SpeechRequest, voice: VoicePrompt) -> Prepared:
        """Check and tokenise a request, on any thread, without touching a slot.

        Raises:
            TextTooLongError: text, voice and the least budget of frames do not fit into a slot.
        """
        settings = self._settings
        if len(request.text) > settings.max_chunk_characters:
            raise TextTooLongError(
                f"one stream takes {settings.max_chunk_characters} characters, and the text has {len(request.text)}"
            )
        tokens = self.prompts.tokenize(request.text, voice.transcript)
        positions = self.prompts.positions(voice, request.language)
        budget = max(settings.budget_min_frames, math.ceil(_weight(request.text) * settings.budget_frames_per_character))
        room = settings.max_positions - positions
        if room < settings.budget_min_frames:
            raise TextTooLongError(
                f"the voice's reference takes {positions} of {settings.max_positions} positions, which leaves less than"
                f" the {settings.budget_min_frames} frames that a text may need"
            )
        delivered = 0 if request.delivered_codes is None else len(request.delivered_codes)
        talker_draw, predictor_draw = _resolve(request.sampling, *self._checkpoint_draws)
        return Prepared(
            request=request,
            prompt_positions=positions + delivered,
            max_frames=min(budget, room),
            model_input=ModelInput(tokens, voice, talker_draw, predictor_draw),
        )

    @torch.inference_mode()
    def prefill(self, slot: int, prepared: Prepared) -> None:
        """Fill a free slot in one talker call, delivered frames forced.

        Raises:
            CapacityError: the device has no memory left for this prompt; the slot stays free.
        """
        source = prepared.model_input
        assert isinstance(source, ModelInput), "prepared by another runner"
        try:
            self._prefill(slot, prepared, source)
        except torch.OutOfMemoryError as error:
            raise CapacityError("the device has no memory left for this text and voice", retry_after_ms=2000) from error

    def _prefill(self, slot: int, prepared: Prepared, source: ModelInput) -> None:
        request = prepared.request
        voice = self._voice_state(source.voice)
        x, text = self.prompts.build(source.tokens, request.language, voice.speaker, voice.reference)
        self._text[slot] = self.prompts.text_pad
        self._text[slot, : len(text)] = text
        self._seen[slot] = False
        delivered = 0
        if voice.codec is None:
            self.codec.reset(slot)
        else:
            self.codec.restore(slot, voice.codec)
        if request.delivered_codes is not None and len(request.delivered_codes):
            codes = torch.from_numpy(request.delivered_codes.astype(np.int64)).to(self._device)
            delivered = len(codes)
            x = torch.cat([x, self.prompts.embed_codes(codes) + self._text[slot, :delivered]])
            self._seen[slot, codes[:, 0]] = True
            self.codec.decode(codes[None], slice(slot, slot + 1))
        self._hidden[slot : slot + 1], self._logits[slot : slot + 1] = self.talker.prefill(x[None], slot)
        self._seeds[slot] = request.seed
        self._talker_draws.set(slot, source.talker_draw)
        self._predictor_draws.set(slot, source.predictor_draw)
        self._positions[slot] = self._filled[slot] = len(x)
        self._frames[slot] = self._drawn[slot] = self._decoded[slot] = delivered

    @torch.inference_mode()
    def predict(self, slots: Sequence[int]) -> Frames:
        """Draw the next frame of each slot; the one place where the host waits for the device."""
        numbers = list(slots)
        rows = as_rows(numbers, self._device)
        frames = self._frames[rows]
        uniform = uniforms(self._seeds[rows], frames, CODE_GROUPS)  # [B, 16]
        logits = penalise(self._logits[rows], self._seen[rows], self._talker_draws.repetition_penalty[rows])
        logits = logits.masked_fill(self._suppressed, float("-inf"))
        logits[:, self._eos].masked_fill_(frames < _LEAST_FRAMES, float("-inf"))
        first = _choose(logits, uniform[:, 0], self._talker_draws, rows, numbers)

        def choose(codebook: int, logits: Tensor) -> Tensor:
            return _choose(logits, uniform[:, codebook], self._predictor_draws, rows, numbers)

        codes = self.predictor.draw_frame(self._hidden[rows], first, self.prompts.embed_code, choose)
        slots_index = torch.tensor(numbers, device=self._device)
        self._seen[slots_index, first] = True
        self._codes[slots_index, frames % _CODE_RING_FRAMES] = codes
        self._frames[rows] += 1
        for slot in numbers:
            self._drawn[slot] += 1
        drawn = codes.to(torch.int16).cpu().numpy()
        return Frames(drawn, drawn[:, 0] == self._eos)

    @torch.inference_mode()
    def talk(self, slots: Sequence[int]) -> None:
        """Run the talker over each slot's newest frame."""
        numbers = list(slots)
        rows = as_rows(numbers, self._device)
        slots_index = torch.tensor(numbers, device=self._device)
        newest = self._frames[rows] - 1
        codes = self._codes[slots_index, newest % _CODE_RING_FRAMES]  # [B, 16]
        x = self.prompts.embed_codes(codes) + self._text[slots_index, newest]
        length = 1 + max(self._filled[slot] for slot in numbers)
        self._hidden[rows], self._logits[rows] = self.talker.step(x, rows, self._positions[rows], length)
        self._positions[rows] += 1
        for slot in numbers:
            self._filled[slot] += 1

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], frames: int) -> NDArray[np.float32]:
        """Decode the oldest ``frames`` frames not yet decoded of each slot into [B, frames * 1920] float32."""
        numbers = list(slots)
        begins = torch.tensor([self._decoded[slot] for slot in numbers], device=self._device)
        ring = (begins[:, None] + torch.arange(frames, device=self._device)) % _CODE_RING_FRAMES  # [B, T]
        codes = self._codes[torch.tensor(numbers, device=self._device)[:, None], ring]  # [B, T, 16]
        pcm = self.codec.decode(codes, as_rows(numbers, self._device))
        for slot in numbers:
            self._decoded[slot] += frames
        return pcm.float().cpu().numpy()

    def release(self, slot: int) -> None:
        """Forget a slot's stream; the next prefill overwrites everything of it."""
        self._filled[slot] = 0

    def _voice_state(self, voice: VoicePrompt) -> VoiceState:
        """The voice on the device, from the bounded cache or computed now."""
        key = voice.digest
        now_s = time.monotonic()
        state = self._voices.get(key, now_s)
        if state is None:
            speaker = torch.from_numpy(voice.speaker_embedding).to(self._device, self.prompts.code_table.dtype)
            reference = self.prompts.embed_reference(voice)
            codec = None
            if voice.codes is not None:
                codes = torch.from_numpy(voice.codes.astype(np.int64)).to(self._device)
                spare = self.slots
                self.codec.reset(spare)
                self.codec.decode(codes[None], slice(spare, spare + 1))
                codec = self.codec.snapshot(spare)
            state = VoiceState(speaker, reference, codec)
            self._voices.put(key, state, now_s)
        return state


def _choose(logits: Tensor, uniform: Tensor, draws: DrawRows, rows: slice | Tensor, numbers: list[int]) -> Tensor:
    if draws.all_greedy(numbers):
        return logits.argmax(dim=-1)
    return draw(logits, uniform, draws, rows, draws.most_kept(numbers, logits.shape[-1]))


def _resolve(sampling: Sampling, talker: Draw, predictor: Draw) -> tuple[Draw, Draw]:
    """A request's parameters over the checkpoint's; temperature 0 makes the code predictor greedy too."""
    temperature = talker.temperature if sampling.temperature is None else sampling.temperature
    top_p = talker.top_p if sampling.top_p is None else sampling.top_p
    penalty = talker.repetition_penalty if sampling.repetition_penalty is None else sampling.repetition_penalty
    top_k = talker.top_k if sampling.top_k is None else sampling.top_k
    greedy = temperature == 0
    return (
        Draw(temperature, top_k, top_p, penalty),
        Draw(0.0 if greedy else predictor.temperature, predictor.top_k, predictor.top_p),
    )


def _weight(text: str) -> int:
    """Length of a text for its budget of frames: an ideograph or kana counts as three letters, as it takes as long."""
    return sum(3 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
