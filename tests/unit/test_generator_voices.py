"""How a generator comes by its voices: asked for once, encoded once, forgotten when they are stale."""

import asyncio
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from recorded import Recorded
from until import until

from serve_app.audio.loudness import Loudness
from serve_app.config import AppConfig
from serve_app.errors import SynthesisError, VoiceInvalidError, VoiceNotFoundError
from serve_app.observability.generator_metrics import GeneratorMetrics
from serve_app.speech import AudioChunk, SpeechEnd, SpeechRequest, VoiceClip
from serve_app.voices.library import VoiceInProgress, VoiceRefusal
from serve_app.voices.voice import BoundedCache, ImportedVoice, Reference, VoicePrompt

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from serve_app.cluster.registry import Demand, HeartbeatReply
    from serve_app.deployments import generator as module
    from serve_app.deployments.generator import Generator, lower_priority
    from serve_app.deployments.router import _voice_of

REFERENCE = Reference("woolf", np.zeros(72_000, np.float32), 24_000, "Words.", "d1")
LOUDNESS = Loudness(-24.0, 0.4)
CLIP = VoiceClip(np.full(72_000, 8192, np.int16), "Words.", "d2")


def prompt_of(reference):
    return VoicePrompt(reference.voice, reference.digest, np.zeros(4, np.float32), None, reference.transcript, LOUDNESS)


class Store:
    """Answers what it is told, and keeps what it is given."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []
        self.kept = []
        self.given_up = []

    async def get(self, voice, fingerprint, replica, digest=""):
        self.asked.append((voice, replica, digest) if digest else (voice, replica))
        await asyncio.sleep(0.05)
        return self.answers.pop(0)

    async def put(self, prompt, fingerprint):
        self.kept.append(prompt)

    async def give_up(self, digest, fingerprint):
        self.given_up.append(digest)


def generator(*answers, encode=prompt_of):
    made = Generator.__new__(Generator)
    made._replica, made._voices, made._demand = "r1", "v1", Demand()
    made._prompts, made._digests = BoundedCache[str, VoicePrompt](1 << 20, lambda prompt: prompt.nbytes), {}
    made._fetching = {}
    made._background = ThreadPoolExecutor(1, "background", lower_priority)
    made._metrics = GeneratorMetrics(Recorded(), slots=1)
    made._coordinator = Store(*answers)
    made.encoded = []

    def encoding(reference):
        made.encoded.append(reference)
        return encode(reference)

    runner = SimpleNamespace(known_voices=frozenset())
    made._model = SimpleNamespace(fingerprint="model", encode=encoding, runner=runner, watermark=None)
    made._marking = ThreadPoolExecutor(1, "watermark")
    return made


async def test_a_burst_of_streams_fetches_a_voice_once():
    made = generator(prompt_of(REFERENCE))
    prompts = await asyncio.gather(*(made._prompt("woolf") for _ in range(20)))
    assert {id(prompt) for prompt in prompts} == {id(prompts[0])}
    assert made._coordinator.asked == [("woolf", "r1")]
    await made._prompt("woolf")
    assert len(made._coordinator.asked) == 1


class Engine:
    """Speaks one frame for each stream, at once."""

    samples = np.zeros(1920, np.float32)

    def submit(self, prepared, deliver):
        deliver(AudioChunk(0, np.zeros((1, 16), np.int16), self.samples))
        deliver(SpeechEnd("eos", 1))
        return SimpleNamespace(consumed=lambda frames: None, cancel=lambda: None)


def speaking(made):
    """A generator whose streams reach an engine; which prompt each was prepared with."""
    prepared = []
    made._config = AppConfig()
    made._model.engine = Engine()
    made._model.runner.prepare = lambda request, prompt: prepared.append(prompt)
    return prepared


async def spoken(made, **fields):
    return [event async for event in made.speak(SpeechRequest("Hello.", "woolf", **fields))]


async def test_a_burst_of_streams_on_a_replica_asks_the_store_once_and_says_what_it_speaks_with():
    made = generator(prompt_of(REFERENCE))
    prepared = speaking(made)
    streams = await asyncio.gather(*(spoken(made, seed=seed) for seed in range(50)))
    assert made._coordinator.asked == [("woolf", "r1")]
    assert {prompt.digest for prompt in prepared} == {"d1"}
    assert len(prepared) == 50
    assert all([chunk.voice_digest, end.finish_reason] == ["d1", "eos"] for chunk, end in streams)


@pytest.mark.parametrize(("begun_as", "lines"), [("m1 packed", 0), ("m2 packed", 1), ("", 0)])
async def test_a_stream_that_was_begun_by_another_model_goes_on_and_the_log_says_so(caplog, begun_as, lines):
    made = generator(prompt_of(REFERENCE))
    made._rendering = "m1 packed"
    speaking(made)
    chunk, end = await spoken(made, delivered_codes=np.zeros((7, 16), np.int16), rendering=begun_as)
    assert (chunk.rendering, end.finish_reason) == ("m1 packed", "eos")
    warned = [record.message for record in caplog.records if "resumes on" in record.message]
    assert len(warned) == lines
    assert all("[m2 packed]" in message and "[m1 packed]" in message and "frame 7" in message for message in warned)


@pytest.mark.parametrize("clip", [None, CLIP])
async def test_a_voice_has_one_gain_whether_it_is_stored_inline_or_resumed(clip):
    """The engine's stream has a level of 0.1; its clip has -24 LUFS."""
    made = generator(prompt_of(REFERENCE), prompt_of(REFERENCE))
    speaking(made)
    made._model.engine.samples = np.full(1920, 0.1, np.float32)
    chunk, _ = await spoken(made, clip=clip)
    assert chunk.pcm is made._model.engine.samples
    delivered = np.zeros((7, 16), np.int16)
    resumed = {"delivered_codes": delivered, "voice_digest": chunk.voice_digest, "begun": True}
    for fields in ({}, {"seed": 4}, resumed):
        (chunk, _) = await spoken(made, clip=clip, loudness_lufs=-18.0, **fields)
        np.testing.assert_allclose(chunk.pcm, 0.1 * 10 ** (6 / 20), rtol=1e-6)


async def test_each_stream_has_a_watermark_of_its_own_behind_the_gain():
    made = generator(prompt_of(REFERENCE))
    speaking(made)
    made._model.engine.samples = np.full(1920, 0.1, np.float32)
    begun = iter([["first"], ["second"]])
    levels = {"first": 0.25, "second": 0.5}
    made._model.watermark = SimpleNamespace(
        begin=lambda: next(begun), mark=lambda pcm, states: pcm + np.float32(levels[states[0]])
    )
    for level in levels.values():
        chunk, _ = await spoken(made, loudness_lufs=-18.0)
        np.testing.assert_allclose(chunk.pcm, 0.1 * 10 ** (6 / 20) + level, rtol=1e-6)


async def test_an_imported_voice_is_accepted_once_and_given_to_all_replicas():
    imported = ImportedVoice(prompt_of(REFERENCE), "encoders")
    made = generator(imported)
    made._model.accept = lambda given: given.prompt
    prepared = speaking(made)
    await asyncio.gather(*(spoken(made, seed=seed) for seed in range(3)))
    assert [prompt.digest for prompt in prepared] == ["d1"] * 3
    assert ([prompt.digest for prompt in made._coordinator.kept], made.encoded) == (["d1"], [])


async def test_an_imported_voice_that_does_not_fit_is_an_error_of_its_streams():
    def refuse(given):
        raise VoiceInvalidError("it has the code 2048")

    made = generator(ImportedVoice(prompt_of(REFERENCE), "encoders"))
    made._model.accept = refuse
    speaking(made)
    (end,) = await spoken(made)
    assert (end.code, end.message) == ("VOICE_INVALID", "it has the code 2048")
    assert (made._coordinator.given_up, made._coordinator.kept) == (["d1"], [])


async def test_an_utterance_goes_on_with_its_clip_when_the_voice_was_removed_or_is_another():
    another = replace(prompt_of(REFERENCE), digest="d3")
    made = generator(prompt_of(REFERENCE), VoiceRefusal("gone"), another)
    prepared = speaking(made)
    await spoken(made)
    made._apply(HeartbeatReply(Demand(), "v2", None))
    ((refused,), (chunk, _)) = await asyncio.gather(spoken(made), spoken(made, voice_digest="d1", begun=True))
    assert (refused.code, chunk.voice_digest) == ("VOICE_NOT_FOUND", "d1")
    made._apply(HeartbeatReply(Demand(), "v3", None))
    assert [(await spoken(made))[0].voice_digest, (await spoken(made, voice_digest="d1"))[0].voice_digest] == [
        "d3",
        "d1",
    ]
    assert [prompt.digest for prompt in prepared] == ["d1", "d1", "d3", "d1"]
    assert len(made._coordinator.asked) == 3


async def test_a_replica_that_lacks_the_clip_asks_for_that_one_alone_and_once():
    made = generator(prompt_of(REFERENCE), prompt_of(REFERENCE))
    speaking(made)
    await asyncio.gather(*(spoken(made, voice_digest="d1", delivered_codes=np.zeros((3, 16))) for _ in range(5)))
    assert made._coordinator.asked == [("woolf", "r1", "d1")]
    await spoken(made)
    assert made._coordinator.asked[1:] == [("woolf", "r1")], "of a new utterance it is not known what the id stands for"


async def test_an_utterance_whose_clip_is_nowhere_any_more_is_refused_and_given_no_other():
    made = generator(replace(prompt_of(REFERENCE), digest="d3"), VoiceRefusal("it was removed too long ago"))
    speaking(made)
    await spoken(made)
    (end,) = await spoken(made, voice_digest="d1", delivered_codes=np.zeros((3, 16)))
    assert (end.code, end.frames) == ("VOICE_NOT_FOUND", 3)


async def test_a_burst_on_an_unencoded_voice_encodes_it_once_and_gives_it_to_everybody():
    made = generator(REFERENCE)
    await asyncio.gather(*(made._prompt("woolf") for _ in range(20)))
    assert len(made.encoded) == 1
    assert [prompt.digest for prompt in made._coordinator.kept] == ["d1"]


async def test_a_voice_that_another_replica_encodes_is_waited_for(monkeypatch):
    monkeypatch.setattr(module, "PROMPT_POLL_S", 0.01)
    made = generator(VoiceInProgress(), VoiceInProgress(), prompt_of(REFERENCE))
    assert (await made._prompt("woolf")).digest == "d1"
    assert made.encoded == []


async def test_a_voice_that_is_not_there_is_refused_each_time():
    made = generator(VoiceRefusal("there is no voice 'woolf'"), VoiceRefusal("there is no voice 'woolf'"))
    for _ in range(2):
        with pytest.raises(VoiceNotFoundError, match="no voice"):
            await made._prompt("woolf")


async def test_a_clip_that_the_encoder_fails_on_is_one_streams_error_and_another_replica_may_try():
    made = generator(REFERENCE, encode=lambda _: 1 / 0)
    with pytest.raises(SynthesisError, match="could not be encoded"):
        await made._prompt("woolf")
    assert made._coordinator.given_up == ["d1"]
    assert made._fetching == {}


async def test_the_encoding_goes_on_after_its_callers_have_gone():
    begun, go_on = threading.Event(), threading.Event()

    def slowly(reference):
        begun.set()
        go_on.wait(5)
        return prompt_of(reference)

    made = generator(REFERENCE, encode=slowly)
    asked = asyncio.create_task(made._prompt("woolf"))
    await asyncio.to_thread(begun.wait, 5)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    go_on.set()
    await asyncio.gather(*made._fetching.values())
    assert [prompt.digest for prompt in made._coordinator.kept] == ["d1"]


async def test_the_encoder_has_the_lowest_priority_and_the_caller_keeps_its_own():
    def nice(reference):
        made.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return prompt_of(reference)

    made = generator(REFERENCE, encode=nice)
    await made._prompt("woolf")
    assert made.niceness == 19
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19


async def test_voices_that_changed_are_asked_for_again_and_clips_of_sessions_stay():
    made = generator(prompt_of(REFERENCE), VoiceRefusal("gone"))
    await made._prompt("woolf")
    await made._prompt_of(CLIP)
    made._apply(HeartbeatReply(Demand(), "v1", None))
    await made._prompt("woolf")
    made._apply(HeartbeatReply(Demand(waiting=3), "v2", None))
    assert made._demand.waiting == 3
    with pytest.raises(VoiceNotFoundError):
        await made._prompt("woolf")
    await made._prompt_of(CLIP)
    assert len(made.encoded) == 1


async def test_an_answer_from_before_a_change_is_used_once_and_not_kept():
    made = generator(prompt_of(REFERENCE), VoiceRefusal("gone"))
    asking = asyncio.create_task(made._prompt("woolf"))
    await until(lambda: made._coordinator.asked)
    made._apply(HeartbeatReply(Demand(), "v2", None))
    assert (await asking).digest == "d1"
    with pytest.raises(VoiceNotFoundError):
        await made._prompt("woolf")


async def test_a_stream_after_a_change_does_not_wait_for_the_clip_before_it():
    made = generator(prompt_of(REFERENCE), prompt_of(replace(REFERENCE, digest="d9")))
    before = asyncio.create_task(made._prompt("woolf"))
    await until(lambda: made._coordinator.asked)
    made._apply(HeartbeatReply(Demand(), "v2", None))
    assert [prompt.digest for prompt in await asyncio.gather(before, made._prompt("woolf"))] == ["d1", "d9"]


async def test_a_voice_that_waits_is_encoded_unasked_and_one_at_a_time():
    made = generator(REFERENCE)
    made._apply(HeartbeatReply(Demand(), "v1", "woolf"))
    made._apply(HeartbeatReply(Demand(), "v1", "other"))
    assert list(made._fetching) == ["woolf/v1"]
    await asyncio.gather(*made._fetching.values())
    assert [prompt.voice for prompt in made._coordinator.kept] == ["woolf"]


async def test_a_sessions_own_clip_is_encoded_once_and_put_into_no_store():
    made = generator()
    await asyncio.gather(*(made._prompt_of(CLIP) for _ in range(5)))
    (reference,) = made.encoded
    assert (reference.digest, reference.transcript, reference.pcm.dtype) == ("d2", "Words.", np.float32)
    assert reference.pcm[0] == 0.25
    assert made._coordinator.kept == []
    assert made.record_routing_stats() == {"voices": []}
    made._model.runner.known_voices = frozenset({"d2"})
    assert made.record_routing_stats() == {"voices": ["d2"]}


async def test_two_voices_of_one_clip_and_the_same_clip_inline_share_one_prompt():
    same = replace(CLIP, digest="d1")
    made = generator(prompt_of(REFERENCE), prompt_of(replace(REFERENCE, voice="bell")))
    for voice in ("woolf", "bell", "woolf"):
        await made._prompt(voice)
    await made._prompt_of(same)
    assert (len(made._coordinator.asked), made.encoded, list(made._prompts)) == (2, [], ["d1"])
    made._model.runner.known_voices = frozenset({"d1"})
    assert made.record_routing_stats() == {"voices": ["woolf", "bell"]}
    made._apply(HeartbeatReply(Demand(), "v2", None))
    assert made.record_routing_stats() == {"voices": ["d1"]}, "until they are looked up again"


async def test_a_prompt_that_nothing_uses_is_dropped_at_a_heartbeat():
    made = generator()
    made._prompts = BoundedCache[str, VoicePrompt](1 << 20, lambda prompt: prompt.nbytes, ttl_s=1800)
    now_s = time.monotonic()
    for digest, idle_s in (("d0", 1900), ("d1", 1700)):
        made._prompts.put(digest, prompt_of(REFERENCE), now_s - idle_s)
    made._apply(HeartbeatReply(Demand(), "v1", None))
    assert list(made._prompts) == ["d1"]


async def test_a_prompt_that_was_evicted_is_fetched_again():
    made = generator(prompt_of(REFERENCE), prompt_of(REFERENCE))
    await made._prompt("woolf")
    made._prompts.drop("d1")
    assert (await made._prompt("woolf")).digest == "d1"
    assert (made._prompts.hits, made._prompts.misses) == (0, 2)
    await made._prompt("woolf")
    assert (made._prompts.hits, made._prompts.misses) == (1, 2)


def test_a_clip_of_a_session_is_routed_by_what_it_is():
    def request(**fields):
        return SpeechRequest("Hello.", "inline", **fields)

    assert _voice_of(request(clip=CLIP)) == "d2"
    assert _voice_of(request()) == "inline"
