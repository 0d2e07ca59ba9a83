"""How near a result in float32 or bfloat16 has to lie to a reference in float64.

A tolerance counts units in the last place. It follows from how a result is computed, so it holds on every CPU: another
library's result is no reference, since that library rounds differently on each kind of CPU.
"""

import torch


def assert_within_ulps(given, exact, ulps, of=None):
    """Every element of ``given`` lies within ``ulps`` units in the last place of ``exact``.

    Args:
        given: float32 or bfloat16, any shape.
        exact: float64, the same shape.
        ulps: how many units.
        of: the size whose unit in the last place counts, broadcast to ``exact``; without it that of ``exact`` itself. A
            sum that may cancel names the sum of its terms' sizes here.
    """
    size = (exact if of is None else of).abs().clamp_min(torch.finfo(given.dtype).tiny).expand_as(exact)
    found = (given.double() - exact).abs() / (size * torch.finfo(given.dtype).eps)
    worst = found.argmax().item()
    where = f"{given.flatten()[worst].item()!r} for {exact.flatten()[worst].item()!r} (element {worst})"
    assert found.max() <= ulps, f"{found.max().item():.2f} units in the last place, allowed {ulps}: {where}"
