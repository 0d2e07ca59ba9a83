"""The 12 Hz decoder: turns codes into samples, a few frames at a time. It does not know streams or voices.

Every layer is causal. A stream can therefore be decoded in pieces of any size, if each layer keeps the input columns
that its next output needs. The histories of all layers are stored side by side in one row of a pool, so that a row's
state is a single tensor to copy, to clear or to use in a CUDA graph.

Source: qwen-tts 0.1.1, modeling_qwen3_tts_tokenizer_v2.py, Qwen3TTSTokenizerV2Decoder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serve_app.model.backends.protocol import Backend, CodecStep
from serve_app.model.codec_weights import CodecWeights

_PRIMED_FRAMES = 64
"""Frames that the transformer processes at once in :meth:`prime`: many, because its matmuls are small."""


@dataclass(frozen=True, slots=True)
class CodecState:
    """A copy of one row's state: everything that the codec keeps of a stream so far.

    Attributes:
        history: [width] codec dtype, the histories of all layers.
        position: [] int64, frames decoded so far.
    """

    history: Tensor
    position: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return self.history.nbytes + self.position.nbytes


class CodebookSum:
    """Turns codes into the embeddings that the first convolution reads.

    The projections after the codebooks are folded into that convolution. The two groups of codebooks, semantic and
    acoustic, are therefore summed separately and concatenated.
    """

    def __init__(self, weights: CodecWeights, dtype: torch.dtype, device: torch.device) -> None:
        self._semantic = weights.semantic
        sizes = torch.tensor([0] + [len(table) for table in weights.tables[:-1]])
        self._table = torch.cat(weights.tables).to(device, dtype)  # [Q * codebook_size, dim]
        self._offsets = sizes.cumsum(0).to(device)  # [Q]

    def __call__(self, codes: Tensor) -> Tensor:
        """[B, T, Q] int64 -> [B, T, 2 * dim]."""
        vectors = self._table[codes + self._offsets]  # [B, T, Q, dim]
        semantic, acoustic = vectors[:, :, : self._semantic], vectors[:, :, self._semantic :]
        return torch.cat([semantic.sum(2), acoustic.sum(2)], dim=2)


class Codec:
    """12 Hz decoder with explicit per-row state, for several streams per call.

    Weights are copied from ``decoder`` at construction and folded where layers are linear; the module is not kept. Not
    safe for concurrent calls.

    Args:
        decoder: upstream's Qwen3TTSTokenizerV2Decoder, of any dtype; not changed.
        backend: makes the layers.
        rows: streams that the pool holds; allocated here, never grown.
        dtype: dtype of weights, activations and state; float32 is exact, bfloat16 is as accurate as upstream's own.
        device: device of weights and state.

    Raises:
        ValueError: the decoder's configuration has a feature that this implementation lacks.
    """

    @torch.inference_mode()
    def __init__(
        self, decoder: nn.Module, backend: Backend, *, rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        weights = CodecWeights.of(decoder)
        self.num_quantizers, self.samples_per_frame = len(weights.tables), weights.samples_per_frame
        self._embed = CodebookSum(weights, dtype, device)
        self._layers = backend.codec(weights, dtype, device)
        self._reach_frames = [stage.reach_frames for stage in weights.stages]
        self._pool = torch.zeros(rows, weights.width, dtype=dtype, device=device)
        self._position = torch.zeros(rows, dtype=torch.int64, device=device)

    @property
    def state_bytes_per_row(self) -> int:
        """Bytes that one row of the pool takes, which :meth:`snapshot` copies."""
        return self._pool[0].nbytes + self._position[0].nbytes

    @torch.inference_mode()
    def decode(self, codes: Tensor, rows: Tensor | slice, n_frames: Tensor | None = None) -> Tensor:
        """Decode new frames of some rows to PCM, carrying the state of those rows and of no others.

        Splitting a code sequence anywhere gives the same samples as one call, and the other rows of the batch do not
        change them. Shapes and control flow depend only on B, T and ``n_frames is None``.

        Args:
            codes: [B, T, Q] int64; Q = ``num_quantizers``. Frames past ``n_frames`` may hold anything.
            rows: B distinct rows of the pool: [B] int64, or a slice, which avoids copying their state.
            n_frames: [B] int64, 0 to T: number of real frames per row; None if all are real.

        Returns:
            [B, T * samples_per_frame] float32 in [-1, 1], mono, 24 kHz; zero past ``n_frames``.

        Raises:
            ValueError: the shape of ``codes`` does not fit the checkpoint.
        Source: Qwen3TTSTokenizerV2Decoder.forward, which takes [B, Q, T].
        """
        if codes.dim() != 3 or codes.shape[2] != self.num_quantizers:
            msg = f"codes have the shape {list(codes.shape)}; required: [B, T, {self.num_quantizers}]"
            raise ValueError(msg)
        batch, frames = codes.shape[:2]
        state, position = self._pool[rows], self._position[rows]  # views where rows is a slice
        samples = torch.zeros(batch, frames, self.samples_per_frame, device=codes.device)
        step_frames = max(1, self._layers.step_frames // max(1, batch))
        for start in range(0, frames, step_frames):
            part = codes[:, start : start + step_frames]
            real = None if n_frames is None else (n_frames - start).clamp(0, part.shape[1])
            step = CodecStep(state, part.shape[1], real)
            samples[:, start : start + step_frames] = self._step(step, position, part).unflatten(1, (part.shape[1], -1))
            position += part.shape[1] if real is None else real
        if isinstance(rows, Tensor):
            self._pool[rows], self._position[rows] = state, position
        return samples.flatten(1)

    @torch.inference_mode()
    def prime(self, codes: Tensor, row: int) -> None:
        """Advance a row's state past some frames as :meth:`decode` does, without computing their samples.

        Only the transformer depends on frames far back. The convolutions after it are nearly all of the cost, and each
        of them runs only over the last frames that it and later convolutions keep in their histories.

        Args:
            codes: [T, Q] int64; Q = ``num_quantizers``.
            row: row of the pool; its state afterwards equals that after :meth:`decode`, up to rounding.
        """
        frames = len(codes)
        if frames == 0:
            return
        state, position = self._pool[row : row + 1], self._position[row : row + 1]
        parts: list[Tensor] = []
        for part in codes[None].split(_PRIMED_FRAMES, dim=1):
            parts.append(self._attend(CodecStep(state, part.shape[1], None), position, part))
            position += part.shape[1]
        x = torch.cat(parts, dim=1)
        for stage, reach_frames in zip(self._layers.stages, self._reach_frames, strict=True):
            rate, frames = x.shape[1] // frames, min(frames, reach_frames)
            x = stage(CodecStep(state, frames, None), x[:, -frames * rate :])
            # A stage's stale history affects its first frames only; later stages have dropped these by the last frame.

    def _attend(self, step: CodecStep, position: Tensor, codes: Tensor) -> Tensor:
        """The transformer's output, [B, T, Q] -> [B, T, C]; mutates ``step.state``."""
        return self._layers.attend(step, position, self._embed(codes))

    def _step(self, step: CodecStep, position: Tensor, codes: Tensor) -> Tensor:
        """[B, T, Q] -> [B, T * samples_per_frame]; mutates ``step.state``."""
        real = None
        if step.n_frames is not None:
            frame = torch.arange(step.frames, device=codes.device)
            real = (frame < step.n_frames[:, None])[:, :, None]  # [B, T, 1]
            codes = torch.where(real, codes, 0)
        x = self._attend(step, position, codes)
        samples = self._layers.samples(step, x)
        if real is None:
            return samples
        return torch.where(real, samples.unflatten(1, (step.frames, -1)), 0.0).flatten(1)

    @torch.inference_mode()
    def reset(self, row: int) -> None:
        """Reset a row to the state of a stream that has not started."""
        self._pool[row] = 0
        self._position[row] = 0

    @torch.inference_mode()
    def snapshot(self, row: int) -> CodecState:
        """Copy a row's state; later calls do not change the copy."""
        return CodecState(self._pool[row].clone(), self._position[row].clone())

    @torch.inference_mode()
    def restore(self, row: int, state: CodecState) -> None:
        """Write a copied state into a row, which then continues like the row from which it was copied."""
        self._pool[row] = state.history
        self._position[row] = state.position
