"""A service that is started before its weights and voices are there."""

import json
import shutil
from pathlib import Path

from running_service import READY, ROOT, Service, free_port, speak, wait_until

from serve_app.model.random_checkpoint import ensure


def detail(service: Service) -> str:
    """What ``/ready`` says; the same as the address refusing before there is an ingress."""
    try:
        return json.loads(service.get("/ready")[1]).get("detail", "")
    except (OSError, ValueError):
        return ""


def cut_short(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


async def test_weights_and_a_voice_that_come_late_are_waited_for(launch, tmp_path):
    checkpoint, volume, voices = ensure("tiny"), tmp_path / "weights", tmp_path / "voices"
    model, port = volume / "model", free_port()
    volume.mkdir()
    launched = launch(
        port,
        model={"source": str(model), "dtype": "float32"},
        voices={"path": str(voices), "uploads": str(tmp_path / "uploads")},
        generator={"startup_wait_s": 600},
    )
    service = Service(f"127.0.0.1:{port}", launched)

    def until(*words: str) -> None:
        wait_until(lambda: all(word in detail(service) for word in words), 120, f"/ready says {words}")

    until("waits for the weights in", "there is no such directory")
    (model / "speech_tokenizer").mkdir(parents=True)
    until("missing: config.json", "speech_tokenizer/model.safetensors")
    (waiting,) = service.pids_of("ServeReplica:tts:Generator")
    for file in [file for file in checkpoint.rglob("*") if file.is_file()]:
        copy = cut_short if file.suffix == ".safetensors" else shutil.copyfile
        copy(file, model / file.relative_to(checkpoint))
    until("waits for the weights in", ": cut short: model.safetensors, speech_tokenizer/model.safetensors")
    assert "missing" not in detail(service)
    for name in ("model.safetensors", "speech_tokenizer/model.safetensors"):
        shutil.copyfile(checkpoint / name, model / name)
    until("waits for a usable voice below", "there is no such directory")
    shutil.copytree(ROOT / "voices" / "austen", voices / "austen")
    launched.wait_for(READY)
    assert service.pids_of("ServeReplica:tts:Generator") == [waiting]
    assert "… waits for the weights" in launched.printed
    async with service.connect() as connection:
        assert (await speak(connection, "Hello.", voice="austen")).end["type"] == "complete"
    directory = launched.directory()
    assert directory.is_dir()
    assert launched.stop() == []
    wait_until(lambda: not directory.exists(), 10, "the run's directory is removed")
