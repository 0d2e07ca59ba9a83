"""The codec on a CPU: compiled calls for its transformer and for all layers after it, in float32."""

from collections.abc import Sequence

from torch import Tensor

from serve_app.model.backends.cpu.codec_plan import CompiledLayer
from serve_app.model.backends.cpu.compiled_codec import CompiledLayers
from serve_app.model.backends.cpu.compiled_transformer import AttentionLayer, CompiledTransformer
from serve_app.model.backends.cpu.windows import WindowLinear
from serve_app.model.backends.cpu.winograd import TAPS
from serve_app.model.backends.protocol import Step
from serve_app.model.codec_weights import (
    Activation,
    CodecLayer,
    CodecWeights,
    ConvWeights,
    TransformerWeights,
    angles,
)

_NARROW_BLOCKS = 2
"""Upsampling blocks that process one frame of one stream at a time, as the end after them does: their weights are
small and their activations large."""


class CpuCodec:
    """:class:`serve_app.model.backends.protocol.CodecLayers` on a CPU.

    Attributes:
        step_frames: frames times rows that a step takes at once: enough to amortize reading the wide layers' weights,
            but few enough for the activations to fit in a CPU's last-level cache.
        stages: the layers after the transformer, each as a compiled call of its own.
    """

    step_frames = 16

    def __init__(self, weights: CodecWeights) -> None:
        """Lay out copies of the weights."""
        self._first = CpuStages([compiled(weights.first)])
        self._transformer = CpuTransformer(weights.transformer)
        stages = [[compiled(layer) for layer in stage.layers] for stage in weights.stages]
        narrow = 1 + min(_NARROW_BLOCKS, weights.blocks - 1)
        self._all = CpuStages(_flat(stages[:-narrow]), _flat(stages[-narrow:]))
        self.stages: Sequence[CpuStages] = [*(CpuStages(stage) for stage in stages[:-1]), CpuStages([], stages[-1])]

    def attend(self, step: Step, position: Tensor, x: Tensor) -> Tensor:
        """The first convolution and the transformer: [B, T, C] -> [B, T, C']; mutates ``step.state``."""
        return self._transformer(step, position, self._first(step, x))

    def samples(self, step: Step, x: Tensor) -> Tensor:
        """All stages in one call: [B, T, C] -> [B, T * samples_per_frame]; mutates ``step.state``."""
        return self._all(step, x)


class CpuStages:
    """Layers as one compiled call; not safe for concurrent calls."""

    def __init__(self, wide: Sequence[CompiledLayer], narrow: Sequence[CompiledLayer] = ()) -> None:
        """Run ``wide``, then ``narrow``, which end with samples, on one frame of one stream at a time."""
        self._layers = CompiledLayers(wide, narrow)

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T * rate, C] -> [B, T * rate', C'], or samples [B, T * rate']; mutates ``step.state``."""
        return self._layers(x, step.state, step.frames, step.n_frames)


class CpuTransformer:
    """The transformer as one compiled call; not safe for concurrent calls."""

    def __init__(self, weights: TransformerWeights) -> None:
        """Lay out copies of the weights."""
        self._frequencies = weights.frequencies
        layers = [
            AttentionLayer(
                *(WindowLinear(each, None) for each in (layer.qkv, layer.output, layer.gate_up, layer.down)),
                remembered=layer.history.start,
            )
            for layer in weights.layers
        ]
        self._layers = CompiledTransformer(layers, weights.heads, weights.kv_heads, weights.window, weights.eps)

    def __call__(self, step: Step, position: Tensor, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]; ``position`` [B] int64 is the number of earlier frames of each row."""
        cosine, sine = angles(self._frequencies, position, x.shape[1])
        return self._layers(x, step.state, position, step.n_frames, cosine, sine)


def compiled(layer: CodecLayer) -> CompiledLayer:
    """Lay out a copy of a layer's weights for a compiled call."""
    weights, remembered = layer.weights, layer.history.start
    if not isinstance(weights, ConvWeights):
        return CompiledLayer(weights, layer.activation, layer.snake, remembered)
    # The first convolution after the transformer has seven taps too, but few columns.
    winograd = weights.taps == TAPS and layer.activation == Activation.SNAKE
    product = WindowLinear(weights.matrix, weights.bias, weights.taps, weights.dilation, winograd=winograd)
    return CompiledLayer(product, layer.activation, layer.snake, remembered, weights.stride, layer.residual)


def _flat(stages: Sequence[Sequence[CompiledLayer]]) -> list[CompiledLayer]:
    return [layer for stage in stages for layer in stage]
