import asyncio
import os
import signal

import numpy as np
from running_service import speak
from test_streaming import LONG, MIDDLE, samples


async def test_a_killed_generator_costs_time_and_no_sample(service):
    async def session(text, seed):
        async with service.connect() as connection:
            return await speak(connection, text, seed=seed)

    texts = [MIDDLE, LONG, MIDDLE]
    whole = [await session(text, seed) for seed, text in enumerate(texts)]
    cut = asyncio.gather(*(session(text, seed) for seed, text in enumerate(texts)))
    await asyncio.sleep(1.0)
    os.kill(service.pid_of("ServeReplica:tts:Generator"), signal.SIGKILL)
    for expected, spoken in zip(whole, await cut, strict=True):
        assert spoken.end["type"] == "complete"
        assert spoken.end["duration_ms"] == expected.end["duration_ms"]
        # Sums in another order round differently in the last bit of 16; another code would differ in all of them.
        np.testing.assert_allclose(samples(spoken), samples(expected), atol=2)
