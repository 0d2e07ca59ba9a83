"""The code predictor's layers for backends that take its steps one by one."""

from serve_app.model.backends.protocol import Backend, PredictorLayers, PredictorWeights
from serve_app.model.stack_shape import StackShape


def stepwise(backend: Backend, weights: PredictorWeights, shape: StackShape, positions: int) -> PredictorLayers:
    """Make the code predictor's layers of a backend's stack and matmuls.

    Args:
        backend: makes stack and matmuls.
        weights: the code predictor's weights.
        shape: the stack's sizes.
        positions: positions of a frame.
    """
    return PredictorLayers(
        stack=backend.stack(weights.layers, weights.norm, shape, positions),
        heads=[backend.linear(head) for head in weights.heads],
        project=None if weights.projection is None else backend.linear(*weights.projection),
    )
