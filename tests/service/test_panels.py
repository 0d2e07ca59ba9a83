"""Every panel and every rule, asked of a real Prometheus that watches the running service while a few people speak."""

import asyncio
import contextlib
import itertools
import json
import math
import re
import shutil
import subprocess
import time
from functools import partial
from http.client import HTTPConnection, HTTPException
from urllib.parse import quote

import pytest
import yaml
from clips import wav
from running_service import ROOT, free_port, speak, wait_until

pytestmark = pytest.mark.slow

PAGES = {
    path.stem: json.loads(path.read_text())["panels"] for path in sorted((ROOT / "deploy" / "grafana").glob("*.json"))
}
PATIENCE_S = 40
LONG_ENOUGH = (
    "This is one sentence that goes on " + "and on " * 25 + "until the generator has to wait for the listener. "
)
"""One text chunk of more than 20 s, of which a generator makes the first 8 s in a moment. Then it waits for its
listener, so that gauges of listeners, which are reported once a second, have something to show."""

WINDOW = "15s"
"""In place of Grafana's own: three of Ray's reports."""

NOTHING_TO_SHOW = {
    ("Generators: wanted, maximum, running", "wanted"): "the number of generators is fixed, so no policy decides",
    ("Generators: wanted, maximum, running", "maximum"): "the same",
}
"""Panels, and what of them is empty while all is well; everything else has to show a number."""


class Prometheus:
    """One that watches one service; its answers."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str):
        connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = json.loads(connection.getresponse().read())
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, promql: str) -> list[dict]:
        return self.get(f"/api/v1/query?query={quote(promql)}")["result"]

    def is_ready(self) -> bool:
        try:
            return bool(self.query("up == 1"))
        except (OSError, HTTPException, ValueError):
            return False


@pytest.fixture(scope="module")
def prometheus(service, tmp_path_factory):
    """As deploy/prometheus configures it, with shorter intervals, and told of the service by a file like Ray's."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus), so no panel is looked at")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (target,) = re.findall(r"metrics +http://(\S+)/metrics", service.launched.printed)
    discovery = folder / "prom_metrics_service_discovery.json"
    discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [target]}]))
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "rules.yaml")]
    (ray,) = [job for job in config["scrape_configs"] if job["job_name"] == "ray"]
    ray["file_sd_configs"][0]["files"] = [str(discovery)]
    config["scrape_configs"] = [ray]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        program,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        running = Prometheus(port)
        try:
            wait_until(running.is_ready, 20, f"Prometheus scrapes the service: {(folder / 'log').read_text()}")
            yield running
        finally:
            process.terminate()


def asked_for(replica: str) -> dict[tuple[str, str, str], str]:
    """Every query of every panel by page, title and legend, as Grafana would send it."""
    return {
        (page, panel["title"], target["legendFormat"]): target["expr"]
        .replace("$__rate_interval", WINDOW)
        .replace("$replica", replica)
        for page, panels in PAGES.items()
        for panel in panels
        for target in panel.get("targets", ())
    }


def shows_a_number(result: list[dict]) -> bool:
    return any(math.isfinite(float(series["value"][1])) for series in result)


async def talk(service) -> None:
    """Say one thing after the other, until cancelled; a session that says nothing stays open beside it."""
    async with service.connect(), service.connect() as speaking:
        while True:
            assert (await speak(speaking, LONG_ENOUGH)).end["type"] == "complete"


async def upload_voices(voices) -> None:
    """Upload a voice every other second, until cancelled."""
    said = {"transcript": "Some words that may well be said in four seconds.", "language": "english", "consent": "Yes."}
    for number in itertools.count():
        await asyncio.to_thread(voices.add, wav(hz=200.0 + 5 * number), {"name": f"Seen {number}", **said})
        await asyncio.sleep(2)


async def test_every_panel_shows_something(service, voices, prometheus):
    talking = [asyncio.create_task(talk(service)) for _ in range(3)]
    talking.append(asyncio.create_task(upload_voices(voices)))
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := await asyncio.to_thread(prometheus.query, "group by (replica) (ray_tts_engine_up)")):
            assert time.monotonic() < deadline_s, "no generator shows itself"
            await asyncio.sleep(0.5)
        queries = asked_for(found[0]["metric"]["replica"])
        excused = {key for key in queries if key[1:] in NOTHING_TO_SHOW}
        assert {key[1:] for key in excused} == NOTHING_TO_SHOW.keys()
        missing = queries.keys() - excused
        while missing and time.monotonic() < deadline_s:
            assert not any(task.done() for task in talking)
            missing -= {
                key for key in missing if shows_a_number(await asyncio.to_thread(prometheus.query, queries[key]))
            }
            await asyncio.sleep(0.5)
        assert not missing, {key: queries[key] for key in missing}
    finally:
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)


def alerts_of(prometheus, name) -> list:
    groups = prometheus.get("/api/v1/rules")["groups"]
    return [alert for group in groups for rule in group["rules"] if rule["name"] == name for alert in rule["alerts"]]


async def test_every_rule_is_evaluated_and_a_service_that_speaks_fires_no_alert(service, prometheus):
    groups = prometheus.get("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 30
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    talking = asyncio.create_task(talk(service))  # a share is one of what was said of late
    try:
        # Serve says how its replicas are every ten seconds: until then nobody has heard of them.
        quiet = partial(wait_until, lambda: not alerts_of(prometheus, "TtsNoMetrics"), PATIENCE_S)
        await asyncio.to_thread(quiet, "metrics are there")
        for record in (rule["name"] for rule in rules if rule["type"] == "recording"):
            recorded = partial(wait_until, lambda record=record: shows_a_number(prometheus.query(record)), PATIENCE_S)
            await asyncio.to_thread(recorded, record)
        assert not talking.done()
    finally:
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)
