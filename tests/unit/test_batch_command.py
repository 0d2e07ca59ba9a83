"""``tts-batch`` against the web application with a backend that yields known PCM, and its decisions by themselves."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from known_backend import idle, served
from test_auth import guarded, write
from until import until

from serve_app.audio.pcm import pcm16_bytes, wav_file
from serve_app.cli.batch.__main__ import main
from serve_app.cli.batch.folder import Folder
from serve_app.cli.batch.progress import Progress, bar, show
from serve_app.cli.batch.request import MAX_WAIT_S, Later, Result, answer_of, wait_s
from serve_app.cli.batch.table import FIELDS, MAX_LINE_BYTES, BatchError, Row, check, rows
from serve_app.config import AdmissionConfig, AppConfig, EngineConfig
from serve_app.errors import SynthesisError, TtsUnavailableError
from serve_app.protocol.messages import SpeechBody

WAV = {"response_format": "wav"}


@pytest.fixture
def table(tmp_path):
    def write(*lines):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def run(host, tmp_path, capsys):
    async def call(path, *options, url=host):
        status = await asyncio.to_thread(main, [str(path), str(tmp_path / "out"), "--url", url, *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def manifest(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]


def sound(backend, text):
    return wav_file(pcm16_bytes(backend.pcm(text)))


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".")


async def test_every_text_becomes_a_file_and_a_line_of_the_manifest(run, table, tmp_path, backend):
    path = table(
        {"id": "a1", "text": "Hello."},
        "",
        {"text": "Good day.", "voice": "makima", "seed": 7, "response_format": "MP3"},
        {"id": 17, "text": ""},
        {"id": "x", "text": "Hi.", "voice": "nobody"},
    )
    status, out, err = await run(path, "--language", "German")
    assert status == 1
    assert "4 texts: 2 spoken, 2 failed" in out
    assert err == ""
    first, second, third, fourth = manifest(tmp_path)
    assert (first["id"], first["file"], first["seconds"], first["voice"]) == ("a1", "a1.wav", 0.48, "makima")
    assert (second["id"], second["file"], second["seed"]) == ("000003", "000003.mp3", 7)
    assert (third["id"], third["code"], "error" in third, "file" in third) == ("17", "TEXT_EMPTY", True, False)
    assert (fourth["id"], fourth["code"]) == ("x", "VOICE_NOT_FOUND")
    assert (tmp_path / "out" / "a1.wav").read_bytes() == sound(backend, "Hello.")
    assert files(tmp_path) == ["000003.mp3", "a1.wav", "manifest.jsonl"]
    assert {(request.language, request.priority, request.listening) for request in backend.requests} == {
        ("german", 1, False)
    }


async def test_a_second_run_does_what_is_missing(run, table, tmp_path, backend):
    texts = [{"id": f"t{number}", "text": f"Text {number}."} for number in range(6)]
    path = table(*texts[:4], {"id": "bad", "text": "Hi.", "voice": "later"})
    assert (await run(path))[0] == 1
    backend.requests.clear()
    (tmp_path / "out" / "t1.wav").unlink()
    (tmp_path / "out" / ".t2.wav.part").write_bytes(b"half")
    with (tmp_path / "out" / "manifest.jsonl").open("a") as file:
        file.write('{"id": "t5", "file": "t5.wa')  # the run before was killed here
    backend.uploaded = ["later"]
    path = table(texts[0], texts[1], {"id": "t2", "text": "Another text."}, *texts[3:], {"id": "bad", "text": "Hi."})
    status, out, _ = await run(path, "--voice", "makima")
    assert (status, len(backend.requests)) == (0, 7), "a voice for all lines changes all texts"
    backend.requests.clear()
    (tmp_path / "out" / "t1.wav").unlink()
    status, out, _ = await run(path, "--voice", "makima")
    assert (status, [request.text for request in backend.requests]) == (0, ["Text 1."])
    assert "7 texts: 1 spoken, 6 spoken earlier" in out
    assert [entry["id"] for entry in manifest(tmp_path)] == ["t0", "t1", "t2", "t3", "t4", "t5", "bad"]
    assert not any(path.name.endswith(".part") for path in (tmp_path / "out").iterdir())


async def test_a_killed_run_leaves_no_half_file_and_is_resumed(host, run, table, tmp_path, backend):
    backend.frame_delay_s = 0.01
    texts = [f"Text number {number} of some." for number in range(40)]
    path = table(*({"id": f"t{number}", "text": text} for number, text in enumerate(texts)))
    command = [sys.executable, "-m", "serve_app.cli.batch", str(path), str(tmp_path / "out"), "--url", host]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await until(lambda: (tmp_path / "out").exists() and len(files(tmp_path)) > 5, timeout_s=60)
    process.kill()
    await process.wait()
    await idle(backend)  # the service has ended what nobody waits for
    done = [name for name in files(tmp_path) if name != "manifest.jsonl"]
    assert 0 < len(done) < 40
    for name in done:
        text = texts[int(name[1:-4])]
        assert (tmp_path / "out" / name).read_bytes() == sound(backend, text)
    backend.frame_delay_s = 0
    backend.requests.clear()
    assert (await run(path))[0] == 0
    assert len(backend.requests) <= 40 - len(done) + 1, "one may have had its name and not yet its line"
    assert len(files(tmp_path)) == 41
    assert len(manifest(tmp_path)) == 40


async def test_ctrl_c_ends_at_once_with_a_tidy_manifest(host, table, tmp_path, backend):
    backend.frame_delay_s = 0.05
    path = table(*({"text": f"Text number {number}."} for number in range(100)))
    command = [sys.executable, "-m", "serve_app.cli.batch", str(path), str(tmp_path / "out"), "--url", host]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    await until(lambda: (tmp_path / "out").exists() and len(files(tmp_path)) > 3, timeout_s=60)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert b"missing" in out
    assert b"same command again" in err
    assert b"Traceback" not in err
    assert len(manifest(tmp_path)) == len(files(tmp_path)) - 1
    await idle(backend)


async def test_an_overloaded_service_gets_its_time(backend, table, tmp_path, capsys):
    backend.frame_delay_s, backend.frames, backend.capacity = 0.005, 10, 2
    config = AppConfig(engine=EngineConfig(slots=2), admission=AdmissionConfig(max_waiting=0, start_deadline_s=0.3))
    path = table(*({"text": f"Text {number}."} for number in range(12)))
    async with served(backend, config) as host:
        arguments = [str(path), str(tmp_path / "out"), "--url", host, "--at-once", "4"]
        assert await asyncio.to_thread(main, arguments) == 0
    assert backend.most_running == 1, "the other stream is for listeners"
    assert "12 texts: 12 spoken" in capsys.readouterr().out


async def test_a_service_that_does_not_come_back_ends_the_run(run, table, backend):
    backend.raises = TtsUnavailableError("none is ready", retry_after_ms=100)
    status, out, err = await run(table({"text": "Hi."}), "--patience", "0.3")
    assert (status, "1 missing" in out) == (1, True)
    assert "no text was spoken for 0.3 s: TTS_UNAVAILABLE: none is ready" in err


async def test_a_failed_synthesis_is_tried_again_a_few_times(run, table, tmp_path, backend, monkeypatch):
    monkeypatch.setattr("serve_app.cli.batch.job.wait_s", lambda *_: 0.0)
    backend.raises = SynthesisError("the step failed")
    assert (await run(table({"text": "Hi."})))[0] == 1
    assert [entry["code"] for entry in manifest(tmp_path)] == ["SYNTHESIS_ERROR"]
    assert len(backend.requests) == 3


async def test_a_wrong_address_or_key_ends_the_run_at_once(run, table, backend, tmp_path, capsys):
    path = table(*[{"text": "Hi."}] * 20)
    status, _, err = await run(path, url="http://127.0.0.1:9")
    assert (status, "connection refused" in err) == (1, True)
    status, _, err = await run(path, url="http://127.0.0.1:9/ftp://")
    assert status == 1
    status, _, err = await run(path, url="http://a\x7fb")
    assert (status, "control characters" in err) == (1, True)
    async with served(backend, guarded(write(tmp_path / "keys", good={}))) as host:
        status, _, err = await run(path, url=host)
        assert (status, "UNAUTHORIZED: an API key is required" in err) == (1, True)
        status, _, err = await run(path, "--api-key", "tts_good-and-secret", url=host)
        assert (status, err) == (0, "")


def test_a_folder_has_one_run_at_a_time(tmp_path, table, capsys):
    with Folder(tmp_path / "out"):
        assert main([str(table({"text": "Hi."})), str(tmp_path / "out")]) == 1
    assert "another tts-batch writes to" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_and_leaves_no_half_file(tmp_path, table):
    (row,) = rows(table({"id": "a", "text": "Hi."}), WAV)
    with Folder(tmp_path / "out") as folder:
        (tmp_path / "out" / "a.wav").mkdir()
        with pytest.raises(OSError, match="directory"):
            folder.record(row, {}, b"audio")
        assert not folder.has(row)


def test_any_error_can_be_read_from_the_manifest_again(tmp_path):
    row = Row(1, "a", {}, "a.wav", "0")
    facts = {"code": "VOICE_NOT_FOUND", "error": "é\u2028\ud800"}
    with Folder(tmp_path) as folder:
        folder.record(row, facts, None)
    for table in ([row], []):
        with Folder(tmp_path) as folder:
            folder.tidy(table)
        assert json.loads(folder.manifest.read_bytes()) == {"id": "a", **facts, "digest": "0"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"txt": "a"}, "line 2: unknown field 'txt'; allowed: id, text, voice"),
        ({"id": "a"}, "line 2 needs a text: a string"),
        ({"text": 5}, "line 2 needs a text: a string; given: 5"),
        ({"id": "../a", "text": "a"}, "line 2: the id '../a' is not allowed; allowed: 1 to 120 letters"),
        ({"id": ".a", "text": "a"}, "not beginning with '.'"),
        ({"id": "a\n", "text": "a"}, "is not allowed"),
        ({"id": True, "text": "a"}, "is not allowed"),
        ({"id": "x" * 121, "text": "a"}, "is not allowed"),
        ({"id": "FIRST", "text": "a"}, "line 2: the id 'FIRST' is that of line 1"),
        ({"text": "a", "response_format": "ogg"}, "allowed: mp3, opus, aac, flac, wav, pcm"),
        ({"text": "a" * MAX_LINE_BYTES}, "line 2 is longer than 1048576 bytes"),
    ],
)
def test_a_wrong_table_is_refused_before_the_first_text(table, line, words):
    path = table({"id": "first", "text": "a"}, line)
    with pytest.raises(BatchError) as refused:
        check(path, WAV)
    assert words in str(refused.value)


def test_a_table_that_is_none_is_refused_by_the_command(tmp_path, table, capsys):
    assert main([str(table("")), str(tmp_path / "out")]) == 1
    assert main([str(tmp_path / "nowhere.jsonl"), str(tmp_path / "out")]) == 1
    assert main([str(table({"text": "a"})), str(tmp_path / "texts.jsonl")]) == 1
    err = capsys.readouterr().err
    assert "has no texts" in err
    assert "nowhere.jsonl" in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_pipe_is_refused_because_it_can_be_read_only_once(tmp_path, capsys):
    read, write = os.pipe()
    os.write(write, b'{"text": "a"}')
    os.close(write)
    assert main([f"/dev/fd/{read}", str(tmp_path / "out")]) == 1
    os.close(read)
    assert "is not a regular file" in capsys.readouterr().err


async def test_a_table_that_gets_shorter_while_it_is_spoken_is_not_a_success(run, table, monkeypatch):
    path = table({"text": "a"}, {"text": "b"})
    monkeypatch.setattr("serve_app.cli.batch.__main__.check", lambda path, defaults: 3)
    status, out, err = await run(path)
    assert (status, "2 spoken" in out, "run the same command again" in err) == (1, True, True)


def test_a_table_may_begin_with_a_byte_order_mark_and_end_without_a_line_break(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a", "voice": null}\r\n\r\n{"text": "b"}')
    assert [(row.id, row.item) for row in rows(path, WAV)] == [
        ("000001", {"input": "a", **WAV}),
        ("000003", {"input": "b", **WAV}),
    ]


ROWS = st.lists(
    st.fixed_dictionaries({"text": st.text(max_size=5)}, optional={"id": st.integers(0, 5), "voice": st.text()}),
    min_size=1,
    max_size=6,
)


@given(ROWS)
def test_any_table_is_read_or_refused_and_equal_requests_have_equal_digests(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    try:
        assert check(path, WAV) == len(lines)
    except BatchError:
        assert len({line.get("id") for line in lines}) < len(lines)
        return
    found = list(rows(path, WAV))
    assert len({row.file.lower() for row in found}) == len(found)
    for mine in found:
        for other in found:
            assert (mine.digest == other.digest) == (mine.item == other.item)


def result(**fields):
    return json.dumps({"results": [{"index": 0, **fields}]}).encode()


SPOKEN = {"status": "success", "audio_data": "AAE=", "duration_ms": 80, "voice": "v", "seed": 1, "finish_reason": "eos"}
FACTS = {"seconds": 0.08, "voice": "v", "seed": 1, "finish_reason": "eos"}


@pytest.mark.parametrize(
    ("status", "retry_after", "content", "answer"),
    [
        (200, None, result(**SPOKEN), Result(FACTS, b"\0\1")),
        (
            200,
            None,
            result(status="error", code="TEXT_EMPTY", error="empty"),
            Result({"code": "TEXT_EMPTY", "error": "empty"}),
        ),
        (
            200,
            None,
            result(status="error", code="CAPACITY", error="busy", retry_after_ms=700),
            Later("CAPACITY: busy", 0.7),
        ),
        (200, None, result(status="error", code="SERVICE_RESTART", error="new"), Later("SERVICE_RESTART: new")),
        (503, "5", b'{"error": {"code": "CAPACITY", "message": "full"}}', Later("CAPACITY: full", 5.0)),
        (429, None, b'{"code": "RATE_LIMITED", "message": "too many"}', Later("RATE_LIMITED: too many")),
        (502, "Mon, 30 Nov 2026", b"bad gateway", Later("HTTP 502 bad gateway")),
    ],
)
def test_what_an_answer_means(status, retry_after, content, answer):
    assert answer_of(status, retry_after, content) == answer


@pytest.mark.parametrize(
    ("status", "content"),
    [(401, b"{}"), (404, b""), (400, b"no"), (200, b"<html>"), (200, b'{"results": []}'), (200, result(status="x"))],
)
def test_an_answer_that_every_text_would_get_ends_the_run(status, content):
    with pytest.raises(BatchError):
        answer_of(status, None, content)


@given(st.none() | st.floats(0, 1e6), st.integers(0, 10_000))
def test_the_wait_is_bounded_and_at_least_what_was_asked_for(retry_after_s, attempt):
    waits_s = wait_s(Later("busy", retry_after_s), attempt, random.Random(1))
    assert 0.5 <= waits_s <= 1.5 * MAX_WAIT_S
    assert waits_s >= min(retry_after_s or 0.0, MAX_WAIT_S)


FAILURE = {"code": "TEXT_EMPTY", "error": "empty"}


def test_the_progress_in_words():
    progress = Progress(total=10, earlier=4, began_s=0.0, answered_s=0.0)
    assert progress.details(5.0) == ""
    progress.waiting = "CAPACITY: all streams\r\nare busy" + " and busy" * 20
    assert progress.details(5.0).startswith("CAPACITY: all streams are busy and busy")
    assert len(progress.details(5.0)) <= 100
    progress.count({"seconds": 90.0, "finish_reason": "length"}, 50.0)
    progress.count(FAILURE, 55.0)
    assert progress.answered_s == 55.0
    assert progress.details(60.0) == "1 failed, 1.50 s of audio/s"
    assert progress.summary(60.0) == (
        "10 texts: 1 spoken, 4 spoken earlier, 1 cut short, 1 failed, 4 missing; "
        "01:30 of audio in 01:00, 1.50 s of audio/s"
    )
    progress.waiting = "CAPACITY: busy"
    assert progress.details(60.0) == "1 failed, 1.50 s of audio/s, CAPACITY: busy"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_bar_is_one_line_on_a_terminal_and_a_line_now_and_then_in_a_file(monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    progress = Progress(total=10, earlier=4, began_s=0.0, answered_s=0.0, waiting="CAPACITY: busy")
    with bar(progress, line_period_s=0.2) as shown:
        show(shown, progress, 1.0)
        assert "CAPACITY" not in capsys.readouterr().err, "it is not time yet"
        time.sleep(0.25)
        show(shown, progress, 1.0)  # nothing was spoken, and it says why
        waiting = capsys.readouterr().err
        progress.count(FAILURE, 1.0)
        time.sleep(0.25)
        show(shown, progress, 1.0)
    assert "4/10 [" in waiting
    assert "CAPACITY: busy" in waiting
    err = capsys.readouterr().err
    assert "5/10 [" in err
    assert "text/s, 1 failed]" in err
    assert ("\r" in err, err.count("\n")) == ((True, 1) if terminal else (False, 2))


def test_the_fields_of_a_line_are_those_of_the_request():
    assert {*FIELDS} - {"id", "text"} <= SpeechBody.model_fields.keys()
