"""Runs all layers of a stack with five kernels per layer, on a GPU.

A frame passes through 103 layers. With torch, a layer is forty operations, most of them short, and a GPU that runs one
stream is idle between them for nearly all of the time. Here, a row's result depends only on that row and its slot, to
the last bit: not on the batch, or on how a prompt is split. Torch's bfloat16 matmuls would sum in another order for
another number of rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.model.backends.cuda import norms
from serve_app.model.backends.cuda.fused_attention import Attention, Places
from serve_app.model.backends.cuda.products import Product, aligned, pair
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.stack_shape import StackShape


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """A decoder layer's matmuls; ``norm_qk`` [heads + kv_heads, D] float32 scales normed queries and keys."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    norm_qk: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of weights that one pass reads."""
        return self.qkv.nbytes + self.out.nbytes + self.gate_up.nbytes + self.down.nbytes


def _fuse(layer: LayerWeights, eps: float) -> FusedLayer:
    out, down = Product(layer.out, "add"), Product(layer.down, "add")
    return FusedLayer(
        qkv=Product(layer.qkv, eps=eps, shares=down.blocks),
        out=out,
        gate_up=Product(pair(layer.gate, layer.up), "gate", eps=eps, shares=out.blocks),
        down=down,
        norm_qk=layer.norm_qk.float().contiguous(),
    )


class FusedStack:
    """:class:`serve_app.model.backends.protocol.Stack` over bfloat16 keys and values."""

    def __init__(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> None:
        """Lay out the weights.

        Args:
            layers: the layers' weights, bfloat16.
            norm: [H], weight of the final norm.
            shape: the stack's sizes.
            positions: maximum number of positions of a slot of its cache.
        """
        self._layers = [_fuse(layer, shape.rms_eps) for layer in layers]
        self._norm = norm.float()
        self._shape, self._positions = shape, positions
        self._attention = Attention(shape, positions, norm.device)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one pass reads, for any number of rows."""
        return sum(layer.nbytes for layer in self._layers)

    @property
    def reads_length(self) -> bool:
        """False: attention reads each row up to its own position, which the device knows."""
        return False

    def run_aligned(self, x: Tensor, cache: KvCache, rows: slice, start: int) -> Tensor:
        """Run T new positions of consecutive slots that are all at the same position."""
        assert start + x.shape[1] <= self._positions, "the new positions would exceed the cache"
        return self._run(x, cache, self._attention.aligned(rows, start))

    def run_staggered(self, x: Tensor, cache: KvCache, rows: Rows, positions: Tensor, length: int) -> Tensor:
        """Run T new positions of several slots, each from its own position on."""
        assert length <= self._positions, "the new positions would exceed the cache"
        return self._run(x, cache, self._attention.staggered(rows, positions))

    def _run(self, x: Tensor, cache: KvCache, places: Places) -> Tensor:
        assert x.dtype == cache.keys.dtype == torch.bfloat16, "the kernels read bfloat16"
        assert cache.positions == self._positions, "the cache belongs to another stack"
        batch, new, hidden = x.shape
        rows, first = batch * new, self._layers[0]
        given = aligned(x).view(rows, hidden)
        stream = x.new_empty(rows, hidden, dtype=torch.float32)
        squares = x.new_empty(rows, first.out.blocks, dtype=torch.float32)
        fused = x.new_empty(rows, first.qkv.outputs, dtype=torch.float32)
        gated = x.new_empty(rows, first.gate_up.outputs // 2)
        rounded = torch.empty_like(given)
        norms.begin(given, stream, squares)
        for number, layer in enumerate(self._layers):
            cached = cache.keys[number], cache.values[number]
            layer.qkv.run(given, fused, squares=squares)
            attended = self._attention.run(fused, layer.norm_qk, cached, places, new, cache.watched_in(number))
            layer.out.run(attended, rounded, stream, squares)
            layer.gate_up.run(rounded, gated, squares=squares)
            layer.down.run(gated, rounded, stream, squares)
            given = rounded
        return norms.finish(stream, self._norm, self._shape.rms_eps).view(batch, new, hidden)
