"""What layers of the codec are, and where in some room their columns lie; never how they are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serve_app.model.compiled.parts import REAL
from serve_app.model.compiled.window_tiles import OUTPUTS
from serve_app.model.compiled.windows import WindowLinear


class Activation(IntEnum):
    """What becomes of columns on their way into a layer's windows."""

    NONE = 0
    SNAKE = 1
    GELU = 2


@dataclass(frozen=True, slots=True)
class _Taps:
    """A convolution that is no product of matrices.

    Attributes:
        taps: [taps, C] float32, the oldest first.
        bias: [outputs] float32.
    """

    taps: Tensor
    bias: Tensor

    @property
    def history(self) -> int:
        """Columns of a window before those that are made."""
        return len(self.taps) - 1

    @property
    def channels(self) -> int:
        """Values of a column."""
        return self.taps.shape[1]

    @property
    def outputs(self) -> int:
        """Values of a column that is made."""
        return len(self.bias)


@dataclass(frozen=True, slots=True)
class Depthwise(_Taps):
    """A convolution of each channel by itself, whose columns are given a mean of 0 and a variance of 1.

    Attributes:
        eps: added to the variance.
    """

    eps: float


@dataclass(frozen=True, slots=True)
class Wave(_Taps):
    """A convolution to one channel, cut to [-1, 1]."""


@dataclass(frozen=True, slots=True)
class CompiledLayer:
    """Windows of activated columns, and what is made of them.

    Attributes:
        product: of the windows.
        activation: of the columns.
        snake: alpha and inverse beta [C] float32, of a snake.
        remembered: where in a stream's state the past of the windows begins, in values.
        rate: columns that are made of one.
        residual: how many layers before this one the columns were given that are added; 0 adds none.
    """

    product: WindowLinear | Depthwise | Wave
    activation: Activation = Activation.NONE
    snake: tuple[Tensor, Tensor] | None = None
    remembered: int = 0
    rate: int = 1
    residual: int = 0

    def __post_init__(self) -> None:
        """Check what compiled code does not."""
        adds = isinstance(self.product, WindowLinear) and not self.product.winograd
        assert adds or not self.residual, "only plain products are added to something"

    @property
    def has_window(self) -> bool:
        """Whether columns are written anew before they are multiplied."""
        return self.activation != Activation.NONE or self.product.history > 0

    @property
    def width(self) -> int:
        """Of a state, up to the end of what the layer remembers."""
        return self.remembered + self.product.history * self.product.channels


def rooms_of(layers: Sequence[CompiledLayer]) -> list[int]:
    """Choose in which of a few rooms each layer's columns are put, so that none is written while it is still wanted.

    Returns:
        A room for each layer, 0 to 2; what is added to is in the room of what is added.
    """
    given = [-1]  # each layer's columns, the first one's in no room
    for number, layer in enumerate(layers):
        if layer.residual:
            given.append(given[number - layer.residual])
            assert given[-1] >= 0, "what layers are given is not theirs to write"
            continue
        wanted = [each - later.residual for each, later in enumerate(layers) if later.residual and each >= number]
        taken = {given[each] for each in (number, *wanted) if each <= number}
        given.append(min({0, 1, 2} - taken))
    return given[1:]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where layers find and leave their columns: bytes from the beginning of some room, for each layer; -1 is nowhere.

    Attributes:
        windows: [layers] int64.
        given: [layers] int64; what the first layer is given is not in the room.
        made: [layers] int64; nor are samples.
        added: [layers] int64, what is added to what a layer makes.
        size: float32 values of room.
    """

    windows: NDArray[np.int64]
    given: NDArray[np.int64]
    made: NDArray[np.int64]
    added: NDArray[np.int64]
    size: int


_PLACES = 4
"""For windows and three rooms of wide layers, and as many of narrow ones."""


def columns_of(layers: Sequence[CompiledLayer], columns: int) -> list[int]:
    """How many columns each layer makes windows of where the first is given so many, and how many the last makes."""
    return list(accumulate((layer.rate for layer in layers), lambda given, rate: given * rate, initial=columns))


def lay_out(
    wide: Sequence[CompiledLayer], narrow: Sequence[CompiledLayer], streams: int, frames: int, columns: int
) -> Layout:
    """Find room for ``wide`` layers of some streams' frames, and for ``narrow`` ones of one frame of one stream.

    Windows are made one after the other in the same place; what layers make alternates between few.
    """
    layers, rooms = [*wide, *narrow], [*rooms_of(wide), *rooms_of(narrow)]
    windows: list[tuple[int, int]] = []  # place and size; the place 0 is nowhere
    made: list[tuple[int, int]] = []
    for number, (layer, of_frame) in enumerate(zip(layers, columns_of(layers, columns), strict=False)):
        product, first_place = layer.product, 1 if number < len(wide) else 1 + _PLACES
        of_streams, new = (streams, of_frame * frames) if number < len(wide) else (1, of_frame)
        window = of_streams * (product.history + new) * product.channels
        windows.append((first_place, window) if layer.has_window else (0, 0))
        out = of_streams * new * product.outputs
        made.append((0, 0) if isinstance(product, Wave) else (first_place + 1 + rooms[number], out))
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
