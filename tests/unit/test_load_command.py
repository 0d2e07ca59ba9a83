"""``tts-load`` as it is called: what it refuses, and what it writes. tests/service has it at a real service."""

import json

import pytest

from serve_app.cli.load import picture
from serve_app.cli.load.__main__ import _parser, _target, main
from serve_app.cli.load.figures import Utterance, summarize
from serve_app.cli.load.knee import parse_slo

NOBODY = ("--url", "ws://127.0.0.1:1/")


def test_a_load_without_a_server_says_so_and_fails(tmp_path, capsys):
    out = tmp_path / "load.json"
    assert main([*NOBODY, "--rate", "50", "--seconds", "0.2", "--json", str(out)]) == 1
    assert "ECONNREFUSED" in capsys.readouterr().out
    document = json.loads(out.read_text())
    assert document["summary"]["codes"] == {"ECONNREFUSED": len(document["utterances"])}


def test_a_key_comes_from_the_environment_and_goes_into_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TTS_API_KEY", "tts_environment")
    assert _target(_parser().parse_args([])).key == "tts_environment"
    assert _target(_parser().parse_args(["--key", "tts_option"])).key == "tts_option"
    out = tmp_path / "load.json"
    url = "ws://127.0.0.1:1/api/v1/speak?api_key=tts_query"
    main(["--url", url, "--key", "tts_option", "--rate", "50", "--seconds", "0.2", "--json", str(out)])
    assert "tts_" not in out.read_text()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "127.0.0.1:8000/", "ws://127.0.0.1:8000/ws/tts"])
def test_any_address_of_the_service_is_taken(url):
    assert _target(_parser().parse_args(["--url", url])).url == "ws://127.0.0.1:8000/api/v1/speak"


def test_a_trace_is_sent(tmp_path, capsys):
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at_s": 0.05, "text": "x"}\n{"at_s": 0, "text": "y"}\n')
    assert main([*NOBODY, "--trace", str(file)]) == 1
    assert "2 arrivals in 1 s" in capsys.readouterr().out


def test_a_violated_slo_shows_in_the_exit_status(capsys):
    assert main([*NOBODY, "--rate", "50", "--seconds", "0.2", "--slo", "errors=0.5"]) == 1
    assert "SLO VIOLATED: errors 1 of 0.5" in capsys.readouterr().out


def test_the_old_name_of_the_slo_is_accepted_with_a_notice(capsys):
    assert main([*NOBODY, "--rate", "50", "--seconds", "0.2", "--promise", "errors=0.5"]) == 1
    printed = capsys.readouterr()
    assert "SLO VIOLATED: errors 1 of 0.5" in printed.out
    assert "--promise is now --slo" in printed.err


def test_a_search_without_an_answer_fails(capsys):
    assert main([*NOBODY, "--find-knee", "--rate", "50", "--seconds", "0.2", "--max-steps", "2"]) == 1
    printed = capsys.readouterr()
    assert "no rate that was tried meets the SLO; the lowest was 25/s" in printed.out
    assert printed.err.count("VIOLATED") == 2


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--json", "nowhere/load.json"], "cannot be written"),
        (["--json", "."], "is a directory"),
        (["--plot", "nowhere/load.svg"], "cannot be written"),
        (["--slo", "fast"], "'fast' is unknown; allowed:"),
        (["--plot", "load.pdf"], ".svg or .png"),
        (["--rate", "1e9"], "100000 arrivals"),
        (["--trace", "no-such-file"], "no-such-file"),
        (["--trace", "t", "--find-knee"], "--trace"),
        (["--texts", "empty"], "at least one"),
        (["--texts", "binary"], "not UTF-8"),
        (["--texts", "long"], "at least one"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(tmp_path, monkeypatch, capsys, options, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_text("x" * 20_001)
    assert main([*NOBODY, *options]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--rate", "0"], ["--seconds", "inf"], ["--max-sessions", "0"], ["--buffer-ms", "-1"]]
)
def test_numbers_that_are_none_are_refused(options):
    with pytest.raises(SystemExit):
        main([*NOBODY, *options])


def test_a_file_of_texts_has_an_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("serve_app.cli.load.__main__.MAX_FILE_BYTES", 3)
    file = tmp_path / "texts"
    file.write_text("four")
    assert main([*NOBODY, "--texts", str(file)]) == 2
    assert "has 4 bytes; the limit is 3" in capsys.readouterr().err


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*NOBODY, "--plot", "load.svg"]) == 2
    assert "pip install 'qwen3-tts-serve[load]'" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", picture.SUFFIXES)
def test_pictures_are_drawn_of_what_was_heard_and_of_nothing(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    heard = [Utterance(0.5 * n, "COMPLETE", ttfa_s=0.1, audible_s=0.12, e2e_s=1, samples=24_000) for n in range(4)]
    nothing = [Utterance(1.0, "NOT_SENT")]
    for name, utterances in (("heard", heard), ("mixed", heard + nothing), ("nothing", nothing)):
        path = tmp_path / f"{name}{suffix}"
        picture.draw_load(utterances, path)
        assert path.stat().st_size > 1000
    steps = [(1.0, summarize(heard)), (2.0, summarize(nothing))]
    picture.draw_steps(steps, parse_slo("ttfa_p95_ms=500,errors=0.01"), tmp_path / f"knee{suffix}")
    assert (tmp_path / f"knee{suffix}").stat().st_size > 1000
