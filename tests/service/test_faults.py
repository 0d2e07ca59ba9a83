import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from poisoned import POISON
from running_service import READY, ROOT, Service, free_port, speak, wait_until
from stopped_thread import busiest_thread, stopped
from test_streaming import LONG, MIDDLE, samples
from websockets.exceptions import ConnectionClosed

from serve_app.cli.processes import descendants

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
        # Two streams for each generator at the most: one of them is stuck, whichever is stopped.
        connections = [await sockets.enter_async_context(pair.connect(ping_timeout=None)) for _ in range(4)]
        speaking = [asyncio.create_task(speak(each, LONG, seed=1, patience_s=250)) for each in connections]
        await asyncio.sleep(0.3)
        stuck = pair.pids_of(GENERATOR)[0]
        with stopped(await asyncio.to_thread(busiest_thread, stuck)):
            all_spoken = await asyncio.gather(*speaking)
            # One that is stopped while it holds the interpreter's lock cannot end itself: it is left, and replaced.
            await asyncio.to_thread(
                wait_until, lambda: pair.printed_by_generators("warm-up") == 3, 150, "another serves"
            )
    for spoken in all_spoken:
        assert spoken.end["type"] == "complete"
        np.testing.assert_allclose(samples(spoken), samples(whole), atol=2)


async def test_a_text_that_kills_its_generator_each_time_fails_alone(pair):
    async with pair.connect(ping_timeout=None) as bystander, pair.connect(ping_timeout=None) as connection:
        beside = asyncio.create_task(speak(bystander, LONG, patience_s=250))
        await asyncio.sleep(0.3)
        poisoned = await speak(connection, POISON, patience_s=250)
        assert (poisoned.end["type"], poisoned.end["code"]) == ("error", "SYNTHESIS_ERROR")
        assert (await speak(connection, MIDDLE, patience_s=250)).end["type"] == "complete"
        assert (await beside).end["type"] == "complete"


REDEPLOY = Path(__file__).with_name("redeploy.py")


def redeploy(service) -> None:
    """What ``serve deploy`` does with a file of which one argument has changed."""
    commands = (Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(service.launched.process.pid))
    (cluster,) = [command for command in commands if b"serve_app.cli.cluster" in command]
    (address,) = [line.split()[1].rstrip(",") for line in service.launched.printed.splitlines() if "Ray  " in line]
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": service.launched.token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    subprocess.run(
        [sys.executable, "-W", "ignore", REDEPLOY, address, cluster.split(b"\0")[-2].decode(), "33"],
        env={**os.environ, **own, "PYTHONPATH": paths},
        check=True,
        timeout=60,
    )


async def told(connection) -> tuple[dict, int, str]:
    """The last message of a socket, and how it is closed."""
    messages = []
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            messages.append(await connection.recv())
    return json.loads(messages[-1]), closed.value.rcvd.code, closed.value.rcvd.reason


async def test_a_redeploy_tells_idle_sockets_and_lets_those_that_speak_finish(pair):
    old = set(pair.pids_of("ServeReplica:tts:Ingress"))
    async with contextlib.AsyncExitStack() as sockets:
        paths = ("/api/v1/speak", "/api/v1/speak?framing=raw", "/ws/tts")
        idle = [await sockets.enter_async_context(pair.connect(path, ping_timeout=None)) for path in paths]
        speaking = await sockets.enter_async_context(pair.connect(ping_timeout=None))
        speech = asyncio.create_task(speak(speaking, LONG * 8, patience_s=250))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(redeploy, pair)
        async with asyncio.timeout(60):
            for last, code, reason in await asyncio.gather(*map(told, idle)):
                assert last["code"] == "SERVICE_RESTART"
                assert (code, reason) == (1012, "SERVICE_RESTART")
        assert not speech.done()
        assert set(pair.pids_of("ServeReplica:tts:Ingress")) > old  # the new one beside the old one
        async with pair.connect() as fresh:
            assert pair.sessions() == 1  # of the new one, which knows nothing of those that still speak
            assert (await speak(fresh, "Hello.", patience_s=120)).end["type"] == "complete"
        spoken = await speech
        assert spoken.end["type"] == "complete"
        assert spoken.end["duration_ms"] == round(spoken.duration_s * 1000)
        assert (await told(speaking))[1:] == (1012, "SERVICE_RESTART")
