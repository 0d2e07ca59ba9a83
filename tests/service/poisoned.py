"""The application with generators that one text kills each time: ``poisoned:build_app`` in place of its own."""

import os
from collections.abc import AsyncGenerator

from ray import serve

from serve_app import app
from serve_app.config import AppConfig
from serve_app.deployments.generator import Generator
from serve_app.speech import SpeechEvent, SpeechRequest

POISON = "Poison."


class MortalGenerator(Generator):
    async def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechEvent, None]:
        if request.text == POISON:
            os._exit(1)
        async for event in super().speak(request):
            yield event


def build_app(args: AppConfig) -> serve.Application:
    app.Generator = MortalGenerator
    return app.build_app(args)
