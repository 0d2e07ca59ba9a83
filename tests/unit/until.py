"""Waiting for a condition instead of for a time, so that a loaded machine makes a test slower and not wrong."""

import asyncio


async def until(condition, timeout_s=10.0):
    """Return as soon as ``condition()`` is true; fail after ``timeout_s``."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - nothing that is looked at has an event
            await asyncio.sleep(0.002)
