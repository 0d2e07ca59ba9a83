"""What is said is understood: the demonstration voice through every dialect and encoding, heard by a recognizer."""

import asyncio
import base64
import io
import json
import os
import shutil
import signal
from functools import partial
from itertools import accumulate

import httpx
import numpy as np
import other_clients
import pytest
import pytest_asyncio
import soundfile
import torch
from browser_page import CHROMIUM, NO_CHROMIUM, PATIENCE_MS, done, opened, rendered, until
from playwright.async_api import expect
from random_watermark import random_generator, saved
from running_service import READY, ROOT, Service, Spoken, free_port, processor_s, run_command, speak, wait_until

from serve_app.config import WatermarkConfig
from serve_app.model.watermark import load_watermark
from training.hearing import (
    Recognizer,
    file_samples,
    median_pitch_hz,
    mulaw,
    pcm16,
    prefix_errors,
    recognized,
    word_errors,
    words,
)

pytest.importorskip("moonshine_voice", reason="moonshine-voice is not installed, so no test listens to what is said")

MAX_WORD_ERRORS = 0.3
"""Largest word error rate of a test's texts. docs/demo_voice.md has the rate of a hundred sentences."""

MAX_PITCH_DIFFERENCE = 0.2
"""Largest difference between the median pitch of what is said and that of its reference clip."""

MAX_RATE_DIFFERENCE = 0.1
"""Largest difference between the speaking rates at the beginning and at the end of a long text."""

TEXT = (
    "The bus was late again this morning. Please put the kettle on. They walked along the river until it began to rain."
)
PRICES = "It weighs 12 kg and costs $3."
PRICES_SAID = "It weighs twelve kilograms and costs three dollars."
# fmt: off
TEN = (
    "The door is open.", "She lives in a small house.", "We had soup for dinner.", "He never reads the paper.",
    "The water is very cold.", "My brother has a new car.", "They went home by train.", "Please close the window.",
    "I will call you tomorrow.", "The garden is full of flowers.",
)
FORTY = (
    "It rained all night.", "The dog sleeps under the table.", "You can sit over there.", "Our school is on a hill.",
    "He bought a pair of shoes.", "The film was too long.", "I cannot find my keys.", "She plays the piano well.",
    "The train leaves at seven.", "We need more bread and milk.", "The old man smiled.", "Summer is almost over.",
    "This coffee is too hot.", "They painted the kitchen white.", "A bird sat on the fence.", "He works in a bank.",
    "The story has a happy end.", "Her hair is long and dark.", "Nobody answered the phone.", "The road is long.",
    "I saw him last week.", "The children played outside.", "That box is very heavy.", "She forgot her umbrella.",
    "We waited for an hour.", "The market opens early.", "His answer was wrong.", "The baby is asleep now.",
    "You should see a doctor.", "The boat came back empty.", "I like this song.", "The snow was deep and soft.",
    "They sold the farm.", "My room has two windows.", "He cut the apple in half.", "The light went out.",
    "We met them at the station.", "She wrote a long letter.", "The shop is on the corner.", "It was a good idea.",
)
# fmt: on
SIXTY = (*TEN, *FORTY, *TEN)
"""The last ten are the first ten again, so that their lengths can be compared."""

SPEED_AND_PITCH = (1.0, 1.25, 1.55)
"""Three reference clips: the one of the shipped voice, and the same played faster."""

SCREENSHOT = os.environ.get("PLAYGROUND_SCREENSHOT")
"""Where a picture of the page is written, if one is wanted."""

CLIENTS_PYTHON = shutil.which("python", path=str(ROOT / ".venv-clients" / "bin"))
GENERATOR = "ServeReplica:tts:Generator"
FIELDS = {"voice": "austen", "language": "english", "seed": 1}


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer()


@pytest.fixture(scope="module")
def speaking(launch, recognizer):
    """Two generators with the demonstration voice, which are not slowed down to the speed of listeners."""
    port = free_port()
    launched = launch(
        port,
        model={"source": "demo"},
        engine={"max_lead_s": 60},
        admission={"stall_timeout_s": 70, "start_deadline_s": 120, "resume_deadline_s": 200},
        generator={"min_replicas": 2, "max_replicas": 2, "num_cpus": 0.5},
    )
    launched.wait_for(READY)
    service = Service(f"127.0.0.1:{port}", launched)
    wait_until(lambda: service.printed_by_generators("warm-up") == 2, 120, "both generators speak")
    yield service
    launched.stop()


async def say(service: Service, text: str, **fields) -> Spoken:
    async with service.connect(ping_timeout=None) as connection:
        return await speak(connection, text, patience_s=200, **{**FIELDS, **fields})


def words_of(spoken: Spoken, recognizer: Recognizer) -> list[str]:
    """What is heard of an utterance in PCM, which has to be complete."""
    assert (spoken.end["type"], spoken.end["finish_reason"]) == ("complete", "eos")
    return recognizer.words(pcm16(spoken.pcm), 24_000)


def test_page_log_and_launcher_say_that_the_voice_is_for_trying(speaking):
    ready = json.loads(speaking.get("/ready")[1])
    assert (ready["weights"], ready["random_weights"]) == ("demo", False)
    for told in (ready["notice"], speaking.launched.printed):
        assert "small demonstration voice" in told
        assert "configs/cpu.yaml" in told
    assert speaking.printed_by_generators(ready["notice"]) == 2


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
async def test_the_page_plays_words(speaking, browser, recognizer, tmp_path):
    async with opened(browser, speaking.address) as page:
        await expect(page.locator("#voice option:checked")).to_have_text("Austen", timeout=PATIENCE_MS)
        await page.set_viewport_size({"width": 760, "height": 900})
        await page.fill("#text", TEXT)
        await page.fill("#seed", "7")
        await page.locator("#speak").click()
        await until(page, "rendered.length > 100")
        picture = await page.screenshot(path=SCREENSHOT or tmp_path / "playground.png")
        await done(page)
        samples, _ = await rendered(page)
    assert word_errors([(TEXT, recognizer.words(samples, 24_000))]) <= MAX_WORD_ERRORS
    assert len(picture) < 200_000


@pytest.mark.parametrize(
    ("fields", "code", "allowed"),
    [
        ({"language": "german"}, "UNSUPPORTED_LANGUAGE", "allowed: english, auto"),
        ({"prompt": "whole"}, "INVALID_MESSAGE", "allowed: streaming"),
    ],
)
async def test_a_language_or_a_layout_that_it_was_not_trained_with_is_refused(speaking, fields, code, allowed):
    spoken = await say(speaking, "Good day.", **fields)
    assert spoken.end["code"] == code
    assert allowed in spoken.end["message"]


async def test_a_generator_that_is_killed_in_mid_sentence_costs_no_word(speaking, recognizer):
    used_s = {pid: processor_s(pid) for pid in speaking.pids_of(GENERATOR)}
    async with speaking.connect(ping_timeout=None) as connection:
        await connection.send(
            json.dumps({"type": "speak", "text": TEXT, **FIELDS, "speed": 0.9, "utterance_id": "a", "final": False})
        )
        while not isinstance(first := await asyncio.wait_for(connection.recv(), 60), bytes):
            pass
        os.kill(max(used_s, key=lambda pid: processor_s(pid) - used_s[pid]), signal.SIGKILL)
        spoken = await speak(connection, f" {TEXT}", utterance_id="a", patience_s=200)
    heard = recognizer.words(pcm16(first + spoken.pcm), 24_000)
    assert spoken.end["finish_reason"] == "eos"
    assert word_errors([(f"{TEXT} {TEXT}", heard)]) <= MAX_WORD_ERRORS
    replaced = partial(wait_until, lambda: speaking.printed_by_generators("warm-up") == 3, 120, "it is replaced")
    await asyncio.to_thread(replaced)


async def payload(service: Service, **fields) -> bytes:
    spoken = await say(service, TEXT, **fields)
    assert spoken.end["type"] == "complete", spoken.end
    return spoken.pcm


async def dialect_b(service: Service) -> np.ndarray:
    return pcm16(await payload(service))


async def base64_transport(service: Service) -> np.ndarray:
    return pcm16(await payload(service, transport="base64"))


async def telephone(service: Service) -> np.ndarray:
    return mulaw(await payload(service, encoding="mulaw", sample_rate=8000), 8000)


async def opus_stream(service: Service) -> np.ndarray:
    return file_samples(await payload(service, encoding="opus"), "ogg", 24_000)


async def single_characters(service: Service) -> np.ndarray:
    async with service.connect(ping_timeout=None) as connection:
        for character in TEXT[:-1]:
            piece = {"type": "speak", "text": character, "utterance_id": "a", "final": False, **FIELDS}
            await connection.send(json.dumps(piece))
        spoken = await speak(connection, TEXT[-1], utterance_id="a", patience_s=200)
    assert sum(message["type"] == "segment" for message in spoken.messages) >= 2
    return pcm16(spoken.pcm)


async def dialect_a(service: Service) -> np.ndarray:
    pcm = b""
    async with service.connect("/ws/tts", ping_timeout=None) as connection:
        await connection.send(json.dumps({"type": "synthesize", "text": TEXT, "seed": 1}))
        while (message := json.loads(await asyncio.wait_for(connection.recv(), 200)))["type"] == "audio":
            pcm += base64.b64decode(message["data"])
    assert message["type"] == "complete"
    return pcm16(pcm)


async def raw_framing(service: Service) -> np.ndarray:
    pcm = b""
    async with service.connect("/api/v1/speak?framing=raw", ping_timeout=None) as connection:
        await connection.send(json.dumps({"type": "speak", "text": TEXT, "seed": 1}))
        while isinstance(message := await asyncio.wait_for(connection.recv(), 200), bytes):
            pcm += message
    assert json.loads(message)["type"] == "audio_end"
    return pcm16(pcm)


async def posted(service: Service, path: str, **body) -> bytes:
    async with httpx.AsyncClient(timeout=200) as client:
        answer = await client.post(f"http://{service.address}{path}", json={"voice": "austen", **body})
    assert answer.status_code == 200, answer.text
    return answer.content


async def post_of_the_research_contract(service: Service) -> np.ndarray:
    return file_samples(await posted(service, "/api/tts", text=TEXT), "wav", 24_000)


def openai_route(encoding: str, container: str | None):
    async def ask(service: Service) -> np.ndarray:
        content = await posted(service, "/v1/audio/speech", input=TEXT, response_format=encoding, seed=1)
        return pcm16(content) if container is None else file_samples(content, container, 24_000)

    return ask


async def speech_stream(service: Service) -> np.ndarray:
    pcm = b""
    async with service.connect("/v1/audio/speech/stream", ping_timeout=None) as connection:
        await connection.send(json.dumps({"type": "session.config", "voice": "austen", "seed": 1}))
        for character in TEXT:
            await connection.send(json.dumps({"type": "input.text", "text": character}))
        await connection.send(json.dumps({"type": "input.done"}))
        while isinstance(frame := await connection.recv(), bytes) or json.loads(frame)["type"] != "session.done":
            pcm += frame if isinstance(frame, bytes) else b""
    return pcm16(pcm)


async def deepgram(service: Service) -> np.ndarray:
    audio = b""
    async with service.connect("/v1/speak?model=austen&encoding=mulaw", ping_timeout=None) as connection:
        await connection.send(json.dumps({"type": "Speak", "text": TEXT}))
        await connection.send(json.dumps({"type": "Flush"}))
        while isinstance(frame := await connection.recv(), bytes) or json.loads(frame)["type"] != "Flushed":
            audio += frame if isinstance(frame, bytes) else b""
    return mulaw(audio, 8000)


WAYS = {
    "dialect A": (dialect_a, 24_000),
    "dialect A, POST": (post_of_the_research_contract, 24_000),
    "dialect B": (dialect_b, 24_000),
    "dialect B, base64": (base64_transport, 24_000),
    "dialect B, Opus": (opus_stream, 24_000),
    "dialect B, telephone": (telephone, 8000),
    "dialect B, character by character": (single_characters, 24_000),
    "raw framing": (raw_framing, 24_000),
    "OpenAI, MP3": (openai_route("mp3", "mp3"), 24_000),
    "OpenAI, Opus": (openai_route("opus", "ogg"), 24_000),
    "OpenAI, PCM": (openai_route("pcm", None), 24_000),
    "speech stream": (speech_stream, 24_000),
    "Deepgram, telephone": (deepgram, 8000),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def together(speaking):
    """One text in every way and a long one, all at the same time: samples by way, and the long utterance."""
    long = asyncio.create_task(say(speaking, " ".join(SIXTY)))
    found = await asyncio.gather(*(way(speaking) for way, _ in WAYS.values()), return_exceptions=True)
    return dict(zip(WAYS, found, strict=True)), await long


@pytest.fixture(scope="module")
def long(together, recognizer):
    """The sixty sentences in one utterance, and the words that are heard."""
    spoken = together[1]
    return spoken, words_of(spoken, recognizer)


@pytest.mark.parametrize("way", WAYS)
def test_every_dialect_and_encoding_says_the_text(together, recognizer, way):
    samples = together[0][way]
    if isinstance(samples, BaseException):
        raise samples
    assert word_errors([(TEXT, recognizer.words(samples, WAYS[way][1]))]) <= MAX_WORD_ERRORS


def test_a_long_text_is_said_completely(long):
    assert word_errors([(" ".join(SIXTY), long[1])]) <= MAX_WORD_ERRORS


def test_a_long_text_keeps_its_speaking_rate(long):
    spoken, _ = long
    text, segments = " ".join(SIXTY), segments_of(spoken)
    starts, at = [], 0
    for segment in segments:
        starts.append(text.index(segment["text"], at))
        at = starts[-1] + len(segment["text"])
    assert at == len(text)
    times_ms = [segment["start_ms"] for segment in segments]
    end_ms, of_ten = spoken.end["duration_ms"], len(" ".join(TEN))
    first_ms, last_ms = np.interp([of_ten, len(text) - of_ten], [*starts, len(text)], [*times_ms, end_ms])
    assert (end_ms - last_ms) / first_ms == pytest.approx(1, abs=MAX_RATE_DIFFERENCE)


def test_words_at_the_borders_of_text_chunks_are_whole(long):
    spoken, heard = long
    hits = recognized(words(" ".join(SIXTY)), heard)
    ends = list(accumulate(len(words(segment["text"])) for segment in segments_of(spoken)))
    assert ends[-1] == len(hits)
    beside = [hit for end in ends[:-1] for hit in hits[end - 1 : end + 1]]
    assert len(beside) >= 12
    assert beside.count(False) <= MAX_WORD_ERRORS * len(beside)


def segments_of(spoken: Spoken) -> list[dict]:
    return [message for message in spoken.messages if message["type"] == "segment"]


@pytest.mark.skipif(CLIENTS_PYTHON is None, reason="other projects' clients are not installed: make clients")
@pytest.mark.parametrize("client", other_clients.CLIENTS)
async def test_another_projects_client_is_spoken_to_and_interrupts(speaking, recognizer, tmp_path, client):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "clients")}
    command = (CLIENTS_PYTHON, other_clients.__file__, client, speaking.address, "none", str(tmp_path))
    status, printed = await run_command(*command, cwd=tmp_path, environment=environment, timeout_s=200)
    assert status == 0, printed
    pcm = {path.stem: pcm16(path.read_bytes()) for path in tmp_path.glob("*.pcm")}
    said = [("sentence", other_clients.SENTENCE), ("tokens", "".join(other_clients.TOKENS))]
    said.append(("after", other_clients.SENTENCE))
    heard = [(text, recognizer.words(pcm[name], other_clients.RATE_HZ)) for name, text in said]
    assert word_errors(heard) <= MAX_WORD_ERRORS, heard
    assert 0 < len(pcm["story"]) < 20 * other_clients.RATE_HZ
    await asyncio.to_thread(wait_until, lambda: speaking.sessions() == 0, 20, "the interrupted session has ended")


async def test_words_in_the_json_of_the_stream_are_said_when_it_says(speaking, recognizer):
    config = {"type": "session.config", "voice": "austen", "response_format": "pcm", "stream_audio": True}
    async with speaking.connect("/v1/audio/speech/stream") as connection:
        await connection.send(json.dumps({**config, "word_timestamps": True, "seed": 1}))
        await connection.send(json.dumps({"type": "input.text", "text": TEXT}))
        await connection.send(json.dumps({"type": "input.done"}))
        heard = [{"type": ""}]
        while heard[-1]["type"] != "session.done":
            heard.append(json.loads(await asyncio.wait_for(connection.recv(), 60)))
    starts = [message for message in heard if message["type"] == "audio.start"]
    parts = [message for message in heard if message["type"] == "audio.chunk"]
    pairs = []
    for start in starts:
        sentence = [part for part in parts if part["sentence_index"] == start["sentence_index"]]
        pcm = pcm16(b"".join(base64.b64decode(part["audio_b64"]) for part in sentence))
        said, times = start["sentence_text"].split(), sentence[-1]["timestamps"]
        assert [each["word"] for each in times] == said
        for last in (len(said), len(said) - 2):
            end_ms = times[last]["start_ms"] if last < len(said) else times[-1]["end_ms"]
            pairs.append((" ".join(said[:last]), recognizer.words(pcm[: end_ms * 24], 24_000)))
    assert " ".join(start["sentence_text"] for start in starts) == TEXT
    assert word_errors(pairs) <= MAX_WORD_ERRORS, pairs


async def test_speech_with_a_watermark_is_understood_and_has_the_watermark(
    speaking, launch, recognizer, tmp_path_factory
):
    weights = saved(random_generator(), tmp_path_factory.mktemp("audioseal"))
    settings = {"weights": weights, "message": 5, "strength": 0.02}
    port = free_port()
    launched = launch(port, model={"source": "demo", "watermark": settings}, generator={"num_cpus": 0.5})
    launched.wait_for(READY)
    marked = await say(Service(f"127.0.0.1:{port}", launched), TEN[0], encoding="pcm_f32")
    launched.stop()
    plain = await say(speaking, TEN[0], encoding="pcm_f32")
    marked_pcm, pcm = (np.frombuffer(spoken.pcm, "<f4") for spoken in (marked, plain))
    watermark = load_watermark(WatermarkConfig(**settings), torch.device("cpu"))
    states = watermark.begin()
    pieces = np.split(pcm, np.cumsum(plain.audio_bytes)[:-1] // 4)
    expected = np.concatenate([watermark.mark(piece, states) for piece in pieces])
    assert np.abs(marked_pcm - pcm).max() > 1e-3
    # Silence is left out at the end of the last frame, and zeros are then put in front of the rest of its block.
    np.testing.assert_allclose(marked_pcm[:-1920], expected[:-1920], atol=1e-4)
    assert word_errors([(TEN[0], recognizer.words(marked_pcm, 24_000))]) <= MAX_WORD_ERRORS


async def test_numbers_are_said_as_words(speaking, recognizer):
    spoken = await say(speaking, PRICES, normalize=True)
    assert word_errors([(PRICES_SAID, words_of(spoken, recognizer))]) <= MAX_WORD_ERRORS


async def test_a_lexicon_is_heard(speaking, recognizer):
    spoken = await say(speaking, "The QZX was late.", lexicon={"qzx": "bus"})
    assert word_errors([("The bus was late.", words_of(spoken, recognizer))]) <= MAX_WORD_ERRORS
    assert segments_of(spoken)[0]["text"] == "The QZX was late."


async def test_audio_that_is_cut_where_a_word_begins_has_the_words_before_and_behind(speaking, recognizer):
    spoken = await say(speaking, TEXT, words=True)
    kinds = [message["type"] for message in spoken.messages]
    told = [word for message in spoken.messages if message["type"] == "words" for word in message["words"]]
    assert [word for word, _, _ in told] == TEXT.split()
    times_ms = [time_ms for _, start_ms, end_ms in told for time_ms in (start_ms, end_ms)]
    assert times_ms == sorted(times_ms)
    assert times_ms[-1] <= spoken.end["duration_ms"]
    assert [kind for kind in kinds if kind != "audio_chunk"] == ["segment", "words"] * kinds.count("segment") + [
        "complete"
    ]
    samples, pairs = pcm16(spoken.pcm), []
    for word in (7, 12, 17):  # "Please", "They", "until"
        cut = told[word][1] * 24
        pairs += [(" ".join(TEXT.split()[:word]), recognizer.words(samples[:cut], 24_000))]
        pairs += [(" ".join(TEXT.split()[word:]), recognizer.words(samples[cut:], 24_000))]
    assert word_errors(pairs) <= MAX_WORD_ERRORS, pairs


@pytest.mark.parametrize("speed", [0.7, 1.4])
async def test_speech_at_another_speed_is_understood_and_keeps_its_pitch(speaking, recognizer, speed):
    plain, changed = await asyncio.gather(say(speaking, TEXT), say(speaking, TEXT, speed=speed))
    assert word_errors([(TEXT, words_of(changed, recognizer))]) <= MAX_WORD_ERRORS
    assert changed.end["duration_ms"] * speed == pytest.approx(plain.end["duration_ms"], rel=0.03)
    pitches_hz = [median_pitch_hz(pcm16(spoken.pcm), 24_000) for spoken in (plain, changed)]
    assert pitches_hz[1] / pitches_hz[0] == pytest.approx(1, abs=0.05)


async def test_what_is_heard_until_a_cancel_is_the_beginning_of_the_text(speaking, recognizer):
    pcm, last = b"", {"type": ""}
    async with speaking.connect(ping_timeout=None) as connection:
        await connection.send(json.dumps({"type": "speak", "text": " ".join(SIXTY), "words": True, **FIELDS}))
        while last["type"] not in ("cancelled", "complete", "error"):
            message = await asyncio.wait_for(connection.recv(), 60)
            if isinstance(message, str):
                last = json.loads(message)
                continue
            before, pcm = len(pcm), pcm + message
            if before < 10 * 48_000 <= len(pcm):  # ten seconds; fewer words would say little
                await connection.send(json.dumps({"type": "cancel"}))
    assert last["type"] == "cancelled"
    assert " ".join(SIXTY).startswith(last["heard_text"])
    assert len(last["heard_text"].split()) > 1
    count, errors = prefix_errors(" ".join(SIXTY), recognizer.words(pcm16(pcm), 24_000))
    assert 6 <= count < 200
    assert errors <= MAX_WORD_ERRORS


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cloned(speaking):
    """(pitch of the clip, pitch of what is said) by the clip's speed, with and without its transcript."""
    samples, rate_hz = soundfile.read(ROOT / "voices" / "austen" / "reference.wav")
    transcript = json.loads((ROOT / "voices" / "austen" / "manifest.json").read_text())["transcript"]

    async def clone(speed: float, **fields: str) -> tuple[float, float]:
        faster_hz, file = round(rate_hz * speed), io.BytesIO()
        soundfile.write(file, samples, faster_hz, format="WAV")
        clip = base64.b64encode(file.getvalue()).decode()
        async with speaking.connect(ping_timeout=None) as connection:
            await connection.send(json.dumps({"type": "start", "voice_audio": clip, **fields}))
            ready = json.loads(await asyncio.wait_for(connection.recv(), 60))
            assert ready["type"] == "ready", ready
            spoken = await speak(connection, TEXT, seed=1, language="english", patience_s=200)
        assert spoken.end["finish_reason"] == "eos"
        return median_pitch_hz(samples, faster_hz), median_pitch_hz(pcm16(spoken.pcm), 24_000)

    modes = {"with a transcript": {"voice_transcript": transcript}, "without": {}}
    asked = {(mode, speed): fields for mode, fields in modes.items() for speed in SPEED_AND_PITCH}
    found = await asyncio.gather(*(clone(speed, **fields) for (_, speed), fields in asked.items()))
    return dict(zip(asked, found, strict=True))


@pytest.mark.parametrize("speed", SPEED_AND_PITCH)
@pytest.mark.parametrize("mode", ["with a transcript", "without"])
def test_a_cloned_voice_has_the_pitch_of_its_clip(cloned, mode, speed):
    clip_hz, said_hz = cloned[mode, speed]
    assert said_hz / clip_hz == pytest.approx(1, abs=MAX_PITCH_DIFFERENCE)


async def test_a_scale_in_costs_no_word(speaking, recognizer):
    gone = asyncio.Event()

    async def keep_speaking() -> list[Spoken]:
        spoken = []
        while not gone.is_set():
            spoken.append(await say(speaking, TEXT))
        return spoken

    used_s = {pid: processor_s(pid) for pid in speaking.pids_of(GENERATOR)}
    sessions = [asyncio.create_task(keep_speaking()) for _ in range(4)]
    await asyncio.sleep(1)
    assert all(processor_s(pid) > before for pid, before in used_s.items())  # each of the two speaks
    await asyncio.to_thread(speaking.redeploy, deployments=[{"name": "Generator", "num_replicas": 1}])
    await asyncio.to_thread(wait_until, lambda: len(speaking.pids_of(GENERATOR)) == 1, 120, "one generator leaves")
    gone.set()
    said = [spoken for of_session in await asyncio.gather(*sessions) for spoken in of_session[-2:]]
    assert word_errors([(TEXT, words_of(spoken, recognizer)) for spoken in said]) <= MAX_WORD_ERRORS
