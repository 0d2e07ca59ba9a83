"""One service for most tests, one with keys below a prefix: each a launcher in its own process, as a user starts it.

A test that starts another service is slow. With two workers (``--dist loadgroup``) the tests of one service stay on one
worker.
"""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_asyncio
import yaml
from browser_page import CHROMIUM, MICROPHONE, NO_CHROMIUM
from collector import collecting
from playwright.async_api import async_playwright
from running_service import READY, ROOT, Launched, Service, free_port
from service_keys import APP, SPEAKER, UPLOADER

from serve_app.cli.address import address_of
from serve_app.cli.keys import line_of
from serve_app.cli.voices import Service as Voices
from serve_app.web.api_keys import Key, digest_of

PATHS = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
"""Where the launcher's processes find an application of the tests."""

QUICK = {
    "RAY_metrics_report_interval_ms": "2000",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
}
"""By default metrics are ten seconds old, Serve writes a thousand lines at a time, spans leave every five seconds."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            shared = next((name for name in ("service", "guarded") if name in item.fixturenames), None)
            item.add_marker(pytest.mark.xdist_group(shared or item.path.stem))
            if shared != "service" and "launch" in item.fixturenames:
                item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session):
    if session.config.getoption("loadgroup", False) and session.items:  # in a worker
        assert "@" in session.items[0].nodeid, "pytest-xdist has not grouped the tests: is pytest too new for it?"


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Start a launcher on ``configs/local.yaml`` with some of its ``args`` replaced; ended with the session.

    Its weights are random unless ``model`` says otherwise: most tests need any text to be spoken, not understood.
    """
    all_launched: list[Launched] = []

    def start(port: int, import_path: str | None = None, route_prefix: str = "/", **args: dict) -> Launched:
        folder = tmp_path_factory.mktemp("service")
        document = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
        # Nobody plays what these tests are sent: a text of minutes need not take minutes.
        uploads = {"uploads": str(folder / "uploads")}
        defaults = {"model": {"source": "tiny"}, "session": {"max_lead_s": 3600}, "voices": uploads}
        given = {**defaults, **args}
        if given["model"].get("source") == "tiny":  # it never draws an end: a text takes as long as real speech
            given["engine"] = {"budget_frames_per_character": 1.0, "budget_min_frames": 15, **given.get("engine", {})}
        for section, values in given.items():
            document["applications"][0]["args"].setdefault(section, {}).update(values)
        if document["applications"][0]["args"]["logs"]["format"] == "json":
            document["logging_config"] = {"encoding": "JSON"}
        document["applications"][0]["import_path"] = import_path or document["applications"][0]["import_path"]
        document["applications"][0]["route_prefix"] = route_prefix
        config = folder / "service.yaml"
        config.write_text(yaml.safe_dump(document))
        token = secrets.token_hex(32)
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "serve_app.cli.serve", str(config), "--port", str(port)],
                cwd=ROOT,
                env={**os.environ, **QUICK, "RAY_AUTH_TOKEN": token, "PYTHONPATH": os.pathsep.join(PATHS)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        all_launched.append(Launched(process, folder / "output", token))
        return all_launched[-1]

    yield start
    left = [pid for launched in all_launched if launched.process.poll() is None for pid in launched.stop()]
    assert left == [], f"processes outlived their launcher: {left}"


@pytest.fixture(scope="session")
def collector():
    """Where the spans of the service go."""
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="session")
def service(launch, collector):
    port = free_port()
    launched = launch(port, logs={"format": "json"}, tracing={"endpoint": collector.endpoint})
    launched.wait_for(READY)
    return Service(f"127.0.0.1:{port}", launched)


@pytest.fixture
def voices(service):
    """The voices of the service; uploaded ones are removed after the test."""
    made = Voices(address_of(f"http://{service.address}"), 30.0)
    yield made
    for voice in made.list():
        if voice["uploaded"]:
            made.remove(voice["id"])


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory):
    """The keys of the guarded service, which reads them again at once when they change."""
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys = [
        Key(name="app", sha256=digest_of(APP), per_minute=600, max_sessions=2),
        Key(name="speaker", sha256=digest_of(SPEAKER)),
        Key(name="uploader", sha256=digest_of(UPLOADER), scopes=("speak", "voices")),
    ]
    path.write_text("\n".join(line_of(key) for key in keys))
    return path


@pytest.fixture(scope="session")
def guarded(launch, keys_file):
    """A service that requires keys, below a route prefix."""
    port = free_port()
    launched = launch(port, route_prefix="/tts", access={"keys_file": str(keys_file), "reload_s": 0.1})
    launched.wait_for(READY)
    yield Service(f"127.0.0.1:{port}", launched, "/tts")
    launched.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser():
    """A Chromium with a clip for a microphone."""
    if CHROMIUM is None:
        pytest.skip(NO_CHROMIUM)
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE])
        yield running
        await running.close()


@pytest.fixture(scope="session")
def generators(service):
    """Ask what the generators report; a process of its own, since Ray reads its environment when it is imported."""
    (address,) = [line.split()[1].rstrip(",") for line in service.launched.printed.splitlines() if "Ray  " in line]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": service.launched.token,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("observer.py")), address],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as observer:

        def ask() -> list[dict]:
            observer.stdin.write("\n")
            return json.loads(observer.stdout.readline())

        yield ask
        observer.stdin.close()


@pytest.fixture
def running(generators):
    """How many streams run or wait, as last reported."""
    return lambda: sum(status["running"] + status["waiting"] for status in generators())
