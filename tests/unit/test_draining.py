"""A replica that Serve is replacing, as its health says, and what its clients are told."""

import contextlib
import json
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from known_backend import KnownBackend, hear, say, served_by, socket_to
from until import until
from websockets.exceptions import ConnectionClosed

from serve_app.config import AppConfig
from serve_app.web import draining
from serve_app.web.draining import CLOSE_MARGIN_S, Draining, HealthWatch, is_draining, listening
from serve_app.web.routes import build_web

GRACE_S = 60.0


class Noted:
    """A session that records its drains."""

    def __init__(self):
        self.drains = []

    def drain(self, drain):
        self.drains.append(drain)


def test_every_session_is_drained_once_and_later_ones_at_once():
    now_s = 100.0
    replica = Draining(GRACE_S, lambda: now_s)
    gone, here, late = Noted(), Noted(), Noted()
    with replica.registered(gone):
        pass
    with replica.registered(here):
        replica.begin()
        now_s = 130.0
        with replica.registered(late):
            pass
    assert [len(one.drains) for one in (gone, here, late)] == [0, 1, 1]
    assert {drain.until_s for one in (here, late) for drain in one.drains} == {100 + GRACE_S - CLOSE_MARGIN_S}
    assert (here.drains[0].from_s, late.drains[0].from_s) == (102.0, 132.0)


def test_clients_get_retry_times_that_are_spread():
    replica = Draining(GRACE_S, lambda: 0.0)
    replica.begin()
    sessions = [Noted() for _ in range(50)]
    for session in sessions:
        with replica.registered(session):
            pass
    waits_ms = [session.drains[0].retry_after_ms for session in sessions]
    assert min(waits_ms) > 0
    assert len(set(waits_ms)) > 20


class _Health(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = self.server.says
        assert self.path == "/-/healthz"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def replica():
    """Serve's health of a replica; says what it is told to."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    server.says = (200, b"success")
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("says", "drains"),
    [
        ((200, b"success"), False),
        ((503, b"DRAINING"), True),
        ((503, b"UNHEALTHY"), False),
        ((503, b"This node is being drained."), False),  # Serve's own proxy, whose replicas go on
        ((404, b"DRAINING"), False),
    ],
)
def test_only_a_replica_that_is_replaced_is_draining(replica, says, drains):
    replica.says = says
    assert is_draining(*replica.server_address) is drains


def test_a_replica_that_cannot_be_asked_is_not_draining():
    assert not is_draining("127.0.0.1", 9)


@pytest.mark.parametrize(("bound", "reached"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_a_process_finds_where_it_listens(bound, reached):
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as server:
        port = server.getsockname()[1]
        assert listening(range(port, port + 1)) == (reached, port)
    assert listening(range(port, port + 1)) is None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/api/v1/speak", {"fatal", "retry_after_ms"}),
        ("/api/v1/speak?framing=raw", {"fatal", "retry_after_ms"}),
        ("/ws/tts", set()),
    ],
)
async def test_idle_sockets_get_an_error_and_are_closed_and_a_text_is_spoken_first(replica, monkeypatch, path, fields):
    monkeypatch.setattr(draining, "POLL_PERIOD_S", 0.02)
    monkeypatch.setattr(draining, "SETTLE_S", 0.05)
    backend = KnownBackend()
    backend.frame_delay_s = 0.05
    known = Draining(GRACE_S, time.monotonic)
    port = replica.server_address[1]
    web = HealthWatch(build_web(backend, AppConfig(), draining=known), known, range(port, port + 1))
    async with (
        served_by(web) as host,
        socket_to(host, path) as idle,
        socket_to(host, path) as speaking,
    ):
        await say(speaking, type="synthesize" if path == "/ws/tts" else "speak", text="Hello there.")
        await until(lambda: backend.requests)
        replica.says = (503, b"DRAINING")
        began_s = time.monotonic()
        (message,) = await hear(idle, until=("error",))
        assert time.monotonic() - began_s < 2
        assert message["code"] == "SERVICE_RESTART"
        assert fields <= message.keys()
        for one in (idle, speaking):
            frames = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    frames.append(await one.recv())
            assert (one.close_code, one.close_reason) == (1012, "SERVICE_RESTART")
        kinds = [json.loads(frame)["type"] for frame in frames if isinstance(frame, str)]
        assert kinds[-2:] == [{"/ws/tts": "complete", "/api/v1/speak": "complete"}.get(path, "audio_end"), "error"]
    assert backend.yielded == len("Hello there.")
