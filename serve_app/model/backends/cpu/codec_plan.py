"""Describes the codec's compiled layers, and where their columns are in a workspace; does not compute them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.backends.cpu.parts import REAL
from serve_app.model.backends.cpu.window_tiles import OUTPUTS
from serve_app.model.backends.cpu.windows import WindowLinear
from serve_app.model.codec_weights import Activation, Depthwise, Wave


@dataclass(frozen=True, slots=True)
class CompiledLayer:
    """One layer: windows of activated columns, and what is computed from them.

    Attributes:
        product: computed from the windows.
        activation: applied to the columns.
        snake: alpha and inverse beta [C] float32, if the activation is a snake.
        remembered: offset of the windows' history in a stream's state, in values.
        rate: output columns per input column.
        residual: the input of the layer this many layers back is added to the output; 0 adds nothing.
    """

    product: WindowLinear | Depthwise | Wave
    activation: Activation = Activation.NONE
    snake: tuple[Tensor, Tensor] | None = None
    remembered: int = 0
    rate: int = 1
    residual: int = 0

    def __post_init__(self) -> None:
        """Check what compiled code does not check."""
        adds = isinstance(self.product, WindowLinear) and not self.product.winograd
        assert adds or not self.residual, "only plain matmuls support a residual"

    @property
    def has_window(self) -> bool:
        """Whether columns are copied to a window before they are multiplied."""
        return self.activation != Activation.NONE or self.product.history > 0

    @property
    def width(self) -> int:
        """Width of a stream's state, up to the end of this layer's history."""
        return self.remembered + self.product.history * self.product.channels


def buffers_of(layers: Sequence[CompiledLayer]) -> list[int]:
    """Choose one of a few buffers for each layer's columns, so that none is overwritten while it is still needed.

    Returns:
        A buffer for each layer, 0 to 2; a residual is added in the buffer that holds it.
    """
    given = [-1]  # buffer of each layer's input; the first layer's input is in none
    for number, layer in enumerate(layers):
        if layer.residual:
            given.append(given[number - layer.residual])
            assert given[-1] >= 0, "layers must not write to the first layer's input"
            continue
        wanted = [each - later.residual for each, later in enumerate(layers) if later.residual and each >= number]
        taken = {given[each] for each in (number, *wanted) if each <= number}
        given.append(min({0, 1, 2} - taken))
    return given[1:]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where layers read and write their columns: byte offsets into a workspace, per layer; -1 if they are elsewhere.

    Attributes:
        windows: [layers] int64.
        given: [layers] int64, inputs; the first layer's input is not in the workspace.
        made: [layers] int64, outputs; samples are not in the workspace.
        added: [layers] int64, residuals that are added to outputs.
        size: float32 values of the workspace.
    """

    windows: NDArray[np.int64]
    given: NDArray[np.int64]
    made: NDArray[np.int64]
    added: NDArray[np.int64]
    size: int


_PLACES = 4
"""One place for windows and three for buffers, separately for wide and for narrow layers."""


def columns_of(layers: Sequence[CompiledLayer], columns: int) -> list[int]:
    """Columns of each layer's windows for the given number of input columns, and columns that the last one outputs."""
    return list(accumulate((layer.rate for layer in layers), lambda given, rate: given * rate, initial=columns))


def lay_out(
    wide: Sequence[CompiledLayer], narrow: Sequence[CompiledLayer], streams: int, frames: int, columns: int
) -> Layout:
    """Lay out a workspace: ``wide`` layers process all frames of some streams, ``narrow`` ones one frame of one stream.

    All windows use the same place, one after the other. Outputs alternate between a few buffers.
    """
    layers, buffers = [*wide, *narrow], [*buffers_of(wide), *buffers_of(narrow)]
    windows: list[tuple[int, int]] = []  # place and size; place 0 means none
    made: list[tuple[int, int]] = []
    for number, (layer, of_frame) in enumerate(zip(layers, columns_of(layers, columns), strict=False)):
        product, first_place = layer.product, 1 if number < len(wide) else 1 + _PLACES
        of_streams, new = (streams, of_frame * frames) if number < len(wide) else (1, of_frame)
        window = of_streams * (product.history + new) * product.channels
        windows.append((first_place, window) if layer.has_window else (0, 0))
        out = of_streams * new * product.outputs
        made.append((0, 0) if isinstance(product, Wave) else (first_place + 1 + buffers[number], out))
    sizes = [
        max([size for other, size in (*windows, *made) if other == place], default=0)
        for place in range(1 + 2 * _PLACES)
    ]
    ends = np.cumsum([-(-size // OUTPUTS) * OUTPUTS for size in sizes])
    begins = np.array([-1, *(REAL * ends[:-1])])
    at_windows, at_made = begins[[place for place, _ in windows]], begins[[place for place, _ in made]]
    given = np.array([-1, *at_made[:-1]])
    added = [given[number - layer.residual] if layer.residual else -1 for number, layer in enumerate(layers)]
    return Layout(at_windows, given, at_made, np.array(added), int(ends[-1]))
