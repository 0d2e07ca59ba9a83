"""Arrivals sent to scripted servers that speak dialect B, or do not."""

import asyncio
import json
from contextlib import asynccontextmanager
from http import HTTPStatus

import numpy as np
import pytest
from websockets.asyncio.server import serve

from serve_app.cli.load.arrivals import Arrival
from serve_app.cli.load.client import Target, load

FRAME = np.full(1920, 8000, "<i2").tobytes()  # 80 ms, loud
SILENT = bytes(3840)


def complete(duration_ms):
    return {"type": "complete", "utterance_id": "u", "duration_ms": duration_ms}


def arrivals(*times_s):
    return [Arrival(at_s, f"text {number}", None, None, number) for number, at_s in enumerate(times_s)]


@asynccontextmanager
async def server(answer, **options):
    """``answer`` is called with every socket and its first message; the target for it."""

    async def handle(socket):
        await answer(socket, json.loads(await socket.recv()))

    async with serve(handle, "127.0.0.1", 0, compression=None, **options) as running:
        port = running.sockets[0].getsockname()[1]
        yield Target(f"ws://127.0.0.1:{port}", "", max_sessions=8, timeout_s=5.0, buffer_s=0.0)


async def send(socket, *frames):
    for frame in frames:
        await socket.send(frame if isinstance(frame, bytes | str) else json.dumps(frame))


async def test_what_came_is_measured():
    asked = []

    async def answer(socket, message):
        asked.append(message)
        await asyncio.sleep(0.05)
        await send(socket, {"type": "segment"}, {"type": "audio_chunk"}, SILENT)
        await asyncio.sleep(0.2)
        await send(socket, {"type": "audio_chunk"}, FRAME, {"type": "audio_chunk"}, b"", complete(160))

    async with server(answer) as target:
        (one,) = await load(arrivals(0.1), target)
    assert one.code == "COMPLETE"
    assert one.samples == 3840
    assert one.ttfa_s >= 0.05
    assert one.e2e_s >= 0.25
    assert one.audible_s >= one.ttfa_s + 0.2  # the silent frame is over by then, and its audio is what came next
    assert one.underruns == 1
    assert 0 < one.silent_s <= one.e2e_s
    assert one.connect_s > 0
    assert (asked[0]["type"], asked[0]["text"], asked[0]["seed"]) == ("speak", "text 0", 0)


async def test_no_arrival_waits_for_earlier_ones():
    sockets, all_are_here = [], asyncio.Event()

    async def answer(socket, _):
        sockets.append(socket)
        if len(sockets) == 4:
            all_are_here.set()
        await all_are_here.wait()
        await send(socket, FRAME, complete(80))

    async with server(answer) as target:
        utterances = await load(arrivals(0.0, 0.02, 0.04, 0.06), target)
    assert [one.code for one in utterances] == ["COMPLETE"] * 4
    assert [one.at_s for one in utterances] == [0.0, 0.02, 0.04, 0.06]


async def test_an_arrival_beyond_the_bound_is_counted_and_not_sent():
    asked, released = [], asyncio.Event()

    async def answer(socket, message):
        asked.append(message["text"])
        await released.wait()
        await send(socket, complete(0))

    async with server(answer) as target:
        bounded = Target(target.url, "", max_sessions=2, timeout_s=5.0, buffer_s=0.0)
        asyncio.get_running_loop().call_later(0.5, released.set)
        utterances = await load(arrivals(0.0, 0.02, 0.04, 0.06, 1.5), bounded)
    assert [one.code for one in utterances] == ["COMPLETE", "COMPLETE", "NOT_SENT", "NOT_SENT", "COMPLETE"]
    assert asked == ["text 0", "text 1", "text 4"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([{"type": "error", "code": "CAPACITY", "message": "later"}], "CAPACITY"),
        ([FRAME, {"type": "error", "code": "SERVICE_RESTART", "retry_after_ms": 300}], "SERVICE_RESTART"),
        ([FRAME, {"type": "cancelled", "duration_ms": 80}], "CANCELLED"),
        ([FRAME, complete(160)], "LOST_AUDIO"),
        (["hello"], "BAD_ANSWER"),
        (["[]"], "BAD_ANSWER"),
        (["{}"], "BAD_ANSWER"),
        ([FRAME], "CLOSED_1000"),
    ],
)
async def test_what_is_not_complete_has_a_code(frames, code):
    async def answer(socket, _):
        await send(socket, *frames)

    async with server(answer) as target:
        (one,) = await load(arrivals(0.0), target)
    assert one.code == code


async def test_a_server_that_dies_or_is_silent_or_gone_has_a_code():
    async def die(socket, _):
        socket.transport.abort()

    async def wait(socket, _):
        await socket.wait_closed()

    async with server(die) as target:
        died = await load(arrivals(0.0), target)
    gone = await load(arrivals(0.0), target)
    async with server(wait) as target:
        silent = await load(arrivals(0.0), Target(target.url, "", 1, timeout_s=0.2, buffer_s=0.0))
    assert [one.code for one in (*died, *gone, *silent)] == ["CLOSED_1006", "ECONNREFUSED", "TIMEOUT"]


async def test_a_key_is_handed_over_and_a_refused_handshake_counted():
    def check(connection, request):
        given = request.headers.get("authorization")
        return None if given == "Bearer tts_x" else connection.respond(HTTPStatus.UNAUTHORIZED, "")

    async def answer(socket, _):
        await send(socket, complete(0))

    async with server(answer, process_request=check) as target:
        (refused,) = await load(arrivals(0.0), target)
        (let_in,) = await load(arrivals(0.0), Target(target.url, "tts_x", 8, 5.0, 0.0))
    assert (refused.code, let_in.code) == ("HTTP_401", "COMPLETE")
    assert refused.ttfa_s is None
