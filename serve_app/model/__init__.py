"""Loads the checkpoint and computes with it. No other package imports torch."""

import os

_SPINS = "3000"
"""Iterations for which a thread spins while it waits for the others, before it sleeps; they take some tens of
microseconds. GNU's OpenMP waits for 3 ms by default. If a thread loses its core to another process, its partner then
keeps the other core busy while it waits, hundreds of times per frame (docs/performance.md).
"""

if "OMP_WAIT_POLICY" not in os.environ:  # read once, when torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
