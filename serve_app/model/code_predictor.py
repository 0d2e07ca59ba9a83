"""The code predictor: computes codebooks 1 to 15 of a frame from the talker's state and codebook 0."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from serve_app.model.backends.protocol import Backend, PredictorWeights
from serve_app.model.code_embedding import CodeEmbedding
from serve_app.model.kv_cache import KvCache, Rows
from serve_app.model.layer_weights import take_layers
from serve_app.model.sampling import SamplingTensors
from serve_app.model.stack_shape import StackShape
from serve_app.model.upstream import Upstream


class CodePredictor:
    """The 5-layer stack with a head and an embedding per codebook; its keys and values last for one frame."""

    def __init__(self, module: Upstream, embedding: CodeEmbedding, backend: Backend, *, slots: int) -> None:
        """Use the weights of upstream's code predictor.

        Args:
            module: Qwen3TTSTalkerCodePredictorModelForConditionalGeneration.
            embedding: embeddings of all codebooks; not copied.
            backend: makes the layers.
            slots: maximum number of rows of a pass.
        """
        config = module.config
        self.steps = config.num_code_groups - 1
        shape = StackShape(
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            hidden=config.hidden_size,
            rms_eps=config.rms_norm_eps,
            rope_theta=config.rope_theta,
        )
        weight: Tensor = module.lm_head[0].weight
        self.vocabulary = weight.shape[0]
        self._embedding = embedding
        self._sample_codes = backend.sample
        self.cache = KvCache(
            layers=shape.layers,
            slots=slots,
            kv_heads=shape.kv_heads,
            positions=self.steps + 1,
            head_dim=shape.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )
        layers, norm = take_layers(module.model, shape)
        heads = [head.weight.detach() for head in module.lm_head]
        weights = PredictorWeights(layers, norm, heads, _projection(module.small_to_mtp_projection))
        made = backend.predictor(weights, shape, embedding, self.cache)
        self.stack, self.frame, self._heads, self._project = made.stack, made.frame, made.heads, made.project

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one frame reads, without the projection for a wider talker."""
        return self.steps * self.stack.weight_bytes + sum(head.nbytes for head in self._heads)

    def sample_frame(
        self, hidden: Tensor, first: Tensor, uniform: Tensor, sampling: SamplingTensors, rows: Rows, keep: int | None
    ) -> Tensor:
        """Sample codes 1 to 15 of one frame of several streams.

        Args:
            hidden: [B, H], the talker's last state.
            first: [B] int64, codebook 0.
            uniform: [B, 16] float32 in [0, 1), one number per codebook.
            sampling: sampling parameters of every slot.
            rows: the B slots.
            keep: maximum number of codes that any of them may choose from; None if all are greedy.

        Returns:
            [B, 16] int64, including codebook 0.
        """
        if self.frame is not None and self.frame.can_sample(keep):
            narrow = hidden if self._project is None else self._project(hidden)
            return self.frame.sample_frame(narrow, first, uniform, sampling, rows, keep)

        def choose(codebook: int, logits: Tensor) -> Tensor:
            return self._sample_codes(logits, uniform[:, codebook], sampling, rows, keep)

        return self.step_through(hidden, first, choose)

    def step_through(self, hidden: Tensor, first: Tensor, choose: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Sample the same codes one codebook at a time.

        Args:
            hidden: [B, H], the talker's last state.
            first: [B] int64, codebook 0.
            choose: (codebook, [B, V] float32 logits) -> [B] codes.

        Returns:
            [B, 16] int64, including codebook 0.
        """
        embed = self._embedding.of_codebook
        rows = slice(0, hidden.shape[0])
        codes = [first]
        x = torch.stack((hidden, embed(0, first)), dim=1)  # [B, 2, H]
        position = 0
        for codebook in range(1, self.steps + 1):
            given = x if self._project is None else self._project(x)
            state = self.stack.run_aligned(given, self.cache, rows, position)[:, -1]
            codes.append(choose(codebook, self._heads[codebook - 1](state).float()))
            position += x.shape[1]
            if codebook < self.steps:
                x = embed(codebook, codes[-1])[:, None]
        return torch.stack(codes, dim=1)


def _projection(module: Upstream) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of the projection of a wider talker's states; in 0.6B both have the same width."""
    return None if isinstance(module, nn.Identity) else (module.weight.detach(), module.bias.detach())
