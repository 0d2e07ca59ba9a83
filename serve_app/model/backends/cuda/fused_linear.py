"""One matmul on a GPU."""

import torch
from torch import Tensor

from serve_app.model.backends.cuda.products import Product, aligned


class FusedLinear:
    """:class:`serve_app.model.backends.protocol.Linear` for bfloat16 activations on a GPU.

    Streams do not affect each other: a row of a batch equals the row alone, to the last bit.
    """

    def __init__(self, weight: Tensor) -> None:
        """Keep ``weight`` [N, K] bfloat16."""
        self._product = Product(weight)
        self.nbytes = self._product.nbytes

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] bfloat16 into [..., N] bfloat16, plus ``residual``."""
        assert x.dtype == torch.bfloat16, "the kernel reads bfloat16"
        out = x.new_empty(*x.shape[:-1], self._product.outputs)
        self._product.run(aligned(x).view(-1, x.shape[-1]), out.view(-1, self._product.outputs))
        return out if residual is None else out.add_(residual)
