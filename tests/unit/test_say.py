"""``tts-say`` against a scripted server that speaks dialect B."""

import json
import os
import threading
from http import HTTPStatus

import av
import numpy as np
import pytest
import soundfile as sf
from websockets.sync.server import serve

from serve_app.audio.encoders import encoder_for
from serve_app.audio.pcm import wav_file
from serve_app.cli.say import main

COMPLETE = {
    "type": "complete",
    "utterance_id": "say",
    "finish_reason": "eos",
    "seed": 7,
    "rtf": 0.25,
    "duration_ms": 80,
}

DIES = object()
"""In a script: where the server goes away, the first time it comes to it."""

RESTARTS = {"type": "error", "code": "SERVICE_RESTART", "message": "it restarts", "retry_after_ms": 700, "fatal": True}
"""In a script: where the server is replaced, the first time it comes to it."""


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
            if frame is RESTARTS and len(asked) == 1:
                socket.send(json.dumps(RESTARTS))
                socket.close(1012, RESTARTS["code"])
                return
            if frame is not DIES and frame is not RESTARTS:
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


def test_standard_input_is_said_as_it_comes(monkeypatch, capsys):
    read, write = os.pipe()
    said = []

    def answer(socket):
        for piece, final in (("Hé", False), ("llo.", False), ("", True)):
            if piece:
                os.write(write, piece.encode()[:2])  # in the middle of a character
                os.write(write, piece.encode()[2:])
            else:
                os.close(write)
            while "".join(message["text"] for message in said)[-len(piece or " ") :] != piece or final:
                said.append(json.loads(socket.recv(timeout=5)))
                if said[-1].get("final", True):
                    break
        socket.send(json.dumps(COMPLETE))

    with os.fdopen(read) as stdin, serve(answer, "127.0.0.1", 0, compression=None) as running:
        monkeypatch.setattr("sys.stdin", stdin)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        port = running.socket.getsockname()[1]
        assert main(["-", "--url", f"ws://127.0.0.1:{port}", "--voice", "austen", "--seed", "7"]) == 0
        running.shutdown()
        thread.join()
    assert "".join(message["text"] for message in said) == "Héllo."
    assert [message["final"] for message in said] == [False] * (len(said) - 1) + [True]
    assert (said[0]["voice"], said[0]["seed"]) == ("austen", 7)
    assert all(set(message) == {"type", "utterance_id", "text", "final"} for message in said[1:])


@pytest.mark.parametrize(
    ("encoding", "subtype", "value"), [("pcm16", "PCM_16", 0.5), ("pcm_f32", "FLOAT", 0.5), ("mulaw", "ULAW", 0.5)]
)
def test_what_was_asked_for_is_saved_as_a_wav_file(server, tmp_path, encoding, subtype, value):
    url, script, asked = server
    script += [encoder_for(encoding).push(np.full(1920, value, dtype=np.float32)), COMPLETE]
    out = tmp_path / "out.wav"
    assert main(["Hello.", "--url", url, "--out", str(out), "--encoding", encoding, "--sample-rate", "8000"]) == 0
    assert (asked[0]["encoding"], asked[0]["sample_rate"]) == (encoding, 8000)
    assert (sf.info(out).subtype, sf.info(out).samplerate) == (subtype, 8000)
    samples, _ = sf.read(out)
    assert len(samples) == 1920
    assert samples == pytest.approx(value, abs=0.02)


def test_opus_is_saved_as_it_came(server, tmp_path):
    url, script, _ = server
    script += [b"Ogg", b"S...", COMPLETE]
    out = tmp_path / "out.opus"
    assert main(["Hello.", "--url", url, "--out", str(out), "--encoding", "opus"]) == 0
    assert out.read_bytes() == b"OggS..."


def test_opus_that_broke_off_is_taken_from_its_beginning(server, monkeypatch, tmp_path):
    monkeypatch.setattr("serve_app.cli.say.RECONNECT_WAIT_S", 0.01)
    url, script, _ = server
    script += [b"one", DIES, b"two", COMPLETE]
    out = tmp_path / "out.opus"
    assert main(["Hello.", "--url", url, "--out", str(out), "--encoding", "opus"]) == 0
    assert out.read_bytes() == b"onetwo"


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_key_is_handed_over_in_a_header(monkeypatch, way):
    given = []

    def answer(socket):
        given.append(socket.request.headers.get("authorization"))
        socket.recv()
        socket.send(json.dumps(COMPLETE))

    monkeypatch.setenv("TTS_API_KEY", "tts_x" if way == "environment" else "")
    with serve(answer, "127.0.0.1", 0, compression=None) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        url = f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        assert main(["x", "--url", url, *(["--api-key", "tts_x"] if way == "option" else [])]) == 0
        running.shutdown()
        thread.join()
    assert given == ["Bearer tts_x"]


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


def test_a_server_that_is_replaced_is_asked_again_when_it_says_so(server, monkeypatch, tmp_path):
    waits_s = []
    monkeypatch.setattr("serve_app.cli.say.time.sleep", waits_s.append)
    url, script, asked = server
    script += [b"\x01\x00" * 1920, RESTARTS, b"\x02\x00" * 960, COMPLETE]
    out = tmp_path / "out.wav"
    assert main(["Hello.", "--url", url, "--out", str(out)]) == 0
    assert asked[0] == asked[1]
    assert waits_s == [0.7]
    samples, _ = sf.read(out, dtype="int16")
    assert samples.tolist() == [1] * 1920 + [2] * 960


@pytest.mark.parametrize(
    ("frames", "part"),
    [([{"type": "error", "code": "TEXT_EMPTY", "message": "nothing"}], "TEXT_EMPTY: nothing"), ([], "1000")],
)
def test_a_failure_is_printed_and_exits_with_one(server, capsys, frames, part):
    url, script, _ = server
    script += frames
    assert main(["x", "--url", url]) == 1
    assert part in capsys.readouterr().err


def test_a_missing_server_is_reported(capsys):
    assert main(["x", "--url", "ws://127.0.0.1:1/"]) == 1
    assert "tts-say: http://127.0.0.1:1: connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["http://{}", "http://{}/", "{}", "ws://{}/api/v1/speak", "http://{}/v1"])
def test_any_address_of_the_service_reaches_its_socket(form):
    paths = []

    def answer(socket):
        paths.append(socket.request.path)
        socket.recv()
        socket.send(json.dumps(COMPLETE))

    with serve(answer, "127.0.0.1", 0, compression=None) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        where = f"127.0.0.1:{running.socket.getsockname()[1]}"
        assert main(["--url", form.format(where), "x"]) == 0
        running.shutdown()
        thread.join()
    assert paths == ["/api/v1/speak"]


@pytest.mark.parametrize("name", ["out.mp3", "out.flac", "out.opus", "out.aac"])
def test_the_file_has_the_format_of_its_name(server, tmp_path, name):
    url, script, asked = server
    script += [b"\x01\x00" * 24_000, COMPLETE]
    assert main(["Hello.", "--url", url, "--out", str(tmp_path / name)]) == 0
    assert "encoding" not in asked[0]
    with av.open(str(tmp_path / name)) as file:
        assert sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--out", "out.txt"], "cannot write pcm16 to a .txt file; allowed: .wav, .mp3"),
        (["--out", "out.mp3", "--encoding", "mulaw"], "cannot write mulaw to a .mp3 file; allowed: .wav"),
        (["--out", "nowhere/out.wav"], "cannot be written"),
        (["--out", "."], "is a directory"),
        (["--url", "ftp://x"], "unknown scheme 'ftp'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_spoken(monkeypatch, tmp_path, capsys, options, part):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("serve_app.cli.say.connect", lambda *_, **__: pytest.fail("it was spoken"))
    with pytest.raises(SystemExit) as ended:
        main(["x", *options])
    assert ended.value.code == 2
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dash_is_standard_output_and_the_figures_go_elsewhere(server, capfdbinary):
    url, script, _ = server
    script += [b"\x01\x00" * 1920, COMPLETE]
    assert main(["Hello.", "--url", url, "--out", "-"]) == 0
    printed = capfdbinary.readouterr()
    assert printed.out == wav_file(b"\x01\x00" * 1920)
    assert b"TTFA" in printed.err


def test_a_refused_handshake_is_printed_in_the_services_words(capsys):
    body = json.dumps({"code": "UNAUTHORIZED", "message": "no key"})
    refuse = {"process_request": lambda connection, _: connection.respond(HTTPStatus.UNAUTHORIZED, body)}
    with serve(lambda _: None, "127.0.0.1", 0, **refuse) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        assert main(["x", "--url", f"127.0.0.1:{running.socket.getsockname()[1]}?api_key=tts_wrong"]) == 1
        running.shutdown()
        thread.join()
    printed = capsys.readouterr().err
    assert "UNAUTHORIZED: no key" in printed
    assert "tts_wrong" not in printed


def test_audio_is_played_as_it_comes(server, monkeypatch, tmp_path):
    url, script, _ = server
    script += [b"\x01\x00" * 1920, b"\x02\x00" * 960, COMPLETE]
    player = tmp_path / "aplay"
    player.write_text(f"#!/bin/sh\nexec cat > {tmp_path}/played.wav\n")
    player.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr("serve_app.cli.say.PLAYERS", {"aplay": []})
    assert main(["Hello.", "--url", url, "--play", "--sample-rate", "8000"]) == 0
    samples, rate_hz = sf.read(tmp_path / "played.wav", dtype="int16")
    assert rate_hz == 8000
    assert samples.tolist() == [1] * 1920 + [2] * 960


def test_where_nothing_plays_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr("serve_app.cli.say.PLAYERS", {"no-such-player": []})
    assert main(["Hello.", "--url", "ws://127.0.0.1:1/", "--play"]) == 1
    assert "no-such-player" in capsys.readouterr().err


def test_only_plain_audio_is_played(capsys):
    with pytest.raises(SystemExit):
        main(["Hello.", "--play", "--encoding", "opus"])
    assert "--play needs pcm16, not opus" in capsys.readouterr().err
