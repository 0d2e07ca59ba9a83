"""The codec's layers with torch's operations, on any device, in float32 or bfloat16."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.backends.protocol import CodecStep
from serve_app.model.backends.torch.state_windows import close_window, open_window
from serve_app.model.backends.torch.torch_kernels import snake
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.backends.torch.torch_transformer import TorchTransformer
from serve_app.model.codec_weights import Activation, CodecLayer, CodecWeights, ConvWeights, Depthwise, Wave

_Product = Callable[[Tensor, Tensor | None], Tensor]
"""Windows [B, history + T, C] and a residual or None to columns [B, T * rate, C']."""


class TorchCodec:
    """:class:`serve_app.model.backends.protocol.CodecLayers` with torch's operations.

    Attributes:
        step_frames: frames times rows that a step takes at once; a GPU only benefits from large matmuls.
        stages: the layers after the transformer.
    """

    step_frames = 64

    def __init__(self, weights: CodecWeights, dtype: torch.dtype, device: torch.device) -> None:
        """Copy the weights in ``dtype`` to ``device``."""
        self._first = TorchStage([weights.first], dtype, device)
        self._transformer = TorchTransformer(weights.transformer, dtype, device)
        self.stages: Sequence[TorchStage] = [TorchStage(stage.layers, dtype, device) for stage in weights.stages]

    def attend(self, step: CodecStep, position: Tensor, x: Tensor) -> Tensor:
        """The first convolution and the transformer: [B, T, C] -> [B, T, C']; mutates ``step.state``."""
        return self._transformer(step, position, self._first(step, x))

    def samples(self, step: CodecStep, x: Tensor) -> Tensor:
        """All stages: [B, T, C] -> [B, T * samples_per_frame]; mutates ``step.state``."""
        for stage in self.stages:
            x = stage(step, x)
        return x


class TorchStage:
    """Layers that run one after the other."""

    def __init__(self, layers: Sequence[CodecLayer], dtype: torch.dtype, device: torch.device) -> None:
        """Copy the weights in ``dtype`` to ``device``."""
        self._layers = [_Layer(layer, dtype, device) for layer in layers]
        self._kept = 1 + max(layer.residual for layer in layers)  # latest inputs that may still be added to an output

    def __call__(self, step: CodecStep, x: Tensor) -> Tensor:
        """[B, T * rate, C] -> [B, T * rate', C'], or samples [B, T * rate']; mutates ``step.state``."""
        given: list[Tensor] = []
        for layer in self._layers:
            given = [*given, x][-self._kept :]
            residual = given[-1 - layer.residual] if layer.residual else None
            x = layer(step, x, residual)
        return x


class _Layer:
    def __init__(self, layer: CodecLayer, dtype: torch.dtype, device: torch.device) -> None:
        self.residual = layer.residual
        self._history, self._gelu = layer.history, layer.activation == Activation.GELU
        self._snake = None
        if layer.snake is not None:
            alpha, inverse_beta = (each.to(device, dtype) for each in layer.snake)
            self._snake = alpha, inverse_beta
        self._multiply = _product_of(layer.weights, dtype, device)

    def __call__(self, step: CodecStep, x: Tensor, residual: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T * rate, C'], plus ``residual``; mutates ``step.state``."""
        return self._multiply(self._window(step, x), residual)

    def _window(self, step: CodecStep, x: Tensor) -> Tensor:
        """The activated columns after their history, which is replaced by their end."""
        if not self._history.columns:
            if self._gelu:
                return functional.gelu(x)
            return x if self._snake is None else self._activate(x, torch.empty_like(x))
        assert not self._gelu, "no layer with this activation has a history"
        window = open_window(self._history, step, x.shape[1])
        self._activate(x, window[:, self._history.columns :])
        close_window(self._history, step, window)
        return window

    def _activate(self, x: Tensor, out: Tensor) -> Tensor:
        """Write the columns, after the snake if there is one, into ``out``."""
        if self._snake is None:
            return out.copy_(x)
        snake(x, *self._snake, out)
        return out


def _product_of(weights: ConvWeights | Depthwise | Wave, dtype: torch.dtype, device: torch.device) -> _Product:
    if isinstance(weights, ConvWeights):
        return _Convolution(weights, dtype, device)
    if isinstance(weights, Depthwise):
        return _Depthwise(weights, dtype, device)
    return _Wave(weights, dtype, device)


class _Convolution:
    """Gathers a convolution's taps, then multiplies once.

    Gathering costs 2 to 15 % of the matmul. oneDNN's own convolution avoids that, but its weight layout is chosen for
    one input size and costs ten times as much for another (measured), and sizes vary here.
    """

    def __init__(self, weights: ConvWeights, dtype: torch.dtype, device: torch.device) -> None:
        self._linear = PlainLinear(weights.matrix.to(device, dtype), weights.bias.to(device, dtype))
        self._dilation, self._stride = weights.dilation, weights.stride
        self._span = weights.history + 1

    def __call__(self, window: Tensor, residual: Tensor | None) -> Tensor:
        if self._span > 1:
            columns = window.unfold(1, self._span, 1)[..., :: self._dilation]  # [B, T, C_in, taps]
            window = columns.transpose(2, 3).flatten(2)
        return self._linear(window, residual).unflatten(2, (self._stride, -1)).flatten(1, 2)


class _Depthwise:
    def __init__(self, weights: Depthwise, dtype: torch.dtype, device: torch.device) -> None:
        self._taps = weights.taps.T[:, None].to(device, dtype).contiguous()  # [C, 1, taps]
        self._bias = weights.bias.to(device, dtype)
        self._channels, self._eps = (weights.channels,), weights.eps

    def __call__(self, window: Tensor, residual: Tensor | None) -> Tensor:
        assert residual is None, "only convolutions that are matmuls support a residual"
        x = functional.conv1d(window.transpose(1, 2), self._taps, self._bias, groups=self._channels[0])
        return functional.layer_norm(x.transpose(1, 2), self._channels, eps=self._eps)


class _Wave:
    """In float32 for any codec dtype.

    It computes one output column per tap, then a sum along the diagonal, which takes a third of the time of a
    convolution with a single output channel (measured). Float32 costs 0.1 ms a frame here, and avoids a final rounding
    of the samples to 8 bits of mantissa.
    """

    def __init__(self, weights: Wave, dtype: torch.dtype, device: torch.device) -> None:
        self._taps, self._bias = (each.to(device, dtype).float() for each in (weights.taps, weights.bias))

    def __call__(self, window: Tensor, residual: Tensor | None) -> Tensor:
        assert residual is None, "only convolutions that are matmuls support a residual"
        products = functional.linear(window.float(), self._taps)  # [B, history + T, taps]
        span = products.shape[2]
        diagonal = products.unfold(1, span, 1).diagonal(dim1=2, dim2=3)  # [B, T, taps]
        return diagonal.sum(2).add_(self._bias).clamp_(-1.0, 1.0)
