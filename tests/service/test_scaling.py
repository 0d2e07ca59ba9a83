import asyncio
from pathlib import Path

from running_service import READY, Service, free_port, speak, wait_until

from serve_app.cli.processes import descendants

TEXT = "It is good to hear you, and to speak to you again after such a long time. " * 4
QUICK = {"look_back_s": 9, "react_s": 3, "cold_start_s": 5, "downscale_delay_s": 5, "headroom": 1.0}


def generators(service) -> int:
    commands = []
    for pid in descendants(service.launched.process.pid):
        try:
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        except OSError:
            continue
    return sum(command.startswith(b"ray::ServeReplica:tts:Generator") for command in commands)


async def talk(service, enough: asyncio.Event) -> None:
    async with service.connect() as connection:
        while not enough.is_set():
            assert (await speak(connection, TEXT)).end["type"] == "complete"


async def test_generators_come_with_the_load_and_go_with_it(launch):
    port = free_port()
    replicas = {"min_replicas": 1, "max_replicas": 2, "num_cpus": 0.5}
    launched = launch(port, engine={"slots": 2}, generator=replicas, scaling=QUICK)
    await asyncio.to_thread(launched.wait_for, READY)
    service = Service(f"127.0.0.1:{port}", launched)
    assert generators(service) == 1
    enough = asyncio.Event()
    talking = [asyncio.create_task(talk(service, enough)) for _ in range(4)]
    try:
        await asyncio.to_thread(wait_until, lambda: generators(service) == 2, 60, "a second generator")
    finally:
        enough.set()
        await asyncio.gather(*talking)
    await asyncio.to_thread(wait_until, lambda: generators(service) == 1, 120, "it leaves")

    def directions():
        return {sample.labels["direction"] for sample in service.metrics()["ray_tts_scaling_decisions_total"]}

    # Ray exports a number some seconds after it has changed.
    await asyncio.to_thread(wait_until, lambda: directions() == {"up", "down"}, 30, "both decisions are exported")
    decided = service.metrics()
    (desired,) = decided["ray_tts_replicas_desired"]
    assert (desired.labels["application"], desired.value) == ("tts", 1)
    launched.stop()
