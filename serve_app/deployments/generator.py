"""The generator deployment: one engine per replica, and the way from its thread to the event loop and back.

It translates between Serve's streaming calls and the engine. What runs when, and what a text costs, is decided in
the engine; torch is imported by the constructor alone, off the event loop.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError

from serve_app.config import AppConfig, EngineConfig, ScalingConfig
from serve_app.deployments.fleet import REPORT_PERIOD_S, Demand, GeneratorStatus
from serve_app.deployments.logs import join_serve_log
from serve_app.deployments.policy import ReplicaStats
from serve_app.deployments.router import VOICES
from serve_app.deployments.voice_store import VoiceStoreClient
from serve_app.engine.scheduler import RIDE_ALONG_S
from serve_app.errors import SpeechError, SynthesisError, VoiceNotFoundError
from serve_app.speech import FRAME_S, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voice_library import VoiceRefusal
from serve_app.voices import BoundedCache, Reference, VoicePrompt

if TYPE_CHECKING:
    from serve_app.model.factory import Speaker

log = logging.getLogger(__name__)


MOST_ROUTED_VOICES = 100
"""Most voices, the latest used, that a replica tells the routers of; they hear it every two seconds."""


class EventQueue:
    """Events of one stream on their way from the engine's thread to the event loop.

    The engine pauses a stream whose audio is not taken, so the queue needs no lock of its own; should that promise
    be broken, the stream ends with an error instead of the queue growing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_events: int) -> None:
        self._loop = loop
        self._events: asyncio.Queue[SpeechEvent] = asyncio.Queue(max_events)
        self._overflown = False

    def deliver(self, event: SpeechEvent) -> None:
        """Called on the engine's thread; never blocks."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the replica is on its way out
            self._loop.call_soon_threadsafe(self._accept, event)

    async def get(self) -> SpeechEvent:
        """The next event; nothing comes after a :class:`SpeechEnd`."""
        if self._overflown and self._events.empty():
            return SpeechEnd("error", 0, SynthesisError.code, "the engine ran too far ahead of its listener")
        return await self._events.get()

    def _accept(self, event: SpeechEvent) -> None:
        if self._overflown or self._events.full():
            self._overflown = True
        else:
            self._events.put_nowait(event)


def max_queued_events(engine: EngineConfig) -> int:
    """Most events that an engine can have delivered before it pauses a stream: one frame each at worst, and the end.

    A paused stream still decodes the frames that it had drawn.
    """
    return math.ceil((engine.max_lead_s + RIDE_ALONG_S) / FRAME_S) + 2 * engine.audio_chunk_max_frames + 1


class Generator:
    """A replica that speaks text chunks."""

    async def __init__(self, config: AppConfig) -> None:
        """Load the model, encode the voices that wait for it, speak a sentence. Ready means that it came out.

        Raises:
            RuntimeError: the checkpoint cannot be had, or no voice can be used; the message says what to do.
        """
        join_serve_log()
        context = serve.get_replica_context()
        self._config = config
        self._scaling = config.scaling
        self._demand = Demand()
        self._replica = context.replica_id.unique_id
        self._prompts: BoundedCache[str, VoicePrompt] = BoundedCache(
            config.engine.voice_cache_bytes, lambda prompt: prompt.nbytes, config.voices.ttl_s
        )
        self._encoding: dict[str, asyncio.Task[VoicePrompt]] = {}
        self._state = GeneratorStatus(self._replica, "loading", "the model is being loaded")
        self._store = VoiceStoreClient(context.app_name, config.voices)
        await self._store.connect()
        self._reporting = asyncio.create_task(self._report_always())
        try:
            self._speaker = await asyncio.to_thread(_load, config)
            await self._warm_up()
        except Exception as error:
            self._state = GeneratorStatus(self._replica, "failed", str(error))
            await self._store.report(self._state)
            raise
        await self._store.report(self._status())

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        """Speak one text chunk: audio chunks as they are made, one end last.

        Whatever is wrong with the request comes as an end with its code. Closing or cancelling the generator
        cancels the stream, which frees its slot within a frame.
        """
        events = EventQueue(asyncio.get_running_loop(), max_queued_events(self._config.engine))
        try:
            prompt = await self._prompt(request.voice)
            prepared = await asyncio.to_thread(self._speaker.runner.prepare, request, prompt)
            stream = self._speaker.engine.submit(prepared, events.deliver)
        except SpeechError as refusal:
            yield _refused(refusal, request)
            return
        try:
            while True:
                event = await events.get()
                yield event
                if isinstance(event, SpeechEnd):
                    return
                stream.consumed(len(event.codes))
        finally:
            stream.cancel()

    async def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        if not self._speaker.engine.healthy:
            raise RuntimeError("the engine failed several steps in a row, is stuck in one, or its thread has ended")

    def record_routing_stats(self) -> dict[str, list[str]]:
        """Called by Serve; what it returns is at every handle soon after."""
        return {VOICES: list(self._prompts)[-MOST_ROUTED_VOICES:]}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve with the deployment's ``user_config``: knobs of ``scaling`` that change while it runs."""
        try:
            self._scaling = ScalingConfig.model_validate({**self._config.scaling.model_dump(), **user_config})
        except ValidationError as error:
            log.warning("user_config is not taken, the scaling stays as it is (%s): %s", self._scaling, error)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve about twice a second: what :mod:`serve_app.deployments.policy` decides on."""
        engine = self._speaker.engine
        load, hearing = engine.load, engine.hearing
        return ReplicaStats(
            running=load.running,
            waiting=load.waiting,
            stream_s=engine.stream_s,
            listeners=hearing.listeners,
            late=hearing.late,
            slack_s=hearing.slack_s,
            waiting_before=self._demand.waiting,
            waiting_before_s=self._demand.waiting_s,
            arrivals_hz=self._demand.arrivals_hz,
        ).numbers(self._scaling)

    async def _warm_up(self) -> None:
        """Encode what is pending, put the voices onto the device, and speak a real sentence."""
        fingerprint = self._speaker.fingerprint
        self._state = GeneratorStatus(self._replica, "loading", "voices are being encoded")
        for voice in await self._store.pending(fingerprint):
            try:
                await self._prompt(voice)
            except SpeechError as refusal:
                log.warning("voice %s is not usable: %s", voice, refusal)
        ready = [status.voice for status in await self._store.voices() if status.state == "ready"]
        if not ready:
            reasons = "; ".join(f"{status.voice}: {status.reason}" for status in await self._store.voices())
            raise RuntimeError(f"no voice below {self._config.voices.path} can be used ({reasons or 'it is empty'})")
        for voice in ready:
            await asyncio.to_thread(self._speaker.runner.learn, await self._prompt(voice))
        self._speaker.engine.start()
        voice = self._config.voices.default if self._config.voices.default in ready else ready[0]
        self._state = GeneratorStatus(self._replica, "loading", "the warm-up sentence is being spoken")
        await asyncio.to_thread(self._speaker.warm_up, await self._prompt(voice))
        self._state = GeneratorStatus(
            self._replica,
            "ready",
            model=self._speaker.description,
            fingerprint=fingerprint,
            random_weights=self._speaker.random_weights,
            slots=self._config.engine.slots,
        )

    async def _prompt(self, voice: str) -> VoicePrompt:
        """A voice's prompt from this replica's memory, the store, or its reference clip.

        Raises:
            VoiceNotFoundError: there is no such voice, or it cannot be used; says why.
        """
        prompt = self._prompts.get(voice, time.monotonic())
        if prompt is not None:
            return prompt
        answer = await self._store.get(voice, self._speaker.fingerprint)
        if isinstance(answer, VoiceRefusal):
            raise VoiceNotFoundError(answer.message)
        if isinstance(answer, VoicePrompt):
            self._prompts.put(voice, answer, time.monotonic())
            return answer
        task = self._encoding.get(voice)
        if task is None:
            task = self._encoding[voice] = asyncio.create_task(self._encode(answer))
            task.add_done_callback(lambda _: self._encoding.pop(voice, None))
        return await asyncio.shield(task)

    async def _encode(self, reference: Reference) -> VoicePrompt:
        """Make a prompt and give it to everybody; one call for all who wait for the voice."""
        prompt = await asyncio.to_thread(self._speaker.encode, reference)
        self._prompts.put(reference.voice, prompt, time.monotonic())
        await self._store.put(prompt, self._speaker.fingerprint)
        return prompt

    def _status(self) -> GeneratorStatus:
        if self._state.state != "ready":
            return self._state
        load = self._speaker.engine.load
        return replace(self._state, running=load.running, waiting=load.waiting)

    async def _report_always(self) -> None:
        """Tell the store how it is, every second; a store that is away is told the next time."""
        while True:
            try:
                self._demand = await self._store.report(self._status())
            except RayError as error:
                self._demand = Demand()
                log.warning("the voice store did not take this replica's status: %s", error)
            except Exception:
                self._demand = Demand()
                log.exception("this replica's status was not reported; it is again in a second")
            await asyncio.sleep(REPORT_PERIOD_S)


def _load(config: AppConfig) -> "Speaker":
    """Import torch and load the model: about twelve seconds of imports, on a thread of its own."""
    from serve_app.model.factory import load_speaker  # noqa: PLC0415 - everybody else does without torch

    return load_speaker(config)


def _refused(refusal: SpeechError, request: SpeechRequest) -> SpeechEnd:
    delivered = 0 if request.delivered_codes is None else len(request.delivered_codes)
    return SpeechEnd("error", delivered, refusal.code, refusal.message, refusal.retry_after_ms)
