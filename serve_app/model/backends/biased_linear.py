"""A bias for matmuls that have none."""

from torch import Tensor

from serve_app.model.backends.protocol import Linear


class BiasedLinear:
    """``y = x Wᵀ + b``; the bias takes the place of the residual."""

    def __init__(self, linear: Linear, bias: Tensor) -> None:
        """Add ``bias`` [N] to the outputs of ``linear``."""
        self.nbytes = linear.nbytes
        self._linear = linear
        self._bias = bias

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Multiply [..., K] into [..., N] and add the bias; ``residual`` is not supported."""
        assert residual is None, "the bias takes the place of the residual"
        return self._linear(x, self._bias.expand(*x.shape[:-1], -1))
