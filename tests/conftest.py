"""Profiles of Hypothesis, and a hub that may not be asked.

``full`` is the default profile, and ``make test`` selects ``short``.

Examples are counted, not timed: a loaded machine is slow, not wrong. The short run tries the same examples each time.
"""

import pytest
from huggingface_hub import configure_http_backend, constants
from hypothesis import settings

settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=10, derandomize=True)
settings.load_profile("full")


@pytest.fixture
def offline(monkeypatch):
    """As with ``HF_HUB_OFFLINE=1``. The hub's client keeps its connections: those of other tests are not reused."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    configure_http_backend()
    yield
    monkeypatch.undo()
    configure_http_backend()
