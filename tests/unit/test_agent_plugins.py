"""The plugins for LiveKit Agents and Pipecat, in their frameworks, against this service's web application."""

import asyncio
import base64
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from known_backend import KnownBackend, expected, served
from meddling_proxy import proxy_to

from serve_app.config import AppConfig, SessionConfig

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CLIENTS = shutil.which("python", path=str(ROOT / ".venv-clients" / "bin"))
TEXT = "The first sentence is here. Another one follows."

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CLIENTS is None, reason="other projects' clients are not installed: make clients"),
]


async def conversation(script):
    """What a script that converses with the service printed, and the backend that spoke."""
    backend = KnownBackend()
    async with served(backend, AppConfig(session=SessionConfig(max_lead_s=600))) as host, proxy_to(host) as (_, url):
        process = await asyncio.create_subprocess_exec(
            CLIENTS,
            str(HERE / script),
            f"http://{host}",
            url,
            env={**os.environ, "PYTHONPATH": str(ROOT / "clients")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, complaints = await asyncio.wait_for(process.communicate(), 120)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, complaints.decode()
        await asyncio.wait_for(backend.idle.wait(), 5)
    return json.loads(printed), backend


@pytest_asyncio.fixture(scope="session")
async def livekit():
    return await conversation("livekit_agent.py")


@pytest_asyncio.fixture(scope="session")
async def pipecat():
    return await conversation("pipecat_agent.py")


def pcm(heard):
    return base64.b64decode(heard["pcm"])


def sentences(backend):
    """The PCM of ``TEXT``."""
    texts = [request.text for request in backend.requests[:2]]
    assert " ".join(texts) == TEXT
    return expected(backend, *texts)


@pytest.mark.parametrize("way", ["whole", "streamed", "cut", "cut whole", "words", "after"])
def test_livekit_hears_the_text(livekit, way):
    heard, backend = livekit
    whole = sentences(backend)
    assert pcm(heard[way])[: len(whole)] == whole
    assert not any(pcm(heard[way])[len(whole) :])  # LiveKit marks the end with 10 ms of silence if it has no audio left
    assert len(pcm(heard[way])) <= len(whole) + 480


@pytest.mark.parametrize("way", ["whole", "streamed", "cut", "cut whole", "words", "after", "nothing"])
def test_livekits_own_checks_of_a_plugin_hold(livekit, way):
    events = livekit[0][way]["events"]
    requests, segments, finals, durations = zip(*events, strict=True)
    assert len(set(requests)) == 1
    assert requests[0]
    assert finals == (False,) * (len(events) - 1) + (True,)
    assert all(0 < duration_s < 0.25 for duration_s in durations)
    if way in ("streamed", "cut", "words"):
        assert len(set(segments)) == 1
        assert segments[0]
    assert livekit[0][way]["errors"] == []
    ((characters, audio_s, ttfb_s),) = livekit[0][way]["metrics"]
    assert characters == (3 if way == "nothing" else len(TEXT))
    assert audio_s == pytest.approx(sum(durations))
    assert 0 < ttfb_s < 5


def test_livekit_hears_nothing_of_no_text(livekit):
    empty = livekit[0]["empty"]
    assert (empty["events"], empty["errors"], empty["metrics"]) == ([], [], [])


@pytest.mark.parametrize("way", ["whole", "streamed", "cut", "cut whole"])
def test_livekits_transcript_has_captions(livekit, way):
    assert [(text, end_s) for text, _, end_s in livekit[0][way]["timed"]] == [
        ("The first sentence is here. ", None),
        ("Another one follows.", None),
    ]
    assert [start_s for _, start_s, _ in livekit[0][way]["timed"]] == [0.0, pytest.approx(27 * 0.08)]


def test_livekits_transcript_has_words(livekit):
    timed = livekit[0]["words"]["timed"]
    assert "".join(text for text, _, _ in timed) == TEXT
    assert len(timed) == 8
    assert all(start_s < end_s for _, start_s, end_s in timed)
    assert all(before[2] <= after[1] for before, after in pairwise(timed))


def test_an_agent_of_livekit_shows_captions_in_time(livekit):
    told = livekit[0]["agent"]
    assert told["shown"] == [["The first sentence is here. ", 0.0], ["Another one follows.", pytest.approx(27 * 0.08)]]
    assert told["remembered"] == [TEXT]
    assert told["played_s"] == pytest.approx(len(sentences(livekit[1])) / 48_000, abs=0.011)


def test_livekit_interrupts(livekit):
    assert livekit[0]["interrupted"] < 0.5


def test_livekit_is_told_of_a_server_that_never_answers(livekit):
    for retries, told in zip((0, 3, 0, 3), livekit[0]["timeouts"], strict=True):
        assert told["error"] == "timeout"
        assert told["recoverable"] == [True] * retries + [False]
        assert told["metrics"] == []
        assert 0.9 < told["took_s"] < 5


def test_livekit_does_not_repeat_a_text_that_is_refused(livekit):
    for told in livekit[0]["refused"]:
        assert "VOICE_NOT_FOUND" in told["error"]
        assert told["recoverable"] == [False]


PIPECAT = ("whole", "streamed", "sentences", "outside a turn", "within a turn", "cut", "words", "interrupted", "kept")


@pytest.mark.parametrize("way", PIPECAT)
def test_pipecat_hears_the_text(pipecat, way):
    heard, backend = pipecat
    assert pcm(heard[way]) == sentences(backend)
    assert heard[way]["kinds"] == ["started", "audio", "stopped"]
    assert heard[way]["errors"] == []


@pytest.mark.parametrize("way", ["whole", "streamed", "sentences", "within a turn", "cut", "interrupted", "kept"])
def test_pipecats_words_have_the_times_of_their_captions(pipecat, way):
    words, times = zip(*pipecat[0][way]["words"], strict=True)
    assert " ".join(words) == TEXT
    assert times == (times[0],) * 5 + (times[0] + 27 * 80_000_000,) * 3


def test_pipecats_words_have_times_of_their_own(pipecat):
    words, times = zip(*pipecat[0]["words"]["words"], strict=True)
    assert " ".join(words) == TEXT
    assert all(before < after for before, after in pairwise(times))


@pytest.mark.parametrize("way", ["whole", "streamed", "sentences", "cut", "words", "interrupted", "chinese"])
def test_pipecat_remembers_what_was_written(pipecat, way):
    assert pipecat[0][way]["remembered"] == ("今天天气很好。我们去公园吧。" if way == "chinese" else TEXT)


def test_pipecats_utterances_are_spoken_one_after_the_other(pipecat):
    heard, backend = pipecat
    assert pcm(heard["three"]) == expected(backend, "Number 1.", "Number 2.", "Number 3.")
    assert heard["three"]["kinds"] == ["started", "audio", "stopped"] * 3
    assert len(heard["three"]["contexts"]) == 3
    assert backend.most_running == 1


def test_pipecat_interrupts(pipecat):
    assert pipecat[0]["interrupted"]["took_s"] < 0.5


def test_pipecat_hears_nothing_of_no_text(pipecat):
    assert pipecat[0]["empty"] == {"kinds": [], "pcm": "", "words": [], "remembered": "", "contexts": [], "errors": []}


def test_a_text_with_nothing_to_pronounce_is_no_failure_for_pipecat(pipecat):
    assert (pipecat[0]["nothing"]["kinds"], pipecat[0]["nothing"]["errors"]) == (["started", "audio", "stopped"], [])
    assert pcm(pipecat[0]["nothing"]) == bytes(4800)


def test_pipecat_is_told_of_a_refusal_and_goes_on(pipecat):
    heard, backend = pipecat
    assert "VOICE_NOT_FOUND" in heard["corrected"]["errors"][0]
    assert pcm(heard["corrected"]) == sentences(backend)
    assert backend.requests[-1].voice == "makima"
