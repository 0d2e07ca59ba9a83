"""Converses with a service as one of other projects' clients, and writes what was heard.

It runs in the environment of tests/clients.txt and imports nothing of this project but clients/. A conversation is a
sentence, a text token by token, a story that is interrupted at its first audio, and another sentence. The folder gets
the PCM of each.

Usage: other_clients.py CLIENT HOST KEY FOLDER
"""

import asyncio
import sys
from pathlib import Path

SENTENCE = "The door is open."
TOKENS = ["I will ", "call you ", "tomorrow. ", "They went ", "home ", "by train."]
STORY = "The old man told a long story of the sea and of the ships. " * 20
VOICE = "austen"
RATE_HZ = 24_000


class Heard:
    """PCM16 at 24 kHz."""

    def __init__(self):
        self.pcm = b""

    def add(self, pcm):
        self.pcm += pcm


def livekit_tts(client, host, key, session):
    """A TTS of LiveKit, which streams text."""
    if client == "livekit":
        from qwen3_tts_client.livekit import TTS

        return TTS(f"http://{host}", api_key=key, voice=VOICE)
    if client == "livekit-baseten":
        from livekit.plugins import baseten

        endpoint = f"ws://{host}/v1/audio/speech/stream"
        return baseten.TTS(
            model="qwen3-tts",
            model_endpoint=endpoint,
            api_key=key,
            voice=VOICE,
            word_timestamps=True,
            http_session=session,
        )
    if client == "livekit-deepgram":
        from livekit.plugins import deepgram

        return deepgram.TTS(model=VOICE, base_url=f"http://{host}/v1/speak", api_key=key, http_session=session)
    from livekit.agents import tts
    from livekit.plugins import openai

    return tts.StreamAdapter(tts=openai.TTS(base_url=f"http://{host}/v1", api_key=key, voice=VOICE))


async def livekit(client, host, key):
    import aiohttp
    from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT

    async with aiohttp.ClientSession() as session:
        tts = livekit_tts(client, host, key, session)
        sentence, tokens, story, after = Heard(), Heard(), Heard(), Heard()
        async for audio in tts.synthesize(SENTENCE):
            sentence.add(audio.frame.data.tobytes())

        async with tts.stream() as stream:

            async def write():
                for token in TOKENS:
                    stream.push_text(token)
                    await asyncio.sleep(0.01)
                stream.end_input()

            writing = asyncio.create_task(write())
            words = []
            async for audio in stream:
                tokens.add(audio.frame.data.tobytes())
                words += audio.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])
            await writing
        if client == "livekit-baseten":
            assert " ".join(words).split() == "".join(TOKENS).split()
            starts_s = [word.start_time for word in words]
            assert starts_s == sorted(starts_s)
            assert starts_s[0] < 1 < starts_s[-1] < len(tokens.pcm) / 2 / RATE_HZ

        stream = tts.stream()
        stream.push_text(STORY)
        stream.end_input()
        async for audio in stream:
            story.add(audio.frame.data.tobytes())
            break
        await stream.aclose()

        async with tts.stream() as stream:
            stream.push_text(SENTENCE)
            stream.end_input()
            async for audio in stream:
                after.add(audio.frame.data.tobytes())
        await tts.aclose()
        return sentence, tokens, story, after


def pipecat_service(client, host, key):
    """A TTS service of Pipecat."""
    if client == "pipecat":
        from pipecat.services.settings import TTSSettings

        from qwen3_tts_client.pipecat import Qwen3TTSService

        return Qwen3TTSService(f"http://{host}", api_key=key, settings=TTSSettings(voice=VOICE))
    if client == "pipecat-deepgram":
        from pipecat.services.deepgram.tts import DeepgramTTSService

        settings = DeepgramTTSService.Settings(voice=VOICE)
        return DeepgramTTSService(api_key=key, base_url=f"ws://{host}", sample_rate=RATE_HZ, settings=settings)
    from pipecat.services.openai.tts import OpenAITTSService

    return OpenAITTSService(base_url=f"http://{host}/v1", api_key=key)


async def pipecat(client, host, key):
    from pipecat.frames.frames import (
        EndFrame,
        ErrorFrame,
        InterruptionFrame,
        LLMFullResponseEndFrame,
        LLMFullResponseStartFrame,
        LLMTextFrame,
        TTSAudioRawFrame,
        TTSSpeakFrame,
        TTSStoppedFrame,
    )
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineWorker
    from pipecat.processors.frame_processor import FrameProcessor
    from pipecat.workers.runner import WorkerRunner

    class Listener(FrameProcessor):
        """Counts audio; ``began`` and ``stopped`` are of the text that is being spoken."""

        def __init__(self):
            super().__init__()
            self.heard = Heard()
            self.began = asyncio.Event()
            self.stopped = asyncio.Event()

        def next(self):
            self.heard = Heard()
            self.began.clear()
            self.stopped.clear()
            return self.heard

        async def process_frame(self, frame, direction):
            await super().process_frame(frame, direction)
            if isinstance(frame, ErrorFrame):
                raise SystemExit(frame.error)
            if isinstance(frame, TTSAudioRawFrame):
                self.heard.add(frame.audio)
                self.began.set()
            if isinstance(frame, TTSStoppedFrame):
                self.stopped.set()
            await self.push_frame(frame, direction)

    listener = Listener()
    worker = PipelineWorker(Pipeline([pipecat_service(client, host, key), listener]))
    runner = WorkerRunner()
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())

    async def say(*frames):
        heard = listener.next()
        await worker.queue_frames(list(frames))
        await asyncio.wait_for(listener.stopped.wait(), 60)
        return heard

    sentence = await say(TTSSpeakFrame(SENTENCE))
    tokens = await say(LLMFullResponseStartFrame(), *map(LLMTextFrame, TOKENS), LLMFullResponseEndFrame())
    story = listener.next()
    await worker.queue_frames([LLMFullResponseStartFrame(), LLMTextFrame(STORY), LLMFullResponseEndFrame()])
    await asyncio.wait_for(listener.began.wait(), 60)
    await worker.queue_frames([InterruptionFrame()])
    await asyncio.sleep(0.5)
    after = await say(TTSSpeakFrame(SENTENCE))
    await worker.queue_frames([EndFrame()])
    await asyncio.wait_for(running, 30)
    return sentence, tokens, story, after


async def openai(client, host, key):
    """OpenAI's library sends whole texts; it interrupts by closing the response."""
    from openai import AsyncOpenAI

    api = AsyncOpenAI(base_url=f"http://{host}/v1", api_key=key)

    async def say(text, at_most=float("inf")):
        heard = Heard()
        async with api.audio.speech.with_streaming_response.create(
            model="tts-1", voice=VOICE, input=text, response_format="pcm"
        ) as speech:
            async for pcm in speech.iter_bytes():
                heard.add(pcm)
                if len(heard.pcm) >= at_most:
                    break
        return heard

    return await say(SENTENCE), await say("".join(TOKENS)), await say(STORY, at_most=1), await say(SENTENCE)


async def deepgram(client, host, key):
    from deepgram import AsyncDeepgramClient
    from deepgram.environment import DeepgramClientEnvironment
    from deepgram.speak.v1.types import SpeakV1Text

    address = DeepgramClientEnvironment(
        base=f"http://{host}", production=f"ws://{host}", agent=f"ws://{host}", agent_rest=f"http://{host}"
    )
    api = AsyncDeepgramClient(api_key=key, environment=address)
    sentence, tokens, story, after = Heard(), Heard(), Heard(), Heard()
    async for pcm in api.speak.v1.audio.generate(
        text=SENTENCE, model=VOICE, encoding="linear16", container="none", sample_rate=RATE_HZ
    ):
        sentence.add(pcm)

    async with api.speak.v1.connect(model=VOICE, encoding="linear16", sample_rate=str(RATE_HZ)) as socket:

        async def hear(heard, until):
            while True:
                message = await asyncio.wait_for(socket.recv(), 60)
                if isinstance(message, bytes):
                    heard.add(message)
                elif message.type in (until, "Error"):
                    return message.type
                if until == "audio" and heard.pcm:
                    return until

        for token in TOKENS:
            await socket.send_text(SpeakV1Text(text=token))
        await socket.send_flush()
        assert await hear(tokens, "Flushed") == "Flushed"
        await socket.send_text(SpeakV1Text(text=STORY))
        await socket.send_flush()
        await hear(story, "audio")
        await socket.send_clear()
        assert await hear(story, "Cleared") == "Cleared"
        await socket.send_text(SpeakV1Text(text=SENTENCE))
        await socket.send_flush()
        assert await hear(after, "Flushed") == "Flushed"
        await socket.send_close()
    return sentence, tokens, story, after


CLIENTS = {
    "livekit": livekit,
    "pipecat": pipecat,
    "livekit-baseten": livekit,
    "livekit-deepgram": livekit,
    "livekit-openai": livekit,
    "pipecat-deepgram": pipecat,
    "pipecat-openai": pipecat,
    "openai": openai,
    "deepgram-sdk": deepgram,
}


def main(client, host, key, folder):
    heard = asyncio.run(CLIENTS[client](client, host, key))
    for name, one in zip(("sentence", "tokens", "story", "after"), heard, strict=True):
        (Path(folder) / f"{name}.pcm").write_bytes(one.pcm)


if __name__ == "__main__":
    main(*sys.argv[1:])
