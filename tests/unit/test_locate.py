"""Ready, on its way, or never: of directories, of the hub's answers, of GPU memory. No torch, no network."""

import contextlib
import json
import os
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config import ModelConfig
from serve_app.model import locate as module
from serve_app.model import memory
from serve_app.model.locate import CheckpointError, is_whole, judge, judge_fetch, locate, look
from serve_app.startup import CHECK_AGAIN_S, READY, NotYetError

GIB = 1 << 30
CONFIG = {"model_type": "qwen3_tts", "tts_model_type": "base", "tokenizer_type": "qwen3_tts_tokenizer_12hz"}


def safetensors(values: int = 64) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4 * values)


FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "generation_config.json": b'{"do_sample": true}',
    "tokenizer_config.json": b'{"a": 1}',
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"#version: 0.2\na b\n",
    "model.safetensors": safetensors(),
    "speech_tokenizer/config.json": b'{"a": 1}',
    "speech_tokenizer/preprocessor_config.json": b'{"a": 1}',
    "speech_tokenizer/model.safetensors": safetensors(),
}


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


def availability(directory: Path):
    return judge(look(directory))


def test_a_whole_checkpoint_is_ready(tmp_path):
    assert availability(write(tmp_path, FILES)) == READY
    assert locate(ModelConfig(source=str(tmp_path))) == tmp_path


def test_one_tokenizer_file_does_for_two(tmp_path):
    files = {name: content for name, content in FILES.items() if name not in ("vocab.json", "merges.txt")}
    assert availability(write(tmp_path, files)).why == "missing: tokenizer.json (or vocab.json and merges.txt)"
    assert availability(write(tmp_path, {"tokenizer.json": b"{}"})) == READY


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_waited_for_and_named(tmp_path, name):
    found = availability(write(tmp_path, {other: content for other, content in FILES.items() if other != name}))
    assert found.state == "wait"
    assert name in found.why


@given(name=st.sampled_from([name for name in FILES if name != "merges.txt"]), data=st.data())
def test_the_beginning_of_a_file_is_waited_for(tmp_path_factory, name, data):
    length = data.draw(st.integers(0, len(FILES[name]) - 1))
    directory = write(tmp_path_factory.mktemp("model"), {**FILES, name: FILES[name][:length]})
    assert availability(directory) == module.Availability("wait", f"cut short: {name}")


def test_a_file_of_zeros_that_was_given_its_size_first_is_not_whole(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(len(safetensors())))
    assert not is_whole(tmp_path / "model.safetensors")


def test_shards_are_those_of_the_index(tmp_path):
    files = {name: content for name, content in FILES.items() if name != "model.safetensors"}
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    directory = write(
        tmp_path, {**files, "model.safetensors.index.json": json.dumps(index).encode(), "model-1.safetensors": b""}
    )
    assert availability(directory).why == "missing: model-2.safetensors; cut short: model-1.safetensors"
    assert availability(write(directory, dict.fromkeys(index["weight_map"].values(), safetensors()))) == READY


def test_an_empty_directory_is_waited_for(tmp_path):
    assert availability(tmp_path).state == "wait"


def test_a_directory_that_may_appear_on_a_volume_is_waited_for_and_says_what_is_beside_it(tmp_path):
    assert availability(tmp_path / "model").why == f"there is no such directory ({tmp_path} holds nothing)"
    (tmp_path / "other").mkdir()
    assert availability(tmp_path / "model").why == f"there is no such directory ({tmp_path} holds other)"


def test_a_directory_that_has_nowhere_to_appear_is_refused(tmp_path):
    path = tmp_path / "volume" / "model"
    assert availability(path).state == "never"
    with pytest.raises(CheckpointError, match=f"{path} does not exist, and neither does {path.parent}.*'tiny'"):
        locate(ModelConfig(source=str(path)))


def test_a_file_is_not_a_directory(tmp_path):
    assert availability(write(tmp_path, {"model": b""}) / "model").state == "never"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({}, "type None"),
        ([], "type None"),
        ({**CONFIG, "tts_model_type": "custom_voice"}, "'custom_voice' model"),
        ({**CONFIG, "tokenizer_type": "qwen3_tts_tokenizer_25hz"}, "qwen3_tts_tokenizer_25hz"),
    ],
)
def test_another_kind_of_model_is_refused_before_its_weights_are_there(tmp_path, config, words):
    found = availability(write(tmp_path, {"config.json": json.dumps(config).encode()}))
    assert found.state == "never"
    assert words in found.why


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_waited_for(tmp_path):
    write(tmp_path, FILES)
    (tmp_path / "config.json").chmod(0)
    with pytest.raises(NotYetError, match="Permission denied"):
        locate(ModelConfig(source=str(tmp_path)))


def test_what_cannot_be_read_is_waited_for(tmp_path, monkeypatch):
    def stale(_directory):
        raise OSError(116, "Stale file handle", "/weights")

    monkeypatch.setattr(module, "look", stale)
    with pytest.raises(NotYetError, match=r"cannot be read \(/weights: Stale file handle\)"):
        locate(ModelConfig(source=str(tmp_path)))


def test_files_that_still_change_are_waited_for(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    assert locate(ModelConfig(source=str(tmp_path)), settle_s=2) == tmp_path
    assert slept == [2]
    monkeypatch.setattr(module.time, "sleep", lambda _s: write(tmp_path, {"merges.txt": b"#version: 0.2\na b\nc d\n"}))
    with pytest.raises(NotYetError, match="still being written"):
        locate(ModelConfig(source=str(tmp_path)), settle_s=2)


@pytest.mark.parametrize("source", ["tiny", "full-random"])
def test_random_weights_are_not_looked_for(source):
    assert locate(ModelConfig(source=source)) is None


def test_the_demonstration_voice_is_in_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "DEMO", write(tmp_path / "demo", FILES))
    assert locate(ModelConfig(source="demo")) == tmp_path / "demo"


@pytest.mark.parametrize("lacking", ["model.safetensors", None], ids=["a file", "everything"])
def test_an_installation_without_the_demonstration_voice_says_so_at_once(monkeypatch, tmp_path, lacking):
    files = {name: content for name, content in FILES.items() if lacking and name != lacking}
    monkeypatch.setattr(module, "DEMO", write(tmp_path / "demo", files))
    with pytest.raises(CheckpointError, match=f"no complete demonstration voice: .*{lacking or 'demo'}.*'tiny'"):
        locate(ModelConfig(source="demo"))


def answer(status: int, kind: type = HfHubHTTPError) -> Exception:
    return kind(f"{status} for url", response=SimpleNamespace(status_code=status, headers={}, request=None, url=""))


def unreachable(cause: Exception) -> Exception:
    """As ``snapshot_download`` says it where nothing is in the cache."""
    error = LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        answer(401, RepositoryNotFoundError),
        answer(404, RepositoryNotFoundError),
        answer(404, RevisionNotFoundError),
        answer(403, GatedRepoError),
        unreachable(answer(403)),
        unreachable(answer(400)),
        HFValidationError("Repo id must be in the form 'name' or 'owner/name'"),
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied"),
    ],
    ids=str,
)
def test_what_the_hub_will_never_give_is_refused(error):
    found = judge_fetch(error, "some/model")
    assert found.state == "never"
    assert "'some/model'" in found.why


@pytest.mark.parametrize(
    "error",
    [
        unreachable(requests.exceptions.ConnectionError("Max retries exceeded")),
        unreachable(requests.exceptions.Timeout("timed out")),
        unreachable(answer(500)),
        unreachable(answer(503)),
        unreachable(answer(429)),
        unreachable(OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled.")),
        requests.exceptions.ChunkedEncodingError("Connection broken"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(110, "timed out"),
        RuntimeError("Data processing error: CAS service error"),
        answer(502),
    ],
    ids=str,
)
def test_a_hub_that_does_not_answer_now_is_waited_for(error):
    assert judge_fetch(error, "some/model").state == "wait"


def test_the_hub_is_asked_less_often_than_a_directory(monkeypatch):
    def fails(*_arguments, **_options):
        raise unreachable(answer(503))

    monkeypatch.setattr(module, "snapshot_download", fails)
    with pytest.raises(NotYetError, match=r"'some/model'.*does not answer \(503\).*'tiny'") as missing:
        locate(ModelConfig(source="some/model"))
    assert missing.value.check_again_s == 30


@contextlib.contextmanager
def hub(status: int, **headers: str):
    """A hub on this machine that always answers the same."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (404, {"X_Error_Code": "RepoNotFound"}, CheckpointError),
        (404, {"X_Error_Code": "RevisionNotFound"}, CheckpointError),
        (401, {}, CheckpointError),
        (403, {"X_Error_Code": "GatedRepo"}, CheckpointError),
        (403, {}, CheckpointError),
        (429, {}, NotYetError),
        (500, {}, NotYetError),
        (503, {}, NotYetError),
    ],
)
def test_the_hubs_own_responses_are_distinguished(monkeypatch, tmp_path, status, headers, error):
    monkeypatch.setattr(module.constants, "HF_HUB_CACHE", str(tmp_path))
    with hub(status, **headers) as endpoint:
        monkeypatch.setattr(module.constants, "ENDPOINT", endpoint)
        with pytest.raises(error, match="some/model"):
            locate(ModelConfig(source="some/model"))


def test_a_hub_that_does_not_listen_is_waited_for(monkeypatch, tmp_path):
    with hub(200) as endpoint:
        pass
    monkeypatch.setattr(module.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(module.constants, "ENDPOINT", endpoint)
    with pytest.raises(NotYetError, match="the hub does not answer"):
        locate(ModelConfig(source="some/model"))


def test_a_cache_that_is_filled_by_another_process_is_waited_for(offline, monkeypatch, tmp_path):
    """As generators without a way to the hub see what a Job writes: the branch's entry first, then file by file."""
    monkeypatch.setattr(module.constants, "HF_HUB_CACHE", str(tmp_path))
    config = ModelConfig(source="some/model")
    with pytest.raises(NotYetError, match=f"not in the cache {tmp_path}, and HF_HUB_OFFLINE") as missing:
        locate(config)
    assert missing.value.check_again_s == CHECK_AGAIN_S
    commit = "0123456789" * 4
    write(tmp_path / "models--some--model", {"refs/main": commit.encode()})
    with pytest.raises(NotYetError, match="not in the cache"):
        locate(config)
    snapshot = tmp_path / "models--some--model" / "snapshots" / commit
    for number, name in enumerate(FILES, start=1):
        write(snapshot, {name: FILES[name]})
        if number < len(FILES):
            with pytest.raises(NotYetError, match="missing: "):
                locate(config)
    assert locate(config) == snapshot


def test_a_snapshot_that_another_process_still_fetches_is_waited_for(monkeypatch, tmp_path):
    """Without a network the hub's library returns what is in the cache, complete or not."""
    write(tmp_path, {"config.json": FILES["config.json"]})
    monkeypatch.setattr(module, "snapshot_download", lambda *_arguments, **_options: str(tmp_path))
    with pytest.raises(NotYetError, match=r"missing: .*, model\.safetensors") as missing:
        locate(ModelConfig(source="some/model"))
    assert missing.value.check_again_s == 30  # the next look asks the hub, too


def test_memory_that_others_hold_is_waited_for():
    # A fourth replica of a quarter, while one that leaves still has its own.
    found = memory.judge(1 * GIB, 140 * GIB, 4 * GIB, 0.25)
    assert found.state == "wait"
    assert "35.0 GiB of 140.0 GiB" in found.why


@pytest.mark.parametrize("share", [0, 1])
def test_a_model_that_does_not_fit_onto_a_device_of_its_own_is_refused(share):
    assert memory.judge(int(0.2 * GIB), 16 * GIB, int(15.3 * GIB), share).state == "never"


def test_a_share_that_is_too_small_is_refused_while_the_device_has_memory():
    found = memory.judge(100 * GIB, 140 * GIB, 2 * GIB, 0.02)
    assert found.state == "never"
    assert "generator.num_gpus" in found.why


def test_only_what_says_so_ran_out_of_memory():
    assert memory.ran_out("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert not memory.ran_out("CUDA error: an illegal memory access was encountered")


def test_waiting_needs_no_torch():
    code = "import sys, serve_app.model.locate, serve_app.model.memory; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
