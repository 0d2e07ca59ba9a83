"""The parts of ``benchmarks/gpu.py``, with tiny loads and without a GPU or a service."""

import asyncio
import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from websockets.asyncio.server import serve

from serve_app.cli.load.arrivals import Speech, poisson
from serve_app.cli.load.figures import COMPLETE, Utterance, summarize
from serve_app.config import AppConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ENGINE = {"engine": [{"streams": 1, "ms_per_frame": 6.1, "audio_s_per_s": 12.9, "ttfa_s": 0.014}]}


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("gpu")
    finally:
        sys.path.remove(str(BENCHMARKS))


def loaded(rate_hz, wait_s):
    """The result of one load, in which each tenth utterance waits ten times as long as the others."""
    waits = [wait_s * (10 if number % 10 == 0 else 1) for number in range(100)]
    utterances = [Utterance(0.0, COMPLETE, ttfa_s=wait, audible_s=wait, samples=24_000) for wait in waits]
    summary = dataclasses.asdict(summarize(utterances))
    return {"rate_hz": rate_hz, "summary": summary, "audio_s_per_s": 50.0, "gpu": {"memory.used": "70000 MiB"}}


def service(generators, *rates_hz):
    loads = [loaded(rate_hz, 0.02) for rate_hz in rates_hz]
    memory = [{"name": "Generator", "start_bytes": 0, "end_bytes": 0, "maximum_bytes": 2_340_000_000}]
    loss = loaded(rates_hz[-1], 0.04)
    return {"generators": generators, "loads": loads, "loss": loss, "left_out_hz": [40], "memory": memory}


@pytest.mark.parametrize("plan", ["WHOLE", "TRIAL"])
def test_the_settings_of_a_plan_are_a_valid_configuration(bench, plan):
    plan = getattr(bench, plan)
    (application,) = yaml.safe_load((BENCHMARKS.parent / "configs" / "gpu.yaml").read_text())["applications"]
    for generators in plan.generators:
        merged = application["args"]
        for section, changes in bench.overrides(plan, generators, "austen").items():
            merged = {**merged, section: {**merged.get(section, {}), **changes}}
        config = AppConfig.model_validate(merged)
        assert config.generator.max_replicas * config.generator.num_gpus <= 1
        assert config.voices.default == "austen"


def test_the_options_of_an_engine_run_are_those_that_the_script_has(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    given = []

    def run(command, timeout, **_):
        assert 50 < timeout <= 60
        given.append(command)
        (tmp_path / command[command.index("--json") + 1]).write_text(json.dumps(ENGINE))

    monkeypatch.setattr(subprocess, "run", run)
    until_s = time.monotonic() + 60
    assert bench.engine(bench.TRIAL, "tiny", "plain", until_s) == {"model": "tiny", "weights": "plain", **ENGINE}
    source = (BENCHMARKS / "engine.py").read_text()
    assert all(f'"{option}"' in source for option in given[0] if option.startswith("--"))
    assert list(tmp_path.iterdir()) == []


def test_an_engine_run_without_time_left_is_empty(bench):
    assert bench.engine(bench.TRIAL, "tiny", "plain", time.monotonic()) == {
        "model": "tiny",
        "weights": "plain",
        "engine": [],
        "left_out": "it did not end in time",
    }


def test_an_engine_run_that_fails_does_not_end_the_others(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "ROOT", tmp_path)  # which has no benchmarks/engine.py
    run = bench.engine(bench.TRIAL, "tiny", "plain", time.monotonic() + 60)
    assert run["engine"] == []
    assert "exit status 2" in run["left_out"]


def test_without_a_gpu_there_is_none(bench, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert bench.gpu() is None


def test_measured_waits_stand_beside_the_published_ones_of_the_same_rate(bench):
    rows = bench.beside([service(2, 1, 5, 20), service(4, 20)], "tiny")
    assert [row["rate_hz"] for row in rows] == sorted(row["rate_hz"] for row in rows)
    here = [row for row in rows if row["name"].startswith("here")]
    assert [(row["rate_hz"], row["name"]) for row in here] == [
        (1, "here, tiny, 2 generators, audible"),
        (20, "here, tiny, 2 generators, audible"),
        (20, "here, tiny, 4 generators, audible"),
    ]
    assert all((row["p50_ms"], row["p95_ms"]) == pytest.approx((20, 200)) for row in here)
    assert len(rows) - len(here) == len(bench.PUBLISHED)


def test_the_report_has_a_row_for_each_run_load_and_figure(bench, capsys):
    services = [service(2, 1, 20)]
    services[0]["loads"].append(
        {**loaded(40, 0.02), "summary": dataclasses.asdict(summarize([Utterance(0.0, "CAPACITY")]))}
    )
    run = {"model": "tiny", "weights": "plain", **ENGINE}
    figures = {
        "gpu": None,
        "minutes": 1.0,
        "engine": [run, {"model": "full", "weights": "torch", "engine": [], "left_out": "it was late"}],
        "service": services,
        "beside": bench.beside(services, "tiny"),
    }
    bench.report(figures)
    printed = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["tiny", "plain", "1", "6.1", "12.9", "14"] for line in printed)
    assert any("20  " in line and "100/100" in line and "20   200   200" in line for line in printed)
    assert any("20, one lost" in line for line in printed)
    assert any(line.split()[:3] == ["full", "torch", "left"] for line in printed)
    assert any(line.split()[:3] == ["2", "40", "left"] for line in printed)
    assert any(line.endswith("GPU 70000 MiB; Generator 2.3") for line in printed)
    assert any("0/1" in line and "nan" in line for line in printed)
    assert any("103   178  SGLang-Omni" in line for line in printed)
    assert any("20   200  here, tiny, 2 generators" in line for line in printed)


def test_the_command_writes_figures_and_a_picture(bench, monkeypatch, tmp_path, capsys):
    @contextlib.contextmanager
    def started(configuration, changes):
        assert configuration.is_file()
        assert changes["model"]["source"] == "some/model"
        yield None

    monkeypatch.setattr(bench, "started", started)
    monkeypatch.setattr(bench, "gpu", lambda: None)
    monkeypatch.setattr(bench, "engine", lambda plan, *run: {"model": run[0], "weights": run[1], **ENGINE})
    monkeypatch.setattr(bench, "measure", lambda _service, _plan, _voice, _until_s: service(0, 1, 20))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--try", "--model", "some/model", "--out", str(tmp_path / "new")])
    bench.main()
    written = json.loads((tmp_path / "new" / "bench-gpu.json").read_text())
    assert written.keys() == {"gpu", "engine", "service", "beside", "minutes"}
    assert len(written["engine"]) == len(bench.TRIAL.engines)
    assert [each["generators"] for each in written["service"]] == [0]
    assert (tmp_path / "new" / "bench-gpu.svg").read_text().count("<svg") == 1
    assert "one lost" in capsys.readouterr().out


async def answer(socket):
    """A tenth of a second of a loud tone for each ``speak``."""
    async for message in socket:
        given = json.loads(message)
        assert given["type"] == "speak"
        await socket.send(json.dumps({"type": "audio_chunk", "start_ms": 0, "duration_ms": 100, "final": True}))
        await socket.send(b"\x00\x40" * 2400)
        await socket.send(json.dumps({"type": "complete", "duration_ms": 100, "finish_reason": "eos"}))


@pytest.fixture
def speaking():
    """The address of a server on a thread of its own."""
    found, ready = [], threading.Event()

    async def run():
        async with serve(answer, "127.0.0.1", 0) as server:
            found.extend((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), asyncio.Event()))
            ready.set()
            await found[2].wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    ready.wait()
    yield f"127.0.0.1:{found[0]}"
    found[1].call_soon_threadsafe(found[2].set)
    thread.join()


@pytest.mark.parametrize(("left_s", "rates_hz"), [(60, [10, 20]), (0, [10])])
def test_a_service_is_loaded_at_each_rate_and_then_loses_a_generator(bench, monkeypatch, speaking, left_s, rates_hz):
    """The service is a process with two children that are named like generators."""
    wait = "import sys, time; time.sleep(60)"
    parent = (
        "import subprocess, sys, time\n"
        f"made = [subprocess.Popen([sys.executable, '-c', {wait!r}, {bench.GENERATOR!r}]) for _ in range(2)]\n"
        "print(flush=True)\n"
        "[each.wait() for each in made]\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    launcher.stdout.readline()
    before = bench.generators_of(launcher.pid)
    monkeypatch.setattr(bench, "WARM_UP", (10.0, 0.5))
    monkeypatch.setattr(bench, "gpu", lambda: None)
    plan = dataclasses.replace(bench.TRIAL, rates_hz=(10, 20), seconds=0.5)
    try:
        assert len(before) == 2
        until_s = time.monotonic() + left_s
        found = bench.measure(SimpleNamespace(pid=launcher.pid, address=speaking), plan, "austen", until_s)
        left = bench.generators_of(launcher.pid)
    finally:
        for pid in bench.generators_of(launcher.pid):
            os.kill(pid, 9)
        launcher.wait(10)
        launcher.stdout.close()
    assert len(left) == 1
    assert [each["rate_hz"] for each in found["loads"]] == rates_hz
    assert [*rates_hz, *found["left_out_hz"]] == [10, 20]
    seeds = [1] * len(rates_hz) + [2]
    for each, rate_hz, seed in zip([*found["loads"], found["loss"]], [*rates_hz, 20], seeds, strict=True):
        arrivals = poisson(rate_hz, 0.5, Speech(list(bench.TEXTS)), seed)
        assert each["summary"]["complete"] == each["summary"]["arrivals"] == len(arrivals)
        assert each["summary"]["audio_s"] == pytest.approx(0.1 * len(arrivals))
        assert each["summary"]["figures"]["audible_ttfa_p95_ms"] >= 0
    assert found["memory"]
