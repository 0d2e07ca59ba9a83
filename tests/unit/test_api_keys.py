import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.cli.keys import line_of, main
from serve_app.errors import KeysFileError, RateLimitedError
from serve_app.web.api_keys import (
    Bucket,
    Key,
    KeyTable,
    digest_of,
    given_key,
    listed_scopes,
    new_key,
    read_keys,
    spent,
    without_key,
)


def line(name, key, **limits):
    return line_of(Key(name=name, sha256=digest_of(key), **limits)) + "\n"


def test_a_key_of_the_file_is_found_and_no_other():
    table = read_keys(line("one", "first") + line("two", "second", scopes=("voices",), per_minute=3, max_sessions=2))
    assert table.find("first").name == "one"
    second = table.find("second")
    assert (second.name, second.scopes, second.per_minute, second.max_sessions) == ("two", ("voices",), 3, 2)
    for wrong in ("", "f", "first ", "First", digest_of("first"), "first" * 1000):
        assert table.find(wrong) is None


def test_every_key_is_compared_whichever_fits(monkeypatch):
    compared = []
    monkeypatch.setattr(
        "serve_app.web.api_keys.hmac.compare_digest", lambda one, other: compared.append(one) or one == other
    )
    table = KeyTable([Key(name=f"k{n}", sha256=digest_of(str(n))) for n in range(5)])
    for given_one in ("0", "4", "none"):
        compared.clear()
        table.find(given_one)
        assert len(compared) == 5


def test_an_empty_file_admits_no_client():
    assert read_keys("# nobody yet\n").find("x") is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("- {name: a", "not valid YAML in line"),
        ("keys: []", "the file"),
        ("- {name: a, sha256: s3cret}", "0.sha256"),
        ("- {name: s3cret key, sha256: " + "a" * 64 + "}", "0.name"),
        ("- {name: a, sha256: " + "a" * 64 + ", scopes: [sing]}", "0.scopes.0"),
        ("- {name: a, sha256: " + "a" * 64 + ", key: s3cret}", "0.key"),
        (line("a", "x") + line("a", "y"), "the same name twice"),
        (line("a", "x") + line("b", "x"), "the same key twice"),
    ],
)
def test_a_wrong_file_is_refused_by_place_and_never_quoted(text, part):
    with pytest.raises(KeysFileError) as refused:
        read_keys(text)
    assert part in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_key_that_was_replaced_is_no_longer_held():
    before, after = read_keys(line("a", "x")), read_keys(line("a", "y"))
    relaxed = read_keys(line("a", "x", per_minute=5))
    key = before.find("x")
    assert before.holds(key)
    assert relaxed.holds(key)
    assert not after.holds(key)
    assert not read_keys("").holds(key)


@pytest.mark.parametrize(
    ("headers", "query", "found"),
    [
        ({"authorization": "Bearer abc"}, "", "abc"),
        ({"authorization": "bearer  abc "}, "", "abc"),
        ({"authorization": "Token abc"}, "", "abc"),
        ({"authorization": "token abc"}, "", "abc"),
        ({"authorization": "Api-Key abc"}, "", "abc"),
        ({"authorization": "Basic abc"}, "", ""),
        ({"authorization": "Token"}, "", ""),
        ({"authorization": "Basic abc", "xi-api-key": "two"}, "", "two"),
        ({"xi-api-key": " abc "}, "", "abc"),
        ({"authorization": "Bearer "}, "api_key=q", "q"),
        ({"x-api-key": "abc"}, "", "abc"),
        ({"sec-websocket-protocol": "tts.v1, tts-key.abc"}, "", "abc"),
        ({"sec-websocket-protocol": "tts.v1"}, "", ""),
        ({}, "voice=a&api_key=a%2Bb", "a+b"),
        ({}, "apikey=abc", ""),
        ({"authorization": "Bearer one", "x-api-key": "two"}, "api_key=three", "one"),
    ],
)
def test_a_key_is_found_where_clients_can_put_it(headers, query, found):
    assert given_key(headers, query) == found


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ""),
        ("voice=a&seed=1", "voice=a&seed=1"),
        ("voice=a+b%20c&api_key=x", "voice=a+b+c"),
        ("api_key=x&api_key=y", ""),
        ("api%5Fkey=x&voice=&seed=1", "voice=&seed=1"),
        ("text=100%25", "text=100%25"),
    ],
)
def test_a_query_is_shown_without_its_key_and_otherwise_as_it_was(query, shown):
    assert without_key(query) == shown


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text()))
def test_no_key_survives_in_a_query(key, others):
    assume("api_key" not in others)
    shown = without_key(urlencode([*others.items(), ("api_key", key)]))
    assert dict(parse_qsl(shown, keep_blank_values=True)) == others


@given(st.floats(0.5, 10_000), st.lists(st.floats(0, 30), min_size=1, max_size=200))
def test_a_key_never_gets_more_than_its_rate_and_a_burst(per_minute, pauses_s):
    bucket, now_s, taken = None, 100.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        try:
            bucket = spent(bucket, per_minute, now_s)
            taken += 1
        except RateLimitedError:
            pass
    assert taken <= max(1.0, per_minute / 6) + (now_s - 100.0) * per_minute / 60 + 1e-6


@given(st.floats(0.5, 10_000))
def test_a_client_that_waits_as_long_as_the_error_says_is_served(per_minute):
    bucket, now_s = None, 5.0
    for _ in range(2000):
        try:
            bucket = spent(bucket, per_minute, now_s)
        except RateLimitedError as error:
            now_s += error.retry_after_ms / 1000
            bucket = spent(bucket, per_minute, now_s)
            return
    raise AssertionError("it was never refused")


def test_a_clock_that_stands_still_gives_nothing():
    assert spent(Bucket(1.0, 10.0), 60, 9.0).tokens == 0


def test_a_new_key_is_unlike_the_last_and_fits_everywhere():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"tts_[A-Za-z0-9_-]{43}", key) for key in keys)


def test_scopes_are_words_of_a_list():
    assert listed_scopes("speak, voices") == ("speak", "voices")
    for wrong in ("", "sing", "speak,sing"):
        with pytest.raises(ValueError, match="allowed: speak, voices"):
            listed_scopes(wrong)


def test_the_command_prints_a_key_and_the_line_that_lets_it_in(capsys):
    assert main(["app", "--scopes", "speak,voices", "--per-minute", "60", "--max-sessions", "4"]) == 0
    printed = capsys.readouterr()
    key = printed.err.split(": ")[1].strip()
    found = read_keys(printed.out).find(key)
    assert (found.name, found.scopes, found.per_minute, found.max_sessions) == ("app", ("speak", "voices"), 60, 4)
    assert key not in printed.out


@pytest.mark.parametrize("wrong", [["a b"], ["a", "--scopes", "sing"], ["a", "--per-minute", "0"]])
def test_the_command_refuses_what_the_file_would_not_take(wrong, capsys):
    assert main(wrong) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "tts-keys: " in printed.err


@pytest.mark.parametrize("name", ["1234", "null", "true", "1e5"])
def test_a_name_that_looks_like_something_else_stays_a_name(name):
    assert read_keys(line(name, "x")).find("x").name == name


def test_the_documented_command_and_its_line_are_taken(capsys):
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (command,) = re.findall(r"^tts-keys (.*) >> keys.yaml$", page, re.MULTILINE)
    assert main(shlex.split(command)) == 0
    printed = capsys.readouterr().out
    (documented,) = re.findall(r"^- \{.*\}$", page, re.MULTILINE)
    assert re.sub("'[0-9a-f]{64}'", "'…'", printed.strip()) == documented
