import logging

import httpx
import pytest
from known_backend import KnownBackend, served

from serve_app.config import AppConfig


@pytest.fixture(autouse=True)
def package_log():
    """What a test hands the package's lines to is for that test alone."""
    ours = logging.getLogger("serve_app")
    before = ours.handlers[:], ours.propagate, ours.level
    yield
    ours.handlers[:], ours.propagate, ours.level = before


@pytest.fixture
def backend():
    return KnownBackend()


@pytest.fixture
async def host(backend):
    """Address of the web application over the test's backend, with the default configuration."""
    async with served(backend, AppConfig()) as address:
        yield address


@pytest.fixture
async def http(host):
    async with httpx.AsyncClient(base_url=f"http://{host}", timeout=20) as client:
        yield client
