"""The coordinator: one actor per application that knows its replicas, their quotas, the demand, and the voices.

The actor outlives every replica. If its process dies, it restarts empty, reads the voices from disk again, and
receives the replicas' reports within a second. :class:`VoiceLibrary` and :class:`Fleet` make all decisions.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RaySystemError

from serve_app.cluster.registry import Demand, Fleet, GeneratorStatus, HeartbeatReply, IngressStatus, Quota, Readiness
from serve_app.config import LogsConfig, VoicesConfig
from serve_app.deployments.ray_metrics import RayRecorder
from serve_app.observability import metrics
from serve_app.observability.logging import join_serve_log
from serve_app.paths import user_cache
from serve_app.voices.library import UPLOADS, PromptFiles, VoiceInProgress, VoiceLibrary, VoiceRefusal
from serve_app.voices.voice import ImportedVoice, Reference, VoiceManifest, VoicePrompt, VoiceStatus

log = logging.getLogger(__name__)

ACTOR_NAME = "coordinator"

RECORD_PERIOD_S = 1.0
"""How often the coordinator's contents are recorded; each generator's report triggers a check."""

V = TypeVar("V")


def namespace_of(application: str) -> str:
    """Ray namespace of an application's own actors."""
    return f"tts-{application}"


def directory_of(application: str) -> str:
    """Directory name of an application: its name, with escapes for characters that a directory name cannot contain."""
    return quote(application, safe="").replace(".", "%2E") or "default"


class Coordinator:
    """The actor; :class:`CoordinatorClient` calls it."""

    def __init__(self, config: VoicesConfig, application: str, logs: LogsConfig | None = None) -> None:
        """Read the voices. Ray calls this again, with the same configuration, each time it restarts the actor.

        Each application's uploads are in a directory with the application's name.
        """
        if logs is not None:
            join_serve_log(logs, application=application, component="coordinator")
        self._config = config
        uploads = Path(config.uploads) if config.uploads else Path(config.path) / UPLOADS
        self._library = VoiceLibrary(config, PromptFiles(user_cache() / "voices"), uploads / directory_of(application))
        self._fleet = Fleet()
        self._recorder = RayRecorder(application=application)
        self._recorded_s = -math.inf
        log.info("the coordinator has %d voices", len(self._library.voices()))

    def config(self) -> VoicesConfig:
        """The configuration at the start. A coordinator is never reconfigured; it is replaced."""
        return self._config

    def refresh(self) -> None:
        """Read the voice directory again if it has changed."""
        self._library.refresh()

    def voices(self) -> list[VoiceStatus]:
        """All voices; an unavailable one carries the reason."""
        self._library.refresh(time.monotonic())
        return self._library.voices()

    def get(
        self, voice: str, fingerprint: str, replica: str, digest: str = ""
    ) -> VoicePrompt | Reference | ImportedVoice | VoiceInProgress | VoiceRefusal:
        """A voice's prompt, the reference to encode, or a refusal; see :meth:`VoiceLibrary.get`."""
        return self._library.get(voice, fingerprint, time.monotonic(), replica, digest)

    def put(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """Store a prompt that a generator encoded."""
        self._library.put(prompt, fingerprint, time.monotonic())

    def give_up(self, digest: str, fingerprint: str) -> None:
        """A generator could not encode a reference; another may try."""
        self._library.give_up(digest, fingerprint)

    def known(self, voice: str, digest: str) -> VoiceStatus | VoiceRefusal | None:
        """The answer to a client that wants to add this clip as ``voice``; None if it can be added."""
        return self._library.known(voice, digest)

    def add(self, voice: str, manifest: VoiceManifest, content: bytes) -> VoiceStatus | VoiceRefusal:
        """Store a voice permanently."""
        return self._library.add(voice, manifest, content)

    def remove(self, voice: str) -> VoiceRefusal | None:
        """Delete an uploaded voice; utterances that use it can finish."""
        return self._library.remove(voice, time.monotonic())

    def wav(self, voice: str) -> bytes | VoiceRefusal:
        """Return the clip of a voice as a WAV file."""
        return self._library.wav(voice)

    def exported(self, voice: str) -> bytes | VoiceRefusal:
        """Return a voice as a file for another service."""
        return self._library.exported(voice, time.monotonic())

    def report(self, status: GeneratorStatus) -> HeartbeatReply:
        """Record a generator's status; return the demand, the version of the voices and a voice to encode."""
        now_s = time.monotonic()
        self._fleet.report(status, now_s)
        self._library.release_leases([generator.replica for generator in self._fleet.generators(now_s)])
        self._library.refresh(now_s)
        self._measure(now_s)
        if status.fingerprint:
            self._library.serve(status.fingerprint, status.encoders)
        encode = self._library.unassigned(status.fingerprint, now_s) if status.state == "ready" else None
        return HeartbeatReply(self._fleet.demand(now_s), self._library.version, encode)

    def _measure(self, now_s: float) -> None:
        """Record the contents of the library, at most once a second: there may be a thousand voices to count."""
        if now_s - self._recorded_s < RECORD_PERIOD_S:
            return
        self._recorded_s = now_s
        states = Counter(status.state for status in self._library.voices())
        for state in ("ready", "pending", "unavailable"):
            self._recorder.set(metrics.VOICES, states[state], state=state)
        self._recorder.set(metrics.VOICE_STORE_BYTES, self._library.prompt_bytes)

    def share_load(self, status: IngressStatus) -> Quota:
        """Record an ingress's status; the reply says how many streams it may run, and which generators exist."""
        now_s = time.monotonic()
        self._fleet.report(status, now_s)
        return self._fleet.quota(status.replica, now_s)

    def demand(self) -> Demand:
        """The demand of all ingresses."""
        return self._fleet.demand(time.monotonic())

    def generators(self) -> list[GeneratorStatus]:
        """Generators that reported recently."""
        return self._fleet.generators(time.monotonic())

    def readiness(self) -> Readiness:
        """Whether a generator can speak."""
        return self._fleet.readiness(time.monotonic())


class CoordinatorClient:
    """Client of an application's coordinator, used by its replicas."""

    def __init__(self, application: str, config: VoicesConfig, logs: LogsConfig | None = None) -> None:
        """Store the parameters of the actor. Call :meth:`connect` before any other method."""
        self._application = application
        self._config = config
        self._logs = logs
        self._actor: Any = None

    async def connect(self) -> None:
        """Find the application's coordinator or start it; replace a coordinator that has another configuration.

        The old one is killed by its handle, not by its name. If several replicas see it at the same time, only the
        first one replaces it, and the others find the new one.
        """
        while True:
            try:
                actor: Any = self._find()
                if await actor.config.remote() == self._config:
                    await actor.refresh.remote()
                    self._actor = actor
                    return
                log.info("the configuration of the voices has changed, replacing the coordinator")
                ray.kill(actor, no_restart=True)
            except (RayActorError, RaySystemError) as error:
                log.info("the coordinator disappeared while its configuration was read: %r", error)
            await asyncio.sleep(0.1)

    async def voices(self) -> list[VoiceStatus]:
        """All voices; unavailable ones have a reason."""
        return await self._ask(lambda actor: actor.voices.remote())

    async def get(
        self, voice: str, fingerprint: str, replica: str, digest: str = ""
    ) -> VoicePrompt | Reference | ImportedVoice | VoiceInProgress | VoiceRefusal:
        """A voice for a generator: its prompt, or the reference to encode."""
        return await self._ask(lambda actor: actor.get.remote(voice, fingerprint, replica, digest))

    async def put(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """Store a prompt that this generator encoded."""
        await self._ask(lambda actor: actor.put.remote(prompt, fingerprint))

    async def give_up(self, digest: str, fingerprint: str) -> None:
        """This generator could not encode a reference; another may try."""
        await self._ask(lambda actor: actor.give_up.remote(digest, fingerprint))

    async def known(self, voice: str, digest: str) -> VoiceStatus | VoiceRefusal | None:
        """The answer to a client that wants to add this clip as ``voice``; None if it can be added."""
        return await self._ask(lambda actor: actor.known.remote(voice, digest))

    async def add(self, voice: str, manifest: VoiceManifest, content: bytes) -> VoiceStatus | VoiceRefusal:
        """Store a voice permanently."""
        return await self._ask(lambda actor: actor.add.remote(voice, manifest, content))

    async def remove(self, voice: str) -> VoiceRefusal | None:
        """Delete an uploaded voice; utterances that use it can finish."""
        return await self._ask(lambda actor: actor.remove.remote(voice))

    async def wav(self, voice: str) -> bytes | VoiceRefusal:
        """The clip of a voice as a WAV file."""
        return await self._ask(lambda actor: actor.wav.remote(voice))

    async def exported(self, voice: str) -> bytes | VoiceRefusal:
        """A voice as a file for another service."""
        return await self._ask(lambda actor: actor.exported.remote(voice))

    async def report(self, status: GeneratorStatus) -> HeartbeatReply:
        """Report a generator's status; the reply has the demand, the version of the voices and a voice to encode."""
        return await self._ask(lambda actor: actor.report.remote(status))

    async def share_load(self, status: IngressStatus) -> Quota:
        """Report an ingress's status; the reply says how many streams it may run."""
        return await self._ask(lambda actor: actor.share_load.remote(status))

    async def readiness(self) -> Readiness:
        """Whether a generator can speak."""
        return await self._ask(lambda actor: actor.readiness.remote())

    async def _ask(self, question: Callable[[Any], Awaitable[V]]) -> V:
        """Call the actor. While it restarts, Ray waits and retries by itself.

        A coordinator that was replaced is looked up by name, regardless of its configuration: a replica of an older
        version that finishes its streams must not replace the coordinator again.
        """
        try:
            return await question(self._actor)
        except RayActorError:
            self._actor = self._find()
            return await question(self._actor)

    def _find(self) -> ActorHandle[Coordinator]:
        """The application's coordinator; starts it if it does not exist.

        Raises:
            RaySystemError: the actor appeared or disappeared between the lookup and the start.
        """
        actor: Any = ray.remote(Coordinator)
        named = actor.options(
            name=ACTOR_NAME,
            namespace=namespace_of(self._application),
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=0,
        )
        try:
            return named.remote(self._config, self._application, self._logs)
        except ValueError as error:  # what Ray raises here, not one of its own error types
            raise RaySystemError(error) from error
