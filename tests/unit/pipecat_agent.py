"""Converses with a service through the plugin for Pipecat, and prints what happened as JSON.

It runs in the environment of tests/clients.txt. Each conversation is a pipeline, as the tests of Pipecat's own services
run one (pipecat.tests.utils).

Usage: pipecat_agent.py HOST PROXY
"""

import asyncio
import base64
import json
import sys
import time

from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TextAggregationMode
from pipecat.utils.string import TextPartForConcatenation, concatenate_aggregated_text
from pipecat.workers.runner import WorkerRunner

from qwen3_tts_client.pipecat import Qwen3TTSService

TEXT = "The first sentence is here. Another one follows."
STORY = "A long story of the sea. " * 100
KINDS = {TTSStartedFrame: "started", TTSAudioRawFrame: "audio", TTSStoppedFrame: "stopped"}


class Listener(FrameProcessor):
    """Keeps what comes out of the service."""

    def __init__(self):
        super().__init__()
        self.kinds, self.pcm, self.words, self.contexts, self.errors = [], b"", [], [], []
        self.parts = []  # as Pipecat's aggregator of the conversation keeps them
        self.began, self.stopped = asyncio.Event(), asyncio.Semaphore(0)

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if kind := KINDS.get(type(frame)):
            self.contexts.append(frame.context_id)
            if self.kinds[-1:] != [kind]:
                self.kinds.append(kind)
        if isinstance(frame, TTSAudioRawFrame):
            assert (frame.sample_rate, frame.num_channels) == (24_000, 1)
            self.pcm += frame.audio
            self.began.set()
        if isinstance(frame, TTSTextFrame):
            self.words.append([frame.text, frame.pts])
            self.parts.append(TextPartForConcatenation(frame.text, frame.includes_inter_frame_spaces))
        if isinstance(frame, TTSStoppedFrame):
            self.stopped.release()
        await self.push_frame(frame, direction)

    def told(self):
        return {
            "kinds": self.kinds,
            "pcm": base64.b64encode(self.pcm).decode(),
            "words": self.words,
            "remembered": concatenate_aggregated_text(self.parts),
            "contexts": list(dict.fromkeys(self.contexts)),
            "errors": self.errors,
        }


class Conversation:
    """A pipeline with the service and a listener."""

    def __init__(self, url, **options):
        self.service = Qwen3TTSService(url, **options)
        self.listener = Listener()
        params = PipelineParams(audio_out_sample_rate=24_000)
        self.worker = PipelineWorker(Pipeline([self.service, self.listener]), params=params)

        @self.worker.event_handler("on_pipeline_error")
        async def on_error(worker, frame):
            self.listener.errors.append(frame.error)

    async def __aenter__(self):
        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        self._running = asyncio.create_task(runner.run())
        return self

    async def __aexit__(self, *failed):
        await self.worker.queue_frames([EndFrame()])
        await asyncio.wait_for(self._running, 30)

    async def say(self, *frames, stops=1):
        await self.worker.queue_frames(list(frames))
        for _ in range(stops):
            await asyncio.wait_for(self.listener.stopped.acquire(), 30)


def turn(text):
    """A turn as a language model writes it: three characters at a time."""
    tokens = [LLMTextFrame(text[begin : begin + 3]) for begin in range(0, len(text), 3)]
    return [LLMFullResponseStartFrame(), *tokens, LLMFullResponseEndFrame()]


async def heard(url, *frames, stops=1, **options):
    async with Conversation(url, **options) as conversation:
        await conversation.say(*frames, stops=stops)
    return conversation.listener.told()


async def interrupted(url):
    async with Conversation(url) as conversation:
        listener = conversation.listener
        await conversation.worker.queue_frames([LLMFullResponseStartFrame(), LLMTextFrame(STORY)])
        await asyncio.wait_for(listener.began.wait(), 30)
        begun_s = time.monotonic()
        await conversation.worker.queue_frames([InterruptionFrame()])
        while conversation.service.get_audio_contexts():  # noqa: ASYNC110 - Pipecat has no event for it
            await asyncio.sleep(0.01)
        took_s = time.monotonic() - begun_s
        await conversation.worker.queue_frames([LLMFullResponseStartFrame(), InterruptionFrame()])  # before any text
        await asyncio.sleep(0.3)
        listener.pcm, listener.kinds, listener.words, listener.parts = b"", [], [], []
        await conversation.say(*turn(TEXT))
    return listener.told() | {"took_s": took_s}


async def kept(url):
    """A text that must not be interrupted."""
    whole = TTSSpeakFrame(TEXT)
    whole.interruptible = False
    async with Conversation(url) as conversation:
        await conversation.worker.queue_frames([whole])
        await asyncio.wait_for(conversation.listener.began.wait(), 30)
        await conversation.say(InterruptionFrame())
    return conversation.listener.told()


async def corrected(url):
    """A voice that does not exist, and then one that does."""
    async with Conversation(url, settings=TTSSettings(voice="unknown")) as conversation:
        await conversation.say(TTSSpeakFrame(TEXT))
        await conversation.say(TTSUpdateSettingsFrame(delta=TTSSettings(voice="makima")), TTSSpeakFrame(TEXT))
    return conversation.listener.told()


async def main(host, proxy):
    whole = TTSSpeakFrame(TEXT)
    return {
        "whole": await heard(host, whole),
        "streamed": await heard(host, *turn(TEXT)),
        "sentences": await heard(host, *turn(TEXT), text_aggregation_mode=TextAggregationMode.SENTENCE),
        "outside a turn": await heard(host, TextFrame(TEXT)),
        "three": await heard(host, *(TTSSpeakFrame(f"Number {number}.") for number in "123"), stops=3),
        "within a turn": await heard(host, LLMFullResponseStartFrame(), whole, LLMFullResponseEndFrame()),
        "empty": await heard(host, *turn(""), stops=0),
        "nothing": await heard(host, TTSSpeakFrame("...")),
        "cut": await heard(f"{proxy}/cut-1", *turn(TEXT)),
        "chinese": await heard(host, *turn("今天天气很好。我们去公园吧。")),
        "words": await heard(f"{proxy}/words", *turn(TEXT), words=True),
        "interrupted": await interrupted(host),
        "kept": await kept(host),
        "corrected": await corrected(host),
    }


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
