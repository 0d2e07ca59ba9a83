"""Which ``Host`` headers are served: the decision alone, and in front of every route of a real server."""

import asyncio
import json

import httpx
import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from known_backend import KnownBackend, hear, say, served_by
from pydantic import ValidationError
from websockets.exceptions import InvalidStatus

from serve_app.config import AccessConfig, AppConfig, IngressConfig
from serve_app.hosts import is_served
from serve_app.web.routes import build_web

LOOPBACK = [
    "127.0.0.1", "127.0.0.2", "localhost", "::1", "[::1]", "::ffff:127.0.0.1", "localhost.", "LocalHost:8000",
    "ip6-localhost", "ip6-loopback.", "localhost4", "127.0.0.1:8000", "127.0.0.1.", "[::1]:8000", " 127.0.0.1\n",
    "tts.localhost", "127.1", "2130706433", "0x7f.0.0.1:8000", "::1%lo",
]  # fmt: skip
ELSEWHERE = [
    "0.0.0.0", "::", "192.0.2.7", "2001:db8::1", None, "", "0", "0.0.0.0:8000", "[::]:8000", "192.0.2.7:8000",
    "tts.example", "localhost.example", "xlocalhost", "::1:8000",
]  # fmt: skip

OURS = [
    "localhost", "localhost:8000", "LocalHost:1", "localhost.", "localhost.:8000", "tts.localhost:8000",
    "127.0.0.1", "127.0.0.1:8000", "127.0.0.1.:8000", "127.255.255.254:80", "127.1.2.3",
    "[::1]", "[::1]:8000", "[0:0:0:0:0:0:0:1]:8000", "[::ffff:127.0.0.1]:8000", "127.0.0.1:", "",
    "ip6-localhost:8000", "ip6-loopback",
]  # fmt: skip
FOREIGN = [
    "evil.example", "evil.example:8000", "EVIL.EXAMPLE.", "127.0.0.1.evil.example", "localhost.evil.example",
    "evil-localhost", "xlocalhost", "localhost.example:8000", "2130706433", "0x7f.0.0.1", "127.1", "0177.0.0.1",
    "0.0.0.0:8000", "192.0.2.7", "[2001:db8::1]:8000", "[::]", "[::ffff:192.0.2.7]", "[::1", "::1",
    "[::1].evil.example",
    "localhost@evil.example", "evil.example#localhost", "localhost:8000:9", "localhost:x", " localhost", "localhost ",
    "localhost,evil.example", ".localhost.evil.example", "localhost..", "[evil.example]", ".", ":", ":8000", "[]", "*",
    "localhost/", "http://localhost", "localhost\x00", "ĺocalhost", "*.localhost.evil.example",
]  # fmt: skip


@pytest.mark.parametrize("listening", LOOPBACK)
def test_on_loopback_without_keys_only_its_own_names_are_served(listening):
    for host in OURS:
        assert is_served(host, listening, (), keys_required=False), host
    for host in FOREIGN:
        assert not is_served(host, listening, (), keys_required=False), host


@given(st.text(max_size=20), st.sampled_from(["", ":8000"]), st.sampled_from(LOOPBACK))
def test_nothing_under_another_hosts_name_is_served_on_loopback(name, port, listening):
    assert not is_served(f"{name}.example{port}", listening, (), keys_required=False)


@pytest.mark.parametrize("host", [*OURS, *FOREIGN])
def test_with_keys_or_on_other_addresses_every_host_is_served(host):
    assert is_served(host, "127.0.0.1", (), keys_required=True)
    for listening in ELSEWHERE:
        assert is_served(host, listening, (), keys_required=False)


@pytest.mark.parametrize("listening", [*LOOPBACK, *ELSEWHERE])
@pytest.mark.parametrize("keys_required", [False, True])
def test_configured_names_are_served_wherever_it_listens_and_no_others(listening, keys_required):
    allowed = ("speech.example.org", "[2001:db8::7]")
    for host in [*OURS, "speech.example.org", "Speech.Example.Org.:443", "[2001:db8::7]:80"]:
        assert is_served(host, listening, allowed, keys_required=keys_required)
    for host in ("evil.example", "x.speech.example.org", "speech.example.org.evil.example"):
        assert not is_served(host, listening, allowed, keys_required=keys_required)
    for host in FOREIGN:
        assert is_served(host, listening, ("*",), keys_required=keys_required)


def test_a_probe_asks_for_a_pods_address_where_it_does_not_listen_on_loopback():
    assert is_served("192.0.2.7:8000", "0.0.0.0", ("speech.example.org",), keys_required=False)
    assert not is_served("192.0.2.7:8000", "127.0.0.1", ("speech.example.org",), keys_required=False)


@pytest.mark.parametrize("name", ["https://a.example", "a.example:80", "a.example/x", "", "a b", "*.example"])
def test_what_is_not_a_host_is_refused_in_the_configuration(name):
    with pytest.raises(ValidationError):
        IngressConfig(allowed_hosts=(name,))


def served_on(listening, **config):
    return served_by(build_web(KnownBackend(), AppConfig(**config), listening=listening))


ROUTES = [
    ("GET", "/"), ("GET", "/playground/voices.js"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/v1/models"),
    ("GET", "/v1/audio/voices"), ("POST", "/v1/audio/voices"), ("DELETE", "/v1/audio/voices/x"),
    ("POST", "/v1/audio/speech"), ("POST", "/api/tts"), ("OPTIONS", "/v1/audio/speech"), ("GET", "/nowhere"),
]  # fmt: skip


def named_socket(host, name, path, **options):
    """A socket to ``host`` that calls it ``name``."""
    port = int(host.rpartition(":")[2])
    return websockets.connect(f"ws://{name}:{port}{path}", host="127.0.0.1", port=port, **options)


async def test_a_rebound_page_reaches_no_route():
    rebound = {"host": "evil.example:8000", "origin": "http://evil.example:8000"}
    ingress = IngressConfig(allowed_origins=("http://evil.example:8000",))
    async with served_on("127.0.0.1", ingress=ingress) as host:
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            for method, path in ROUTES:
                answer = await client.request(method, path, headers=rebound)
                assert answer.status_code == 403, path
                assert answer.json()["code"] == "HOST_NOT_ALLOWED"
                assert "ingress.allowed_hosts" in answer.json()["message"]
                assert "evil.example:8000" in answer.json()["message"]
                assert "access-control-allow-origin" not in answer.headers
        for path in ("/api/v1/speak", "/ws/tts", "/nowhere"):
            with pytest.raises(InvalidStatus) as refused:
                async with named_socket(host, "evil.example", path, origin="http://evil.example:8000"):
                    pass
            assert refused.value.response.status_code == 403
            assert json.loads(refused.value.response.body)["code"] == "HOST_NOT_ALLOWED"


async def raw(host, head):
    """The status of what is sent as it is."""
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(head)
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return int(status.split()[1])


async def test_an_old_client_that_names_no_host_is_served_and_two_hosts_are_not():
    async with served_on("127.0.0.1") as host:
        assert await raw(host, b"GET /health HTTP/1.0\r\n\r\n") == 200
        assert await raw(host, b"GET /health HTTP/1.0\r\nHost: evil.example\r\n\r\n") == 403
        two = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
        assert await raw(host, two) in (400, 403)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "speech.example.org"])
async def test_its_own_and_configured_names_are_served(name):
    config = {"ingress": IngressConfig(allowed_hosts=("Speech.Example.org",))}
    async with served_on("127.0.0.1", **config) as host:
        headers = {"host": f"{name}:{host.rpartition(':')[2]}"}
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            assert (await client.get("/health", headers=headers)).status_code == 200
        async with named_socket(host, name, "/api/v1/speak") as socket:
            await say(socket, type="speak", text="Hello.")
            assert (await hear(socket))[-1]["type"] == "complete"


async def test_elsewhere_and_with_keys_hosts_are_not_asked(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("[]")
    for listening, config in (("0.0.0.0", {}), ("127.0.0.1", {"access": AccessConfig(keys_file=str(keys))})):
        async with served_on(listening, **config) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
            assert (await client.get("/health", headers={"host": "tts.example"})).status_code == 200
