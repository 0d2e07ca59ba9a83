"""The pages' blocks of commands that speak to a service, run as they stand; only the address is another one."""

import subprocess

import pytest
from clips import ffmpeg
from pages import documented_blocks, workplace

pytestmark = pytest.mark.slow

HOST = "127.0.0.1:8000"
BLOCKS = [pytest.param(block, id=block.name) for block in documented_blocks() if block.mark == ("runs", "service")]


@pytest.fixture
def environment(service, voices, tmp_path):
    """This project's commands with the service's address, and the clip that the pages upload."""
    (tmp_path / "clip.m4a").write_bytes(ffmpeg("ipod", "aac"))
    url = f"--url http://{service.address}"
    return workplace(tmp_path, tts_say=f"--url ws://{service.address}/api/v1/speak", tts_voices=url, tts_batch=url)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_commands_works_as_it_stands(service, environment, tmp_path, block):
    done = subprocess.run(
        ["sh", "-e", "-c", block.text.replace(HOST, service.address)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = [path for path in tmp_path.iterdir() if path.is_file() and path.suffix not in {".m4a", ".jsonl"}]
    assert all(path.stat().st_size > 1000 for path in written)
    assert written or done.stdout


def test_there_are_such_blocks():
    assert {block.values[0].page.name for block in BLOCKS} >= {"quickstart.md", "voices.md"}
