"""The ingress deployment: runs the web application on top of Ray Serve's deployment handles.

It holds the handles, and translates the exceptions that they raise into the service's errors. The web application
handles sessions, text and audio; Serve and the engine decide when and where a stream runs.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Generic, TypeVar, cast

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.applications import Starlette

from serve_app.cluster.admission import Backlog
from serve_app.cluster.registry import IngressStatus, Readiness
from serve_app.cluster.retry import Resumption
from serve_app.config import AppConfig
from serve_app.deployments.coordinator import CoordinatorClient
from serve_app.deployments.ray_internals import (
    DRAIN_GRACE_S,
    INGRESS_PORTS,
    SHARES_SERVES_LOOP,
    STREAM_BY_VALUE,
    BoundedInbound,
    http_host,
)
from serve_app.deployments.ray_metrics import RayRecorder
from serve_app.errors import CapacityError, SpeechError, SynthesisError, TtsUnavailableError, error_of_code
from serve_app.hosts import PROXY_HOST
from serve_app.observability import metrics
from serve_app.observability.logging import join_serve_log
from serve_app.observability.metrics import Recorder
from serve_app.observability.tracing import NoTracer, Tracer, tracer_of
from serve_app.speech import AudioChunk, SpeechEnd, SpeechEvent, SpeechRequest
from serve_app.voices.library import VoiceRefusal
from serve_app.voices.voice import VoiceManifest, VoiceStatus
from serve_app.web.draining import Draining, HealthWatch
from serve_app.web.routes import build_web

log = logging.getLogger(__name__)

_RETRY_AFTER_MS = 1000
_STATUS_TTL_S = 1.0
_COORDINATOR_TIMEOUT_S = 2.0
_COORDINATOR_CHANGE_TIMEOUT_S = 20.0
"""Timeout of changes to voices. It is longer than that of reads, because the coordinator writes to a disk, which may be
a network disk."""

_ATTEMPTS = 2
"""Number of attempts to start a stream before a text's deadline: the first generator may have stalled unnoticed."""

V = TypeVar("V")


class CachedAnswer(Generic[V]):
    """Caches the result of a call for a second; concurrent callers share one call."""

    def __init__(self, ask: Callable[[], Awaitable[V]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._answer: V | None = None
        self._asked_s = 0.0

    async def get(self) -> V:
        """Return the result; return the previous one if the call fails now.

        Raises:
            TtsUnavailableError: the call fails, and there is no previous result.
        """
        async with self._asking:
            if self._answer is None or time.monotonic() - self._asked_s > _STATUS_TTL_S:
                try:
                    async with asyncio.timeout(_COORDINATOR_TIMEOUT_S):
                        self._answer = await self._ask()
                except (RayError, TimeoutError) as error:
                    log.warning("the coordinator does not answer: %r", error)
                self._asked_s = time.monotonic()
            if self._answer is None:
                raise TtsUnavailableError("the coordinator does not answer", retry_after_ms=_RETRY_AFTER_MS)
            return self._answer


class RayBackend:
    """Sends requests for speech to a generator handle, and everything else to the coordinator."""

    def __init__(
        self,
        config: AppConfig,
        generator: DeploymentHandle[Any],
        coordinator: CoordinatorClient,
        replica: str,
        recorder: Recorder,
    ) -> None:
        """Take the handles of one application, and the id of this ingress replica."""
        self._recorder = recorder
        self._config = config
        self._replica = replica
        self._coordinator = coordinator
        self._generator = generator.options(method_name="speak", **STREAM_BY_VALUE)
        self._readiness = CachedAnswer(coordinator.readiness)
        self._generators: frozenset[str] | None = None
        """Generators that report to the coordinator and are responsive; None before the coordinator has been asked."""
        self._stalled = set[str]()
        """Those of which a stream has stalled: they report, but their engine may be stuck. Streams avoid them."""

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        """Speak a text chunk on any generator; if its replica is lost, another one continues at the next frame."""
        held = Resumption(request)
        broken = False
        while True:
            try:
                async with aclosing(self._stream(held)) as events:
                    async for event in events:
                        if broken:
                            broken = False
                            otherwise = isinstance(event, AudioChunk) and held.has_other_rendering(event)
                            outcome = "resumed_otherwise" if otherwise else "resumed"
                            self._recorder.add(metrics.STREAMS_RESUMED, outcome=outcome)
                        if isinstance(event, AudioChunk):
                            held.add(event)
                        yield event
            except _StreamLostError as lost:
                broken, wait_s = True, held.count_interruption()
                if wait_s is None:
                    self._recorder.add(metrics.STREAMS_RESUMED, outcome="given_up")
                    log.warning("a stream was interrupted again after %d frames, giving up: %s", held.frames, lost)
                    raise SynthesisError("every generator that tried to speak this text was lost") from lost
                log.warning("a stream was interrupted after %d frames, retry in %.1f s: %s", held.frames, wait_s, lost)
                await asyncio.sleep(wait_s)
            except SpeechError:
                if broken:
                    self._recorder.add(metrics.STREAMS_RESUMED, outcome="given_up")
                raise
            else:
                return

    async def _stream(self, held: Resumption) -> AsyncGenerator[SpeechEvent, None]:
        """One stream on a generator, starting at the next frame.

        Raises:
            _StreamLostError: the generator's replica was lost.
            SpeechError: the stream did not start in time, or was refused.
        """
        begun = held.lost or held.request.begun or held.request.batch
        patience_s = self._config.admission.patience_s(begun=begun)
        until_s = time.monotonic() + patience_s
        stall_s = self._config.admission.stall_timeout_s
        while True:
            wait_s = 0.0
            expected = None if self._generators is None else self._generators - self._stalled
            request = replace(held.request, generators=expected)
            response = cast("DeploymentResponseGenerator[SpeechEvent]", self._generator.remote(request))
            try:
                event = await self._first(response, min(patience_s / _ATTEMPTS, until_s - time.monotonic()))
                while True:
                    yield event
                    if isinstance(event, SpeechEnd):
                        return
                    self._stalled.discard(event.generator)
                    event = await _next_within(response, stall_s)
            except _StreamStalledError:
                self._stalled.add(held.generator)
                raise
            except TimeoutError as error:
                if time.monotonic() >= until_s:
                    raise await self._too_late(patience_s) from error
                log.warning("a stream did not start within %.1f s, trying another generator", patience_s / _ATTEMPTS)
            except (CapacityError, TtsUnavailableError) as refusal:
                wait_s = (refusal.retry_after_ms or _RETRY_AFTER_MS) / 1000
                if not begun or time.monotonic() + wait_s >= until_s:
                    raise
            finally:
                # Without this, the remote generator would not stop, and the stream would keep its slot until it ends.
                response.cancel()
            await asyncio.sleep(wait_s)

    async def share_load(self, backlog: Backlog) -> int:
        """Report this replica's load to the cluster; return how many streams it may run at a time.

        While no generator is ready, the limit is the slots of one replica: the calls of these streams make Serve start
        a generator.
        """
        quota = await self._coordinator.share_load(IngressStatus(self._replica, backlog))
        self._generators = quota.generators
        self._stalled &= quota.generators
        return quota.streams or self._config.engine.slots

    async def voices(self) -> list[VoiceStatus]:
        """Return all voices; unavailable ones have a reason."""
        return await _answer_of(self._coordinator.voices())

    async def known_voice(self, voice: str, digest: str) -> VoiceStatus | None:
        """Return the voice with this id if it has the same clip; None if the voice can be added."""
        return await _answer_of(self._coordinator.known(voice, digest))

    async def add_voice(self, voice: str, manifest: VoiceManifest, content: bytes) -> VoiceStatus:
        """Store a voice permanently; a generator encodes it later."""
        return await _answer_of(self._coordinator.add(voice, manifest, content))

    async def remove_voice(self, voice: str) -> None:
        """Delete an uploaded voice; utterances that use it can finish."""
        await _answer_of(self._coordinator.remove(voice))

    async def voice_wav(self, voice: str) -> bytes:
        """Return the clip of a voice as a WAV file."""
        return await _answer_of(self._coordinator.wav(voice))

    async def exported_voice(self, voice: str) -> bytes:
        """Return a voice as a file for another service."""
        return await _answer_of(self._coordinator.exported(voice))

    async def readiness(self) -> Readiness:
        """Return the present state, which may be a second old; this does not use a slot."""
        try:
            return await self._readiness.get()
        except TtsUnavailableError as error:
            return Readiness(ready=False, detail=error.message)

    async def _first(self, response: DeploymentResponseGenerator[SpeechEvent], deadline_s: float) -> SpeechEvent:
        """Wait for a stream to start.

        Raises:
            TimeoutError: it did not start within the deadline.
            SpeechError: it was refused.
        """
        try:
            # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the event.
            async with asyncio.timeout(deadline_s):
                event = await _next(response)
        except BackPressureError as error:
            retry_ms = _RETRY_AFTER_MS if error.retry_after_s is None else round(error.retry_after_s * 1000)
            raise CapacityError("the queue for a generator is full", retry_after_ms=retry_ms) from error
        except DeploymentUnavailableError as error:
            log.warning("no generator accepted a stream: %r", error)
            raise TtsUnavailableError("no generator can be reached", retry_after_ms=_RETRY_AFTER_MS) from error
        if isinstance(event, SpeechEnd) and event.finish_reason == "error":
            raise error_of_code(event.code or SpeechError.code, event.message or "", event.retry_after_ms)
        return event

    async def _too_late(self, deadline_s: float) -> SpeechError:
        readiness = await self.readiness()
        if readiness.ready:
            waited = f"no generator had a free slot within {deadline_s:g} s"
            return CapacityError(waited, retry_after_ms=_RETRY_AFTER_MS)
        return TtsUnavailableError(f"no generator is ready: {readiness.detail}", retry_after_ms=_RETRY_AFTER_MS)


async def _answer_of(answer: Awaitable[V | VoiceRefusal]) -> V:
    """The coordinator's answer.

    Raises:
        SpeechError: the coordinator refuses, or does not answer.
    """
    try:
        async with asyncio.timeout(_COORDINATOR_CHANGE_TIMEOUT_S):
            given = await answer
    except (RayError, TimeoutError) as error:
        raise TtsUnavailableError("the coordinator does not answer", retry_after_ms=_RETRY_AFTER_MS) from error
    if isinstance(given, VoiceRefusal):
        raise error_of_code(given.code, given.message)
    return given


class _StreamLostError(Exception):
    """The stream's replica was lost or is stalled."""


class _StreamStalledError(_StreamLostError):
    """The stream's replica has sent nothing for too long."""


async def _next(response: DeploymentResponseGenerator[SpeechEvent]) -> SpeechEvent:
    """The next event of a stream.

    Raises:
        _StreamLostError: the replica was lost.
        SynthesisError: the generator raised an error.
    """
    try:
        return await anext(response)
    except RayTaskError as error:
        log.exception("a generator failed")
        raise SynthesisError("the generator failed") from error
    except RayError as error:
        raise _StreamLostError(repr(error)) from error


async def _next_within(response: DeploymentResponseGenerator[SpeechEvent], stall_s: float) -> SpeechEvent:
    """The next event of a running stream.

    Raises:
        _StreamLostError: the replica was lost; if it sent nothing for ``stall_s``, it is a _StreamStalledError.
        SynthesisError: the generator raised an error.
    """
    try:
        async with asyncio.timeout(stall_s):
            return await _next(response)
    except TimeoutError as error:
        raise _StreamStalledError(f"no event for {stall_s:g} s") from error


async def _listening() -> str | None:
    """The host that clients connect to; this replica's own socket is behind HAProxy and does not show it."""
    return os.environ.get(PROXY_HOST) or await http_host()


@serve.ingress()
class Ingress:
    """A replica that serves clients' connections."""

    _tracer: Tracer = NoTracer()

    async def __init__(self, config: AppConfig, generator: DeploymentHandle[Any]) -> None:
        """Connect to the application's coordinator and keep the handle of the generators."""
        context = serve.get_replica_context()
        replica = context.replica_id.unique_id
        join_serve_log(config.logs, application=context.app_name, deployment=context.deployment, replica=replica)
        coordinator = CoordinatorClient(context.app_name, config.voices, config.logs)
        await coordinator.connect()
        self._config = config
        self._listening = await _listening()
        self._recorder = RayRecorder()
        self._tracer = tracer_of(config.tracing, context.deployment, replica)
        self._backend = RayBackend(config, generator, coordinator, replica, self._recorder)

    def __del__(self) -> None:
        """Called by Serve before it kills the replica, when the replica has no open socket left."""
        self._tracer.close()

    def __serve_build_asgi_app__(self) -> Starlette:
        """Called by Serve after the constructor has returned."""
        if self._config.ingress.graceful_shutdown_timeout_s != DRAIN_GRACE_S:
            log.warning(
                "sockets stay open for %g s at a shutdown: RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S in"
                " the node's environment overrides ingress.graceful_shutdown_timeout_s, which is %g s",
                DRAIN_GRACE_S,
                self._config.ingress.graceful_shutdown_timeout_s,
            )
        draining = Draining(DRAIN_GRACE_S, time.monotonic)
        web = build_web(
            self._backend,
            self._config,
            recorder=self._recorder,
            tracer=self._tracer,
            listening=self._listening,
            draining=draining,
        )
        web.add_middleware(HealthWatch, draining=draining, ports=INGRESS_PORTS)
        if SHARES_SERVES_LOOP:
            web.add_middleware(BoundedInbound)
        else:
            log.warning("inbound data is not bounded: Serve runs without RAY_SERVE_THROUGHPUT_OPTIMIZED=1")
        return web
