"""The codec on a CPU: compiled calls for its transformer and for all layers after it, in float32."""

from collections.abc import Sequence

from torch import Tensor

from serve_app.model.backends.cpu.codec_plan import CompiledLayer
from serve_app.model.backends.cpu.compiled_codec import CompiledLayers
from serve_app.model.backends.cpu.compiled_transformer import CompiledTransformer
from serve_app.model.backends.cpu.windows import WindowLinear
from serve_app.model.backends.cpu.winograd import TAPS
from serve_app.model.backends.protocol import CodecStep
from serve_app.model.codec_weights import Activation, CodecLayer, CodecWeights, ConvWeights

_NARROW_BLOCKS = 2
"""Number of upsampling blocks that process one frame of one stream at a time, like the layers after them: their weights
are small and their activations large."""


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
        self._first = CompiledLayers([compiled(weights.first)])
        self._transformer = CompiledTransformer(weights.transformer)
        stages = [[compiled(layer) for layer in stage.layers] for stage in weights.stages]
        narrow = 1 + min(_NARROW_BLOCKS, weights.blocks - 1)
        self._all = CompiledLayers(_flat(stages[:-narrow]), _flat(stages[-narrow:]))
        self.stages = [*map(CompiledLayers, stages[:-1]), CompiledLayers([], stages[-1])]

    def attend(self, step: CodecStep, position: Tensor, x: Tensor) -> Tensor:
        """The first convolution and the transformer: [B, T, C] -> [B, T, C']; mutates ``step.state``."""
        return self._transformer(step, position, self._first(step, x))

    def samples(self, step: CodecStep, x: Tensor) -> Tensor:
        """All stages in one call: [B, T, C] -> [B, T * samples_per_frame]; mutates ``step.state``."""
        return self._all(step, x)


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
