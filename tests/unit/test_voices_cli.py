"""``tts-voices`` against a server that answers what it is told."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serve_app.cli import voices

VOICE = {
    "id": "woolf", "name": "Woolf", "state": "ready", "verdict": "warn", "mode": "in_context", "language": "english",
    "licence": "CC0-1.0", "consent": "agreed", "uploaded": "2026-01-01T00:00:00+00:00",
    "report": [
        {"name": "duration_s", "verdict": "accept", "measured": 5.0, "limit": "3 to 30 s", "advice": ""},
        {"name": "characters_per_second", "verdict": "warn", "measured": None, "limit": "some", "advice": "add one"},
    ],
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, self.headers, body))
        status, content = self.server.answers.pop(0)
        self.send_response(status)
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


for verb in ("GET", "POST", "DELETE"):
    setattr(Handler, f"do_{verb}", Handler.answer)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.asked, made.answers = [], []
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def run(server, capsys):
    def call(*arguments):
        status = voices.main(["--url", f"http://127.0.0.1:{server.server_port}", *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def test_a_clip_is_sent_as_a_form_and_waited_for(server, run, tmp_path, monkeypatch):
    monkeypatch.setenv("TTS_API_KEY", "secret")
    (tmp_path / "clip.wav").write_bytes(b"RIFF\r\n--audio")
    server.answers += [(201, {**VOICE, "state": "pending"}), (200, VOICE)]
    options = ("--name", "Woolf", "--consent", "agreed", "--loudness", "-20")
    status, out, _ = run("add", str(tmp_path / "clip.wav"), *options)
    assert status == 0
    method, path, headers, body = server.asked[0]
    assert (method, path, headers["authorization"]) == ("POST", "/v1/audio/voices", "Bearer secret")
    assert b'name="name"\r\n\r\nWoolf\r\n' in body
    assert b"RIFF\r\n--audio\r\n" in body
    assert b'name="loudness_lufs"\r\n\r\n-20\r\n' in body
    assert b"transcript" not in body
    assert server.asked[1][:2] == ("GET", "/v1/audio/voices/woolf")
    assert "warn    characters_per_second - (allowed: some): add one" in out


def test_a_refusal_is_printed_with_its_checks(server, run, tmp_path):
    (tmp_path / "clip.wav").write_bytes(b"RIFF")
    server.answers.append((422, {"code": "VOICE_INVALID", "message": "no", "report": VOICE["report"]}))
    status, _, err = run("add", str(tmp_path / "clip.wav"), "--name", "Woolf", "--consent", "agreed")
    assert status == 1
    assert "VOICE_INVALID: no" in err
    assert "duration_s 5" in err


def test_voices_are_listed_in_columns(server, run):
    server.answers.append((200, {"default": "woolf", "voices": [VOICE, {"id": "x", "state": "unavailable"}]}))
    status, out, _ = run("list")
    assert status == 0
    assert out.splitlines()[1].split() == ["woolf", "ready", "warn", "in_context", "english", "CC0-1.0", "agreed"]


def test_a_voice_is_shown_with_its_clip(server, run, tmp_path):
    server.answers += [(200, VOICE), (200, b"RIFF")]
    assert run("show", "woolf", "--out", str(tmp_path / "out.wav"))[0] == 0
    assert (tmp_path / "out.wav").read_bytes() == b"RIFF"


@pytest.mark.parametrize(
    "words",
    [
        ["--url", "{}", "list"],
        ["list", "--url", "{}"],
        ["list", "--timeout", "5", "--url", "{}/v1", "--api-key", "secret"],
        ["--url", "http://127.0.0.1:1", "list", "--url", "{}"],  # the last one counts
        ["--timeout", "5", "list", "--url", "ws://{}/api/v1/speak?api_key=secret"],
    ],
)
def test_the_services_address_stands_before_and_after_the_command(server, capsys, words):
    server.answers.append((200, {"default": "woolf", "voices": [VOICE]}))
    where = f"127.0.0.1:{server.server_port}"
    assert voices.main([word.format(where) for word in words]) == 0
    assert "woolf" in capsys.readouterr().out
    (method, path, headers, _) = server.asked[0]
    assert (method, path) == ("GET", "/v1/audio/voices")
    assert headers.get("authorization") == ("Bearer secret" if "secret" in str(words) else None)


def test_a_prefix_is_kept(server, capsys):
    server.answers.append((200, {"default": "woolf", "voices": []}))
    assert voices.main(["list", "--url", f"http://127.0.0.1:{server.server_port}/tts/"]) == 0
    assert server.asked[0][1] == "/tts/v1/audio/voices"


@pytest.mark.parametrize("name", ["out.mp3", "nowhere/out.wav", "."])
def test_a_clip_that_cannot_be_written_so_is_not_asked_for(server, run, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run("show", "woolf", "--out", name)
    assert "--out" in capsys.readouterr().err
    assert server.asked == []


def test_a_clip_goes_to_standard_output_alone(server, capfdbinary):
    server.answers += [(200, VOICE), (200, b"RIFF")]
    url = f"http://127.0.0.1:{server.server_port}"
    assert voices.main(["show", "woolf", "--url", url, "--out", "-"]) == 0
    assert capfdbinary.readouterr().out == b"RIFF"


def test_a_clip_that_is_refused_before_it_is_read_is_told(capsys, tmp_path):
    """The server answers by the size alone and closes, while the body is still being sent."""
    (tmp_path / "clip.wav").write_bytes(bytes(8 << 20))
    answer = b'{"code": "VOICE_INVALID", "message": "too large"}'
    head = b"HTTP/1.1 422 x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(answer)

    def refuse(listener):
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(head + answer)
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.3)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        options = ["--name", "x", "--consent", "y", "--url", url]
        assert voices.main(["add", str(tmp_path / "clip.wav"), *options]) == 1
        thread.join()
    assert "VOICE_INVALID: too large" in capsys.readouterr().err


def test_a_voice_is_removed_and_its_name_is_quoted(server, run):
    server.answers.append((204, b""))
    status, out, _ = run("remove", "a/../b")
    assert (status, out) == (0, "removed a/../b\n")
    assert server.asked[0][:2] == ("DELETE", "/v1/audio/voices/a%2F..%2Fb")


def test_a_missing_server_and_a_response_that_is_not_json_are_explained(server, run):
    server.answers.append((502, b"<html>bad gateway</html>"))
    assert "HTTP 502 <html>" in run("list")[2]
    assert voices.main(["--url", "http://127.0.0.1:1", "list"]) == 1
    assert run("add", "/no/such/file", "--name", "x", "--consent", "y")[0] == 1


def test_a_voice_is_exported_to_a_file(server, run, tmp_path):
    server.answers.append((200, b"\x08safetensors"))
    status, out, _ = run("export", "woolf", str(tmp_path / "woolf.safetensors"))
    assert (status, out) == (0, "")
    assert server.asked[0][:2] == ("GET", "/v1/audio/voices/woolf/file")
    assert (tmp_path / "woolf.safetensors").read_bytes() == b"\x08safetensors"
    server.answers.append((503, {"code": "TTS_UNAVAILABLE", "message": "not yet"}))
    status, _, err = run("export", "woolf", str(tmp_path / "other.safetensors"))
    assert (status, err) == (1, "tts-voices: TTS_UNAVAILABLE: not yet\n")
    assert not (tmp_path / "other.safetensors").exists()


def test_a_voice_is_imported_from_a_file_and_waited_for(server, run, tmp_path):
    (tmp_path / "woolf.safetensors").write_bytes(b"\x08safetensors")
    server.answers += [(201, {**VOICE, "state": "pending"}), (200, VOICE)]
    status, out, _ = run("import", str(tmp_path / "woolf.safetensors"), "--name", "Guest")
    assert (status, "ready" in out) == (0, True)
    method, path, _, body = server.asked[0]
    assert (method, path) == ("POST", "/v1/audio/voices")
    assert b'name="voice"; filename="voice"\r\n' in body
    assert b"\r\n\r\n\x08safetensors\r\n" in body
    assert b'name="name"\r\n\r\nGuest\r\n' in body
    assert b"consent" not in body
