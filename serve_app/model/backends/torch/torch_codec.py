"""Layers of the 12 Hz decoder with explicit per-row state. They do not know which stream a row belongs to.

Activations are [B, T, C], so every convolution is one matmul over a window of columns. A convolution of k taps reads k
columns. A transposed convolution of kernel m * stride reads m columns and outputs stride columns. A layer therefore
only needs to remember the input columns before the next one.

Source: qwen-tts 0.1.1, qwen_tts/core/tokenizer_12hz/modeling_qwen3_tts_tokenizer_v2.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from serve_app.model.backends.cpu.codec_plan import Activation, CompiledLayer, Depthwise, Wave
from serve_app.model.backends.cpu.compiled_codec import CompiledLayers
from serve_app.model.backends.cpu.windows import WindowLinear
from serve_app.model.backends.torch.torch_kernels import make_snake
from serve_app.model.backends.torch.torch_linear import Linear, PackedLinear, PlainLinear, can_pack
from serve_app.model.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Step:
    """What all layers of one decode step share.

    Attributes:
        state: [B, width] codec dtype; the rows being decoded; each layer mutates its own part.
        frames: T, frames of this step.
        n_frames: [B] int64, number of real frames per row; None if all are real.
    """

    state: Tensor
    frames: int
    n_frames: Tensor | None


@dataclass(frozen=True, slots=True)
class History:
    """One layer's part of a row of state: its last ``columns`` input columns of ``channels`` values.

    A fresh row has zeros, which are the causal padding that upstream puts before the first column.
    """

    start: int
    columns: int
    channels: int

    def open(self, step: Step, new_columns: int) -> Tensor:
        """Make a window [B, columns + new_columns, channels] that begins with the history; the rest is unset."""
        past = self._past(step)
        window = past.new_empty(past.shape[0], self.columns + new_columns, self.channels)
        window[:, : self.columns] = past
        return window

    def extend(self, step: Step, columns: Tensor) -> Tensor:
        """Make the window for ``columns`` [B, T, channels], and save its end as history."""
        window = self.open(step, columns.shape[1])
        window[:, self.columns :] = columns
        self.close(step, window)
        return window

    def close(self, step: Step, window: Tensor) -> None:
        """Save the last real columns of a filled window as history; mutates ``step.state``."""
        new_columns = window.shape[1] - self.columns
        if step.n_frames is None:
            recent = window[:, new_columns:]
        else:
            row = torch.arange(window.shape[0], device=window.device) * window.shape[1]
            first = row + step.n_frames * (new_columns // step.frames)
            index = first[:, None] + torch.arange(self.columns, device=window.device)
            recent = window.flatten(0, 1)[index]
        self._past(step).copy_(recent)

    def _past(self, step: Step) -> Tensor:
        end = self.start + self.columns * self.channels
        return step.state[:, self.start : end].unflatten(1, (self.columns, self.channels))


Layers = Callable[[Step, Tensor], Tensor]
"""Layers after the transformer, [B, T * rate, C] -> [B, T * rate', C']; mutates the step's state."""


class Stage(Protocol):
    """Layers after the transformer, uncompiled or compiled."""

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T * rate, C] -> [B, T * rate', C']."""
        ...

    def compiled(self) -> list[CompiledLayer]:
        """Return the stage as layers of one compiled call."""
        ...


class CompiledStages:
    """Stages in one compiled call, float32 on a CPU; not safe for concurrent calls."""

    def __init__(self, wide: Sequence[Stage], narrow: Sequence[Stage] = ()) -> None:
        """Run ``wide``, then ``narrow``, which end with a wave head, on one frame of one stream at a time."""
        of_all, of_frames = [[layer for stage in stages for layer in stage.compiled()] for stages in (wide, narrow)]
        self._layers = CompiledLayers(of_all, of_frames)

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T * rate, C] -> [B, T * rate', C'], or samples [B, T * rate']; mutates ``step.state``."""
        return self._layers(x, step.state, step.frames, step.n_frames)


class Builder:
    """Converts weights to the codec's dtype and device, and lays out a row of state layer by layer."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self.width = 0
        self.rate = 1  # input columns per frame of the next layer
        self.memory_frames = 0.0  # frames that the layers so far look back, in total
        # Whether layers are compiled calls, which need float32 on a CPU.
        self.compiled = device.type == "cpu" and dtype == torch.float32

    def tensor(self, values: Tensor) -> Tensor:
        """Return detached ``values`` in the codec's dtype, on its device."""
        return values.detach().to(self.device, self.dtype).contiguous()

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """Make a matmul with [C_out, C_in] and [C_out]."""
        kept = None if bias is None else self.tensor(bias)
        if self.compiled:
            return WindowLinear(self.tensor(weight), kept)
        if can_pack(self.dtype, self.device):
            return PackedLinear(self.tensor(weight), kept)
        return PlainLinear(self.tensor(weight), kept)

    def window_product(self, weights: "ConvWeights", *, winograd: bool = False) -> "WindowProduct":
        """Make the matmul of a convolution's windows, [B, history + T, C_in] -> [B, T, stride * C_out].

        With ``winograd``, compiled layers multiply a third as often, with twice the weights.
        """
        if self.compiled:
            matrix, bias = self.tensor(weights.matrix), self.tensor(weights.bias)
            return WindowLinear(matrix, bias, weights.taps, weights.dilation, winograd=winograd)
        return GatheredProduct(self.linear(weights.matrix, weights.bias), weights.taps, weights.dilation)

    def history(self, columns: int, channels: int) -> History:
        """Reserve the next part of a row of state."""
        history = History(self.width, columns, channels)
        self.width += columns * channels
        self.memory_frames += columns / self.rate
        return history


@dataclass(frozen=True, slots=True)
class ConvWeights:
    """A causal convolution as a matrix over ``taps`` input columns, oldest first.

    Attributes:
        matrix: [stride * C_out, taps * C_in] float32; rows are grouped by output column of one input column, in order.
        bias: [stride * C_out] float32.
        taps: input columns that an output depends on.
        dilation: distance between taps, in input columns.
        stride: output columns per input column: 1, or the rate of a transposed convolution.
    """

    matrix: Tensor
    bias: Tensor
    taps: int
    dilation: int = 1
    stride: int = 1

    @classmethod
    def of(cls, conv: Upstream) -> "ConvWeights":
        """Copy the weights of a causal Conv1d, or of a ConvTranspose1d whose kernel is m * stride."""
        weight, stride = conv.weight.detach().float(), conv.stride[0]
        if not conv.transposed:
            matrix = weight.permute(0, 2, 1).flatten(1)
            return cls(matrix, conv.bias.detach().float(), weight.shape[2], conv.dilation[0])
        # Source: torch's ConvTranspose1d, weight [C_in, C_out, k]: tap k of column t adds to column t * stride + k.
        taps = weight.shape[2] // stride
        parts = weight.unflatten(2, (taps, stride)).flip(2).permute(3, 1, 2, 0)  # [stride, C_out, taps, C_in]
        bias = conv.bias.detach().float().repeat(stride)
        return cls(parts.flatten(2).flatten(0, 1), bias, taps, stride=stride)

    def after(self, weight: Tensor, bias: Tensor | None = None) -> "ConvWeights":
        """Fold the affine layer before this convolution into it; the layer applies to each column.

        A bias would change the zeros before the first column, so it is allowed only with a single tap.
        """
        assert bias is None or self.taps == 1
        taps = self.matrix.unflatten(1, (self.taps, -1))  # [stride * C_out, taps, C_in]
        matrix = (taps.double() @ weight.detach().double()).flatten(1).float()
        added = 0.0 if bias is None else self.matrix @ bias.detach().float()
        return ConvWeights(matrix, self.bias + added, self.taps, self.dilation, self.stride)

    def before(self, linear: Upstream) -> "ConvWeights":
        """Fold the affine layer after this convolution into it; the layer applies to each column."""
        weight = linear.weight.detach().double()
        matrix = (weight @ self.matrix.double()).float()
        bias = (weight @ self.bias.double() + linear.bias.detach().double()).float()
        return ConvWeights(matrix, bias, self.taps, self.dilation, self.stride)


WindowProduct = Callable[[Tensor], Tensor]
"""[B, history + T, C_in] -> [B, T, N]."""


class GatheredProduct:
    """Gathers a convolution's taps, then multiplies once.

    Gathering costs 2 to 15 % of the matmul. oneDNN's own convolution avoids that, but its weight layout is chosen for
    one input size and costs ten times as much for another (measured), and sizes vary here.
    """

    def __init__(self, linear: Linear, taps: int, dilation: int) -> None:
        self._linear = linear
        self._dilation = dilation
        self._span = (taps - 1) * dilation + 1

    def __call__(self, window: Tensor) -> Tensor:
        """[B, history + T, C_in] -> [B, T, N]."""
        columns = window.unfold(1, self._span, 1)[..., :: self._dilation]  # [B, T, C_in, taps]
        return self._linear(columns.transpose(2, 3).flatten(2))


class Conv:
    """A causal convolution, plain or transposed, as one matmul over windows."""

    def __init__(self, builder: Builder, weights: ConvWeights, *, winograd: bool = False) -> None:
        self._stride = weights.stride
        self._span = (weights.taps - 1) * weights.dilation + 1
        self.history = builder.history(self._span - 1, weights.matrix.shape[1] // weights.taps)
        builder.rate *= weights.stride
        self.product = builder.window_product(weights, winograd=winograd)

    def over(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C_in] -> [B, T * stride, C_out], with the history before x."""
        return self(x if self._span == 1 else self.history.extend(step, x))

    def __call__(self, window: Tensor) -> Tensor:
        """[B, history + T, C_in] -> [B, T * stride, C_out]."""
        return self.product(window).unflatten(2, (self._stride, -1)).flatten(1, 2)

    def compiled(self, snake: "Snake | None" = None) -> CompiledLayer:
        """Return the convolution as a layer of a compiled call, after an activation."""
        (product,) = compiled_products(self.product)
        if snake is None:
            return CompiledLayer(product, remembered=self.history.start, rate=self._stride)
        return CompiledLayer(product, Activation.SNAKE, snake.factors, self.history.start, self._stride)


class Snake:
    """SnakeBeta: x + sin(alpha * x)^2 / beta per channel, alpha and beta stored as logarithms.

    The form with sin, not (1 - cos) / 2, keeps small activations precise in bfloat16.
    """

    def __init__(self, builder: Builder, snake: Upstream) -> None:
        alpha = builder.tensor(snake.alpha.float().exp())
        inverse_beta = builder.tensor(1.0 / (snake.beta.float().exp() + snake.no_div_by_zero))
        self.factors = alpha, inverse_beta  # [C] each
        self._activate = make_snake(builder.dtype, builder.device)

    def into(self, conv: Conv, step: Step, x: Tensor) -> Tensor:
        """Activate x [B, T, C] into the window of the following convolution, and save its end as history."""
        window = conv.history.open(step, x.shape[1])
        self._activate(x, *self.factors, window[:, conv.history.columns :])
        conv.history.close(step, window)
        return window

    def __call__(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        out = torch.empty_like(x)
        self._activate(x, *self.factors, out)
        return out


class ResidualUnit:
    """Snake, a convolution of 7 taps, snake, a matmul per column; added to the input."""

    def __init__(self, builder: Builder, unit: Upstream) -> None:
        self._snakes = Snake(builder, unit.act1), Snake(builder, unit.act2)
        self._conv = Conv(builder, ConvWeights.of(unit.conv1.conv), winograd=True)
        self._linear = builder.linear(unit.conv2.conv.weight[:, :, 0], unit.conv2.conv.bias)

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        hidden = self._conv(self._snakes[0].into(self._conv, step, x))
        return self._linear(self._snakes[1](hidden), residual=x)

    def compiled(self) -> list[CompiledLayer]:
        """Return the unit as layers of one compiled call."""
        (linear,) = compiled_products(self._linear)
        last = CompiledLayer(linear, Activation.SNAKE, self._snakes[1].factors, residual=1)
        return [self._conv.compiled(self._snakes[0]), last]


class UpsamplingBlock:
    """Snake, a transposed convolution, and three residual units of increasing dilation."""

    def __init__(self, builder: Builder, block: Upstream) -> None:
        snake, conv, *units = block.block
        self._snake = Snake(builder, snake)
        self._conv = Conv(builder, ConvWeights.of(conv.conv))
        self._units = [ResidualUnit(builder, unit) for unit in units]

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C_in] -> [B, T * rate, C_out]."""
        x = self._conv(self._snake.into(self._conv, step, x))
        for unit in self._units:
            x = unit(step, x)
        return x

    def compiled(self) -> list[CompiledLayer]:
        """Return the block as layers of one compiled call."""
        return [self._conv.compiled(self._snake), *(layer for unit in self._units for layer in unit.compiled())]


def compiled_products(*products: WindowProduct | Linear) -> list[WindowLinear]:
    """Narrow the type of matmuls that a builder with compiled layers has made."""
    compiled = [product for product in products if isinstance(product, WindowLinear)]
    assert len(compiled) == len(products), "compiled layers must only have compiled matmuls"
    return compiled


class ConvNeXt:
    """A depthwise convolution, a norm and a wide MLP per column; added to the input.

    The norm's affine part is folded into the first matmul, ``gamma`` into the second.
    """

    def __init__(self, builder: Builder, block: Upstream) -> None:
        conv, norm, up, down = block.dwconv.conv, block.norm, block.pwconv1, block.pwconv2
        self._channels = (conv.in_channels,)
        self._eps = norm.eps
        self._taps = builder.tensor(conv.weight)  # [C, 1, taps]
        self._bias = builder.tensor(conv.bias)
        self._history = builder.history(conv.kernel_size[0] - 1, conv.in_channels)
        self._up = builder.linear(up.weight.float() * norm.weight, up.bias + up.weight.float() @ norm.bias.float())
        self._down = builder.linear(down.weight.float() * block.gamma[:, None], down.bias.float() * block.gamma)

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        window = self._history.extend(step, x).transpose(1, 2)
        hidden = functional.conv1d(window, self._taps, self._bias, groups=self._channels[0]).transpose(1, 2)
        hidden = functional.layer_norm(hidden, self._channels, eps=self._eps)
        return self._down(functional.gelu(self._up(hidden)), residual=x)

    def compiled(self) -> list[CompiledLayer]:
        """Return the block as layers of one compiled call."""
        up, down = compiled_products(self._up, self._down)
        taps = self._taps[:, 0].T.contiguous()
        return [
            CompiledLayer(Depthwise(taps, self._bias, self._eps), remembered=self._history.start),
            CompiledLayer(up),
            CompiledLayer(down, Activation.GELU, residual=2),
        ]


class Upsampling:
    """A transposed convolution and a ConvNeXt block."""

    def __init__(self, builder: Builder, weights: ConvWeights, block: Upstream) -> None:
        self._conv = Conv(builder, weights)
        self._block = ConvNeXt(builder, block)

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T * rate, C]."""
        return self._block(step, self._conv.over(step, x))

    def compiled(self) -> list[CompiledLayer]:
        """Return the layer as layers of one compiled call."""
        return [self._conv.compiled(), *self._block.compiled()]


class FirstConv:
    """The convolution before the upsampling blocks."""

    def __init__(self, builder: Builder, weights: ConvWeights) -> None:
        self._conv = Conv(builder, weights)

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C']."""
        return self._conv.over(step, x)

    def compiled(self) -> list[CompiledLayer]:
        """Return the convolution as layers of one compiled call."""
        return [self._conv.compiled()]


class WaveHead:
    """The last snake and the convolution to one channel, in float32 for any codec dtype.

    It computes one output column per tap, then a sum along the diagonal, which takes a third of the time of a
    convolution with a single output channel (measured). Float32 costs 0.1 ms a frame here, and avoids a final rounding
    of the samples to 8 bits of mantissa.
    """

    def __init__(self, builder: Builder, snake: Upstream, conv: Upstream) -> None:
        self._snake = Snake(builder, snake)
        self._history = builder.history(conv.kernel_size[0] - 1, conv.in_channels)
        self._taps = builder.tensor(conv.weight[0].T).float()  # [taps, C]
        self._bias = builder.tensor(conv.bias).float()

    def __call__(self, step: Step, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T] float32 in [-1, 1]."""
        window = self._history.extend(step, self._snake(x))
        products = functional.linear(window.float(), self._taps)  # [B, history + T, taps]
        span = products.shape[2]
        diagonal = products.unfold(1, span, 1).diagonal(dim1=2, dim2=3)  # [B, T, taps]
        return diagonal.sum(2).add_(self._bias).clamp_(-1.0, 1.0)

    def compiled(self) -> list[CompiledLayer]:
        """Return the head as layers of one compiled call."""
        wave = Wave(self._taps, self._bias)
        return [CompiledLayer(wave, Activation.SNAKE, self._snake.factors, self._history.start)]
