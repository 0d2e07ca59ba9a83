"""Decoder layers of random weights, and what upstream's layers give for them, in float64."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from serve_app.model.kv_cache import KvCache
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.stack_shape import StackShape


def normal(*shape, seed=0, size=1.0):
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(x, weight):
    """[..., K] by [N, K] in float64."""
    return x.double() @ weight.double().T


@dataclass(frozen=True)
class ReferenceStack:
    shape: StackShape
    gated: int
    positions: int
    slots: int
    dtype: torch.dtype = torch.bfloat16

    @property
    def norm(self):
        return (1 + normal(self.shape.hidden, seed=99, size=0.2)).to(self.dtype)

    def layers(self):
        shape, gated = self.shape, self.gated
        qkv = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        for seed in range(0, 10 * shape.layers, 10):
            norm_qk = 1 + normal(shape.heads + shape.kv_heads, shape.head_dim, seed=seed + 5, size=0.2)
            yield LayerWeights(
                qkv=normal(qkv, shape.hidden, seed=seed, size=0.1).to(self.dtype),
                out=normal(shape.hidden, shape.heads * shape.head_dim, seed=seed + 1, size=0.05).to(self.dtype),
                gate=normal(gated, shape.hidden, seed=seed + 2, size=0.2).to(self.dtype),
                up=normal(gated, shape.hidden, seed=seed + 3, size=0.2).to(self.dtype),
                down=normal(shape.hidden, gated, seed=seed + 4, size=0.2).to(self.dtype),
                norm_qk=norm_qk.to(self.dtype),
            )

    def empty_cache(self, device="cpu"):
        shape = self.shape
        sizes = {"kv_heads": shape.kv_heads, "positions": self.positions, "head_dim": shape.head_dim}
        return KvCache(layers=shape.layers, slots=self.slots, dtype=self.dtype, device=torch.device(device), **sizes)

    def rms(self, x):
        return x / (x.square().mean(-1, keepdim=True) + self.shape.rms_eps).sqrt()

    def turned(self, x, first=0):
        """[T, heads, D], the position of each along T, from ``first`` on."""
        half = self.shape.head_dim // 2
        angle = (first + torch.arange(len(x)))[:, None] / self.shape.rope_theta ** (torch.arange(half) / half)
        cos, sin = torch.cat([angle.cos()] * 2, 1)[:, None], torch.cat([angle.sin()] * 2, 1)[:, None]
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    def first_queries(self, x, product=product):
        """[T, heads, D], the queries of the first layer for a prompt [T, H]."""
        first = next(iter(self.layers()))
        fused = product(self.rms(x), first.qkv).unflatten(1, (-1, self.shape.head_dim))
        queries_keys = self.rms(fused[:, : -self.shape.kv_heads]) * first.norm_qk.double()
        return self.turned(queries_keys)[:, : self.shape.heads]

    def expected(self, x, product=product):
        """What upstream's layers give for one prompt [T, H] with every product as ``product`` makes it."""
        heads, kv_heads = self.shape.heads, self.shape.kv_heads
        for layer in self.layers():
            fused = product(self.rms(x), layer.qkv).unflatten(1, (-1, self.shape.head_dim))
            queries_keys = self.turned(self.rms(fused[:, :-kv_heads]) * layer.norm_qk.double())
            keys = queries_keys[:, heads:].to(self.dtype).double()
            values = fused[:, -kv_heads:].to(self.dtype).double()
            seen = [each.transpose(0, 1)[None] for each in (queries_keys[:, :heads], keys, values)]
            attended = functional.scaled_dot_product_attention(*seen, is_causal=True, enable_gqa=True)
            x = x + product(attended[0].transpose(0, 1).flatten(1), layer.out)
            gated = functional.silu(product(self.rms(x), layer.gate)) * product(self.rms(x), layer.up)
            x = x + product(gated, layer.down)
        return self.rms(x) * self.norm.double()
