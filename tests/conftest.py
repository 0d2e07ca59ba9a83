"""Profiles of Hypothesis, the cases of the short run, and a hub that may not be asked.

``full`` is the default profile, and ``make test`` selects ``short``.

Examples are counted, not timed: a loaded machine is slow, not wrong. The short run tries the same examples each time.
"""

import random
from collections import defaultdict
from pathlib import Path

import pytest
from huggingface_hub import configure_http_backend, constants
from hypothesis import settings

settings.register_profile("full", deadline=None)
settings.register_profile("short", deadline=None, max_examples=10, derandomize=True)
settings.load_profile("full")

MAX_CASES = {"model": 2, "unit": 5, "deploy": 5}
"""The short run tries this many cases of a parametrized test, by folder: the first, the last, and others between them
that are the same in each run. It checks all documents."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the other cases of each test as slow."""
    tests = defaultdict(list)
    for item in items:
        if not item.path.name.startswith("test_docs_"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for name, cases in tests.items():
        most = MAX_CASES.get(cases[0].path.relative_to(Path(__file__).parent).parts[0], len(cases))
        if len(cases) > most:
            first, *between, last = cases
            kept = random.Random(name).sample(between, most - 2)
            for case in set(cases) - {first, *kept, last}:
                case.add_marker(pytest.mark.slow)


@pytest.fixture
def offline(monkeypatch):
    """As with ``HF_HUB_OFFLINE=1``. The hub's client keeps its connections: those of other tests are not reused."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    configure_http_backend()
    yield
    monkeypatch.undo()
    configure_http_backend()
