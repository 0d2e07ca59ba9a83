"""The 12 Hz decoder: turns codes into samples, a few frames at a time. It does not know streams or voices.

Every layer is causal. A stream can therefore be decoded in pieces of any size, if each layer keeps the input columns
that its next output needs. The histories of all layers are stored side by side in one row of a pool, so that a row's
state is a single tensor to copy, to clear or to use in a CUDA graph.

Source: qwen-tts 0.1.1, modeling_qwen3_tts_tokenizer_v2.py, Qwen3TTSTokenizerV2Decoder.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.model.backends.torch.torch_codec import (
    Builder,
    CompiledStages,
    Conv,
    ConvWeights,
    FirstConv,
    Layers,
    Stage,
    Step,
    Upsampling,
    UpsamplingBlock,
    WaveHead,
)
from serve_app.model.backends.torch.torch_transformer import Transformer
from serve_app.model.upstream import Upstream

# Frames times rows that pass through the layers at once: enough to amortize reading the wide layers' weights, but few
# enough for the activations to fit in a CPU's last-level cache. A GPU only benefits from large matmuls.
_CPU_STEP_FRAMES = 16
_DEVICE_STEP_FRAMES = 64

_TAIL_BLOCKS = 2


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

    def __init__(self, builder: Builder, quantizer: Upstream) -> None:
        groups = quantizer.rvq_first.vq.layers, quantizer.rvq_rest.vq.layers
        self._semantic = len(groups[0])
        tables = [_codebook(layer) for group in groups for layer in group]
        sizes = torch.tensor([0] + [len(table) for table in tables[:-1]])
        self._table = builder.tensor(torch.cat(tables))  # [Q * codebook_size, dim]
        self._offsets = sizes.cumsum(0).to(builder.device)  # [Q]

    def __call__(self, codes: Tensor) -> Tensor:
        """[B, T, Q] int64 -> [B, T, 2 * dim]."""
        vectors = self._table[codes + self._offsets]  # [B, T, Q, dim]
        semantic, acoustic = vectors[:, :, : self._semantic], vectors[:, :, self._semantic :]
        return torch.cat([semantic.sum(2), acoustic.sum(2)], dim=2)


def _codebook(layer: Upstream) -> Tensor:
    book = layer._codebook  # noqa: SLF001  # upstream has no public access to these vectors
    vectors = book.embedding_sum.detach().float() / book.cluster_usage.detach().float().clamp(min=book.epsilon)[:, None]
    projection = layer.project_out
    if not isinstance(projection, nn.Linear):
        return vectors
    return functional.linear(vectors, projection.weight.float(), projection.bias.float())


class Codec:
    """12 Hz decoder with explicit per-row state, for several streams per call.

    Weights are copied from ``decoder`` at construction and folded where layers are linear; the module is not kept. Not
    safe for concurrent calls.

    Args:
        decoder: upstream's Qwen3TTSTokenizerV2Decoder, of any dtype; not changed.
        rows: streams that the pool holds; allocated here, never grown.
        dtype: dtype of weights, activations and state; float32 is exact, bfloat16 is as accurate as upstream's own.
        device: device of weights and state.

    Raises:
        ValueError: the decoder's configuration has a feature that this implementation lacks.
    """

    @torch.inference_mode()
    def __init__(self, decoder: nn.Module, *, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        source: Upstream = decoder
        config = source.config
        _check_supported(config)
        builder = Builder(dtype, device)
        transformer = source.pre_transformer
        self.num_quantizers: int = config.num_quantizers
        self.samples_per_frame: int = math.prod([*config.upsampling_ratios, *config.upsample_rates])
        self._embed = CodebookSum(builder, source.quantizer)
        projections = (source.quantizer.rvq_first.output_proj, source.quantizer.rvq_rest.output_proj)
        projected = torch.cat([projection.weight[:, :, 0] for projection in projections], dim=1)
        pre_conv = ConvWeights.of(source.pre_conv.conv)
        self._pre_conv = Conv(builder, pre_conv.after(projected).before(transformer.input_proj))
        self._transformer = Transformer(builder, transformer, config)
        ups = [ConvWeights.of(up.conv) for up, _ in source.upsample]
        ups[0] = ups[0].after(
            transformer.output_proj.weight.float() * transformer.norm.weight, transformer.output_proj.bias
        )
        conv, *blocks, snake, head = source.decoder
        makers: list[Callable[[], Stage]] = [
            *(
                partial(Upsampling, builder, weights, block[1])
                for weights, block in zip(ups, source.upsample, strict=True)
            ),
            partial(FirstConv, builder, ConvWeights.of(conv.conv)),
            *(partial(UpsamplingBlock, builder, block) for block in blocks),
            partial(WaveHead, builder, snake, head.conv),
        ]
        stages: list[Stage] = []
        before: list[float] = []
        for make in makers:
            before.append(builder.memory_frames)
            stages.append(make())
        # Frames that a stage and all later ones look back: 10, 7, 5, 4, 1, 1, 1, 1 in the release.
        self._reach_frames = [math.ceil(builder.memory_frames - frames) for frames in before]
        tail = 1 + min(_TAIL_BLOCKS, len(blocks) - 1)
        self._wide, self._tail = stages[:-tail], stages[-tail:]
        self._stages: list[Layers] = [*stages]
        self._compiled: CompiledStages | None = None
        if builder.compiled:
            self._stages = [*(CompiledStages([stage]) for stage in stages[:-1]), CompiledStages([], stages[-1:])]
            self._compiled = CompiledStages(self._wide, self._tail)
        self._device = device
        self._step_frames = _CPU_STEP_FRAMES if device.type == "cpu" else _DEVICE_STEP_FRAMES
        self._pool = torch.zeros(rows, builder.width, dtype=dtype, device=device)
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
        step_frames = max(1, self._step_frames // max(1, batch))
        for start in range(0, frames, step_frames):
            part = codes[:, start : start + step_frames]
            real = None if n_frames is None else (n_frames - start).clamp(0, part.shape[1])
            step = Step(state, part.shape[1], real)
            samples[:, start : start + step_frames] = self._step(step, position, part).unflatten(1, (part.shape[1], -1))
            position += part.shape[1] if real is None else real
        if isinstance(rows, Tensor):
            self._pool[rows], self._position[rows] = state, position
        return samples.flatten(1)

    @torch.inference_mode()
    def absorb(self, codes: Tensor, row: int) -> None:
        """Advance a row's state past some frames as :meth:`decode` does, without computing their samples.

        Only the transformer looks far back. Each of the convolutions after it, which are nearly all of the cost, runs
        only over the last frames that it and later convolutions keep in their histories.

        Args:
            codes: [T, Q] int64; Q = ``num_quantizers``.
            row: row of the pool; its state afterwards equals that after :meth:`decode`, up to rounding.
        """
        frames = len(codes)
        if frames == 0:
            return
        state, position = self._pool[row : row + 1], self._position[row : row + 1]
        parts: list[Tensor] = []
        for part in codes[None].split(_DEVICE_STEP_FRAMES, dim=1):  # the transformer's own matmuls are small
            parts.append(self._attend(Step(state, part.shape[1], None), position, part))
            position += part.shape[1]
        x = torch.cat(parts, dim=1)
        for stage, reach_frames in zip(self._stages, self._reach_frames, strict=True):
            rate, frames = x.shape[1] // frames, min(frames, reach_frames)
            x = stage(Step(state, frames, None), x[:, -frames * rate :])
            # A stage's stale history affects its first frames only; later stages have dropped these by the last frame.

    def _attend(self, step: Step, position: Tensor, codes: Tensor) -> Tensor:
        """The transformer's output, [B, T, Q] -> [B, T, C]; mutates ``step.state``."""
        return self._transformer(step, position, self._pre_conv.over(step, self._embed(codes)))

    def _step(self, step: Step, position: Tensor, codes: Tensor) -> Tensor:
        """[B, T, Q] -> [B, T * samples_per_frame]; mutates ``step.state``."""
        real = None
        if step.n_frames is not None:
            frame = torch.arange(step.frames, device=codes.device)
            real = (frame < step.n_frames[:, None])[:, :, None]  # [B, T, 1]
            codes = torch.where(real, codes, 0)
        x = self._attend(step, position, codes)
        samples = self._behind(step, x) if self._compiled is None else self._compiled(step, x)
        if real is None:
            return samples
        return torch.where(real, samples.unflatten(1, (step.frames, -1)), 0.0).flatten(1)

    def _behind(self, step: Step, x: Tensor) -> Tensor:
        """All stages, uncompiled: [B, T, C] -> [B, T * samples_per_frame]; mutates ``step.state``.

        The last blocks and the head have small weights and large activations. A CPU therefore runs them one frame of
        one row at a time, which stays in its caches. At ten rows this saves a sixth of the total (measured).
        """
        for stage in self._wide:
            x = stage(step, x)
        if self._device.type != "cpu":
            return self._tail_of(step, x)
        rate = x.shape[1] // step.frames
        rows: list[Tensor] = []
        for row in range(x.shape[0]):
            parts: list[Tensor] = []
            for frame in range(step.frames):
                real = None if step.n_frames is None else (step.n_frames[row : row + 1] - frame).clamp(0, 1)
                part = x[row : row + 1, frame * rate : (frame + 1) * rate]
                parts.append(self._tail_of(Step(step.state[row : row + 1], 1, real), part))
            rows.append(torch.cat(parts, dim=1))
        return torch.cat(rows)

    def _tail_of(self, step: Step, x: Tensor) -> Tensor:
        for stage in self._tail:
            x = stage(step, x)
        return x

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
        """Write a copied state into a row, which continues like the row that it was copied from."""
        self._pool[row] = state.history
        self._position[row] = state.position


def _check_supported(config: Upstream) -> None:
    if config.attention_bias or config.hidden_act != "silu" or getattr(config, "rope_scaling", None):
        msg = (
            f"unsupported decoder: attention_bias={config.attention_bias}, hidden_act={config.hidden_act!r} and "
            f"rope_scaling={getattr(config, 'rope_scaling', None)}; only False, 'silu' and None are implemented"
        )
        raise ValueError(msg)
