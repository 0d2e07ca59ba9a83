"""The service with generators that need no model: they say a frame of one value every few milliseconds."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve

from serve_app.app import ingress_options, with_absolute_paths
from serve_app.cluster.registry import REPORT_PERIOD_S, GeneratorStatus
from serve_app.config import AppConfig
from serve_app.deployments.coordinator import CoordinatorClient
from serve_app.deployments.ingress import Ingress
from serve_app.speech import SAMPLES_PER_FRAME, AudioChunk, SpeechEnd, SpeechEvent, SpeechRequest

FRAME_S = 0.02
FRAMES_PER_CHARACTER = 5


class Tones:
    """Speaks as a generator does, and reports as one."""

    async def __init__(self, config: AppConfig) -> None:
        context = serve.get_replica_context()
        self._status = GeneratorStatus(context.replica_id.unique_id, "ready", model="tones", slots=20)
        self._coordinator = CoordinatorClient(context.app_name, config.voices, config.logs)
        await self._coordinator.connect()
        self._reporting = asyncio.create_task(self._report())

    async def _report(self) -> None:
        while True:
            await self._coordinator.report(self._status)
            await asyncio.sleep(REPORT_PERIOD_S)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        """So many frames for each character."""
        frames = FRAMES_PER_CHARACTER * len(request.text)
        for frame in range(frames):
            await asyncio.sleep(FRAME_S)
            yield AudioChunk(frame, np.zeros((1, 16), np.int16), np.full(SAMPLES_PER_FRAME, 0.25, np.float32))
        yield SpeechEnd("eos", frames)


def build_app(args: AppConfig) -> serve.Application:
    """The same ingress before them."""
    config = with_absolute_paths(args, Path.cwd())
    generator: Any = serve.deployment(Tones, name="Generator", ray_actor_options={"num_cpus": 0.1})
    ingress: Any = serve.deployment(Ingress, name="Ingress", **ingress_options(config))
    return ingress.bind(config, generator.options(max_ongoing_requests=20).bind(config))
