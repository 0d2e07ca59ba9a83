import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from running_service import Log, speak, wait_until

pytestmark = pytest.mark.slow

ENOUGH_S = 60.0
MAX_GROWTH_BYTES = 40 << 20


def resident_bytes(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def test_a_client_that_never_reads_is_closed_and_fills_no_memory(service, running):
    wait_until(lambda: service.sessions() == 0 and running() == 0, 20, "nobody is there")
    log, pid = Log(service), service.pid_of("ServeReplica:tts:Ingress")
    before = most = resident_bytes(pid)
    async with service.connect(ping_interval=None, close_timeout=1) as deaf:
        deaf.transport.pause_reading()
        await deaf.send(json.dumps({"type": "speak", "text": "It is good to hear you. " * 200}))
        # Answers fill the kernel's megabytes faster than audio does, and then the session's own bounds.
        until_s = time.monotonic() + ENOUGH_S
        while service.sessions() == 1 and time.monotonic() < until_s:
            # What fills the buffers on the way in is not read any further: a send that waits is what must be.
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    for _ in range(500):
                        await deaf.send('{"type": "start"}')
            most = max(most, resident_bytes(pid))
        assert "closed: SLOW_CLIENT" in log.text()
        assert most - before < MAX_GROWTH_BYTES
        wait_until(lambda: running() == 0, 10, "nothing is spoken for it")
        async with service.connect() as connection:
            assert (await speak(connection, "Hello.")).end["type"] == "complete"
        deaf.transport.abort()
