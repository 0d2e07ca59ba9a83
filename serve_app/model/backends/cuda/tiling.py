"""How a matmul is divided into programs on a GPU. Does not import Triton, so that it can be decided anywhere."""

ROWS = 16
"""Rows of one program, and of a tensor core's bfloat16 matmul."""

WARPS = 8

WIDTH = 64
"""Inputs that one warp reads at a time: 128 bytes of each of the weight's rows."""

STEP = WARPS * WIDTH
"""Inputs that a program reads at a time."""


def columns_of(outputs: int) -> int:
    """Outputs per program: few enough to give work to all SMs of a large GPU, if there are enough outputs."""
    return 32 if outputs >= 4096 else 16 if outputs >= 2048 else 8


def stages_of(inputs: int, columns: int, shared_bytes: int) -> int:
    """Triton's ``num_stages``, which is the steps to prefetch plus one: all steps, or what shared memory can hold."""
    step_bytes = 2 * STEP * (columns + ROWS)
    return 1 + max(1, min(-(-inputs // STEP), shared_bytes // step_bytes))
