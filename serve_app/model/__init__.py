"""The checkpoint and what is computed with it; the only package that imports torch."""

import os

_SPINS = "3000"
"""Rounds, some tens of microseconds in all, for which a thread asks whether the others are there before it sleeps.

By itself GNU's OpenMP asks for 3 ms: a thread whose partner has lost its processor to another process then keeps the
other processor from that partner, hundreds of times a frame (docs/performance.md).
"""

if "OMP_WAIT_POLICY" not in os.environ:  # read once, when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
