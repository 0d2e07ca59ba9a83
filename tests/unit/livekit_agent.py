"""Converses with a service through the plugin for LiveKit Agents, and prints what happened as JSON.

It runs in the environment of tests/clients.txt. It does what the tests of LiveKit's own plugins do with theirs
(tests/test_tts.py of livekit/agents), and interrupts, resumes and reads the transcript.

Usage: livekit_agent.py HOST PROXY
"""

import asyncio
import base64
import json
import socket
import sys
import time

from livekit.agents import Agent, AgentSession, APIConnectOptions, APIError, APITimeoutError
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT, TimedString
from livekit.agents.utils import is_given
from livekit.agents.voice import io

from qwen3_tts_client.livekit import TTS

TEXT = "The first sentence is here. Another one follows."
ONCE = APIConnectOptions(max_retry=0, timeout=5)


class Counted:
    """A TTS that counts its errors and its metrics."""

    def __init__(self, url, **options):
        self.tts = TTS(url, **options)
        self.errors, self.metrics = [], []
        self.tts.on("error", self.errors.append)
        self.tts.on("metrics_collected", self.metrics.append)

    def told(self):
        return {
            "errors": [str(event.error) for event in self.errors],
            "recoverable": [event.recoverable for event in self.errors],
            "metrics": [[one.characters_count, one.audio_duration, one.ttfb] for one in self.metrics],
        }


async def events(stream):
    """What the tests of LiveKit look at in each event of a stream."""
    found, pcm, timed = [], b"", []
    async for audio in stream:
        frame = audio.frame
        found.append([audio.request_id, audio.segment_id, audio.is_final, frame.duration])
        pcm += frame.data.tobytes()
        assert (frame.sample_rate, frame.num_channels) == (24_000, 1)
        timed += [
            [
                text,
                text.start_time if is_given(text.start_time) else None,
                text.end_time if is_given(text.end_time) else None,
            ]
            for text in frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])
        ]
    return {"events": found, "pcm": base64.b64encode(pcm).decode(), "timed": timed}


async def whole(url, text=TEXT, **options):
    counted = Counted(url, **options)
    async with counted.tts.synthesize(text, conn_options=ONCE) as stream:
        heard = await events(stream)
    await counted.tts.aclose()
    return heard | counted.told()


async def streamed(url, text=TEXT, **options):
    """A text as a language model writes it: three characters at a time."""
    counted = Counted(url, **options)
    async with counted.tts.stream(conn_options=ONCE) as stream:

        async def write():
            for begin in range(0, len(text), 3):
                stream.push_text(text[begin : begin + 3])
                await asyncio.sleep(0.005)
            stream.flush()
            stream.end_input()

        writing = asyncio.create_task(write())
        heard = await events(stream)
        await writing
    await counted.tts.aclose()
    return heard | counted.told()


async def interrupted(url):
    tts = TTS(url)
    stream = tts.stream()
    stream.push_text("A long story of the sea. " * 100)
    async for _ in stream:
        break
    begun_s = time.monotonic()
    await stream.aclose()
    took_s = time.monotonic() - begun_s
    await tts.aclose()
    return took_s


async def failing(counted, retries, timeout_s, stream):
    """Seconds until a text failed, and with which error."""
    options = APIConnectOptions(max_retry=retries, timeout=timeout_s, retry_interval=0.0)
    begun_s = time.monotonic()
    try:
        if stream:
            async with counted.tts.stream(conn_options=options) as growing:
                growing.push_text(TEXT)
                growing.end_input()
                await events(growing)
        else:
            async with counted.tts.synthesize(TEXT, conn_options=options) as complete:
                await events(complete)
    except APITimeoutError:
        error = "timeout"
    except APIError as failed:
        error = str(failed)
    else:
        error = None
    await counted.tts.aclose()
    return {"error": error, "took_s": time.monotonic() - begun_s, **counted.told()}


class Speaker(io.AudioOutput):
    """Plays everything at once."""

    def __init__(self):
        super().__init__(label="speaker", capabilities=io.AudioOutputCapabilities(pause=False), sample_rate=24_000)
        self.played_s = 0.0

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        if self.played_s == 0:
            self.on_playback_started(created_at=time.time())
        self.played_s += frame.duration

    def flush(self):
        super().flush()
        self.on_playback_finished(playback_position=self.played_s, interrupted=False)

    def clear_buffer(self):
        pass


class Transcript(io.TextOutput):
    """Keeps what an agent shows."""

    def __init__(self):
        super().__init__(label="transcript", next_in_chain=None)
        self.shown = []

    async def capture_text(self, text):
        self.shown.append([text, text.start_time if isinstance(text, TimedString) else None])

    def flush(self):
        pass


async def agent(url):
    """What an agent shows and remembers of what it says."""
    session = AgentSession(tts=TTS(url), use_tts_aligned_transcript=True)
    session.output.audio, session.output.transcription = Speaker(), Transcript()
    await session.start(Agent(instructions=""))
    await session.say(TEXT)
    told = {
        "shown": session.output.transcription.shown,
        "played_s": session.output.audio.played_s,
        "remembered": [item.text_content for item in session.history.items if item.type == "message"],
    }
    await session.aclose()
    return told


async def main(host, proxy):
    with socket.socket() as silent:  # accepts connections, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        nowhere = f"http://127.0.0.1:{silent.getsockname()[1]}"
        timeouts = [
            await failing(Counted(nowhere), retries, timeout_s, stream)
            for stream in (False, True)
            for retries, timeout_s in ((0, 1.0), (3, 0.3))
        ]
    return {
        "whole": await whole(host),
        "streamed": await streamed(host),
        "empty": await streamed(host, ""),
        "nothing": await whole(host, "..."),
        "cut": await streamed(f"{proxy}/cut-1"),
        "cut whole": await whole(f"{proxy}/cut-2"),
        "words": await streamed(f"{proxy}/words", words=True),
        "interrupted": await interrupted(host),
        "agent": await agent(host),
        "after": await whole(host, speed=1.0, voice="makima"),
        "timeouts": timeouts,
        "refused": [await failing(Counted(host, voice="unknown"), 3, 5.0, stream) for stream in (False, True)],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
