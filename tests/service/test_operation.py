import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from running_service import ROOT, START_TIMEOUT_S, free_port, speak, wait_until

from serve_app.cli.processes import descendants

LISTENING = "0A"


def commands_below(pid: int) -> list[bytes]:
    """Command lines of a process's descendants, some of which may end meanwhile."""
    commands = []
    for descendant in descendants(pid):
        with contextlib.suppress(OSError):
            commands.append(Path(f"/proc/{descendant}/cmdline").read_bytes())
    return commands


def test_the_process_lives_and_a_generator_is_ready(service):
    assert service.get("/health")[0] == 200
    status, body = service.get("/ready")
    assert status == 200
    assert json.loads(body)["random_weights"] is True


def test_the_page_is_served(service):
    status, body = service.get("/")
    assert status == 200
    assert b"<html" in body


def test_it_says_that_the_weights_are_random(service):
    assert "noise, not speech" in service.launched.printed


def test_a_voice_without_its_clip_is_listed_with_the_reason(service):
    voices = {voice["id"]: voice for voice in json.loads(service.get("/v1/audio/voices")[1])["voices"]}
    assert voices["austen"]["state"] == "ready"
    assert voices["makima"]["state"] == "unavailable"
    assert "reference.wav" in voices["makima"]["reason"]


def test_nothing_listens_to_other_machines(service):
    pids = descendants(service.launched.process.pid)
    inodes = set()
    for handle in [handle for pid in pids for handle in Path("/proc").glob(f"{pid}/fd/*")]:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = str(handle.readlink())
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening = [
        fields[1]
        for table in ("tcp", "tcp6")
        for fields in map(str.split, Path(f"/proc/{pids[0]}/net/{table}").read_text().splitlines()[1:])
        if fields[3] == LISTENING and fields[9] in inodes
    ]
    assert any(address.startswith("0100007F:") for address in listening)
    loopback = ("0100007F:", "0000000000000000FFFF00000100007F:", "00000000000000000000000001000000:")
    assert [address for address in listening if not address.startswith(loopback)] == []


async def test_a_killed_coordinator_loses_no_voice(service, generators):
    killed = service.pid_of("Coordinator")
    os.kill(killed, signal.SIGKILL)

    def austen_is_back() -> bool:
        status, body = service.get("/v1/audio/voices")
        return (
            status == 200
            and {"austen": "ready"}.items()
            <= {voice["id"]: voice["state"] for voice in json.loads(body)["voices"]}.items()
        )

    wait_until(lambda: [status["state"] for status in generators()] == ["ready"], 20, "the replica reports again")
    wait_until(austen_is_back, 20, "the voice is ready")
    assert service.pid_of("Coordinator") != killed
    async with service.connect() as connection:
        assert (await speak(connection, "Hello.")).end["type"] == "complete"


def test_a_taken_port_is_one_clear_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "serve_app.cli.serve", "configs/local.yaml", "--port", str(port)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert f"127.0.0.1:{port}" in result.stderr


def test_a_killed_launcher_leaves_nothing_behind(launch):
    """test_missing_weights.py has Ctrl-C."""
    launched = launch(free_port())
    pid = launched.process.pid
    wait_until(
        lambda: b"haproxy.cfg" in b"".join(commands_below(pid)) or launched.process.poll() is not None,
        START_TIMEOUT_S,
        "HAProxy runs",
    )
    assert launched.process.poll() is None, launched.printed
    directory = launched.directory()
    assert directory.is_dir()
    started = descendants(pid)
    assert len(started) > 5
    launched.stop(signal.SIGKILL)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 10, "every process has ended")
    wait_until(lambda: not directory.exists(), 10, "the run's directory is removed")


def test_a_checkpoint_that_cannot_be_had_stops_the_service_with_one_message(launch):
    launched = launch(free_port(), model={"source": "nobody/no-such-model"})
    assert launched.process.wait(240) == 1
    lines = [line for line in launched.printed.splitlines() if not line.startswith("…")]
    assert len(lines) == 1
    assert "'nobody/no-such-model'" in lines[0]
    assert "'tiny'" in lines[0]
