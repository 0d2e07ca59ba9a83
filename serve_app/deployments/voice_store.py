"""One actor per application: its voices, and what its generators say of themselves.

The actor outlives every replica and comes back empty when its process dies; what it holds is read again from disk
or reported again within a second. It translates; the decisions are the library's and the fleet's.
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

from serve_app.cluster.registry import Demand, Fleet, GeneratorStatus, HeartbeatReply, IngressStatus, Readiness, Room
from serve_app.config import LogsConfig, VoicesConfig
from serve_app.deployments.ray_metrics import RayRecorder
from serve_app.observability import metrics
from serve_app.observability.logging import join_serve_log
from serve_app.paths import user_cache
from serve_app.voices.library import UPLOADS, PromptFiles, VoiceInProgress, VoiceLibrary, VoiceRefusal
from serve_app.voices.voice import Reference, VoiceManifest, VoicePrompt, VoiceStatus

log = logging.getLogger(__name__)

ACTOR_NAME = "voice_store"

RECORD_PERIOD_S = 1.0
"""How often what it holds is recorded; every generator's report is an occasion."""

V = TypeVar("V")


def namespace_of(application: str) -> str:
    """Ray namespace of an application's own actors."""
    return f"tts-{application}"


def directory_of(application: str) -> str:
    """Name of an application's own directory: its own name, as far as it can be one."""
    return quote(application, safe="").replace(".", "%2E") or "default"


class VoiceStore:
    """The actor's class."""

    def __init__(self, config: VoicesConfig, application: str, logs: LogsConfig | None = None) -> None:
        """Read the voices; also what happens, with the same configuration, whenever the actor is restarted.

        What is uploaded to an application lies in a directory of its name, and is no other's.
        """
        if logs is not None:
            join_serve_log(logs, application=application, component="voice store")
        self._config = config
        uploads = Path(config.uploads) if config.uploads else Path(config.path) / UPLOADS
        self._library = VoiceLibrary(config, PromptFiles(user_cache() / "voices"), uploads / directory_of(application))
        self._fleet = Fleet()
        self._recorder = RayRecorder(application=application)
        self._recorded_s = -math.inf
        log.info("%d voices are in the store", len(self._library.voices()))

    def config(self) -> VoicesConfig:
        """What it was started with; a store is never reconfigured, it is replaced."""
        return self._config

    def refresh(self) -> None:
        """Read the directory of voices again if it has changed."""
        self._library.refresh()

    def voices(self) -> list[VoiceStatus]:
        """Every voice, unavailable ones with their reason."""
        self._library.refresh(time.monotonic())
        return self._library.voices()

    def get(
        self, voice: str, fingerprint: str, replica: str, digest: str = ""
    ) -> VoicePrompt | Reference | VoiceInProgress | VoiceRefusal:
        """A voice's prompt, or the reference to make it from, or why there is neither; see :meth:`VoiceLibrary.get`."""
        return self._library.get(voice, fingerprint, time.monotonic(), replica, digest)

    def put(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """Keep a prompt that a generator has made."""
        self._library.put(prompt, fingerprint, time.monotonic())

    def give_up(self, digest: str, fingerprint: str) -> None:
        """A generator could not encode a reference; another may try."""
        self._library.give_up(digest, fingerprint)

    def known(self, voice: str, digest: str) -> VoiceStatus | VoiceRefusal | None:
        """See :meth:`VoiceLibrary.known`."""
        return self._library.known(voice, digest)

    def add(self, voice: str, manifest: VoiceManifest, wav: bytes) -> VoiceStatus | VoiceRefusal:
        """See :meth:`VoiceLibrary.add`."""
        return self._library.add(voice, manifest, wav)

    def remove(self, voice: str) -> VoiceRefusal | None:
        """See :meth:`VoiceLibrary.remove`."""
        return self._library.remove(voice, time.monotonic())

    def wav(self, voice: str) -> bytes | VoiceRefusal:
        """See :meth:`VoiceLibrary.wav`."""
        return self._library.wav(voice)

    def report(self, status: GeneratorStatus) -> HeartbeatReply:
        """Take a generator's status, and say what waits for all of them, and what became of the voices."""
        now_s = time.monotonic()
        self._fleet.report(status, now_s)
        self._library.refresh(now_s)
        self._measure(now_s)
        if status.fingerprint:
            self._library.serve(status.fingerprint)
        encode = self._library.unassigned(status.fingerprint, now_s) if status.state == "ready" else None
        return HeartbeatReply(self._fleet.demand(now_s), self._library.version, encode)

    def _measure(self, now_s: float) -> None:
        """Record what the library holds, of which there may be a thousand voices to count."""
        if now_s - self._recorded_s < RECORD_PERIOD_S:
            return
        self._recorded_s = now_s
        states = Counter(status.state for status in self._library.voices())
        for state in ("ready", "pending", "unavailable"):
            self._recorder.set(metrics.VOICES, states[state], state=state)
        self._recorder.set(metrics.VOICE_STORE_BYTES, self._library.prompt_bytes)

    def share_load(self, status: IngressStatus) -> Room:
        """Take an ingress's status, and say how many streams it may have running, and whose."""
        now_s = time.monotonic()
        self._fleet.report(status, now_s)
        return self._fleet.room(status.replica, now_s)

    def demand(self) -> Demand:
        """See :meth:`Fleet.demand`."""
        return self._fleet.demand(time.monotonic())

    def generators(self) -> list[GeneratorStatus]:
        """Generators heard of lately."""
        return self._fleet.generators(time.monotonic())

    def readiness(self) -> Readiness:
        """Whether one of them can speak."""
        return self._fleet.readiness(time.monotonic())


class VoiceStoreClient:
    """An application's voice store as one of its replicas calls it."""

    def __init__(self, application: str, config: VoicesConfig, logs: LogsConfig | None = None) -> None:
        """Remember where the store is, and how it is to write; :meth:`connect` comes before every other call."""
        self._application = application
        self._config = config
        self._logs = logs
        self._actor: Any = None

    async def connect(self) -> None:
        """Find the application's store or start it; one with another configuration is replaced.

        Killing goes by actor, not by name, so that of several replicas which see the old store at the same time
        only the first replaces it and the others find the new one.
        """
        while True:
            try:
                actor: Any = self._find()
                if await actor.config.remote() == self._config:
                    await actor.refresh.remote()
                    self._actor = actor
                    return
                log.info("the voices' configuration has changed: replacing their store")
                ray.kill(actor, no_restart=True)
            except (RayActorError, RaySystemError) as error:
                log.info("the voice store went away while it was asked for its configuration: %r", error)
            await asyncio.sleep(0.1)

    async def voices(self) -> list[VoiceStatus]:
        """See :meth:`VoiceStore.voices`."""
        return await self._ask(lambda store: store.voices.remote())

    async def get(
        self, voice: str, fingerprint: str, replica: str, digest: str = ""
    ) -> VoicePrompt | Reference | VoiceInProgress | VoiceRefusal:
        """See :meth:`VoiceStore.get`."""
        return await self._ask(lambda store: store.get.remote(voice, fingerprint, replica, digest))

    async def put(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """See :meth:`VoiceStore.put`."""
        await self._ask(lambda store: store.put.remote(prompt, fingerprint))

    async def give_up(self, digest: str, fingerprint: str) -> None:
        """See :meth:`VoiceStore.give_up`."""
        await self._ask(lambda store: store.give_up.remote(digest, fingerprint))

    async def known(self, voice: str, digest: str) -> VoiceStatus | VoiceRefusal | None:
        """See :meth:`VoiceStore.known`."""
        return await self._ask(lambda store: store.known.remote(voice, digest))

    async def add(self, voice: str, manifest: VoiceManifest, wav: bytes) -> VoiceStatus | VoiceRefusal:
        """See :meth:`VoiceStore.add`."""
        return await self._ask(lambda store: store.add.remote(voice, manifest, wav))

    async def remove(self, voice: str) -> VoiceRefusal | None:
        """See :meth:`VoiceStore.remove`."""
        return await self._ask(lambda store: store.remove.remote(voice))

    async def wav(self, voice: str) -> bytes | VoiceRefusal:
        """See :meth:`VoiceStore.wav`."""
        return await self._ask(lambda store: store.wav.remote(voice))

    async def report(self, status: GeneratorStatus) -> HeartbeatReply:
        """See :meth:`VoiceStore.report`."""
        return await self._ask(lambda store: store.report.remote(status))

    async def share_load(self, status: IngressStatus) -> Room:
        """See :meth:`VoiceStore.share_load`."""
        return await self._ask(lambda store: store.share_load.remote(status))

    async def readiness(self) -> Readiness:
        """See :meth:`VoiceStore.readiness`."""
        return await self._ask(lambda store: store.readiness.remote())

    async def _ask(self, question: Callable[[Any], Awaitable[V]]) -> V:
        """Call the actor. Ray itself waits and tries again while it restarts.

        A store that was replaced is looked up by name, whatever its configuration: a replica of an older version
        that finishes its streams must not replace it back.
        """
        try:
            return await question(self._actor)
        except RayActorError:
            self._actor = self._find()
            return await question(self._actor)

    def _find(self) -> ActorHandle[VoiceStore]:
        """The application's store, started if there is none.

        Raises:
            RaySystemError: it came or went between two looks at its name.
        """
        store: Any = ray.remote(VoiceStore)
        named = store.options(
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
        except ValueError as error:  # Ray's word for it, and none of its own errors
            raise RaySystemError(error) from error
