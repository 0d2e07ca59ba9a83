"""Our own kernels for bfloat16 on a GPU; torch does the rest. Importing this module imports Triton."""

from collections.abc import Iterable

from torch import Tensor

from serve_app.model.backends.biased_linear import BiasedLinear
from serve_app.model.backends.cuda.fused_linear import FusedLinear
from serve_app.model.backends.cuda.fused_stack import FusedStack
from serve_app.model.backends.protocol import Linear
from serve_app.model.backends.torch.torch_backend import TorchBackend
from serve_app.model.backends.torch.torch_linear import PlainLinear
from serve_app.model.layer_weights import LayerWeights
from serve_app.model.stack_shape import StackShape


class CudaBackend(TorchBackend):
    """Torch's backend with our own matmuls and decoder stacks for bfloat16; batch-invariant."""

    label = "fused"

    def linear(self, weight: Tensor, bias: Tensor | None = None, *, exact: bool = False) -> Linear:
        """Keep a weight as it is; torch multiplies an ``exact`` one."""
        if exact:
            return PlainLinear(weight, bias)
        linear = FusedLinear(weight)
        return linear if bias is None else BiasedLinear(linear, bias)

    def stack(self, layers: Iterable[LayerWeights], norm: Tensor, shape: StackShape, positions: int) -> FusedStack:
        """Make decoder layers of five kernels each."""
        return FusedStack(layers, norm, shape, positions)
