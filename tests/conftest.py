"""Profiles of Hypothesis: ``full`` is the default, and ``make test`` selects ``short``.

Examples are counted, not timed: a loaded machine is slow, not wrong. The short run tries the same examples each time.
"""

from hypothesis import settings

settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=10, derandomize=True)
settings.load_profile("full")
