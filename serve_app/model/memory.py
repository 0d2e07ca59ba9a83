"""Whether GPU memory that ran out while a model was loaded will be there later; it knows no torch."""

from serve_app.startup import Verdict

LOOK_AGAIN_S = 15.0
"""Each attempt loads the model again."""

NO_CONTEXT = Verdict("wait", "other processes hold all of the device's memory")

_OVERHEAD_BYTES = 1 << 30
"""Of a process beside what its tensors take: its CUDA context, kernels, workspaces of libraries."""


def ran_out(message: str) -> bool:
    """Whether an error of torch's says that the device has no memory left."""
    return "out of memory" in message


def judge(free_bytes: int, total_bytes: int, own_bytes: int, share: float) -> Verdict:
    """Why there was not enough: others hold what this process may take, or it may not take what it needs.

    Args:
        free_bytes: of the device, when it ran out.
        total_bytes: of the device.
        own_bytes: that this process had taken by then.
        share: of the device that it may take; 0, or 1 and more: all of it.
    """
    limit_bytes = int(total_bytes * share) if 0 < share < 1 else total_bytes
    entitled_bytes = limit_bytes - own_bytes
    if free_bytes + _OVERHEAD_BYTES < entitled_bytes:
        return Verdict(
            "wait",
            f"other processes hold memory of this replica's share, {gib(limit_bytes)} of {gib(total_bytes)};"
            f" it had {gib(own_bytes)} of it, and {gib(free_bytes)} were free",
        )
    return Verdict(
        "never",
        f"the model does not fit into this replica's share of the GPU's memory, {gib(limit_bytes)} of"
        f" {gib(total_bytes)}: more of generator.num_gpus, or fewer engine.slots",
    )


def gib(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / (1 << 30):.1f} GiB"
