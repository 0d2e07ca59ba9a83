"""The generator deployment: each replica has one engine, and passes events from the engine's thread to the event loop.

It translates between Serve's streaming calls and the engine. The engine decides what runs when. Only the constructor
imports torch, and not on the event loop.
"""

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError

from serve_app.audio.loudness import amplified, gain_of
from serve_app.audio.pcm import pcm_of
from serve_app.cluster.registry import REPORT_PERIOD_S, Demand, GeneratorStatus, HeartbeatReply
from serve_app.config import SAMPLE_RATE_HZ, AppConfig, EngineConfig, ScalingConfig
from serve_app.deployments.autoscaling_policy import ReplicaStats
from serve_app.deployments.coordinator import CoordinatorClient
from serve_app.deployments.ray_metrics import RayRecorder
from serve_app.deployments.router import VOICES
from serve_app.engine.scheduler import RIDE_ALONG_S
from serve_app.errors import SpeechError, SynthesisError, VoiceNotFoundError
from serve_app.observability.generator_metrics import GeneratorMetrics
from serve_app.observability.logging import join_serve_log
from serve_app.observability.observers import StreamObserver
from serve_app.observability.tracing import NoTracer, Tracer, tracer_of
from serve_app.speech import FRAME_S, SAMPLES_PER_FRAME, SpeechEnd, SpeechEvent, SpeechRequest, VoiceClip
from serve_app.startup import CHECK_AGAIN_S, SETTLE_S, NotYetError, Patience
from serve_app.voices.library import REMOVED_KEPT_S, VoiceRefusal
from serve_app.voices.voice import BoundedCache, ImportedVoice, Reference, VoicePrompt, VoiceStatus

if TYPE_CHECKING:
    from serve_app.model.factory import LoadedModel

log = logging.getLogger(__name__)

T = TypeVar("T")


MAX_ROUTED_VOICES = 100
"""Maximum number of voices that a replica reports to the routers every two seconds; it reports the most recently used
ones."""


ENCODING_RETRY_S = 30.0
"""How often a generator without a usable voice retries a voice that it could not encode."""

PROMPT_POLL_S = 0.1
"""How often to ask the coordinator for a voice that another replica is encoding."""


class EventQueue:
    """Passes the events of one stream from the engine's thread to the event loop.

    The engine pauses a stream whose audio is not consumed, so the queue stays bounded. If it overflows nevertheless,
    the stream ends with an error.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_events: int) -> None:
        self._loop = loop
        self._events: asyncio.Queue[SpeechEvent] = asyncio.Queue(max_events)
        self._overflown = False

    def deliver(self, event: SpeechEvent) -> None:
        """Called on the engine's thread; never blocks."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the replica is shutting down
            self._loop.call_soon_threadsafe(self._accept, event)

    async def get(self) -> SpeechEvent:
        """The next event; no event follows a :class:`SpeechEnd`."""
        if self._overflown and self._events.empty():
            return SpeechEnd("error", 0, SynthesisError.code, "the engine ran too far ahead of its listener")
        return await self._events.get()

    def _accept(self, event: SpeechEvent) -> None:
        if self._overflown or self._events.full():
            self._overflown = True
        else:
            self._events.put_nowait(event)


def max_queued_events(engine: EngineConfig) -> int:
    """Maximum number of events that an engine can deliver before it pauses a stream.

    That is at most one per frame, and the end. A paused stream still decodes the frames that it has already sampled.
    """
    return math.ceil((engine.max_lead_s + RIDE_ALONG_S) / FRAME_S) + 2 * engine.audio_chunk_max_frames + 1


class Generator:
    """A replica that speaks text chunks."""

    _tracer: Tracer = NoTracer()
    _rendering = ""
    """Model, number formats and kind of processor, for :class:`AudioChunk`."""

    async def __init__(self, config: AppConfig) -> None:
        """Load the model, encode pending voices and speak a warm-up sentence; then the replica is ready.

        If something is missing, it waits up to ``generator.startup_wait_s``. Serve does not limit the time of a
        constructor, and can stop a replica while its constructor waits. Serve gives up on an application whose
        replicas fail to start three times.

        Raises:
            RuntimeError: the checkpoint or a voice is not available; the message says what to do.
        """
        began_s = time.monotonic()
        context = serve.get_replica_context()
        replica = context.replica_id.unique_id
        join_serve_log(config.logs, application=context.app_name, deployment=context.deployment, replica=replica)
        self._tracer = tracer_of(config.tracing, context.deployment, replica)
        self._metrics = GeneratorMetrics(RayRecorder(), config.engine.slots)
        self._config = config
        self._scaling = config.scaling
        self._demand = Demand()
        self._replica = replica
        self._prompts: BoundedCache[str, VoicePrompt] = BoundedCache(
            config.engine.voice_cache_bytes, lambda prompt: prompt.nbytes, min(config.voices.ttl_s, REMOVED_KEPT_S)
        )
        """Prompts by the clip's digest: those of the library's voices, including earlier clips, and of inline clips."""
        self._digests: dict[str, str] = {}
        """The digest of each voice id's current clip; cleared when the voices change."""
        self._voices = ""
        self._fetching: dict[str, asyncio.Task[VoicePrompt]] = {}
        self._background = ThreadPoolExecutor(1, "background", lower_priority)
        self._marking = ThreadPoolExecutor(1, "watermark")
        self._state = GeneratorStatus(self._replica, "loading", "looking for the model's files")
        self._coordinator = CoordinatorClient(context.app_name, config.voices, config.logs)
        await self._coordinator.connect()
        self._reporting = asyncio.create_task(self._report_always())
        try:
            patience = Patience(config.generator.startup_wait_s, began_s)
            directory = await self._when_there(
                patience, lambda: self._in_background(_locate, config, SETTLE_S * patience.waited)
            )
            self._state = GeneratorStatus(self._replica, "loading", "loading the model")
            self._model = await self._when_there(patience, lambda: self._in_background(_load, config, directory))
            self._rendering = self._model.rendering
            voices = await self._when_there(patience, self._preload_voices)
            await self._warm_up(voices)
        except Exception as error:
            self._state = GeneratorStatus(self._replica, "failed", str(error))
            await self._coordinator.report(self._state)
            raise
        self._metrics.loaded({"model": config.model.source, **self._model.labels}, time.monotonic() - began_s)
        await self._coordinator.report(self._status())

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        """Speak one text chunk: yields audio chunks as they are made, and one end last.

        If the request is refused, the end carries the error code. Closing or cancelling the generator cancels the
        stream, which frees its slot within a frame.
        """
        observer = StreamObserver(self._metrics, self._tracer, request, time.monotonic)
        try:
            async with contextlib.aclosing(self._speak(request, observer)) as events:
                async for event in events:
                    observer.produced(event)
                    yield event
        except Exception:
            observer.crashed()
            raise
        finally:
            observer.close()

    async def _speak(self, request: SpeechRequest, observer: StreamObserver) -> AsyncGenerator[SpeechEvent, None]:
        began_s = time.monotonic()
        events = EventQueue(asyncio.get_running_loop(), max_queued_events(self._config.engine))
        try:
            prompt = await (
                self._prompt(request.voice, request.voice_digest)
                if request.clip is None
                else self._prompt_of(request.clip)
            )
            prepared = await asyncio.to_thread(self._model.runner.prepare, request, prompt)
            prompt_s = time.monotonic() - began_s
            gain = gain_of(prompt.loudness, request.loudness_lufs)
            marked = self._mark_from()
            observer.prepared()
            stream = self._model.engine.submit(prepared, events.deliver)
        except SpeechError as refusal:
            yield _refused(refusal, request)
            return
        if request.rendering not in ("", self._rendering):
            log.warning(
                "a stream that began on [%s] resumes on [%s]: samples may differ from frame %d on",
                request.rendering,
                self._rendering,
                0 if request.delivered_codes is None else len(request.delivered_codes),
            )
        try:
            while True:
                event = await events.get()
                if isinstance(event, SpeechEnd):
                    yield event
                    return
                if event.timings_s:
                    event.timings_s["prompt"] = prompt_s
                pcm = await marked(amplified(event.pcm, gain))
                yield replace(
                    event,
                    pcm=pcm,
                    voice_digest=prompt.digest,
                    rendering=self._rendering,
                    generator=self._replica,
                )
                stream.consumed(len(event.codes))
        finally:
            stream.cancel()

    def _mark_from(self) -> Callable[[NDArray[np.float32]], Awaitable[NDArray[np.float32]]]:
        """Return what adds the watermark to the samples of a new stream; without a watermark it changes nothing."""
        watermark = self._model.watermark
        states = [] if watermark is None else watermark.begin()

        async def marked(pcm: NDArray[np.float32]) -> NDArray[np.float32]:
            if watermark is None:
                return pcm
            return await asyncio.get_running_loop().run_in_executor(self._marking, watermark.mark, pcm, states)

        return marked

    def __del__(self) -> None:
        """Called by Serve before it kills the replica, after its last request has ended."""
        self._tracer.close()

    async def check_health(self) -> None:
        """Called by Serve; if this raises, Serve replaces the replica."""
        if not self._model.engine.healthy:
            raise RuntimeError("several engine steps failed in a row, one is stuck, or the engine's thread has ended")

    def record_routing_stats(self) -> dict[str, list[str]]:
        """Called by Serve; every handle receives the result soon after."""
        # A replica counts as holding a voice if it has the codec's state after the clip, which takes long to compute; a
        # prompt alone is fetched quickly.
        known = self._model.runner.known_voices
        ids: dict[str, list[str]] = {}
        for voice, digest in self._digests.items():
            ids.setdefault(digest, []).append(voice)
        # An inline clip has no id and is routed by its digest.
        voices = [name for digest in self._prompts if digest in known for name in ids.get(digest, [digest])]
        return {VOICES: voices[-MAX_ROUTED_VOICES:]}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Called by Serve with the deployment's ``user_config``: ``scaling`` settings that change at run time."""
        try:
            self._scaling = ScalingConfig.model_validate({**self._config.scaling.model_dump(), **user_config})
        except ValidationError as error:
            log.warning("user_config is invalid; the scaling settings stay as they are (%s): %s", self._scaling, error)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve about twice a second; :mod:`serve_app.deployments.autoscaling_policy` reads the result."""
        engine = self._model.engine
        load, playback = engine.load, engine.playback
        return ReplicaStats(
            running=load.running,
            waiting=load.waiting,
            stream_s=engine.stream_s,
            listeners=playback.listeners,
            late=playback.late,
            slack_s=playback.slack_s,
            waiting_before=self._demand.waiting,
            waiting_before_s=self._demand.waiting_s,
            arrivals_hz=self._demand.arrivals_hz,
        ).numbers(self._scaling)

    async def _when_there(self, patience: Patience, attempt: Callable[[], Awaitable[T]]) -> T:
        """Retry ``attempt`` until nothing is missing; in the meantime, log what is missing.

        Raises:
            RuntimeError: the wait exceeded its limit, or ``attempt`` found a problem that waiting cannot solve.
        """
        while True:
            try:
                return await attempt()
            except NotYetError as missing:
                pause = patience.pause(missing, time.monotonic())
                if pause is None:
                    raise RuntimeError(patience.ended(missing)) from missing
                if pause.say:
                    log.warning("not ready: this generator %s", missing.waiting)
                self._state = GeneratorStatus(self._replica, "loading", missing.waiting)
            await asyncio.sleep(pause.seconds)

    async def _in_background(self, work: Callable[..., T], *arguments: object) -> T:
        """Run on the low-priority thread, so that a replica that starts does not slow down those that speak."""
        return await asyncio.get_running_loop().run_in_executor(self._background, work, *arguments)

    async def _preload_voices(self) -> list[str]:
        """Encode pending voices and load all usable voices onto the device; returns their ids.

        Raises:
            NotYetError: there is no usable voice yet.
            RuntimeError: no voice can appear, because the parent of the voice directory does not exist.
        """
        ready: list[str] = []
        refused: dict[str, str] = {}
        statuses = await self._coordinator.voices()
        for status in sorted(statuses, key=_is_uploaded):
            # There may be a thousand uploaded voices, and none of them is encoded for a new model, so they are encoded
            # later.
            if status.state == "unavailable" or (ready and _is_uploaded(status)):
                continue
            self._state = GeneratorStatus(self._replica, "loading", "encoding voices")
            try:
                await asyncio.to_thread(self._model.runner.preload, await self._prompt(status.voice))
                ready.append(status.voice)
            except SpeechError as refusal:
                log.warning("voice %s cannot be used: %s", status.voice, refusal)
                refused[status.voice] = refusal.message
        if not ready:
            reasons = {status.voice: status.reason for status in statuses} | refused
            raise missing_voices(
                Path(self._config.voices.path), reasons, ENCODING_RETRY_S if refused else CHECK_AGAIN_S
            )
        return ready

    async def _warm_up(self, ready: list[str]) -> None:
        """Speak a real sentence in one of the voices."""
        self._model.engine.start()
        voice = self._config.voices.default if self._config.voices.default in ready else ready[0]
        self._state = GeneratorStatus(self._replica, "loading", "speaking the warm-up sentence")
        await asyncio.to_thread(self._model.warm_up, await self._prompt(voice))
        await self._mark_from()(np.zeros(SAMPLES_PER_FRAME, np.float32))
        self._state = GeneratorStatus(
            self._replica,
            "ready",
            model=self._model.description,
            fingerprint=self._model.fingerprint,
            encoders=self._model.encoders,
            weights=self._model.weights,
            slots=self._config.engine.slots,
        )

    async def _prompt(self, voice: str, digest: str = "") -> VoicePrompt:
        """A voice's prompt, from this replica's memory, from the coordinator, or encoded from its reference clip.

        Args:
            voice: the voice's id.
            digest: digest of the required clip; empty for the current clip.

        Raises:
            VoiceNotFoundError: the voice does not exist or cannot be used; the message says why.
        """
        prompt = self._prompts.get(digest or self._digests.get(voice, ""), time.monotonic())
        if prompt is not None:
            return prompt
        return await self._once(self._key_of(voice, digest), lambda: self._fetch(voice, digest))

    def _key_of(self, voice: str, digest: str = "") -> str:
        """The key under which a voice is fetched; for its current clip, another one after each change of the voices.

        A caller must not join the fetch of a clip that has been replaced. The slash makes the key differ from that of
        an inline clip, which is its digest.
        """
        return f"{voice}/{digest or self._voices}"

    async def _prompt_of(self, clip: VoiceClip) -> VoicePrompt:
        """The prompt of an inline clip; it is kept only in this replica, not in the coordinator."""
        return self._prompts.get(clip.digest, time.monotonic()) or await self._once(
            clip.digest, lambda: self._encode_inline(clip)
        )

    async def _once(self, key: str, work: Callable[[], Coroutine[Any, Any, VoicePrompt]]) -> VoicePrompt:
        """Run the work once for all concurrent callers; it continues even if all of them are cancelled."""
        task = self._fetching.get(key)
        if task is None:
            task = self._fetching[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._fetched(key, done))
        return await asyncio.shield(task)

    def _fetched(self, key: str, done: "asyncio.Task[VoicePrompt]") -> None:
        del self._fetching[key]
        if not done.cancelled() and done.exception() is not None:  # retrieved, so that asyncio does not report it
            log.info("voice %s: %s", key, done.exception())

    async def _fetch(self, voice: str, digest: str = "") -> VoicePrompt:
        """Ask the coordinator until it returns the prompt, or assigns the reference to this replica for encoding."""
        fingerprint = self._model.fingerprint
        while True:
            voices = self._voices
            answer = await self._coordinator.get(voice, fingerprint, self._replica, digest)
            if isinstance(answer, VoiceRefusal):
                raise VoiceNotFoundError(answer.message)
            if isinstance(answer, VoicePrompt):
                prompt = answer
                break
            if isinstance(answer, (Reference, ImportedVoice)):
                prompt = await self._encode_for_all(answer, fingerprint)
                break
            await asyncio.sleep(PROMPT_POLL_S)
        self._prompts.put(prompt.digest, prompt, time.monotonic())
        if not digest and voices == self._voices:  # if the voices have changed, the id may have another clip by now
            self._digests[voice] = prompt.digest
        return prompt

    async def _encode_for_all(self, reference: Reference | ImportedVoice, fingerprint: str) -> VoicePrompt:
        try:
            imported = isinstance(reference, ImportedVoice)
            prompt = self._model.accept(reference) if imported else await self._encode(reference)
        except BaseException:
            await self._coordinator.give_up(reference.digest, fingerprint)
            raise
        await self._coordinator.put(prompt, fingerprint)
        return prompt

    async def _encode_inline(self, clip: VoiceClip) -> VoicePrompt:
        reference = Reference(clip.digest, pcm_of(clip.pcm16), SAMPLE_RATE_HZ, clip.transcript, clip.digest)
        prompt = await self._encode(reference)
        self._prompts.put(clip.digest, prompt, time.monotonic())
        return prompt

    async def _encode(self, reference: Reference) -> VoicePrompt:
        """Encode a prompt on the low-priority thread, so that it does not slow down running streams."""
        began_s = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            prompt = await loop.run_in_executor(self._background, self._model.encode, reference)
        except Exception as error:
            log.exception("voice %s could not be encoded", reference.voice)
            raise SynthesisError(f"the voice could not be encoded: {type(error).__name__}") from error
        self._metrics.encoded(time.monotonic() - began_s)
        log.info(
            "voice %s: encoded %.1f s of clip at %.1f LUFS in %.2f s into %d bytes",
            reference.voice,
            len(reference.pcm) / reference.sample_rate_hz,
            prompt.loudness.lufs,
            time.monotonic() - began_s,
            prompt.nbytes,
        )
        return prompt

    def _apply(self, reply: HeartbeatReply) -> None:
        """Look up the voices again if any has changed, and encode the voice that the coordinator assigns, if any."""
        self._demand = reply.demand
        if reply.voices != self._voices:
            self._voices = reply.voices
            self._digests.clear()
        self._prompts.expire(time.monotonic())  # some may be prompts of removed voices, which nothing looks up any more
        waiting = reply.encode
        if waiting is not None and not self._fetching:
            # No caller waits for it here, so a failure is only logged.
            key = self._key_of(waiting)
            task = self._fetching[key] = asyncio.create_task(self._fetch(waiting))
            task.add_done_callback(lambda done: self._fetched(key, done))

    def _status(self) -> GeneratorStatus:
        if self._state.state != "ready":
            return self._state
        engine = self._model.engine
        load = engine.load
        return replace(self._state, running=load.running, waiting=load.waiting, responsive=engine.responsive)

    def _measure(self) -> None:
        """Pass the counts since the last call to the metrics."""
        if self._state.state != "ready":
            return
        runner = self._model.runner
        self._metrics.engine(self._model.engine, runner.graph_fallbacks)
        self._metrics.caches({"prompt": self._prompts, "state": runner.voice_states})

    async def _report_always(self) -> None:
        """Report to the coordinator every second; if the coordinator is down, try again at the next report."""
        while True:
            try:
                self._measure()
                self._apply(await self._coordinator.report(self._status()))
            except RayError as error:
                self._demand = Demand()
                self._metrics.coordinator_failed()
                log.warning("the coordinator did not accept this replica's status: %s", error)
            except Exception:
                self._demand = Demand()
                self._metrics.coordinator_failed()
                log.exception("could not report this replica's status; trying again in a second")
            await asyncio.sleep(REPORT_PERIOD_S)


def _is_uploaded(status: VoiceStatus) -> bool:
    return status.manifest is not None and status.manifest.upload is not None


def lower_priority() -> None:
    """Give the calling thread, and threads that it starts, the lowest priority; Linux has a priority per thread.

    Ray's workers run at niceness 15, so this thread still gets about a third of a core next to a loaded engine.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def missing_voices(path: Path, reasons: Mapping[str, str], check_again_s: float = CHECK_AGAIN_S) -> RuntimeError:
    """Return the error of a generator that has no voice.

    The generator waits for voices, unless the parent of the voice directory does not exist.

    Args:
        path: the directory of voices.
        reasons: why each existing voice cannot be used, by id.
        check_again_s: seconds until the next attempt.
    """
    try:
        why = "no directory in it has a manifest.json" if any(path.iterdir()) else "it is empty"
    except FileNotFoundError:
        if not path.parent.exists():
            return RuntimeError(f"there is no directory {path}, and its parent directory does not exist either")
        why = "there is no such directory"
    except OSError as error:
        why = f"it cannot be read ({error.strerror})"
    each = "; ".join(f"{voice}: {reason}" for voice, reason in reasons.items())
    return NotYetError(f"a usable voice below {path}", each or why, check_again_s=check_again_s)


def _locate(config: AppConfig, settle_s: float) -> Path | None:
    """Find the model's files, or fetch them."""
    from serve_app.model.locate import locate  # noqa: PLC0415 - only generators need it

    return locate(config.model, settle_s)


def _load(config: AppConfig, directory: Path | None) -> "LoadedModel":
    """Import torch, which takes about twelve seconds, and load the model; never call this on the event loop."""
    from serve_app.model.factory import load_model  # noqa: PLC0415 - only a generator imports torch

    return load_model(config, directory)


def _refused(refusal: SpeechError, request: SpeechRequest) -> SpeechEnd:
    delivered = 0 if request.delivered_codes is None else len(request.delivered_codes)
    return SpeechEnd("error", delivered, refusal.code, refusal.message, refusal.retry_after_ms)
