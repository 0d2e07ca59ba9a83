import asyncio
import json
import time

import numpy as np
import pytest
from until import until
from written_lines import written

from serve_app.cluster.admission import Admission
from serve_app.config import AdmissionConfig, SessionConfig
from serve_app.errors import TtsUnavailableError
from serve_app.observability.metrics import NoRecorder
from serve_app.observability.observers import SessionObserver
from serve_app.observability.session_metrics import IngressMetrics, SessionMetrics
from serve_app.observability.tracing import NoTracer
from serve_app.protocol.dialects import FullDialect
from serve_app.protocol.messages import ErrorMessage, Speak, Stop
from serve_app.session.session import Session, SessionSetup
from serve_app.session.utterance import SpeechOptions
from serve_app.speech import AudioChunk, SpeechEnd, TraceContext
from serve_app.web.admission_queue import AdmissionQueue
from serve_app.web.session_runner import ConnectionLostError, Service, SessionRunner


class Client:
    """A client that says what is put into ``says`` and keeps what it hears."""

    sent_bytes = 0

    def __init__(self):
        self.says = asyncio.Queue()
        self.heard = []

    async def receive(self):
        return FullDialect().read(await self.says.get())[0]

    async def answer(self, messages):
        async for item in messages:
            await self.send(item.message)

    async def send(self, message):
        self.heard.append(message)

    async def close(self, last):
        self.heard.append((last.code, last.reason))


class LeavingClient(Client):
    """A client who goes away while its session is cancelled for that, as Serve does it."""

    def __init__(self):
        super().__init__()
        self.left = False
        self.reading = asyncio.Event()

    async def receive(self):
        self.reading.set()
        frame = await self.says.get() if not self.left or not self.says.empty() else None
        if frame is None:
            raise ConnectionLostError
        return FullDialect().read(frame)[0]


class DeafClient(Client):
    """A client whose buffers are full."""

    async def send(self, message):
        await asyncio.Event().wait()


class RecordingObserver:
    """An observer that keeps the names of the events, without ``sent``, which may come at any time between."""

    def __init__(self):
        self.events = []

    def __getattr__(self, name):
        def tell(*values, **_):
            if name != "sent":
                self.events.append(name)
            return values[0] if values else None

        return tell


def runner_of(setup, client, service, observer=None):
    metrics = SessionMetrics(IngressMetrics(NoRecorder()), "full")
    observer = observer or SessionObserver(metrics, NoTracer(), TraceContext(), setup.session_id, time.monotonic)
    return SessionRunner(Session(setup, time.monotonic()), client, service, observer)


class NoGeneratorReady:
    """Answers after a while, as the ingress does when no generator was ready until then."""

    async def speak(self, request):
        await asyncio.sleep(0.05)
        raise TtsUnavailableError("no generator is ready: the model is being loaded", retry_after_ms=1000)
        yield  # a generator


class Speaker:
    """Yields some frames and ends, or breaks after the first one."""

    def __init__(self, *, broken=False):
        self._broken = broken

    async def speak(self, request):
        for number in range(3):
            yield AudioChunk(number, np.zeros((1, 16), np.int16), np.zeros(1920, np.float32))
            if self._broken:
                raise ZeroDivisionError
        yield SpeechEnd("eos", 3)


@pytest.mark.parametrize(
    ("backend", "events"),
    [
        (Speaker(), ["admitted", "received", "received", "received", "received"]),
        (Speaker(broken=True), ["admitted", "received", "failed"]),
        (NoGeneratorReady(), ["admitted", "failed"]),
    ],
    ids=["complete", "broken", "refused"],
)
async def test_one_observer_gets_each_event_of_a_session_once(backend, events):
    observer = RecordingObserver()
    setup = SessionSetup("s", SpeechOptions(voice="v"), SessionConfig(), {}, lambda: 1)
    service = Service(backend, AdmissionQueue(Admission(AdmissionConfig(), capacity=1), time.monotonic), time.monotonic)
    await runner_of(setup, Client(), service, observer).run([Speak(text="Hello there."), Stop()])
    assert observer.events == ["opened", "called", "begun", *events, "ended", "closed"]


async def test_a_refused_call_does_not_hold_up_the_next():
    client = Client()
    setup = SessionSetup("s", SpeechOptions(voice="v"), SessionConfig(), {}, lambda: 1)
    queue = AdmissionQueue(Admission(AdmissionConfig(), capacity=1), time.monotonic)
    service = Service(NoGeneratorReady(), queue, time.monotonic)
    running = asyncio.create_task(runner_of(setup, client, service).run())
    for number in range(3):
        client.says.put_nowait(json.dumps({"type": "speak", "text": "Hello there."}))
        await until(lambda told=number + 1: sum(isinstance(message, ErrorMessage) for message in client.heard) == told)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    codes = [message.code for message in client.heard if isinstance(message, ErrorMessage)]
    assert codes == ["TTS_UNAVAILABLE"] * 3


async def test_the_log_says_why_a_client_was_closed_that_could_not_be_told(monkeypatch):
    monkeypatch.setattr("serve_app.web.session_runner.CLOSE_GRACE_S", 0.05)
    client = DeafClient()
    client.says.put_nowait('{"type": "start"}')
    setup = SessionSetup("s-1", SpeechOptions(voice="v"), SessionConfig(slow_client_timeout_s=0.05), {}, lambda: 1)
    queue = AdmissionQueue(Admission(AdmissionConfig(), capacity=1), time.monotonic)
    service = Service(NoGeneratorReady(), queue, time.monotonic)
    with written() as lines:
        await runner_of(setup, client, service).run()
    assert client.heard == [(1008, "SLOW_CLIENT")]
    (line,) = lines()
    assert (line["session_id"], line["message"], line["close_code"]) == ("s-1", "closed: SLOW_CLIENT", 1008)


@pytest.mark.parametrize(
    ("left", "said", "code"), [(True, "the client is gone", 1000), (False, "the server stops", 1012)]
)
async def test_a_session_that_serve_ends_says_whether_its_client_left(left, said, code):
    client = LeavingClient()
    setup = SessionSetup("s-1", SpeechOptions(voice="v"), SessionConfig(), {}, lambda: 1)
    service = Service(
        NoGeneratorReady(), AdmissionQueue(Admission(AdmissionConfig(), capacity=1), time.monotonic), time.monotonic
    )
    with written() as lines:
        running = asyncio.create_task(runner_of(setup, client, service).run())
        await client.reading.wait()
        client.left = left
        for _ in range(2):
            client.says.put_nowait('{"type": "start"}')
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    (line,) = lines()
    assert (line["message"], line["close_code"]) == (f"closed: {said}", code)
