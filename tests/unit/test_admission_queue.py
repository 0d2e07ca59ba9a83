import asyncio
import time

import pytest
from until import until

from serve_app.cluster.admission import Admission
from serve_app.config import AdmissionConfig
from serve_app.errors import CapacityError
from serve_app.session.session import Call
from serve_app.speech import SpeechRequest
from serve_app.web.admission_queue import AdmissionQueue


def admission_queue(capacity=1, **settings):
    return AdmissionQueue(Admission(AdmissionConfig(**settings), capacity), time.monotonic)


def call(number, needed_by_s=0.0):
    return Call(number, SpeechRequest("Hello.", "austen"), "u", needed_by_s, 0.0)


async def hold(queue, log, number, until):
    async with queue.permit(call(number), ""):
        log.append(number)
        await until.wait()


async def test_the_next_call_starts_when_one_has_left():
    queue, log, ends = admission_queue(), [], [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(hold(queue, log, number, ends[number])) for number in (0, 1)]
    await until(lambda: queue.backlog.waiting == 1)
    assert (log, queue.backlog.running) == ([0], 1)
    ends[0].set()
    await until(lambda: log == [0, 1])
    ends[1].set()
    await asyncio.gather(*tasks)
    assert (queue.backlog.running, queue.backlog.waiting) == (0, 0)


async def test_more_capacity_lets_waiting_calls_start():
    queue, log, end = admission_queue(), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(queue, log, number, end)) for number in range(3)]
    await until(lambda: queue.backlog.waiting == 2)
    queue.resize(3)
    await until(lambda: log == [0, 1, 2])
    end.set()
    await asyncio.gather(*tasks)


async def test_a_call_cancelled_while_it_waits_or_runs_leaves_nothing_behind():
    queue, log, never = admission_queue(), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(queue, log, number, never)) for number in range(3)]
    await until(lambda: queue.backlog.waiting == 2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (queue.backlog.running, queue.backlog.waiting) == (0, 0)
    async with queue.permit(call(3), ""):
        assert queue.backlog.running == 1


async def test_a_call_that_waited_too_long_is_refused_with_a_retry_time():
    queue = admission_queue(start_deadline_s=0.05)
    async with queue.permit(call(0), ""):
        with pytest.raises(CapacityError, match="no stream was free") as refused:
            async with queue.permit(call(1), ""):
                pass
        assert refused.value.retry_after_ms >= 500
        assert queue.backlog.waiting == 0
