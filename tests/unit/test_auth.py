"""API keys over a real server: every way to give one, every limit, and that none is ever logged."""

import json
import logging
import time

import httpx
import pytest
from known_backend import hear, say, served, socket_to, until_sessions
from starlette.requests import HTTPConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serve_app.cli.keys import line_of
from serve_app.config import AccessConfig, AppConfig, TextConfig
from serve_app.errors import KeysFileError, RateLimitedError, UnauthorizedError
from serve_app.web.api_keys import Key, digest_of
from serve_app.web.auth import Authenticator

GOOD = "tts_good-and-secret"


def write(path, **keys):
    """A file with one key for each keyword: its limits."""
    lines = [
        line_of(Key(name=name, sha256=digest_of(f"tts_{name}-and-secret"), **limits)) for name, limits in keys.items()
    ]
    path.with_suffix(".new").write_text("\n".join(lines))
    path.with_suffix(".new").rename(path)
    return path


def guarded(path, reload_s=0.001):
    return AppConfig(access=AccessConfig(keys_file=str(path), reload_s=reload_s))


def post(client, key=GOOD, **headers):
    headers = {"authorization": f"Bearer {key}"} | headers if key else headers
    return client.post("/api/tts", json={"text": "Hello."}, headers=headers)


async def refused_with(host, path="/api/v1/speak", **options):
    with pytest.raises(InvalidStatus) as refused:
        async with socket_to(host, path, **options):
            pass
    return refused.value.response


async def test_a_key_has_a_lexicon_of_its_own(backend, tmp_path):
    keys = write(tmp_path / "keys", good={"lexicon": {"sql": "sequel", "é:'\"": "it's"}}, other={})
    config = guarded(keys).model_copy(update={"text": TextConfig(lexicon={"sql": "S Q L", "gif": "jif"})})
    async with served(backend, config) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
        for key, said in ((GOOD, "sequel jif it's"), ("tts_other-and-secret", "S Q L jif é:'\"")):
            answer = await client.post(
                "/api/tts", json={"text": "SQL GIF é:'\""}, headers={"authorization": f"Bearer {key}"}
            )
            assert answer.status_code == 200
            assert backend.requests[-1].text == said


async def test_every_way_to_give_a_key_is_accepted(backend, tmp_path):
    async with served(backend, guarded(write(tmp_path / "keys", good={}))) as host:
        for headers in ({"authorization": f"Bearer {GOOD}"}, {"x-api-key": GOOD}):
            async with socket_to(host, "/api/v1/speak", additional_headers=headers) as ws:
                await say(ws, type="speak", text="Hello.")
                await hear(ws)
        async with socket_to(host, f"/api/v1/speak?api_key={GOOD}&seed=7") as ws:
            await say(ws, type="speak", text="Hello.")
            assert (await hear(ws))[-1]["seed"] == 7
        async with socket_to(host, "/ws/tts", subprotocols=["tts.v1", f"tts-key.{GOOD}"]) as ws:
            assert ws.subprotocol == "tts.v1"
            await say(ws, text="Hello.")
            await hear(ws)
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            assert (await post(client)).status_code == 200
            assert (await client.get("/v1/audio/voices", headers={"x-api-key": GOOD})).status_code == 200


async def test_without_a_key_of_the_file_nothing_is_spoken_or_listed(backend, tmp_path):
    path = write(tmp_path / "keys", good={}, painter={"scopes": ("voices",)})
    async with served(backend, guarded(path)) as host, httpx.AsyncClient(base_url=f"http://{host}") as client:
        for key in ("", "tts_wrong", "tts_painter-and-secret"):
            headers = {"x-api-key": key} if key else {}
            for socket_path in ("/api/v1/speak", "/ws/tts", "/api/v1/speak?framing=raw"):
                response = await refused_with(host, socket_path, additional_headers=headers)
                assert (response.status_code, json.loads(response.body)["code"]) == (401, "UNAUTHORIZED")
            voices = await client.get("/v1/audio/voices", headers=headers)
            assert voices.status_code == (200 if "painter" in key else 401)
            answers = [await post(client, key)] + ([voices] if voices.status_code == 401 else [])
            openai = [
                await client.post("/v1/audio/speech", json={"input": "Hello."}, headers=headers),
                await client.get("/v1/models", headers=headers),
                await client.get("/v1/models/tiny", headers=headers),
            ]
            assert {answer.status_code for answer in answers + openai} == {401}
            assert {answer.headers["www-authenticate"] for answer in answers + openai} == {"Bearer"}
            assert {answer.json()["error"]["code"] for answer in openai} == {"UNAUTHORIZED"}
        for free in ("/health", "/ready", "/"):
            assert (await client.get(free)).status_code == 200
    assert backend.requests == []


async def test_a_browser_gets_the_error_as_a_close_code(backend, tmp_path):
    path = write(tmp_path / "keys", good={"max_sessions": 1})
    async with served(backend, guarded(path)) as host:
        origin = f"http://{host}"
        for subprotocols, code, number in (
            (["tts.v1", "tts-key.wrong"], "UNAUTHORIZED", 4401),
            (["tts.v1", f"tts-key.{GOOD}"], "RATE_LIMITED", 4429),
        ):
            async with socket_to(host, f"/api/v1/speak?api_key={GOOD}"):
                async with socket_to(host, "/api/v1/speak", origin=origin, subprotocols=subprotocols) as ws:
                    error = json.loads(await ws.recv())
                    assert (error["code"], error["fatal"]) == (code, True)
                    with pytest.raises(ConnectionClosed) as closed:
                        await ws.recv()
                assert closed.value.rcvd.code == number


async def test_a_key_has_so_many_sessions_at_a_time(backend, tmp_path):
    path = write(tmp_path / "keys", good={"max_sessions": 2}, other={})
    headers = {"x-api-key": GOOD}
    async with served(backend, guarded(path)) as host, socket_to(host, "/ws/tts", additional_headers=headers):
        async with socket_to(host, "/api/v1/speak", additional_headers=headers):
            response = await refused_with(host, additional_headers=headers)
            assert (response.status_code, response.headers["retry-after"]) == (429, "1")
            assert json.loads(response.body)["code"] == "RATE_LIMITED"
            async with socket_to(host, "/ws/tts", additional_headers={"x-api-key": "tts_other-and-secret"}):
                pass
            async with httpx.AsyncClient(base_url=f"http://{host}") as client:
                assert (await client.get("/v1/audio/voices", headers=headers)).status_code == 200
        async with httpx.AsyncClient(base_url=f"http://{host}") as client:
            await until_sessions(client, 1)
            assert (await post(client)).status_code == 200


async def test_a_keys_rate_counts_utterances_over_all_its_connections(backend, tmp_path):
    path = write(tmp_path / "keys", good={"per_minute": 12})  # two at once
    headers = {"x-api-key": GOOD}
    async with (
        served(backend, guarded(path)) as host,
        httpx.AsyncClient(base_url=f"http://{host}") as client,
        socket_to(host, "/api/v1/speak", additional_headers=headers) as ws,
    ):
        await say(ws, type="speak", text="")
        await hear(ws, until=("error",))
        await say(ws, type="speak", text="Hello", utterance_id="a", final=False)
        await say(ws, type="speak", text=" again.", utterance_id="a")
        await hear(ws)
        assert (await post(client)).status_code == 200
        late = await post(client)
        assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (429, "RATE_LIMITED", "5")
        await say(ws, type="speak", text="Hello.", utterance_id="b")
        (error,) = await hear(ws, until=("error",))
        assert (error["code"], error["utterance_id"], error["fatal"]) == ("RATE_LIMITED", "b", False)
        assert 4000 < error["retry_after_ms"] <= 5000


def test_changes_of_voices_need_their_scope_and_are_counted(tmp_path):
    path = write(tmp_path / "keys", good={}, painter={"scopes": ("voices",), "per_minute": 12})
    authenticator = Authenticator(AccessConfig(keys_file=str(path)), lambda: 7.0)

    def ask(key, scope, method="POST"):
        asked = HTTPConnection({"type": "http", "method": method, "serve_app.given_key": key})
        return authenticator.check(asked, scope)

    assert ask(GOOD, "speak").name == "good"
    assert ask(GOOD, None).scopes == ("speak",)
    with pytest.raises(UnauthorizedError):
        ask("tts_wrong", None)
    with pytest.raises(UnauthorizedError, match="scope voices"):
        ask(GOOD, "voices")
    painter = "tts_painter-and-secret"
    assert [ask(painter, "voices").name for _ in range(2)] == ["painter", "painter"]
    with pytest.raises(RateLimitedError):
        ask(painter, "voices")
    assert ask(painter, "voices", "GET").name == "painter", "what only reads is not counted"


async def test_a_changed_file_counts_without_a_restart(backend, tmp_path, caplog):
    caplog.set_level("INFO", "serve_app")
    path = write(tmp_path / "keys", good={})
    now_s = 0.0
    async with (
        served(backend, guarded(path, reload_s=1.0), clock=lambda: now_s) as host,
        httpx.AsyncClient(base_url=f"http://{host}") as client,
    ):
        async with socket_to(host, "/api/v1/speak", additional_headers={"x-api-key": GOOD}) as ws:
            await say(ws, type="speak", text="Hello.")
            await hear(ws)
            write(path, new={})
            now_s += 1.0
            assert (await post(client, "tts_new-and-secret")).status_code == 200
            assert (await post(client)).status_code == 401
            await say(ws, type="speak", text="Hello.")
            (error,) = await hear(ws, until=("error",))
            assert error["code"] == "UNAUTHORIZED"
        path.write_text("- {broken")
        now_s += 1.0
        assert (await post(client, "tts_new-and-secret")).status_code == 200
        path.unlink()
        now_s += 1.0
        assert (await post(client, "tts_new-and-secret")).status_code == 200
    assert "were not reloaded" in caplog.text


def test_a_mounted_secret_that_is_swapped_is_read_again(tmp_path):
    write(tmp_path / "first", good={})
    write(tmp_path / "second", other={})
    (tmp_path / "keys").symlink_to(tmp_path / "first")
    now_s = 0.0
    authenticator = Authenticator(AccessConfig(keys_file=str(tmp_path / "keys"), reload_s=5), lambda: now_s)
    (tmp_path / "link").symlink_to(tmp_path / "second")
    (tmp_path / "link").replace(tmp_path / "keys")
    now_s = 4.0
    assert authenticator._current().find(GOOD) is not None
    now_s = 5.0
    assert authenticator._current().find(GOOD) is None


def test_a_file_with_a_mistake_is_read_once_until_it_changes(tmp_path, caplog):
    path, now_s = write(tmp_path / "keys", good={}), 0.0
    authenticator = Authenticator(AccessConfig(keys_file=str(path), reload_s=1.0), lambda: now_s)
    path.write_text("- {broken")
    for _ in range(3):
        now_s += 1.0
        assert authenticator._current().find(GOOD) is not None
    assert caplog.text.count("were not reloaded") == 1
    write(path, other={})
    now_s += 1.0
    assert authenticator._current().find(GOOD) is None


@pytest.mark.parametrize("content", [None, "- {broken", b"\xff", "x" * (5 << 20)])
def test_a_service_that_is_to_ask_for_keys_does_not_start_without(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(KeysFileError, match="the file of API keys"):
        Authenticator(AccessConfig(keys_file=str(path)), time.monotonic)


async def test_no_key_is_in_any_log_or_answer(backend, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.DEBUG, logger="serve_app")
    path = write(tmp_path / "keys", good={"per_minute": 12})
    heard = []
    async with (
        served(backend, guarded(path), access_log=True) as host,
        httpx.AsyncClient(base_url=f"http://{host}") as client,
    ):
        for key in (GOOD, "tts_wrong-and-secret"):
            heard += [(await client.get(f"/v1/models?api_key={key}")).text for _ in range(4)]
            try:
                async with socket_to(host, f"/api/v1/speak?api_key={key}&voice=nobody") as ws:
                    heard.append(await ws.recv())
            except InvalidStatus as refused:
                heard.append(refused.response.body.decode())
    ours = [record for record in caplog.records if record.name.startswith(("serve_app", "uvicorn"))]
    text = "\n".join(record.getMessage() for record in ours)
    assert "/v1/models" in text
    assert "/api/v1/speak" in text
    assert "and-secret" not in text
    assert "and-secret" not in "".join(heard)
