"""How many examples a property is tried with: all of them, or a tenth under the profile ``short``."""

from typing import Any

from hypothesis import settings

FULL = 100
"""Hypothesis' default, which is what the profile ``full`` has (``tests/conftest.py``)."""


def examples(count: int, **options: Any) -> settings:
    """Settings with ``count`` examples in the full run, fewer in the short one; ``options`` are Hypothesis' own."""
    share = settings().max_examples / FULL
    return settings(max_examples=max(5, round(share * count)), **options)
