"""Reads the 12 Hz decoder's weights, and lays out the state that its layers keep of a stream; it does not run them.

Layers that are linear one after the other are folded into one. Activations are [B, T, C], so every convolution is one
matmul over a window of columns. A convolution of k taps reads k columns. A transposed convolution of kernel m * stride
reads m columns and outputs stride columns. A layer therefore only needs to remember the input columns before the next
one: its history.

Source: qwen-tts 0.1.1, qwen_tts/core/tokenizer_12hz/modeling_qwen3_tts_tokenizer_v2.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from serve_app.model.upstream import Upstream


@dataclass(frozen=True, slots=True)
class History:
    """One layer's part of a row of state: its last ``columns`` input columns of ``channels`` values.

    A fresh row has zeros, which are the causal padding that upstream puts before the first column.
    """

    start: int
    columns: int
    channels: int


class StateLayout:
    """Lays out a row of state, layer by layer.

    Attributes:
        width: values of a row so far.
        rate: input columns per frame of the next layer.
        memory_frames: frames that the layers so far look back, in total.
    """

    def __init__(self) -> None:
        """Begin with an empty row and one column per frame."""
        self.width = 0
        self.rate = 1
        self.memory_frames = 0.0

    def history(self, columns: int, channels: int) -> History:
        """Reserve the next part of a row."""
        history = History(self.width, columns, channels)
        self.width += columns * channels
        self.memory_frames += columns / self.rate
        return history


class Activation(IntEnum):
    """The function applied to columns before they enter a layer's windows."""

    NONE = 0
    SNAKE = 1
    GELU = 2


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

    @property
    def channels(self) -> int:
        """C_in, values per input column."""
        return self.matrix.shape[1] // self.taps

    @property
    def history(self) -> int:
        """Columns of a window before the new ones."""
        return (self.taps - 1) * self.dilation

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


@dataclass(frozen=True, slots=True)
class _Taps:
    """A convolution that is not a matmul.

    Attributes:
        taps: [taps, C] float32, the oldest first.
        bias: [outputs] float32.
    """

    taps: Tensor
    bias: Tensor

    @property
    def history(self) -> int:
        """Columns of a window before the new ones."""
        return len(self.taps) - 1

    @property
    def channels(self) -> int:
        """Values per input column."""
        return self.taps.shape[1]

    @property
    def outputs(self) -> int:
        """Values per output column."""
        return len(self.bias)


@dataclass(frozen=True, slots=True)
class Depthwise(_Taps):
    """A convolution of each channel by itself; its output columns are normalised to mean 0 and variance 1.

    Attributes:
        eps: added to the variance.
    """

    eps: float


@dataclass(frozen=True, slots=True)
class Wave(_Taps):
    """A convolution to one channel, clipped to [-1, 1]."""


@dataclass(frozen=True, slots=True)
class CodecLayer:
    """One layer: windows of activated columns, and the computation on them.

    Attributes:
        weights: computes from the windows.
        history: the windows' history.
        activation: applied to the columns.
        snake: alpha and inverse beta [C] float32, if the activation is a snake: x + sin(alpha * x)^2 / beta.
        residual: the input of the layer this many layers back is added to the output; 0 adds nothing.
    """

    weights: ConvWeights | Depthwise | Wave
    history: History
    activation: Activation = Activation.NONE
    snake: tuple[Tensor, Tensor] | None = None
    residual: int = 0


@dataclass(frozen=True, slots=True)
class CodecStage:
    """A group of layers; between two groups, the codec may drop columns.

    Attributes:
        layers: run one after the other.
        reach_frames: frames that this stage and all later ones look back: 10, 7, 5, 4, 1, 1, 1, 1 in the released
            model.
    """

    layers: list[CodecLayer]
    reach_frames: int


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """One pre-norm layer: attention over the stored keys, then a gated MLP.

    The norms' weights are folded into the matmuls after them, the layer scales into the matmuls before them.

    Attributes:
        qkv: [(heads + 2 * kv_heads) * dim, C] float32, for queries, keys and values.
        output: [C, heads * dim] float32.
        gate_up: [2 * N, C] float32, gates first.
        down: [C, N] float32.
        history: keys and values of the last columns, [window - 1, 2, kv_heads, dim].
    """

    qkv: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor
    history: History


@dataclass(frozen=True, slots=True)
class TransformerWeights:
    """A transformer over a sliding window of keys; the final norm's weight is folded into the following matmul.

    Attributes:
        layers: its layers.
        heads: query heads.
        kv_heads: key and value heads.
        window: keys that a query sees, including its own.
        eps: added to the mean square of a norm.
        frequencies: [dim / 2] float32, rotary frequencies.
    """

    layers: list[AttentionWeights]
    heads: int
    kv_heads: int
    window: int
    eps: float
    frequencies: Tensor


@dataclass(frozen=True, slots=True)
class CodecWeights:
    """The decoder's weights, on their original device.

    Attributes:
        tables: [codebook_size, dim] float32 of each codebook.
        semantic: number of codebooks whose vectors are summed separately from the others.
        first: the convolution before the transformer.
        transformer: the transformer.
        stages: all layers after it.
        blocks: number of upsampling blocks, which are the stages directly before the last one.
        width: values of a row of state.
        samples_per_frame: samples that a frame becomes.
    """

    tables: list[Tensor]
    semantic: int
    first: CodecLayer
    transformer: TransformerWeights
    stages: list[CodecStage]
    blocks: int
    width: int
    samples_per_frame: int

    @classmethod
    @torch.inference_mode()
    def of(cls, decoder: nn.Module) -> "CodecWeights":
        """Copy and fold the weights of a Qwen3TTSTokenizerV2Decoder of any dtype, which is not changed.

        Raises:
            ValueError: the decoder's configuration has a feature that this implementation lacks.
        """
        source: Upstream = decoder
        config, quantizer, transformer = source.config, source.quantizer, source.pre_transformer
        _check_supported(config)
        layout = StateLayout()
        groups = quantizer.rvq_first.vq.layers, quantizer.rvq_rest.vq.layers
        projections = (quantizer.rvq_first.output_proj, quantizer.rvq_rest.output_proj)
        projected = torch.cat([projection.weight[:, :, 0] for projection in projections], dim=1)
        pre_conv = ConvWeights.of(source.pre_conv.conv)
        first = convolution(layout, pre_conv.after(projected).before(transformer.input_proj))
        attention = transformer_weights(layout, transformer, config)
        stages = _stages(layout, source)
        return cls(
            tables=[_codebook(layer) for group in groups for layer in group],
            semantic=len(groups[0]),
            first=first,
            transformer=attention,
            stages=stages,
            blocks=len(config.upsample_rates),
            width=layout.width,
            samples_per_frame=math.prod([*config.upsampling_ratios, *config.upsample_rates]),
        )


def _stages(layout: StateLayout, source: Upstream) -> list[CodecStage]:
    """All layers after the transformer, whose final affine layers are folded into the first convolution."""
    transformer = source.pre_transformer
    ups = [ConvWeights.of(up.conv) for up, _ in source.upsample]
    ups[0] = ups[0].after(
        transformer.output_proj.weight.float() * transformer.norm.weight, transformer.output_proj.bias
    )
    conv, *blocks, snake, head = source.decoder
    makers: list[Callable[[], list[CodecLayer]]] = [
        *(partial(upsampling, layout, weights, up[1]) for weights, up in zip(ups, source.upsample, strict=True)),
        lambda: [convolution(layout, ConvWeights.of(conv.conv))],
        *(partial(upsampling_block, layout, block) for block in blocks),
        lambda: [wave_head(layout, snake, head.conv)],
    ]
    stages: list[list[CodecLayer]] = []
    before: list[float] = []
    for make in makers:
        before.append(layout.memory_frames)
        stages.append(make())
    reach = [math.ceil(layout.memory_frames - frames) for frames in before]
    return [CodecStage(layers, frames) for layers, frames in zip(stages, reach, strict=True)]


def convolution(layout: StateLayout, weights: ConvWeights, snake: Upstream = None, residual: int = 0) -> CodecLayer:
    """A causal convolution, plain or transposed, after a snake if there is one."""
    history = layout.history(weights.history, weights.channels)
    layout.rate *= weights.stride
    if snake is None:
        return CodecLayer(weights, history, residual=residual)
    return CodecLayer(weights, history, Activation.SNAKE, _snake(snake), residual)


def upsampling(layout: StateLayout, weights: ConvWeights, block: Upstream) -> list[CodecLayer]:
    """A transposed convolution and a ConvNeXt block.

    The block is a depthwise convolution, a norm and a wide MLP per column; added to the input. The norm's affine part
    is folded into the first matmul, ``gamma`` into the second.
    """
    conv, norm, up, down = block.dwconv.conv, block.norm, block.pwconv1, block.pwconv2
    first = convolution(layout, weights)
    taps = conv.weight[:, 0].T.detach().float().contiguous()
    each = Depthwise(taps, conv.bias.detach().float(), norm.eps)
    bias = up.bias + up.weight.float() @ norm.bias.float()
    wide = ConvWeights((up.weight.float() * norm.weight).detach(), bias.detach().float(), taps=1)
    narrow = (down.weight.float() * block.gamma[:, None]).detach(), (down.bias.float() * block.gamma).detach()
    return [
        first,
        CodecLayer(each, layout.history(each.history, each.channels)),
        CodecLayer(wide, layout.history(0, wide.channels)),
        CodecLayer(ConvWeights(*narrow, taps=1), layout.history(0, narrow[0].shape[1]), Activation.GELU, residual=2),
    ]


def upsampling_block(layout: StateLayout, block: Upstream) -> list[CodecLayer]:
    """Snake, a transposed convolution, and three residual units of increasing dilation.

    A unit is snake, a convolution of 7 taps, snake, a matmul per column; added to the input.
    """
    snake, conv, *units = block.block
    layers = [convolution(layout, ConvWeights.of(conv.conv), snake)]
    for unit in units:
        layers.append(convolution(layout, ConvWeights.of(unit.conv1.conv), unit.act1))
        layers.append(convolution(layout, ConvWeights.of(unit.conv2.conv), unit.act2, residual=1))
    return layers


def wave_head(layout: StateLayout, snake: Upstream, conv: Upstream) -> CodecLayer:
    """The last snake and the convolution to one channel."""
    weights = Wave(conv.weight[0].T.detach().float().contiguous(), conv.bias.detach().float())
    return CodecLayer(weights, layout.history(weights.history, weights.channels), Activation.SNAKE, _snake(snake))


def transformer_weights(layout: StateLayout, transformer: Upstream, config: Upstream) -> TransformerWeights:
    """The decoder's transformer."""
    head_dim = transformer.layers[0].self_attn.head_dim
    # Taken from the configuration, because a module that was moved to bfloat16 has rounded its own copy.
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return TransformerWeights(
        layers=[_attention(layout, layer, config) for layer in transformer.layers],
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        window=config.sliding_window,
        eps=config.rms_norm_eps,
        frequencies=1.0 / config.rope_theta**exponent,
    )


def angles(frequencies: Tensor, position: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of new columns' rotary angles; the first half of the sines is negated, for rotate-half.

    Args:
        frequencies: [dim / 2] float32.
        position: [B] int64, number of earlier frames of each row.
        frames: T, new frames.

    Returns:
        Two of [B, T, dim] float32.
    """
    frame = torch.arange(frames, device=position.device)
    angle = (position[:, None] + frame).float()[:, :, None] * frequencies
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([cosine, cosine], dim=2), torch.cat([-sine, sine], dim=2)


def _attention(layout: StateLayout, layer: Upstream, config: Upstream) -> AttentionWeights:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return AttentionWeights(
        qkv=(qkv.float() * layer.input_layernorm.weight).detach(),
        output=(attention.o_proj.weight.float() * layer.self_attn_layer_scale.scale[:, None]).detach(),
        gate_up=(gate_up.float() * layer.post_attention_layernorm.weight).detach(),
        down=(mlp.down_proj.weight.float() * layer.mlp_layer_scale.scale[:, None]).detach(),
        history=layout.history(config.sliding_window - 1, 2 * config.num_key_value_heads * attention.head_dim),
    )


def _snake(snake: Upstream) -> tuple[Tensor, Tensor]:
    """Alpha and 1 / beta of a SnakeBeta [C] each, which upstream stores as logarithms."""
    alpha = snake.alpha.detach().float().exp()
    return alpha, 1.0 / (snake.beta.detach().float().exp() + snake.no_div_by_zero)


def _codebook(layer: Upstream) -> Tensor:
    book = layer._codebook  # noqa: SLF001  # upstream has no public access to these vectors
    vectors = book.embedding_sum.detach().float() / book.cluster_usage.detach().float().clamp(min=book.epsilon)[:, None]
    projection = layer.project_out
    if not isinstance(projection, nn.Linear):
        return vectors
    return functional.linear(vectors, projection.weight.float(), projection.bias.float()).detach()


def _check_supported(config: Upstream) -> None:
    if config.attention_bias or config.hidden_act != "silu" or getattr(config, "rope_scaling", None):
        msg = (
            f"unsupported decoder: attention_bias={config.attention_bias}, hidden_act={config.hidden_act!r} and "
            f"rope_scaling={getattr(config, 'rope_scaling', None)}; only False, 'silu' and None are implemented"
        )
        raise ValueError(msg)
