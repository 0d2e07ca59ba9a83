"""The talker: computes codebook 0 from a voice prompt and text, one position per frame."""

from torch import Tensor

from serve_app.model.attention import StackShape
from serve_app.model.backends.torch.torch_linear import WeightFormat, make_linear
from serve_app.model.backends.torch.torch_stack import make_stack
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.upstream import Upstream


class Talker:
    """The 28-layer stack with its head and its static keys and values."""

    def __init__(self, module: Upstream, *, slots: int, positions: int, weight_format: WeightFormat) -> None:
        """Copy the weights of upstream's talker.

        Args:
            module: Qwen3TTSTalkerForConditionalGeneration.
            slots: streams held at once.
            positions: most positions of a slot.
            weight_format: weight format.
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
        self.stack = make_stack(module.model, shape, positions, weight_format)
        weight: Tensor = module.codec_head.weight.detach()
        self._head = make_linear(weight, weight_format)
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

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one step reads."""
        return self.stack.weight_bytes + self._head.nbytes

    @property
    def reads_length(self) -> bool:
        """Whether :meth:`step` costs more for a larger ``length``; otherwise one large length serves all cases."""
        return self.stack.reads_length

    def prefill(self, x: Tensor, slot: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Fill a slot with a prompt.

        Args:
            x: [1, T, H].
            slot: overwritten from ``start`` to ``start + T``.
            start: positions that the slot already holds.

        Returns:
            hidden [1, H] and float32 logits [1, V] of the last position.
        """
        hidden = self.stack.run_aligned(x, self.cache, slice(slot, slot + 1), start)[:, -1]
        return hidden, self._head(hidden).float()

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
