"""The faults that are injected into a running service: what each one kills, stops or deploys. Does not know clients."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from service import Service

from serve_app.cli.processes import descendants

PROCESSES = {
    "generator": "ray::ServeReplica:tts:Generator",
    "ingress": "ray::ServeReplica:tts:Ingress",
    "store": "ray::Coordinator",
    "controller": "ray::ServeController",
    "proxy": "ray::HAProxyManager",
}
GENERATORS = 2
NODE_RETURNS_S = 10.0
FROZEN_S = 60.0
RECOVERY_TIMEOUT_S = 240.0


def until_all_serve(service: Service) -> bool:
    """Wait until all generators serve; False if they do not."""
    assert service.observer is not None
    until_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while service.observer.ready() < GENERATORS:
        if time.monotonic() > until_s:
            return False
        time.sleep(0.5)
    return True


def end_one(kind: str) -> Callable[[Service, random.Random], None]:
    """Kill -9 of one process of a kind."""

    def fault(service: Service, chance: random.Random) -> None:
        os.kill(chance.choice(named(service, kind)), signal.SIGKILL)

    return fault


def end_node(service: Service, chance: random.Random) -> None:
    """Kill a worker node as in a power failure, then add another one."""
    assert service.host is not None
    service.host.tell(do="kill", node=chance.randrange(2))
    time.sleep(NODE_RETURNS_S)
    service.host.tell(do="add")


def freeze(service: Service, chance: random.Random) -> None:
    """Stop a generator for a minute."""
    pid = chance.choice(named(service, "generator"))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(FROZEN_S)
    os.kill(pid, signal.SIGKILL)


def scale_in(service: Service, _chance: random.Random) -> None:
    """Remove one generator, wait until it has left, then restore the previous number."""
    assert service.host is not None
    before = len(named(service, "generator"))
    service.host.tell(do="deploy", generator={"num_replicas": before - 1})
    began_s = time.monotonic()
    while len(named(service, "generator")) >= before and time.monotonic() - began_s < RECOVERY_TIMEOUT_S:
        time.sleep(0.1)
    service.host.tell(do="deploy", generator={"num_replicas": before})


def redeploy(service: Service, chance: random.Random) -> None:
    """Deploy with other arguments, which replaces all generators."""
    assert service.host is not None
    old = set(named(service, "generator"))
    service.host.tell(do="deploy", args={"engine": {"max_waiting_streams": chance.randrange(20, 1000)}})
    until_s = time.monotonic() + RECOVERY_TIMEOUT_S
    while old & set(named(service, "generator")) and time.monotonic() < until_s:
        time.sleep(0.5)


FAULTS: dict[str, Callable[[Service, random.Random], None]] = {
    **{kind: end_one(kind) for kind in PROCESSES},
    "node": end_node,
    "freeze": freeze,
    "scale-in": scale_in,
    "redeploy": redeploy,
}


def named(service: Service, kind: str) -> list[int]:
    """Live processes of a kind."""
    assert service.pid is not None
    found: list[int] = []
    for pid in descendants(service.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(PROCESSES[kind].encode()):
                found.append(pid)
    return found
