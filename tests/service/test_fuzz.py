"""Clients who send what they should not, beside one who does as it should, on the running service."""

import asyncio
import contextlib
import json
import random
import struct
from collections import Counter

import numpy as np
import pytest
from fuzzed_frames import conversations
from running_service import Log, speak, wait_until
from typed_answers import ANSWERS
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

PATHS = {
    "full": "/api/v1/speak?",
    "raw": "/api/v1/speak?framing=raw&",
    "research": "/ws/tts?",
    "stream": "/v1/audio/speech/stream?",
    "deepgram": "/v1/speak?",
}
FRAMES_OF_EACH = 2000
"""Ten thousand of each, without a service: ``tests/unit/test_dialect_fuzz.py``."""
MADE_OF_EACH = 150
AT_ONCE = 6
PATIENCE_S = {"full": 60.0, "raw": 60.0, "research": 2.0, "stream": 60.0, "deepgram": 60.0}
"""How long answers are waited for; a client of dialect A can take nothing back but by leaving."""

LONGEST_WAIT_S = 10.0
"""For the first audio, on a machine that does other things too."""

PAUSE_S = 0.3
CALM = "It is good to hear you."
MARK = "the-mark"
LAST_WORDS = {
    "full": [{"type": "cancel"}, {"type": "flush", "utterance_id": MARK}],
    "raw": [{"type": "cancel"}, {"type": MARK}],
    "research": [{"type": MARK}],
    "stream": [{"type": MARK}],
    "deepgram": [{"type": "Clear"}, {"type": MARK}],
}
"""Answered after everything else, by an error that names the mark."""


async def converse(service, conversation):
    """Send all of a conversation while its answers are read; returns what came, by kind, and the close code."""
    answers = ANSWERS[conversation.dialect]()
    async with service.connect(PATHS[conversation.dialect] + conversation.query, close_timeout=5) as connection:
        listening = asyncio.create_task(listen(connection, answers))
        with contextlib.suppress(ConnectionClosed):
            await say(connection, conversation)
        if conversation.ending == "leave":
            connection.transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listening, PATIENCE_S[conversation.dialect])
    return answers.kinds, connection.close_code


async def listen(connection, answers):
    with contextlib.suppress(ConnectionClosed):
        while answers.kinds[-1:] != ["mark"]:
            message = answers.take(await connection.recv())
            if getattr(message, "code", None) is not None and MARK in message.model_dump_json():
                answers.kinds.append("mark")


async def say(connection, conversation):
    for number, frame in enumerate(conversation.frames):
        if number in conversation.pauses:
            await asyncio.sleep(PAUSE_S)
        size = max(1, -(-len(frame.data) // frame.pieces))
        pieces = [frame.data[at : at + size] for at in range(0, len(frame.data), size)]
        await connection.send(pieces if len(pieces) > 1 else frame.data, text=frame.text)
    match conversation.ending:
        case "ask":
            for words in LAST_WORDS[conversation.dialect]:
                await connection.send(json.dumps(words))
        case "stop":
            for word in ("cancel", "stop", "speak", "stop"):
                await connection.send(json.dumps({"type": word}))
        case "bytes":
            await connection.send(b'\xff{"type": "start"}', text=True)
        case _:
            pass


def check_end(conversation, kinds, close_code):
    """Whether a conversation ended as its last words ask for."""
    if close_code == 1013:  # more refusals wait behind speech than may
        assert kinds[-1] == "CAPACITY"
        return
    match conversation.dialect, conversation.ending:
        case "full" | "raw" | "stream" | "deepgram", "ask":
            assert kinds[-1] == "mark", kinds[-20:]
        case dialect, "stop":
            assert close_code == 1000
            assert dialect == "raw" or kinds[-1] == "stopped"
        case "full" | "raw" | "deepgram", "bytes":
            assert close_code == 1007
        case _:
            assert close_code in (1000, 1006, 1007)


async def speak_calmly(service, over):
    """Say the same over and over, as an orderly client; returns what was heard each time."""
    heard = []
    async with service.connect() as connection:
        while not over.is_set():
            heard.append(await speak(connection, CALM, seed=7))
    return heard


async def settled(service, running):
    """No session is left over, and nobody is spoken for."""
    await asyncio.to_thread(wait_until, lambda: service.sessions() == 0, 20, "the sessions have ended")
    await asyncio.to_thread(wait_until, lambda: running() == 0, 20, "no stream runs")


async def test_ten_thousand_frames_are_answered_by_type_and_disturb_nobody(service, running):
    everything = [
        conversation for dialect in PATHS for conversation in conversations(dialect, MADE_OF_EACH, FRAMES_OF_EACH)
    ]
    assert sum(len(conversation.frames) for conversation in everything) >= 10_000
    random.Random(0).shuffle(everything)
    await settled(service, running)
    log, over, waiting = Log(service), asyncio.Event(), iter(everything)
    async with service.connect() as connection:
        before = await speak(connection, CALM, seed=7)

    async def work():
        kinds = Counter()
        for conversation in waiting:
            try:
                came, close_code = await converse(service, conversation)
                check_end(conversation, came, close_code)
            except AssertionError as error:
                error.add_note(f"in {conversation!r}"[:20_000])
                raise
            kinds.update(came)
        return kinds

    calm = asyncio.create_task(speak_calmly(service, over))
    try:
        kinds = sum(await asyncio.gather(*(work() for _ in range(AT_ONCE))), Counter())
    finally:
        over.set()
        heard = await calm
    await settled(service, running)

    assert {
        "ready",
        "segment",
        "audio",
        "cancelled",
        "audio_end",
        "session.done",
        "Flushed",
        "INVALID_MESSAGE",
    } <= kinds.keys(), kinds
    assert not (found := log.tracebacks()), "\n".join(found)
    assert [one.end["type"] for one in heard] == ["complete"] * len(heard)
    assert max(one.audio_at_s[0] for one in heard) < LONGEST_WAIT_S
    for one in heard:
        # Sums in another order round differently in the last bit of 16.
        np.testing.assert_allclose(*(np.frombuffer(each.pcm, "<i2").astype(int) for each in (one, before)), atol=2)


def wire_garbage(dice):
    """Bytes after the upgrade that are no WebSocket, or nearly one."""
    mask, key = 0x80, b"\1\2\3\4"
    return dice.choice(
        [
            dice.randbytes(dice.randint(1, 400)),
            bytes([0x81, 2]) + b"{}",  # not masked
            bytes([0xF1, mask | 2]) + key + b"{}",  # reserved bits
            bytes([0x83, mask]) + key,  # an opcode that is none
            bytes([0x80, mask | 2]) + key + b"{}",  # a continuation of nothing
            bytes([0x09, mask]) + key,  # a ping in pieces
            bytes([0x89, mask | 126]) + struct.pack("!H", 200) + key + bytes(200),  # a ping that is too long
            bytes([0x88, mask | 1]) + key + b"\0",  # half a close code
            bytes([0x81, mask | 127]) + struct.pack("!Q", 1 << 40) + key,  # a terabyte, announced
            bytes([0x81, mask | 126]) + struct.pack("!H", 1000) + key + b"short",  # and gone
            bytes([0x01, mask | 1]) + key + b"{",  # the beginning of a message, and gone
        ]
    )


async def test_what_is_not_a_websocket_leaves_nothing_behind(service, running):
    dice, log = random.Random(1), Log(service)
    await settled(service, running)
    for number in range(100):
        connection = await service.connect(list(PATHS.values())[number % len(PATHS)])
        connection.transport.write(wire_garbage(dice))
        if number % 2:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.wait_closed(), 0.1)
        connection.transport.abort()
    await settled(service, running)
    assert not (found := log.tracebacks()), "\n".join(found)
    async with service.connect() as connection:
        assert (await speak(connection, CALM)).end["type"] == "complete"
