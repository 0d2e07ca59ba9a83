"""Extracts decoder layers' weights from the upstream module, once; a backend decides how they are multiplied.

Query, key and value share one matmul. Each norm's weight is folded into the matmul after it. Query and key are normed
and rotated as one tensor.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.model.stack_shape import StackShape
from serve_app.model.upstream import Upstream


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Weights of one layer.

    Attributes:
        qkv: [(heads + 2 * kv_heads) * D, H], for queries, keys and values.
        out: [H, heads * D].
        gate: [N, H].
        up: [N, H].
        down: [H, N].
        norm_qk: [heads + kv_heads, D], scales of normed queries and keys.
    """

    qkv: Tensor
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    norm_qk: Tensor


def take_layers(model: Upstream, shape: StackShape) -> tuple[Iterator[LayerWeights], Tensor]:
    """The layers' weights, one at a time, and the final norm's [H].

    Args:
        model: Qwen3TTSTalkerModel or Qwen3TTSTalkerCodePredictorModel.
        shape: its sizes.
    """
    return (_take_layer(layer, shape) for layer in model.layers), model.norm.weight.detach()


def _take_layer(layer: Upstream, shape: StackShape) -> LayerWeights:
    """Extract the weights of a Qwen3TTSTalkerDecoderLayer or Qwen3TTSDecoderLayer."""
    attention, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    norm_q, norm_k = attention.q_norm.weight.detach(), attention.k_norm.weight.detach()
    return LayerWeights(
        qkv=_fold(qkv, layer.input_layernorm.weight),
        out=attention.o_proj.weight.detach(),
        gate=_fold(mlp.gate_proj.weight, layer.post_attention_layernorm.weight),
        up=_fold(mlp.up_proj.weight, layer.post_attention_layernorm.weight),
        down=mlp.down_proj.weight.detach(),
        norm_qk=torch.cat([norm_q.expand(shape.heads, -1), norm_k.expand(shape.kv_heads, -1)]),
    )


def _fold(weight: Tensor, norm: Tensor) -> Tensor:
    """Fold the weight [K] of a norm into the weight [N, K] of the matmul after it."""
    return (weight.detach().float() * norm.detach().float()).to(weight.dtype)
