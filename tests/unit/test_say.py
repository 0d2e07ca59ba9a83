"""``tts-say`` against a scripted server that speaks dialect B."""

import io
import json
import threading

import pytest
import soundfile as sf
from websockets.sync.server import serve

from serve_app.cli.say import main

COMPLETE = {"type": "complete", "utterance_id": "say", "finish_reason": "eos", "seed": 7, "rtf": 0.25}

DIES = object()
"""In a script: where the server goes away, the first time it comes to it."""


@pytest.fixture
def server():
    """Answers every ``speak`` with ``script``; keeps what it was asked."""
    asked, script = [], []

    def answer(socket):
        asked.append(json.loads(socket.recv()))
        for frame in script:
            if frame is DIES and len(asked) == 1:
                socket.socket.shutdown(2)
                return
            if frame is not DIES:
                socket.send(frame if isinstance(frame, bytes) else json.dumps(frame))

    with serve(answer, "127.0.0.1", 0, compression=None) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}", script, asked
        running.shutdown()
        thread.join()


def test_the_audio_is_written_and_the_figures_printed(server, tmp_path, capsys):
    url, script, asked = server
    script += [{"type": "audio_chunk"}, b"\x01\x00" * 1920, {"type": "audio_chunk"}, b"", COMPLETE]
    out = tmp_path / "out.wav"
    assert main(["Hello.", "--url", url, "--out", str(out), "--seed", "7", "--language", "English"]) == 0
    assert asked == [{"type": "speak", "text": "Hello.", "utterance_id": "say", "seed": 7, "language": "English"}]
    samples, rate_hz = sf.read(out, dtype="int16")
    assert (len(samples), rate_hz, set(samples)) == (1920, 24_000, {1})
    printed = capsys.readouterr().out
    for part in ("TTFA", "RTF 0.250", "0.08 s of audio", "seed 7"):
        assert part in printed


def test_text_comes_from_standard_input(server, monkeypatch):
    url, script, asked = server
    script.append(COMPLETE)
    monkeypatch.setattr("sys.stdin", io.StringIO("From a pipe."))
    assert main(["-", "--url", url]) == 0
    assert asked[0]["text"] == "From a pipe."


def test_a_server_that_dies_is_asked_again_and_no_sample_is_lost_or_doubled(server, monkeypatch, tmp_path):
    monkeypatch.setattr("serve_app.cli.say.RECONNECT_WAIT_S", 0.01)
    url, script, asked = server
    script += [b"\x01\x00" * 1920, b"\x02\x00" * 960, DIES, b"\x03\x00" * 960, COMPLETE]
    out = tmp_path / "out.wav"
    assert main(["Hello.", "--url", url, "--out", str(out)]) == 0
    assert asked[0] == asked[1]
    assert asked[0]["seed"] < 2**53
    samples, _ = sf.read(out, dtype="int16")
    assert samples.tolist() == [1] * 1920 + [2] * 960 + [3] * 960


@pytest.mark.parametrize(
    ("frames", "part"),
    [([{"type": "error", "code": "TEXT_EMPTY", "message": "nothing"}], "TEXT_EMPTY: nothing"), ([], "1000")],
)
def test_a_failure_is_told_and_exits_with_one(server, capsys, frames, part):
    url, script, _ = server
    script += frames
    assert main(["x", "--url", url]) == 1
    assert part in capsys.readouterr().err


def test_nobody_there_is_told(capsys):
    assert main(["x", "--url", "ws://127.0.0.1:1/"]) == 1
    assert "tts-say: ws://127.0.0.1:1/" in capsys.readouterr().err
