"""Decides whether GPU memory that ran out while a model was loaded may become free later. Does not import torch."""

from serve_app.startup import Availability

CHECK_AGAIN_S = 15.0
"""Long, because each attempt loads the model again."""

NO_CONTEXT = Availability("wait", "other processes hold all of the device's memory")

_OVERHEAD_BYTES = 1 << 30
"""Memory of a process besides its tensors: its CUDA context, kernels and library workspaces."""


def ran_out(message: str) -> bool:
    """Whether torch's error message says that the device is out of memory."""
    return "out of memory" in message


def judge(free_bytes: int, total_bytes: int, own_bytes: int, share: float) -> Availability:
    """Why memory was not enough: other processes hold this process's share, or the share itself is too small.

    Args:
        free_bytes: free memory of the device when it ran out.
        total_bytes: memory of the device.
        own_bytes: memory that this process had allocated by then.
        share: share of the device that this process may use; 0, or 1 and more, means all of it.
    """
    limit_bytes = int(total_bytes * share) if 0 < share < 1 else total_bytes
    entitled_bytes = limit_bytes - own_bytes
    if free_bytes + _OVERHEAD_BYTES < entitled_bytes:
        return Availability(
            "wait",
            f"other processes hold memory of this replica's share, {gib(limit_bytes)} of {gib(total_bytes)};"
            f" it had {gib(own_bytes)} of it, and {gib(free_bytes)} were free",
        )
    return Availability(
        "never",
        f"the model does not fit into this replica's share of the GPU's memory, {gib(limit_bytes)} of"
        f" {gib(total_bytes)}: more of generator.num_gpus, or fewer engine.slots",
    )


def gib(count: int) -> str:
    """Format a number of bytes for people."""
    return f"{count / (1 << 30):.1f} GiB"
