import asyncio
import os
import signal

import numpy as np
from running_service import READY, Service, free_port, speak, wait_until
from stopped_thread import busiest_thread, stopped
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


async def test_an_engine_that_is_stuck_is_replaced_and_its_streams_go_on(launch):
    port = free_port()
    launched = launch(port, engine={"step_timeout_s": 3}, admission={"stall_timeout_s": 10})
    await asyncio.to_thread(launched.wait_for, READY)
    service = Service(f"127.0.0.1:{port}", launched)
    async with service.connect() as connection:
        whole = await speak(connection, LONG, seed=1)
    async with service.connect(ping_timeout=None) as connection:
        speaking = asyncio.create_task(speak(connection, LONG, seed=1, patience_s=150))
        await asyncio.sleep(0.3)
        stuck = service.pid_of("ServeReplica:tts:Generator")
        with stopped(await asyncio.to_thread(busiest_thread, stuck)):
            spoken = await speaking
            await asyncio.to_thread(wait_until, lambda: replaced(service, stuck), 60, "another generator serves")
    assert spoken.end["type"] == "complete"
    np.testing.assert_allclose(samples(spoken), samples(whole), atol=2)
    launched.stop()


def replaced(service, pid) -> bool:
    return pid not in service.pids_of("ServeReplica:tts:Generator")
