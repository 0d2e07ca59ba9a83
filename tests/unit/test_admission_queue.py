import asyncio
import time

import pytest

from serve_app.cluster.admission import Admission
from serve_app.config import AdmissionConfig
from serve_app.errors import CapacityError
from serve_app.session.session import Call
from serve_app.speech import SpeechRequest
from serve_app.web.admission_queue import AdmissionQueue


def gate(room=1, **settings):
    return AdmissionQueue(Admission(AdmissionConfig(**settings), room), time.monotonic)


def call(number, needed_by_s=0.0):
    return Call(number, SpeechRequest("Hello.", "austen"), "u", needed_by_s, 0.0)


async def hold(made, log, number, until):
    async with made.permit(call(number), ""):
        log.append(number)
        await until.wait()


async def test_the_next_starts_when_one_has_left():
    made, log, doors = gate(), [], [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(hold(made, log, number, doors[number])) for number in (0, 1)]
    await asyncio.sleep(0.01)
    assert (log, made.backlog.running, made.backlog.waiting) == ([0], 1, 1)
    doors[0].set()
    await asyncio.sleep(0.01)
    assert log == [0, 1]
    doors[1].set()
    await asyncio.gather(*tasks)
    assert (made.backlog.running, made.backlog.waiting) == (0, 0)


async def test_more_room_lets_those_who_wait_start():
    made, log, door = gate(), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(made, log, number, door)) for number in range(3)]
    await asyncio.sleep(0.01)
    made.resize(3)
    await asyncio.sleep(0.01)
    assert log == [0, 1, 2]
    door.set()
    await asyncio.gather(*tasks)


async def test_who_is_cancelled_while_he_waits_or_runs_leaves_nothing_behind():
    made, log, never = gate(), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(made, log, number, never)) for number in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (made.backlog.running, made.backlog.waiting) == (0, 0)
    async with made.permit(call(3), ""):
        assert made.backlog.running == 1


async def test_who_waited_too_long_is_refused_and_told_when_to_come_again():
    made = gate(start_deadline_s=0.05)
    async with made.permit(call(0), ""):
        with pytest.raises(CapacityError, match="no stream was free") as refused:
            async with made.permit(call(1), ""):
                pass
        assert refused.value.retry_after_ms >= 500
        assert made.backlog.waiting == 0
