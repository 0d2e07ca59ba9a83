"""What a backend computes: matmuls, decoder stacks, sampling and the codec's layers.

There are three: ``torch``, ``cpu`` and ``cuda``. :func:`serve_app.model.factory.choose_backend` chooses one when a
replica loads its model. All other modules of the model are the same on every device.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.codec_weights import CodecWeights
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.sampling import SamplingTensors
from serve_app.model.stack_shape import StackShape


class Linear(Protocol):
    """``y = x Wᵀ + b`` with W and b constant.

    Attributes:
        nbytes: bytes of the weight that one matmul reads.
    """

    nbytes: int

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], in the dtype of ``x``, and add ``residual`` of that shape."""
        ...


class Stack(Protocol):
    """Decoder layers and their final norm."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one pass reads, for any batch size."""
        ...

    @property
    def reads_length(self) -> bool:
        """Whether ``run_staggered`` reads all ``length`` positions, or only each slot's own."""
        ...

    def run_aligned(self, x: Tensor, cache: KvCache, rows: slice, start: int) -> Tensor:
        """Run T new positions of consecutive slots that are all at the same position.

        Args:
            x: [B, T, H], inputs of positions ``start`` to ``start + T - 1``.
            cache: written in place.
            rows: the B slots.
            start: first new position; the slots hold all positions before it.

        Returns:
            [B, T, H], after the final norm.
        """
        ...

    def run_staggered(self, x: Tensor, cache: KvCache, rows: Rows, positions: Tensor, length: int) -> Tensor:
        """Run T new positions of several slots, each from its own position on.

        Args:
            x: [B, T, H].
            cache: written in place at ``positions`` to ``positions + T - 1`` of each slot.
            rows: the B slots.
            positions: [B] int64, each slot's first new position; the slot holds all positions before it.
            length: positions of the cache to read; at least ``positions + T`` of every slot.

        Returns:
            [B, T, H], after the final norm.
        """
        ...


class FrameSampler(Protocol):
    """All steps of the code predictor in one call."""

    def can_sample(self, keep: int | None) -> bool:
        """Whether it supports sampling from ``keep`` codes."""
        ...

    def sample_frame(
        self, hidden: Tensor, first: Tensor, uniform: Tensor, sampling: SamplingTensors, rows: Rows, keep: int | None
    ) -> Tensor:
        """Sample codes 1 to 15; see :meth:`serve_app.model.code_predictor.CodePredictor.sample_frame`.

        ``hidden`` [B, H] has the code predictor's width.
        """
        ...


@dataclass(frozen=True, slots=True)
class PredictorWeights:
    """The code predictor's weights.

    Attributes:
        layers: its decoder layers.
        norm: [H], weight of the final norm.
        heads: [V, H] for each codebook but the first.
        projection: weight [H, H'] and bias [H] that bring a wider talker's states to H; None if they have that width.
    """

    layers: Iterable[LayerWeights]
    norm: Tensor
    heads: Sequence[Tensor]
    projection: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class PredictorLayers:
    """The code predictor's layers, as a backend runs them.

    Attributes:
        stack: its decoder layers.
        heads: one for each codebook but the first.
        project: brings a wider talker's states to the stack's width; None if they have it.
        frame: all steps as one call; None if the backend runs them one by one.
    """

    stack: Stack
    heads: Sequence[Linear]
    project: Linear | None = None
    frame: FrameSampler | None = None


@dataclass(frozen=True, slots=True)
class CodecStep:
    """What all layers of one decode step of the codec share.

    Attributes:
        state: [B, width] codec dtype; the rows being decoded; each layer mutates its own part.
        frames: T, frames of this step.
        n_frames: [B] int64, number of real frames per row; None if all are real.
    """

    state: Tensor
    frames: int
    n_frames: Tensor | None


class CodecLayers(Protocol):
    """The codec's layers after the embedding of its codes."""

    @property
    def step_frames(self) -> int:
        """Frames times rows that one step should take at most."""
        ...

    @property
    def stages(self) -> Sequence[Callable[[CodecStep, Tensor], Tensor]]:
        """The layers after the transformer, one stage after the other.

        Each maps [B, T * rate, C] to [B, T * rate', C'] and mutates the step's state.
        """
        ...

    def attend(self, step: CodecStep, position: Tensor, x: Tensor) -> Tensor:
        """Run the first convolution and the transformer.

        Args:
            step: its state is mutated.
            position: [B] int64, earlier frames of each row.
            x: [B, T, C].

        Returns:
            [B, T, C'].
        """
        ...

    def samples(self, step: CodecStep, x: Tensor) -> Tensor:
        """Run all stages: [B, T, C'] -> [B, T * samples_per_frame] float32; mutates ``step.state``."""
        ...


class Backend(Protocol):
    """How one replica computes.

    Attributes:
        label: name of the weight format in logs, in metrics and in the line that a resumed stream compares.
    """

    label: str

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False) -> Linear:
        """Make a matmul of a weight [N, K] and a bias [N]; does not change the tensors.

        ``exact`` keeps the weight as it is, even if the backend rounds other weights.
        """
        ...

    def stack(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> Stack:
        """Make the talker's decoder layers.

        Args:
            layers: the layers' weights.
            norm: [H], weight of the final norm.
            shape: the stack's sizes.
            positions: maximum number of positions of a slot of its cache.
        """
        ...

    def predictor(
        self, weights: PredictorWeights, shape: StackShape, embedding: CodeEmbedding, cache: KvCache
    ) -> PredictorLayers:
        """Make the code predictor's layers over ``cache``, whose slots hold one frame; ``embedding`` is not copied."""
        ...

    def sample(self, logits: Tensor, uniform: Tensor, rows: SamplingTensors, indices: Rows, keep: int | None) -> Tensor:
        """Sample one code per row; see :func:`serve_app.model.sampling.sample`."""
        ...

    def codec(self, weights: CodecWeights, dtype: torch.dtype, device: torch.device) -> CodecLayers:
        """Make the codec's layers, in ``dtype`` on ``device``."""
        ...
