"""What a generator that starts waits for, and what it does not start with; without Ray and without torch."""

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from serve_app.config import AppConfig, GeneratorConfig, ModelConfig, VoicesConfig
from serve_app.errors import SynthesisError
from serve_app.startup import NotYetError, Patience
from serve_app.voices.voice import VoiceStatus

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from serve_app.deployments import generator as module
    from serve_app.deployments.generator import Generator, missing_voices

SOON_S = 0.001


def missing(why: str) -> NotYetError:
    return NotYetError("the weights in /w", why, check_again_s=SOON_S)


def starting(**settings) -> Generator:
    made = Generator.__new__(Generator)
    made._replica, made._config = "r1", AppConfig(**settings)
    made._background = ThreadPoolExecutor(1)
    made._state = module.GeneratorStatus("r1", "loading")
    return made


async def test_what_is_missing_is_the_state_of_the_replica_until_it_is_there(caplog):
    made, told = starting(), []
    answers = [missing("absent")] * 20 + [missing("cut short")] * 20 + ["there"]

    async def attempt():
        told.append(made._state.detail)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await made._when_there(Patience(60, asyncio.get_running_loop().time()), attempt) == "there"
    assert told[1] == "waits for the weights in /w: absent"
    assert told[-1] == "waits for the weights in /w: cut short"
    assert made._state.state == "loading"
    assert [record.message for record in caplog.records if "waits" in record.message] == [
        "not ready: this generator waits for the weights in /w: absent",
        "not ready: this generator waits for the weights in /w: cut short",
    ]


async def test_what_never_comes_ends_the_start_after_the_configured_time(monkeypatch):
    async def attempt():
        raise missing("absent")

    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(RuntimeError, match=r"absent \(waited 30 s, generator.startup_wait_s\)"):
        await starting()._when_there(Patience(30, 0), attempt)


async def test_what_can_never_work_is_not_waited_for():
    async def attempt():
        raise RuntimeError("of another type")

    with pytest.raises(RuntimeError, match="of another type"):
        await starting()._when_there(Patience(3600, 0), attempt)


async def test_a_replica_that_waits_is_ended_at_once():
    attempted = asyncio.Event()

    async def attempt():
        attempted.set()
        raise NotYetError("the weights in /w", "absent", check_again_s=3600)

    waiting = asyncio.create_task(starting()._when_there(Patience(1e6, asyncio.get_running_loop().time()), attempt))
    await attempted.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 1)


async def test_the_wait_is_by_the_event_loop_and_the_look_on_a_thread_of_its_own(tmp_path):
    made = starting(model=ModelConfig(source=str(tmp_path)), generator=GeneratorConfig(startup_wait_s=0))
    with pytest.raises(RuntimeError, match=r"cannot start without the weights in .*missing: config\.json.*'tiny'"):
        await made._when_there(Patience(0, 0), lambda: made._in_background(module._locate, made._config, 0.0))


class Store:
    def __init__(self, *statuses: VoiceStatus) -> None:
        self.statuses = list(statuses)

    async def voices(self) -> list[VoiceStatus]:
        return self.statuses


def preloading(path: Path, *statuses: VoiceStatus, refuse: bool = False) -> Generator:
    made = starting(voices=VoicesConfig(path=str(path)))
    made._coordinator = Store(*statuses)
    preloaded = []
    made._model = SimpleNamespace(runner=SimpleNamespace(preload=preloaded.append))

    async def prompt(voice):
        if refuse:
            raise SynthesisError("it could not be encoded")
        return voice

    made._prompt = prompt
    return made


NO_CLIP = VoiceStatus("makima", "unavailable", "its reference audio is not there yet", None)
AUSTEN = VoiceStatus("austen", "pending", "", None)


async def test_voices_that_can_be_used_are_preloaded(tmp_path):
    assert await preloading(tmp_path, AUSTEN, NO_CLIP)._preload_voices() == ["austen"]


async def test_a_voice_whose_clip_is_missing_is_waited_for(tmp_path):
    with pytest.raises(NotYetError, match=r"usable voice below .*makima: its reference audio is not there yet"):
        await preloading(tmp_path, NO_CLIP)._preload_voices()


async def test_a_voice_that_cannot_be_encoded_is_tried_again_less_often(tmp_path):
    with pytest.raises(NotYetError, match="austen: it could not be encoded; makima: its reference audio") as failed:
        await preloading(tmp_path, AUSTEN, NO_CLIP, refuse=True)._preload_voices()
    assert failed.value.check_again_s == module.ENCODING_RETRY_S


def test_a_directory_of_voices_may_be_filled_or_appear(tmp_path):
    assert isinstance(missing_voices(tmp_path, {}), NotYetError)
    assert "it is empty" in str(missing_voices(tmp_path, {}))
    (tmp_path / "lost+found").mkdir()
    assert "no directory in it has a manifest.json" in str(missing_voices(tmp_path, {}))
    assert isinstance(missing_voices(tmp_path / "voices", {}), NotYetError)


def test_a_directory_of_voices_that_has_nowhere_to_appear_is_refused(tmp_path):
    error = missing_voices(tmp_path / "volume" / "voices", {})
    assert not isinstance(error, NotYetError)
    assert str(tmp_path / "volume") in str(error)
