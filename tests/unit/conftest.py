import logging

import pytest


@pytest.fixture(autouse=True)
def package_log():
    """What a test hands the package's lines to is for that test alone."""
    ours = logging.getLogger("serve_app")
    before = ours.handlers[:], ours.propagate, ours.level
    yield
    ours.handlers[:], ours.propagate, ours.level = before
