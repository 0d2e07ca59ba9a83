"""One actor per application: its voices, and what its generators say of themselves.

The actor outlives every replica and comes back empty when its process dies; what it holds is read again from disk
or reported again within a second. It translates; the decisions are the library's and the fleet's.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from serve_app.config import VoicesConfig
from serve_app.deployments.backend import Readiness
from serve_app.deployments.fleet import Demand, Fleet, GeneratorStatus, IngressStatus, Room
from serve_app.user_cache import user_cache
from serve_app.voice_library import PromptFiles, VoiceLibrary, VoiceRefusal
from serve_app.voices import Reference, VoicePrompt, VoiceStatus

log = logging.getLogger(__name__)

ACTOR_NAME = "voice_store"

V = TypeVar("V")


def namespace_of(application: str) -> str:
    """Ray namespace of an application's own actors."""
    return f"tts-{application}"


class VoiceStore:
    """The actor's class."""

    def __init__(self, config: VoicesConfig) -> None:
        """Read the voices; also what happens, with the same configuration, whenever the actor is restarted."""
        self._config = config
        self._library = VoiceLibrary(config, PromptFiles(user_cache() / "voices"))
        self._fleet = Fleet()

    def config(self) -> VoicesConfig:
        """What it was started with; a store is never reconfigured, it is replaced."""
        return self._config

    def refresh(self) -> None:
        """Read the directory of voices again if it has changed."""
        self._library.refresh()

    def voices(self) -> list[VoiceStatus]:
        """Every voice, unavailable ones with their reason."""
        return self._library.voices()

    def pending(self, fingerprint: str) -> list[str]:
        """Voices that this model has not encoded yet."""
        return self._library.pending(fingerprint)

    def get(self, voice: str, fingerprint: str) -> VoicePrompt | Reference | VoiceRefusal:
        """A voice's prompt, or the reference to make it from, or why there is neither."""
        return self._library.get(voice, fingerprint, time.monotonic())

    def put(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """Keep a prompt that a generator has made."""
        self._library.put(prompt, fingerprint, time.monotonic())

    def report(self, status: GeneratorStatus) -> Demand:
        """Take a generator's status, and say what waits for all of them."""
        if status.fingerprint:
            self._library.serve(status.fingerprint)
        now_s = time.monotonic()
        self._fleet.report(status, now_s)
        return self._fleet.demand(now_s)

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

    def __init__(self, application: str, config: VoicesConfig) -> None:
        """Remember where the store is; :meth:`connect` comes before every other call."""
        self._application = application
        self._config = config
        self._actor: Any = None

    async def connect(self) -> None:
        """Find the application's store or start it; one with another configuration is replaced.

        Killing goes by actor, not by name, so that of several replicas which see the old store at the same time
        only the first replaces it and the others find the new one.
        """
        while True:
            actor: Any = self._find()
            try:
                if await actor.config.remote() == self._config:
                    await actor.refresh.remote()
                    self._actor = actor
                    return
                log.info("the voices' configuration has changed: replacing their store")
                ray.kill(actor, no_restart=True)
            except RayActorError:
                log.info("the voice store went away while it was asked for its configuration")
            await asyncio.sleep(0.1)

    async def voices(self) -> list[VoiceStatus]:
        """See :meth:`VoiceStore.voices`."""
        return await self._ask(lambda store: store.voices.remote())

    async def pending(self, fingerprint: str) -> list[str]:
        """See :meth:`VoiceStore.pending`."""
        return await self._ask(lambda store: store.pending.remote(fingerprint))

    async def get(self, voice: str, fingerprint: str) -> VoicePrompt | Reference | VoiceRefusal:
        """See :meth:`VoiceStore.get`."""
        return await self._ask(lambda store: store.get.remote(voice, fingerprint))

    async def put(self, prompt: VoicePrompt, fingerprint: str) -> None:
        """See :meth:`VoiceStore.put`."""
        await self._ask(lambda store: store.put.remote(prompt, fingerprint))

    async def report(self, status: GeneratorStatus) -> Demand:
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
        store: Any = ray.remote(VoiceStore)
        return store.options(
            name=ACTOR_NAME,
            namespace=namespace_of(self._application),
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=0,
        ).remote(self._config)
