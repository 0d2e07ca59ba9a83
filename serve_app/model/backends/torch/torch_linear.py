"""Matmuls with a constant weight, by torch."""

from torch import Tensor
from torch.nn import functional


class PlainLinear:
    """The unchanged weight, multiplied by torch."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Keep ``weight`` [N, K] without a copy."""
        self.nbytes = weight.numel() * weight.element_size()
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N], plus ``residual``."""
        product = functional.linear(x, self._weight, self._bias)
        return product if residual is None else product.add_(residual)
