"""A redeploy under open sockets: what those that speak and those that do not are told."""

import asyncio
import contextlib
import json

import pytest
from running_service import READY, Service, free_port, speak
from websockets.exceptions import ConnectionClosed


async def told(connection) -> tuple[dict, int, str]:
    """The last message of a socket, and how it is closed."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(await connection.recv())
    return json.loads(messages[-1]), connection.close_code, connection.close_reason


@pytest.fixture(scope="module")
def pair(launch):
    """Two ingresses; their generators need no model, and take no time to start."""
    port = free_port()
    ingress = {"replicas": 2, "num_cpus": 0.1, "graceful_shutdown_timeout_s": 120}
    launched = launch(port, import_path="tones:build_app", ingress=ingress)
    launched.wait_for(READY)
    yield Service(f"127.0.0.1:{port}", launched)
    launched.stop()


async def test_a_redeploy_tells_idle_sockets_and_lets_those_that_speak_finish(pair):
    old = set(pair.pids_of("ServeReplica:tts:Ingress"))
    assert len(old) == 2
    async with contextlib.AsyncExitStack() as sockets:

        async def opened(path="/api/v1/speak"):
            return await sockets.enter_async_context(pair.connect(path, ping_timeout=None))

        idle = [await opened(path) for path in ("/api/v1/speak", "/api/v1/speak?framing=raw", "/ws/tts")]
        speaking = [await opened() for _ in range(3)]
        # Their utterances stay open until the idle ones are told, however long the new ingresses take to start.
        begun = {"utterance_id": "a", "final": False}
        speeches = [asyncio.create_task(speak(one, "Hello. ", patience_s=250, **begun)) for one in speaking]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(pair.redeploy, engine={"max_waiting_streams": 33})
        async with asyncio.timeout(150):  # new ingresses take most of it, where other work is going on
            for last, code, reason in await asyncio.gather(*map(told, idle)):
                assert last["code"] == "SERVICE_RESTART"
                assert last["retry_after_ms"] > 0
                assert (code, reason) == (1012, "SERVICE_RESTART")
        assert not any(speech.done() for speech in speeches)
        assert set(pair.pids_of("ServeReplica:tts:Ingress")) > old  # the new ones beside the old
        async with pair.connect() as fresh:
            assert pair.sessions() <= 1  # of a new one, which knows nothing of those that still speak
            assert (await speak(fresh, "Hello.")).end["type"] == "complete"
        for socket in speaking:
            await socket.send(json.dumps({"type": "speak", "utterance_id": "a", "text": "Goodbye.", "final": True}))
        for speech, socket in zip(speeches, speaking, strict=True):
            spoken = await speech
            assert spoken.end["type"] == "complete"
            assert len(spoken.pcm) // 2 == spoken.end["duration_ms"] * 24 > 0
            assert (await told(socket))[1:] == (1012, "SERVICE_RESTART")
