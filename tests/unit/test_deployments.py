import asyncio
import threading
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError, RayTaskError
from recorded import Recorded

from serve_app.cluster.admission import Backlog
from serve_app.cluster.registry import Demand, Quota, Readiness
from serve_app.config import (
    AccessConfig,
    AdmissionConfig,
    AppConfig,
    EngineConfig,
    GeneratorConfig,
    IngressConfig,
    ScalingConfig,
    VoicesConfig,
)
from serve_app.engine.engine import EngineLoad, PlaybackStats
from serve_app.errors import CapacityError, SynthesisError, TtsUnavailableError, VoiceNotFoundError
from serve_app.speech import AudioChunk, SpeechEnd, SpeechRequest

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from ray.serve._private.common import DeploymentID
    from ray.serve._private.request_router.request_router import RequestRouter
    from ray.serve.config import RequestRouterConfig
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

    from serve_app import app
    from serve_app.deployments import ingress
    from serve_app.deployments.generator import EventQueue, Generator, max_queued_events
    from serve_app.deployments.ingress import CachedAnswer, RayBackend
    from serve_app.deployments.router import VOICES, VoiceRouter

REQUEST = SpeechRequest("Hello.", "austen")
END = SpeechEnd("eos", 2)


def chunk(first_frame: int) -> AudioChunk:
    return AudioChunk(first_frame, np.zeros((1, 16), np.int16), np.zeros(1920, np.float32))


class Response:
    """A streaming response that yields what it is given, raises it, or never comes."""

    def __init__(self, events: list) -> None:
        self._events = iter(events)
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator:
        return self

    async def __anext__(self):
        event = next(self._events, None)
        if event is None:
            await asyncio.Event().wait()
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    def __init__(self, responses: list[Response]) -> None:
        self._responses = iter(responses)
        self.requests: list[SpeechRequest] = []

    def options(self, **options):
        assert options == {"stream": True, "method_name": "speak", "_by_reference": False}
        return self

    def remote(self, request):
        self.requests.append(request)
        return next(self._responses)


class Store:
    def __init__(self, *, ready: bool = True) -> None:
        self._ready = ready
        self.generators = frozenset({"generator-1"})

    async def voices(self):
        return []

    async def share_load(self, status):
        assert status.replica == "ingress-1"
        return Quota(20 if self._ready else 0, self.generators)

    async def readiness(self):
        return Readiness(ready=self._ready, model="tiny", weights="random", detail="" if self._ready else "loading")


def backend(*responses: Response, deadline_s: float = 5.0, ready: bool = True) -> RayBackend:
    config = AppConfig(admission=AdmissionConfig(start_deadline_s=deadline_s), engine=EngineConfig(slots=3))
    return RayBackend(config, Handle(list(responses)), Store(ready=ready), "ingress-1", Recorded())


async def test_the_quota_is_the_fleets_or_one_replicas_while_none_is_ready():
    assert await backend(Response([])).share_load(Backlog(2, 1, 0.5)) == 20
    assert await backend(Response([]), ready=False).share_load(Backlog(0, 1, 0.0)) == 3


async def test_the_rest_of_an_utterance_waits_where_a_new_text_is_refused(monkeypatch):
    monkeypatch.setattr(ingress, "_RETRY_AFTER_MS", 1)
    refusal = SpeechEnd("error", 0, "CAPACITY", "full", retry_after_ms=1)
    full = Response([refusal])
    gone = Response([DeploymentUnavailableError(DeploymentID("Generator", "tts"))])
    responses = [full, gone, Response([chunk(0), END])]
    assert len(await everything(backend(*responses).speak(replace(REQUEST, begun=True)))) == 2
    assert all(response.cancelled for response in responses)
    with pytest.raises(CapacityError):
        await everything(backend(Response([refusal])).speak(REQUEST))


async def test_a_text_of_a_batch_waits_where_a_new_text_is_refused():
    full = Response([SpeechEnd("error", 0, "CAPACITY", "full", retry_after_ms=1)])
    text = replace(REQUEST, listening=False, priority=1)
    assert len(await everything(backend(full, Response([chunk(0), END])).speak(text))) == 2


async def everything(speaking) -> list:
    return [event async for event in speaking]


async def test_events_come_in_order_and_the_response_is_always_cancelled():
    response = Response([chunk(0), chunk(1), END])
    assert [type(event) for event in await everything(backend(response).speak(REQUEST))] == [
        AudioChunk,
        AudioChunk,
        SpeechEnd,
    ]
    assert response.cancelled


async def test_closing_in_the_middle_cancels_the_response():
    response = Response([chunk(0)])
    speaking = backend(response).speak(REQUEST)
    await anext(speaking)
    await speaking.aclose()
    assert response.cancelled


async def test_a_refusal_before_the_first_audio_is_raised():
    response = Response([SpeechEnd("error", 0, "VOICE_NOT_FOUND", "there is no voice 'austen'")])
    with pytest.raises(VoiceNotFoundError, match="austen"):
        await everything(backend(response).speak(REQUEST))
    assert response.cancelled


@pytest.mark.parametrize(
    ("ready", "error"), [(True, CapacityError), (False, TtsUnavailableError)], ids=["full", "none is ready"]
)
async def test_a_stream_that_does_not_start_in_time_is_refused(ready, error):
    responses = [Response([]) for _ in range(3)]
    with pytest.raises(error) as refusal:
        await everything(backend(*responses, deadline_s=0.05, ready=ready).speak(REQUEST))
    assert refusal.value.retry_after_ms
    assert responses[0].cancelled


async def test_a_stream_that_does_not_start_is_asked_for_again():
    frozen = Response([])
    assert len(await everything(backend(frozen, Response([chunk(0), END]), deadline_s=0.2).speak(REQUEST))) == 2
    assert frozen.cancelled


async def test_a_stream_that_stands_still_goes_on_elsewhere():
    frozen = Response([chunk(0)])
    handle = Handle([frozen, Response([chunk(1), END])])
    config = AppConfig(admission=AdmissionConfig(stall_timeout_s=0.2), engine=EngineConfig(max_lead_s=0.17))
    events = await everything(RayBackend(config, handle, Store(), "ingress-1", Recorded()).speak(REQUEST))
    assert [getattr(event, "first_frame", None) for event in events] == [0, 1, None]
    assert len(handle.requests[1].delivered_codes) == 1
    assert frozen.cancelled


async def test_a_generator_whose_stream_stalled_is_avoided_until_it_sends_audio():
    def by(generator: str, frame: int) -> AudioChunk:
        return replace(chunk(frame), generator=generator)

    store, all_of_them = Store(), frozenset({"generator-1", "generator-2"})
    handle = Handle([Response([by("generator-1", 0)]), *(Response([by(f"generator-{n}", 1), END]) for n in (2, 1, 2))])
    config = AppConfig(admission=AdmissionConfig(stall_timeout_s=0.2), engine=EngineConfig(max_lead_s=0.17))
    speaking = RayBackend(config, handle, store, "ingress-1", Recorded())
    store.generators = all_of_them
    await speaking.share_load(Backlog(0, 0, 0.0))
    for _ in range(3):
        assert await everything(speaking.speak(REQUEST))
    one = frozenset({"generator-2"})
    assert [request.generators for request in handle.requests] == [all_of_them, one, one, all_of_them]


async def test_a_stalled_generator_that_is_gone_is_forgotten():
    store = Store()
    stalls = Response([replace(chunk(0), generator="generator-1")])
    handle = Handle([stalls, Response([END])])
    config = AppConfig(admission=AdmissionConfig(stall_timeout_s=0.2), engine=EngineConfig(max_lead_s=0.17))
    speaking = RayBackend(config, handle, store, "ingress-1", Recorded())
    await everything(speaking.speak(REQUEST))
    assert speaking._stalled == {"generator-1"}
    store.generators = frozenset({"generator-2"})
    await speaking.share_load(Backlog(0, 0, 0.0))
    assert speaking._stalled == set()


async def test_backpressure_is_a_lack_of_capacity():
    with pytest.raises(CapacityError):
        await everything(backend(Response([BackPressureError(20, 20)])).speak(REQUEST))


def gone() -> Exception:
    return ActorUnavailableError("gone", None)


async def test_a_stream_whose_replica_is_lost_goes_on_at_the_next_frame():
    handle = Handle([Response([chunk(0), chunk(1), gone()]), Response([chunk(2), gone()]), Response([END])])
    recorded = Recorded()
    speaking = RayBackend(AppConfig(), handle, Store(), "ingress-1", recorded).speak(REQUEST)
    events = await everything(speaking)
    assert [getattr(event, "first_frame", None) for event in events] == [0, 1, 2, None]
    assert recorded.counters == {"streams_resumed resumed": 2}
    assert [r.delivered_codes is not None and len(r.delivered_codes) for r in handle.requests] == [False, 2, 3]


async def test_a_stream_that_is_resumed_by_another_model_is_counted_as_such():
    one, other = (replace(chunk(frame), rendering=by) for frame, by in ((0, "m1 packed"), (1, "m2 packed")))
    handle = Handle([Response([one, gone()]), Response([other, END])])
    recorded = Recorded()
    await everything(RayBackend(AppConfig(), handle, Store(), "ingress-1", recorded).speak(REQUEST))
    assert handle.requests[1].rendering == "m1 packed"
    assert recorded.counters == {"streams_resumed resumed_otherwise": 1}


async def test_an_interrupted_stream_that_finds_no_other_is_counted_as_given_up():
    refusal = SpeechEnd("error", 0, SynthesisError.code, "no")
    recorded = Recorded()
    handle = Handle([Response([chunk(0), gone()]), Response([refusal])])
    with pytest.raises(SynthesisError):
        await everything(RayBackend(AppConfig(), handle, Store(), "ingress-1", recorded).speak(REQUEST))
    assert recorded.counters == {"streams_resumed given_up": 1}


async def test_a_text_that_ends_its_replica_each_time_fails_alone(monkeypatch):
    waits, sleep, this_test = [], asyncio.sleep, asyncio.current_task()

    async def note(wait_s):  # a server of another test may sleep on the same event loop
        if asyncio.current_task() is this_test:
            waits.append(wait_s)
        else:
            await sleep(wait_s)

    monkeypatch.setattr("serve_app.deployments.ingress.asyncio.sleep", note)
    lost = [Response([gone()]) for _ in range(9)]
    with pytest.raises(SynthesisError, match="was lost"):
        await everything(backend(*lost).speak(REQUEST))
    assert [response.cancelled for response in lost] == [True] * 3 + [False] * 6
    assert waits[0] == 0.0
    assert len(waits) == 2


async def test_a_failure_of_the_generators_own_code_is_not_tried_again():
    failed = RayTaskError("speak", "traceback", ValueError("no"))
    with pytest.raises(SynthesisError, match="failed"):
        await everything(backend(Response([chunk(0), failed])).speak(REQUEST))


async def test_a_question_is_asked_once_for_all_callers():
    asked = []

    async def ask() -> int:
        asked.append(1)
        await asyncio.sleep(0.01)
        return 42

    recent = CachedAnswer(ask)
    assert await asyncio.gather(*(recent.get() for _ in range(10))) == [42] * 10
    assert len(asked) == 1


async def test_an_old_answer_is_better_than_none(monkeypatch):
    monkeypatch.setattr("serve_app.deployments.ingress._STATUS_TTL_S", 0.0)
    answers = iter([42, ActorUnavailableError("gone", None)])

    async def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    recent = CachedAnswer(ask)
    assert [await recent.get(), await recent.get()] == [42, 42]


async def test_events_of_another_thread_arrive_in_order():
    events = EventQueue(asyncio.get_running_loop(), 10)
    engine = threading.Thread(target=lambda: [events.deliver(event) for event in (chunk(0), chunk(1), END)])
    engine.start()
    arrived = [await events.get() for _ in range(3)]
    engine.join()
    assert [getattr(event, "first_frame", None) for event in arrived] == [0, 1, None]


async def test_an_engine_that_runs_too_far_ahead_ends_its_stream():
    events = EventQueue(asyncio.get_running_loop(), 2)
    for frame in range(5):
        events.deliver(chunk(frame))
    await asyncio.sleep(0)
    arrived = [await events.get() for _ in range(3)]
    assert [type(event) for event in arrived] == [AudioChunk, AudioChunk, SpeechEnd]
    assert arrived[-1].finish_reason == "error"


def test_the_queue_holds_what_an_engine_may_make_ahead():
    engine = EngineConfig(max_lead_s=8.0, audio_chunk_max_frames=4)
    assert max_queued_events(engine) > 8.0 / 0.08 + 4


def test_serve_gives_a_generator_as_many_calls_as_it_has_slots():
    options = app.generator_options(AppConfig(engine=EngineConfig(slots=6, max_waiting_streams=0)))
    assert options["max_ongoing_requests"] == 6
    assert options["max_queued_requests"] == 1
    assert options["num_replicas"] == 1


def test_a_range_of_replicas_is_autoscaled():
    options = app.generator_options(AppConfig(generator=GeneratorConfig(min_replicas=0, max_replicas=4)))
    scaling = options["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 4)
    assert scaling.initial_replicas is None, "Serve goes back to it whenever an option of the deployment changes"
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s, scaling.downscale_to_zero_delay_s) == (0, 0, None)
    assert scaling.policy.get_policy().__name__ == "ScaleGenerators"
    assert "num_replicas" not in options


def test_a_relative_path_is_that_of_the_working_directory_or_else_of_the_project(tmp_path):
    config = AppConfig(voices=VoicesConfig(path="voices"))
    project = Path(__file__).parents[2]
    assert app.with_absolute_paths(config, tmp_path).voices.path == str(project / "voices")
    (tmp_path / "voices").mkdir()
    assert app.with_absolute_paths(config, tmp_path).voices.path == str(tmp_path / "voices")


def test_a_relative_file_of_keys_is_found_and_keeps_its_links(tmp_path):
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "keys.yaml").write_text("[]")
    (tmp_path / "keys.yaml").symlink_to(tmp_path / "..data" / "keys.yaml")
    config = AppConfig(access=AccessConfig(keys_file="keys.yaml"))
    assert app.with_absolute_paths(config, tmp_path).access.keys_file == str(tmp_path / "keys.yaml")
    assert app.with_absolute_paths(AppConfig(), tmp_path).access.keys_file is None


class OneEvent:
    """A stream whose event comes when the test sets it."""

    def __init__(self):
        self.asked = asyncio.Event()
        self.came = asyncio.get_running_loop().create_future()

    async def __anext__(self):
        self.asked.set()
        return await self.came


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_that_comes_together_with_the_first_event_is_not_lost(turns):
    response = OneEvent()
    waiting = asyncio.create_task(backend()._first(response, 60))
    await response.asked.wait()
    response.came.set_result(chunk(0))
    for _ in range(turns):
        await asyncio.sleep(0)
    if waiting.cancel():  # it has not ended yet
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_a_redeploy_starts_new_ingresses_before_old_ones_stop_and_where_their_label_is():
    options = app.ingress_options(AppConfig(ingress=IngressConfig(label_selector={"tts-role": "sockets"})))
    assert options["max_surge_percent"] == 100
    assert options["ray_actor_options"]["label_selector"] == {"tts-role": "sockets"}
    assert "label_selector" not in app.ingress_options(AppConfig())["ray_actor_options"]


def test_an_application_is_built_without_a_cluster():
    application = app.build_app(AppConfig())
    assert application is not None


def test_the_router_of_the_application_can_be_loaded_and_is_serves_kind():
    options = app.generator_options(AppConfig())
    router = RequestRouterConfig(**options["request_router_config"]).get_request_router_class()
    assert issubclass(router, RequestRouter)
    assert router.__name__ == "VoiceRouter"


def pending(*arguments):
    return SimpleNamespace(args=arguments)


def replica(name, running=0, voices=()):
    stats = {VOICES: voices}
    return SimpleNamespace(
        replica_id=SimpleNamespace(unique_id=name), running=running, max_ongoing_requests=2, routing_stats=stats
    )


async def routed(replicas, request):
    """The names of the replicas in the order in which the router offers them a request."""
    router = VoiceRouter.__new__(VoiceRouter)
    running = {each.replica_id.unique_id: each.running for each in replicas}
    router._replica_queue_len_cache = SimpleNamespace(get=lambda replica_id: running[replica_id.unique_id])
    ranked = await router.choose_replicas(replicas, request)
    return [[each.replica_id.unique_id for each in rank] for rank in ranked]


async def test_a_generator_that_the_ingress_has_not_heard_of_lately_is_offered_a_request_last():
    replicas = [replica("a", running=1), replica("b", voices=["austen"]), replica("c", running=2)]
    assert await routed(replicas, pending(replace(REQUEST, generators=None))) == [["b"], ["a"], ["c"]]
    lately = frozenset({"a", "c"})
    assert await routed(replicas, pending(replace(REQUEST, generators=lately))) == [["a"], ["c"], ["b"]]
    assert await routed(replicas, pending(replace(REQUEST, generators=frozenset()))) == [["b", "a", "c"]]
    assert [sorted(rank) for rank in await routed(replicas, None)] == [["a", "b"], ["c"]]


async def test_a_request_names_the_generators_that_reported_to_the_ingress():
    handle = Handle([Response([END]), Response([END])])
    made = RayBackend(AppConfig(), handle, Store(), "ingress-1", Recorded())
    for _ in range(2):
        assert [event async for event in made.speak(REQUEST)] == [END]
        await made.share_load(Backlog(0, 0, 0.0))
    assert [request.generators for request in handle.requests] == [None, frozenset({"generator-1"})]


def generator() -> Generator:
    """One whose engine does nothing, made without Serve."""
    made = Generator.__new__(Generator)
    made._config = AppConfig(scaling=ScalingConfig(headroom=2.0))
    made._scaling = made._config.scaling
    made._demand = Demand(waiting=7, waiting_s=21.0, arrivals_hz=1.5)
    engine = SimpleNamespace(load=EngineLoad(3, 1), playback=PlaybackStats(2, 1, 0.1), stream_s=4.0)
    made._model = SimpleNamespace(engine=engine)
    return made


def test_a_generator_reports_its_engine_the_registry_and_its_settings_as_numbers():
    numbers = generator().record_autoscaling_stats()
    assert {type(number) for number in numbers.values()} <= {int, float}
    assert {
        "running": 3,
        "late": 1,
        "waiting_before": 7,
        "stream_s": 4.0,
        "scaling_headroom": 2.0,
    }.items() <= numbers.items()


async def test_settings_change_by_user_config_and_go_back():
    made = generator()
    await made.reconfigure({"drain_s": 5})
    assert (made._scaling.drain_s, made._scaling.headroom) == (5.0, 2.0)
    await made.reconfigure({})
    assert made._scaling == made._config.scaling


async def test_a_wrong_user_config_changes_nothing():
    made = generator()
    await made.reconfigure({"drain_s": 5})
    await made.reconfigure({"drains_s": 6})
    await made.reconfigure({"drain_s": -1})
    assert made._scaling.drain_s == 5.0
