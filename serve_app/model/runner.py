"""The model behind the engine: talker, code predictor and codec over one pool of slots.

It implements :class:`serve_app.engine.interface.Runner`. The engine decides when each step runs.
"""

import logging
import math
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from serve_app.config import EngineConfig, PromptLayout
from serve_app.engine.interface import Frames, Prepared
from serve_app.errors import CapacityError, InvalidMessageError, TextTooLongError
from serve_app.model.backends.protocol import Backend
from serve_app.model.checkpoint import Checkpoint
from serve_app.model.code_predictor import CodePredictor
from serve_app.model.codec import Codec, CodecState
from serve_app.model.graphs import GraphedSteps
from serve_app.model.kv_cache import as_rows
from serve_app.model.prompt import PromptBuilder, PromptTokens
from serve_app.model.sampling import SamplingParams
from serve_app.model.steps import SamplingShape, SlotTensors, Steps
from serve_app.model.talker import Talker
from serve_app.speech import Sampling, SpeechRequest
from serve_app.voices.voice import BoundedCache, VoicePrompt

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What ``prepare`` computes from a request.

    Attributes:
        tokens: the request's texts as ids.
        voice: the requested voice's prompt.
        constant_positions: prompt positions that are the same for every text of the voice and language.
        text_position: position of the first token of the text to speak.
        first_frame_position: position whose output is frame 0: the last one of the prompt.
        talker_sampling: sampling parameters of codebook 0.
        predictor_sampling: sampling parameters of codebooks 1 to 15.
    """

    tokens: PromptTokens
    voice: VoicePrompt
    constant_positions: int
    text_position: int
    first_frame_position: int
    talker_sampling: SamplingParams
    predictor_sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class VoiceState:
    """A voice on the device: computed once, shared by all of its streams.

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
        reference = 0 if self.reference is None else self.reference.nbytes
        return self.speaker.nbytes + reference + (0 if self.codec is None else self.codec.nbytes)


class TorchRunner:
    """A runner that computes with the weights of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, settings: EngineConfig, backend: Backend) -> None:
        """Allocate all slots and copy the weights out of a checkpoint.

        Args:
            checkpoint: loaded; its language model may be dropped afterwards, but its encoder is still needed.
            settings: the engine's configuration.
            backend: computes talker, code predictor and codec.
        """
        talker = checkpoint.model.talker
        device, slots = checkpoint.device, settings.slots
        rows = slots + 1  # no stream uses the last row: it is for decoding voices and capturing graphs
        self._settings = settings
        self.layouts = checkpoint.layouts
        self._alignment = checkpoint.alignment_head
        self._default_sampling = (checkpoint.talker_sampling, checkpoint.predictor_sampling)
        self._device = device
        self.prompts = PromptBuilder(checkpoint, backend)
        self.talker = Talker(
            talker, backend, slots=rows, positions=settings.max_positions, watched=checkpoint.alignment_head
        )
        self.predictor = CodePredictor(talker.code_predictor, self.prompts.codes, backend, slots=slots)
        decoder = checkpoint.model.speech_tokenizer.model.decoder
        self.codec = Codec(decoder, backend, rows=rows, dtype=checkpoint.codec_dtype, device=device)
        self.voice_states = BoundedCache[str, VoiceState](settings.voice_cache_bytes, lambda state: state.nbytes)
        self._prefixes = BoundedCache[tuple[str, str, PromptLayout], tuple[Tensor, Tensor]](
            settings.voice_cache_bytes, lambda prefix: prefix[0].nbytes + prefix[1].nbytes
        )
        """The talker's keys and values for the constant part of a prompt, by voice, language and layout."""
        self._eos: int = talker.config.codec_eos_token_id
        self.slot_tensors = SlotTensors(rows, self.prompts, self.talker, settings.max_positions)
        self.steps = Steps(self.talker, self.predictor, self.codec, self.prompts, self.slot_tensors, backend, self._eos)
        self._graphs: GraphedSteps | None = None
        self._copying: torch.cuda.Stream | None = None
        self.graph_fallbacks = 0
        """How often captured graphs differed from the plain steps and were discarded."""
        self._filled = [0] * slots  # positions in use, on the host

    @property
    def slots(self) -> int:
        """Number of streams that it can hold at once."""
        return len(self._filled)

    def prepare(self, request: SpeechRequest, voice: VoicePrompt) -> Prepared:
        """Check and tokenize a request. Safe on any thread; does not touch a slot.

        Raises:
            InvalidMessageError: the checkpoint was not trained with the request's text layout.
            TextTooLongError: text, voice and the minimum frame budget do not fit into a slot.
            UnsupportedLanguageError: the checkpoint was not trained on the language.
        """
        settings = self._settings
        if request.prompt not in self.layouts:
            known = ", ".join(self.layouts)
            raise InvalidMessageError(f"the loaded model does not know prompt {request.prompt!r}; allowed: {known}")
        if len(request.text) > settings.max_chunk_characters:
            raise TextTooLongError(
                f"the limit is {settings.max_chunk_characters} characters per stream; the text has {len(request.text)}"
            )
        tokens = self.prompts.tokenize(request.text, voice.transcript)
        positions = self.prompts.positions(tokens, voice, request.language, request.prompt)
        budget = max(
            settings.budget_min_frames, math.ceil(_weight(request.text) * settings.budget_frames_per_character)
        )
        left = settings.max_positions - positions
        if left < settings.budget_min_frames:
            raise TextTooLongError(
                f"the voice's reference takes {positions} of {settings.max_positions} positions, which leaves fewer"
                f" than the {settings.budget_min_frames} frames that a text may need"
            )
        constant = self.prompts.constant_positions(tokens, voice, request.language, request.prompt)
        delivered = 0 if request.delivered_codes is None else len(request.delivered_codes)
        talker_sampling, predictor_sampling = _resolve(request.sampling, *self._default_sampling)
        return Prepared(
            request=request,
            prefill_positions=positions - constant + delivered,
            max_frames=min(budget, left),
            model_input=ModelInput(
                tokens=tokens,
                voice=voice,
                constant_positions=constant,
                text_position=self.prompts.text_position(tokens, request.language),
                first_frame_position=positions - 1,
                talker_sampling=talker_sampling,
                predictor_sampling=predictor_sampling,
            ),
        )

    @torch.inference_mode()
    def prefill(self, slots: Sequence[int], prepared: Sequence[Prepared]) -> None:
        """Fill free slots in one talker call. Delivered frames are part of the prompts.

        Raises:
            CapacityError: the device has no memory left for these prompts; the slots stay free.
        """
        try:
            self._prefill(list(slots), prepared)
        except RuntimeError as error:  # torch.OutOfMemoryError, or the CPU allocator's message
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise CapacityError("the device has no memory left for this text and voice", retry_after_ms=2000) from error

    def _prefill(self, slots: list[int], prepared: Sequence[Prepared]) -> None:
        filled = [self._fill(slot, each) for slot, each in zip(slots, prepared, strict=True)]
        starts = [start for _, start in filled]
        prompts = pad_sequence([prompt for prompt, _ in filled], batch_first=True)
        lengths = [len(prompt) for prompt, _ in filled]
        if max(starts) + prompts.shape[1] > self._settings.max_positions:  # padding would not fit
            for slot, (prompt, start) in zip(slots, filled, strict=True):
                self._run_prompts([slot], prompt[None], [start], [len(prompt)])
        else:
            self._run_prompts(slots, prompts, starts, lengths)

    def _run_prompts(self, slots: list[int], prompts: Tensor, starts: list[int], lengths: list[int]) -> None:
        """Run the talker on prompts [B, T, H] of these lengths, in slots that hold ``starts`` positions."""
        if self._graphs is None:
            places, sizes = torch.tensor([starts, lengths], device=self._device)
            self.steps.prefill(prompts, as_rows(slots, self._device), places, sizes, max(starts) + prompts.shape[1])
        else:
            self._graphs.prefill(slots, prompts, starts, lengths)
        for slot, start, length in zip(slots, starts, lengths, strict=True):
            self._filled[slot] = start + length

    def _fill(self, slot: int, prepared: Prepared) -> tuple[Tensor, int]:
        """Set a slot's state, but do not run the talker over the variable part of the prompt; the caller does.

        Returns:
            The variable part of the prompt, [L, H], and the position at which it begins.
        """
        source, request = prepared.model_input, prepared.request
        assert isinstance(source, ModelInput), "prepared by another runner"
        state = self.slot_tensors
        voice = self._voice_state(source.voice)
        delivered = self._on_device(request.delivered_codes)
        x, text = self.prompts.build(source.tokens, request.language, voice.speaker, voice.reference, request.prompt)
        text = text[: state.text.shape[1]]  # tokens beyond the slot's frames would never be read
        state.text[slot] = self.prompts.text_pad
        state.text[slot, : len(text)] = text
        state.seen[slot] = False
        if len(delivered):
            x = torch.cat([x, self.prompts.codes.of_frames(delivered) + state.text[slot, : len(delivered)]])
            state.seen[slot, delivered[:, 0]] = True
        self._fill_codec(slot, voice, delivered)
        state.seeds[slot] = request.seed
        state.talker_sampling.set(slot, source.talker_sampling)
        state.predictor_sampling.set(slot, source.predictor_sampling)
        state.frames[slot] = state.decoded[slot] = len(delivered)
        self._fill_constant(slot, prepared, x)
        return x[source.constant_positions :], source.constant_positions

    def _fill_codec(self, slot: int, voice: VoiceState, delivered: Tensor) -> None:
        """Advance a slot's codec past the voice's reference and the ``delivered`` frames, [F, 16]."""
        if voice.codec is None:
            self.codec.reset(slot)
        else:
            self.codec.restore(slot, voice.codec)
        if len(delivered):
            self.codec.prime(delivered, slot)

    def _fill_constant(self, slot: int, prepared: Prepared, x: Tensor) -> None:
        """Fill a slot with the constant part of a prompt [L, H]: from the cache, or computed now.

        It is computed in a separate call, so that a prefill gives the same result whether this part was cached or not.
        """
        source, request = prepared.model_input, prepared.request
        assert isinstance(source, ModelInput), "prepared by another runner"
        constant = source.constant_positions
        key = (source.voice.digest, request.language, request.prompt)
        prefix = self._prefixes.get(key, time.monotonic())
        if prefix is None:
            self._run_prompts([slot], x[None, :constant], [0], [constant])
            prefix = self.talker.cache.copy_out(slot, constant)
            self._prefixes.put(key, prefix, time.monotonic())
        else:
            self.talker.cache.copy_in(slot, prefix)

    def _on_device(self, codes: NDArray[np.int16] | None) -> Tensor:
        """Codes [F, 16] as int64 on the device; empty for None."""
        if codes is None:
            return torch.empty(0, self.prompts.codes.groups, dtype=torch.int64, device=self._device)
        return torch.from_numpy(codes.astype(np.int64)).to(self._device)

    @torch.inference_mode()
    def sample_frame(self, slots: Sequence[int]) -> Frames:
        """Sample the next frame of each slot; this is the only step in which the host waits for codes."""
        numbers = list(slots)
        talker, predictor = self.slot_tensors.talker_sampling, self.slot_tensors.predictor_sampling
        sampling = SamplingShape(
            talker_keep=talker.most_kept(numbers, self.talker.vocabulary),
            predictor_keep=predictor.most_kept(numbers, self.predictor.vocabulary),
        )
        if self._graphs is None:
            codes = self.steps.sample_frame(as_rows(numbers, self._device), sampling)
        else:
            codes = self._graphs.sample_frame(numbers, sampling)
        sampled = codes.to(torch.int16).cpu().numpy()
        return Frames(sampled, sampled[:, 0] == self._eos)

    @torch.inference_mode()
    def talker_step(self, slots: Sequence[int]) -> None:
        """Run the talker on each slot's newest frame."""
        numbers = list(slots)
        length = 1 + max(self._filled[slot] for slot in numbers)
        if self._graphs is None:
            self.steps.talker_step(as_rows(numbers, self._device), length)
        else:
            self._graphs.talker_step(numbers, length)
        for slot in numbers:
            self._filled[slot] += 1

    @torch.inference_mode()
    def decode(self, slots: Sequence[int], frames: int) -> NDArray[np.float32]:
        """Decode the oldest ``frames`` undecoded frames of each slot into [B, frames * 1920] float32."""
        numbers = list(slots)
        if self._graphs is None:
            pcm = self.steps.decode(as_rows(numbers, self._device), frames)
        else:
            pcm = self._graphs.decode(numbers, frames)
        return self._to_host(pcm)

    @torch.inference_mode()
    def spoken(self, slot: int, prepared: Prepared, frames: range) -> NDArray[np.int32] | None:
        """Return the character of the text that each given frame speaks, to which the alignment head attends most.

        The head's query for a frame is that of the position which predicts the frame, or of an earlier one if the head
        looks ahead. The head may also attend to the reference's transcript, which counts as a position before the text.

        Returns:
            [len(frames)] int32, -1 before the text; None if the checkpoint has no alignment head.
        """
        source, cache = prepared.model_input, self.talker.cache
        assert isinstance(source, ModelInput), "prepared by another runner"
        if self._alignment is None:
            return None
        characters = torch.tensor([-1, *source.tokens.characters], dtype=torch.int32)
        numbers = torch.arange(frames.start, frames.stop, device=self._device) - self._alignment.frames_ahead
        positions = source.first_frame_position + numbers.clamp(min=0)
        begin = source.text_position - 1 - len(source.tokens.reference)
        looked = cache.looked_at(slot, positions, begin, source.text_position + len(source.tokens.text))
        after = (looked.cpu() - (source.text_position - 1)).clamp(min=0)
        return characters[after].numpy()

    def _to_host(self, pcm: Tensor) -> NDArray[np.float32]:
        """Copy samples to the host; from a GPU into pinned memory, on a separate CUDA stream."""
        if not pcm.is_cuda:
            return pcm.numpy()
        if self._copying is None:
            self._copying = torch.cuda.Stream()
        self._copying.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._copying):
            host = torch.empty(pcm.shape, dtype=pcm.dtype, pin_memory=True)
            host.copy_(pcm, non_blocking=True)
        self._copying.synchronize()
        return host.numpy()

    def use_graphs(self, graphs: GraphedSteps | None) -> None:
        """Run steps through captured graphs from now on; None to run the same steps without graphs."""
        self._graphs = graphs

    def release(self, slot: int) -> None:
        """Discard a slot's stream; the next prefill overwrites all of its state."""
        self._filled[slot] = 0

    @torch.inference_mode()
    def preload(self, voice: VoicePrompt) -> None:
        """Compute a voice's state before its first stream. Call before the engine starts, or on its thread.

        On two CPU cores, with a checkpoint of the released size, this takes 0.1 s for a clip of 6 s and 0.23 s for one
        of 30 s. Without it, the first prefill of the voice takes that much longer.
        """
        self._voice_state(voice)

    @property
    def known_voices(self) -> frozenset[str]:
        """Digests of the voices whose state is cached. Safe on any thread."""
        return frozenset(self.voice_states)

    def _voice_state(self, voice: VoicePrompt) -> VoiceState:
        """The voice's state on the device, from the bounded cache or computed now."""
        key = voice.digest
        now_s = time.monotonic()
        state = self.voice_states.get(key, now_s)
        if state is None:
            speaker = torch.from_numpy(voice.speaker_embedding).to(self._device, self.prompts.codes.table.dtype)
            reference = codec = None
            if voice.codes is not None:
                codes, spare = self._on_device(voice.codes), self.slots
                reference = self.prompts.embed_reference(codes)
                self.codec.reset(spare)
                self.codec.prime(codes, spare)
                codec = self.codec.snapshot(spare)
            state = VoiceState(speaker, reference, codec)
            self.voice_states.put(key, state, now_s)
            log.info("voice %s: computed its state in %.0f ms", voice.voice, 1000 * (time.monotonic() - now_s))
        return state


def _resolve(
    sampling: Sampling, talker: SamplingParams, predictor: SamplingParams
) -> tuple[SamplingParams, SamplingParams]:
    """Override the checkpoint's parameters with a request's; temperature 0 makes the code predictor greedy too."""
    temperature = talker.temperature if sampling.temperature is None else sampling.temperature
    top_p = talker.top_p if sampling.top_p is None else sampling.top_p
    penalty = talker.repetition_penalty if sampling.repetition_penalty is None else sampling.repetition_penalty
    top_k = talker.top_k if sampling.top_k is None else sampling.top_k
    greedy = temperature == 0
    return (
        SamplingParams(temperature, top_k, top_p, penalty),
        SamplingParams(0.0 if greedy else predictor.temperature, predictor.top_k, predictor.top_p),
    )


def _weight(text: str) -> int:
    """Length of a text for its frame budget: a wide character, such as an ideograph, counts as three letters."""
    return sum(3 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
