import asyncio
import json

import numpy as np
import pytest
from running_service import speak, wait_until

SHORT = "Hello there."
MIDDLE = "It is good to hear you, and to speak to you again after such a long time."
LONG = " ".join([MIDDLE, "Every sentence of this text is spoken while the ones before it are heard."] * 5)
MINUTES = " ".join([LONG] * 12)
"""Generated for longer than the seconds between two reports of a generator."""


def samples(spoken):
    return np.frombuffer(spoken.pcm, "<i2").astype(int)


async def test_first_audio_arrives_before_the_last_frame_exists(service):
    async with service.connect() as connection:
        spoken = await speak(connection, LONG, seed=1)
    assert spoken.end["type"] == "complete"
    assert spoken.duration_s > 10
    assert spoken.audio_at_s[0] < spoken.ended_s / 5


async def test_every_sample_is_announced_and_arrives(service):
    async with service.connect() as connection:
        spoken = await speak(connection, MIDDLE, seed=1)
    chunks = [message for message in spoken.messages if message["type"] == "audio_chunk"]
    assert [chunk["seq"] for chunk in chunks] == list(range(len(chunks)))
    assert [chunk["final"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert spoken.end["duration_ms"] == round(spoken.duration_s * 1000)


@pytest.mark.slow
async def test_ten_sessions_of_different_lengths_share_one_replica(service, generators):
    async def session(text: str, seed: int):
        async with service.connect() as connection:
            return await speak(connection, text, seed=seed)

    texts = [SHORT, MIDDLE, LONG, SHORT, MIDDLE, SHORT, MIDDLE, LONG, SHORT, MIDDLE]
    assert len(generators()) == 1
    spoken = await asyncio.gather(*(session(text, seed) for seed, text in enumerate(texts)))
    assert [one.end["type"] for one in spoken] == ["complete"] * 10
    assert all(one.pcm for one in spoken)
    alone = await session(texts[4], 4)
    # Sums in another order round differently in the last bit of 16; another code would differ in all of them.
    np.testing.assert_allclose(samples(alone), samples(spoken[4]), atol=2)


async def test_a_client_that_goes_away_in_the_middle_frees_its_slot(service, running):
    wait_until(lambda: running() == 0, 10, "nobody is spoken for")
    connection = await service.connect()
    await connection.send(json.dumps({"type": "speak", "text": MINUTES, "sampling": {"temperature": 1.5}}))
    await asyncio.to_thread(wait_until, lambda: running() == 1, 10, "the stream runs")
    connection.transport.abort()
    await asyncio.to_thread(wait_until, lambda: running() == 0, 4, "its slot is free")


async def test_cancel_frees_the_slot_and_the_socket_goes_on(service, running):
    async with service.connect() as connection:
        await connection.send(json.dumps({"type": "speak", "text": MINUTES, "utterance_id": "long"}))
        await asyncio.to_thread(wait_until, lambda: running() == 1, 10, "the stream runs")
        await connection.send(json.dumps({"type": "cancel"}))
        while True:
            message = await asyncio.wait_for(connection.recv(), 10)
            if isinstance(message, str) and json.loads(message)["type"] == "cancelled":
                break
        await asyncio.to_thread(wait_until, lambda: running() == 0, 4, "its slot is free")
        assert (await speak(connection, SHORT)).end["type"] == "complete"


async def test_both_transports_carry_the_same_audio(service):
    async with service.connect() as connection:
        binary = await speak(connection, MIDDLE, seed=7, transport="binary")
        base64 = await speak(connection, MIDDLE, seed=7, transport="base64")
    assert binary.pcm
    np.testing.assert_allclose(samples(binary), samples(base64), atol=2)
