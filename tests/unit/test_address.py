"""``--url`` as people write it: one function reads it for every command."""

import argparse
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.cli.address import AddressError, add_options, address_of, given_address, refusal, unreachable

ROUTES = [
    "", "/", "//", "/api/v1/speak", "/api/v1/speak/", "/ws/tts", "/api/tts", "/v1", "/v1/", "/v1/audio/speech",
    "/v1/audio/speech/batch",
    "/v1/audio/voices", "/v1/models", "/health", "/ready",
]  # fmt: skip


@given(
    st.sampled_from(["http", "https", "ws", "wss", "HTTP", "Wss"]),
    st.sampled_from(["127.0.0.1:8000", "localhost", "[::1]:8000", "tts.example.org", "tts.example.org:"]),
    st.sampled_from(["", "/tts", "/a/b"]),
    st.sampled_from(ROUTES),
    st.sampled_from(["", "?voice=austen", "#top"]),
)
def test_any_address_that_the_service_prints_is_the_same_service(scheme, host, prefix, route, rest):
    address = address_of(f" {scheme}://{host}{prefix}{route}{rest}")
    secure = scheme.lower() in ("https", "wss")
    assert address.url == f"http{'s' if secure else ''}://{host.rstrip(':')}{prefix}"
    query = rest if rest.startswith("?") else ""
    assert address.socket() == f"ws{'s' if secure else ''}://{host.rstrip(':')}{prefix}/api/v1/speak{query}"
    assert address_of(address.url).url == address_of(address.socket()).url == address.url


@pytest.mark.parametrize(
    ("given_url", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("localhost", "http://localhost"),
        ("localhost:8000/tts/", "http://localhost:8000/tts"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("tts.example.org/v1", "http://tts.example.org"),
        ("http://127.0.0.1:8000/tts/ws/tts", "http://127.0.0.1:8000/tts"),
    ],
)
def test_a_host_without_a_scheme_is_taken_as_http(given_url, url):
    assert address_of(given_url).url == url


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("", "has no host"),
        ("http://", "has no host"),
        ("http:127.0.0.1", "has no host"),
        ("http:/127.0.0.1:8000", "has no host"),
        (":8000", "has no host"),
        ("http://a b", "has no host"),
        ("ftp://127.0.0.1", "unknown scheme 'ftp'"),
        ("http://127.0.0.1:99999", "Port"),
        ("http://127.0.0.1:0", "has no host"),
        ("http://127.0.0.1:x", "Port"),
        ("http://[::1", "IPv6"),
        ("http://::1:8000", "brackets"),
        ("::1", "brackets"),
        ("http://me:secret@127.0.0.1", "--api-key"),
    ],
)
def test_what_is_not_an_address_is_refused_with_what_is_allowed(wrong, reason):
    with pytest.raises(AddressError, match=reason) as refused:
        address_of(wrong)
    assert "http" in str(refused.value) or "--api-key" in str(refused.value)
    assert "secret" not in str(refused.value)


@given(st.text(max_size=40))
def test_any_words_are_an_address_or_refused(words):
    try:
        address = address_of(words)
    except AddressError:
        return
    assert address.url.startswith(("http://", "https://"))
    assert not address.url.endswith("/")


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return given_address(parser.parse_args(words))


def test_a_key_in_the_url_is_used_and_never_printed(monkeypatch):
    monkeypatch.setenv("TTS_API_KEY", "tts_environment")
    assert parsed().key == "tts_environment"
    address = parsed("--url", "ws://127.0.0.1:8000/api/v1/speak?voice=austen&api_key=tts_query&seed=3")
    assert address.key == "tts_query"
    assert address.socket() == "ws://127.0.0.1:8000/api/v1/speak?voice=austen&seed=3"
    assert "tts_" not in address.url
    assert parsed("--url", "http://h?api_key=tts_query", "--api-key", "tts_option").key == "tts_option"
    with pytest.raises(AddressError) as refused:
        address_of("http://?api_key=tts_query")
    assert "tts_" not in str(refused.value)


def test_what_goes_wrong_is_said_without_numbers_of_the_system():
    address = address_of("http://127.0.0.1:1/tts")
    assert "tts-serve" in unreachable(address, ConnectionRefusedError(111, "Connection refused"))
    assert unreachable(address, OSError(-2, "Name or service not known")).endswith("Name or service not known")
    assert "in time" in unreachable(address, TimeoutError())
    assert refusal(401, b'{"code": "UNAUTHORIZED", "message": "no key"}') == "UNAUTHORIZED: no key"
    assert refusal(404, b'{"error": {"code": null, "message": "no voice"}}') == "HTTP 404: no voice"
    assert refusal(502, b"<html>bad gateway</html>") == "HTTP 502 <html>bad gateway</html>"
    assert "does not use TLS" in unreachable(address, ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong (_ssl.c:1)"))
    assert "under this path" in refusal(403, b"")
    assert refusal(500, b"[]") == "HTTP 500 []"
