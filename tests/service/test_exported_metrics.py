"""The metrics of the running service, as Prometheus finds them on the node's port."""

import asyncio
import json
import time

import pytest
from running_service import speak, wait_until

from serve_app.observability import metrics
from serve_app.observability.metrics import TABLE

NEEDS_A_CHOICE = {metric for metric in TABLE if metric.where == "autoscaler"}
"""One generator and no more leave nothing to decide; test_scaling.py has two."""

NEEDS_AN_UPLOAD = {metrics.VOICE_ENCODE_SECONDS}
"""The voices that come with the project may have been encoded by an earlier run."""


async def use(service) -> None:
    async with service.connect() as connection:
        await connection.send(json.dumps({"type": "nonsense"}))
        assert json.loads(await connection.recv())["code"] == "INVALID_MESSAGE"
        assert (await speak(connection, "It is good to hear you.")).end["type"] == "complete"


def total(service, name: str, **labels: str) -> float:
    samples = service.metrics().get(name, [])
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


async def test_every_metric_of_the_table_is_exported_with_its_replica(service):
    rare = NEEDS_A_CHOICE | NEEDS_AN_UPLOAD
    expected = {
        metric.exported + ("_count" if metric.kind == "histogram" else "") for metric in TABLE if metric not in rare
    }
    await use(service)
    await asyncio.to_thread(wait_until, lambda: expected <= set(service.metrics()), 20, "everything is exported")
    found = service.metrics()
    for metric in TABLE:
        for sample in found.get(metric.exported, []):
            assert set(metric.labels) <= set(sample.labels), metric.name
            if metric.where in ("ingress", "generator"):
                assert sample.labels["deployment"].lower() == metric.where
                assert sample.labels["replica"]
            assert sample.labels["application"] == "tts"


@pytest.mark.slow
async def test_what_is_said_and_refused_is_counted(service):
    def now() -> tuple[float, float, float]:
        return (
            total(service, "ray_tts_errors_total", code="INVALID_MESSAGE"),
            total(service, "ray_tts_ttfa_seconds_count"),
            total(service, "ray_tts_sessions_opened_total", dialect="full"),
        )

    # What earlier tests left is reported first.
    await asyncio.sleep(5)
    before = now()
    await use(service)
    more = tuple(number + 1 for number in before)
    await asyncio.to_thread(wait_until, lambda: now() == more, 20, f"one more of each than {before}")


@pytest.mark.slow
async def test_open_sessions_are_a_gauge_that_comes_back_to_nothing(service):
    began_s = time.monotonic()
    async with service.connect() as connection:
        await connection.send(json.dumps({"type": "start"}))
        await asyncio.to_thread(wait_until, lambda: total(service, "ray_tts_sessions") >= 1, 20, "one session")
    await asyncio.to_thread(wait_until, lambda: total(service, "ray_tts_sessions") == 0, 20, "none")
    assert time.monotonic() - began_s < 30
