"""The talker: computes codebook 0 from a voice prompt and text, one position per frame."""

import torch
from torch import Tensor

from serve_app.model.backends.protocol import Backend
from serve_app.model.checkpoint import AlignmentHead
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import take_layers
from serve_app.model.stack_shape import StackShape
from serve_app.model.upstream import Upstream


class Talker:
    """The 28-layer stack with its head and its static keys and values."""

    def __init__(
        self,
        module: Upstream,
        backend: Backend,
        *,
        slots: int,
        positions: int,
        watched: AlignmentHead | None = None,
    ) -> None:
        """Copy the weights of upstream's talker.

        Args:
            module: Qwen3TTSTalkerForConditionalGeneration.
            backend: makes the layers.
            slots: streams held at once.
            positions: maximum number of positions of a slot.
            watched: the head whose queries are kept; None keeps none.
        """
        config = module.config
        shape = StackShape(
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            hidden=config.hidden_size,
            rms_eps=config.rms_norm_eps,
            rope_theta=config.rope_theta,
        )
        layers, norm = take_layers(module.model, shape)
        self.stack = backend.stack(layers, norm, shape, positions)
        weight: Tensor = module.codec_head.weight.detach()
        self._head = backend.linear(weight)
        self.vocabulary = weight.shape[0]
        self.cache = KvCache(
            layers=shape.layers,
            slots=slots,
            kv_heads=shape.kv_heads,
            positions=positions,
            head_dim=shape.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )
        if watched is not None:
            self.cache.watch(watched.layer, watched.head, watched.head * shape.kv_heads // shape.heads)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        return self.stack.weight_bytes + self._head.nbytes

    @property
    def reads_length(self) -> bool:
        """Whether :meth:`step` costs more for a larger ``length``; otherwise one large length serves all cases."""
        return self.stack.reads_length

    def prefill(self, x: Tensor, rows: Rows, starts: Tensor, lengths: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Fill slots with prompts.

        The padding after a prompt is computed too; the stream overwrites it when it continues.

        Args:
            x: [B, T, H], prompts, each padded at its end.
            rows: the B slots; overwritten from ``starts`` to ``starts + T``.
            starts: [B] int64, positions that each slot already holds.
            lengths: [B] int64, lengths of the prompts, 1 to T.
            length: at least ``starts + T`` of every slot.

        Returns:
            hidden [B, H] and float32 logits [B, V] of each prompt's last position.
        """
        hidden = self.stack.run_staggered(x, self.cache, rows, starts, length)
        last = hidden[torch.arange(len(lengths), device=x.device), lengths - 1]
        return last, self._head(last).float()

    def step(self, x: Tensor, rows: Rows, positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one position of several slots.

        Args:
            x: [B, H].
            rows: the B slots.
            positions: [B] int64, index of each slot's new position.
            length: more than every position of ``positions``.

        Returns:
            hidden [B, H] and float32 logits [B, V].
        """
        hidden = self.stack.run_staggered(x[:, None], self.cache, rows, positions, length)[:, 0]
        return hidden, self._head(hidden).float()
