import asyncio
import contextlib
import os
import signal

import numpy as np
import pytest
from poisoned import POISON
from running_service import READY, Service, free_port, processor_s, speak, wait_until
from stopped_thread import busiest_thread, stopped
from test_streaming import LONG, MIDDLE, samples

pytestmark = pytest.mark.slow

GENERATOR = "ServeReplica:tts:Generator"


async def test_a_killed_generator_costs_time_and_no_sample(service):
    async def session(text, seed):
        async with service.connect() as connection:
            return await speak(connection, text, seed=seed)

    texts = [MIDDLE, LONG, MIDDLE]
    whole = [await session(text, seed) for seed, text in enumerate(texts)]
    cut = asyncio.gather(*(session(text, seed) for seed, text in enumerate(texts)))
    await asyncio.sleep(1.0)
    os.kill(service.pid_of(GENERATOR), signal.SIGKILL)
    for expected, spoken in zip(whole, await cut, strict=True):
        assert spoken.end["type"] == "complete"
        assert spoken.end["duration_ms"] == expected.end["duration_ms"]
        # Sums in another order round differently in the last bit of 16; another code would differ in all of them.
        np.testing.assert_allclose(samples(spoken), samples(expected), atol=2)


@pytest.fixture(scope="module")
def pair(launch):
    """Two generators, which one text kills; what is stuck is noticed soon."""
    port = free_port()
    launched = launch(
        port,
        import_path="poisoned:build_app",
        engine={"step_timeout_s": 3},
        admission={"stall_timeout_s": 10, "start_deadline_s": 60, "resume_deadline_s": 200},
        generator={"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.5},
    )
    launched.wait_for(READY)
    service = Service(f"127.0.0.1:{port}", launched)
    wait_until(lambda: service.printed_by_generators("warm-up") == 2, 120, "both generators serve")
    yield service
    launched.stop()


async def test_an_engine_that_is_stuck_is_replaced_and_its_streams_go_on(pair):
    async with pair.connect() as connection:
        whole = await speak(connection, LONG, seed=1)
    async with contextlib.AsyncExitStack() as sockets:
        connections = [await sockets.enter_async_context(pair.connect(ping_timeout=None)) for _ in range(4)]
        speaking = [asyncio.create_task(speak(each, LONG, seed=1, patience_s=250)) for each in connections]
        used_s = {pid: processor_s(pid) for pid in pair.pids_of(GENERATOR)}
        await asyncio.sleep(0.3)
        stuck = max(used_s, key=lambda pid: processor_s(pid) - used_s[pid])  # the other may have no stream
        with stopped(await asyncio.to_thread(busiest_thread, stuck)):
            all_spoken = await asyncio.gather(*speaking)
            # One that is stopped while it holds the interpreter's lock cannot end itself: it is left, and replaced.
            await asyncio.to_thread(
                wait_until, lambda: pair.printed_by_generators("warm-up") == 3, 150, "another serves"
            )
    for spoken in all_spoken:
        assert spoken.end["type"] == "complete"
        np.testing.assert_allclose(samples(spoken), samples(whole), atol=2)
        # A stall of 10 s and the rest of the text; not the 100 s after which a stream that does not start is given up.
        assert spoken.ended_s < 90


async def test_a_text_that_kills_its_generator_each_time_fails_alone(pair):
    async with pair.connect(ping_timeout=None) as bystander, pair.connect(ping_timeout=None) as connection:
        beside = asyncio.create_task(speak(bystander, LONG, patience_s=250))
        await asyncio.sleep(0.3)
        poisoned = await speak(connection, POISON, patience_s=250)
        assert (poisoned.end["type"], poisoned.end["code"]) == ("error", "SYNTHESIS_ERROR")
        assert (await speak(connection, MIDDLE, patience_s=250)).end["type"] == "complete"
        assert (end := (await beside).end)["type"] == "complete", end
