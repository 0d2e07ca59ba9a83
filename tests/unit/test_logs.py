"""The log lines of a replica: their fields, whose they are, and what is in none of them."""

import asyncio
import base64
import json
import logging
import re
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from clips import wav
from known_backend import KnownBackend, hear, say, served, socket_to
from websockets.exceptions import InvalidStatus
from written_lines import written

from serve_app.config import AccessConfig, AppConfig
from serve_app.observability.logging import FIGURES, IDS, bind, join_serve_log
from serve_app.speech import SpeechRequest, Trace, TraceContext, VoiceClip
from serve_app.web.api_keys import Key, digest_of, new_key

LOG = logging.getLogger("serve_app.somewhere")
WHO = Trace("s-1", "u-1", TraceContext(f"00-{'a' * 32}-{'b' * 16}-01"))


def test_records_of_the_package_reach_serves_handlers_once():
    with written() as lines:
        join_serve_log()
        LOG.info("weights are kept packed")
        LOG.debug("not this")
    assert [line["message"] for line in lines()] == ["weights are kept packed"]


def test_a_line_is_an_object_with_its_time_in_utc_and_its_place():
    with written(application="tts", deployment="Generator", replica="abc") as lines:
        LOG.warning("a %s", "warning", extra={"frames": 3, "unknown": "not written"})
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "WARNING",
        "logger": "serve_app.somewhere",
        "message": "a warning",
        "application": "tts",
        "deployment": "Generator",
        "replica": "abc",
        "frames": 3,
    }


def test_a_collector_that_is_away_is_said_once_for_a_batch():
    exporter = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    with written(replica="abc") as lines:
        exporter.warning("Transient error, retrying")
        exporter.error("Failed to export spans batch")
    assert [(line["level"], line["message"], line["replica"]) for line in lines()] == [
        ("ERROR", "Failed to export spans batch", "abc")
    ]


def test_an_exception_is_a_field_of_one_line():
    def fail():
        raise ValueError("a bug")

    with written() as lines:
        try:
            fail()
        except ValueError:
            LOG.exception("it failed")
    (line,) = lines()
    assert line["message"] == "it failed"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: a bug")


def test_nothing_that_is_logged_begins_a_line_of_its_own():
    for text in ('\n{"level": "FORGED"}', "\r\n", "\x85", "\u2028", "\x1b[2J", "\ud800"):
        with written() as lines:
            LOG.info("said: %s", text, extra={"code": text})
        (line,) = lines()
        assert line["code"] == text


async def test_a_line_is_about_what_its_task_works_for():
    async def work(name):
        bind(Trace("s", name))
        await asyncio.sleep(0)
        await asyncio.to_thread(LOG.info, "of a thread")
        await asyncio.create_task(asyncio.to_thread(LOG.info, "of a task"))

    with written() as lines:
        await asyncio.gather(*(asyncio.create_task(work(name)) for name in "ab"))
        LOG.info("of nobody")
        thread = threading.Thread(target=LOG.info, args=("of nobody",))
        thread.start()
        thread.join()
    seen = sorted((line["message"], line.get("session_id"), line.get("utterance_id")) for line in lines()[:4])
    assert seen == [
        ("of a task", "s", "a"),
        ("of a task", "s", "b"),
        ("of a thread", "s", "a"),
        ("of a thread", "s", "b"),
    ]
    assert all("session_id" not in line for line in lines()[4:])


async def test_what_a_line_says_of_itself_counts_more_than_its_task():
    async def work():
        bind(WHO)
        LOG.info("one", extra={"utterance_id": "u-2"})

    with written() as lines:
        await asyncio.create_task(work())
    (line,) = lines()
    assert [line[name] for name in ("session_id", "utterance_id", "trace_id")] == ["s-1", "u-2", "a" * 32]


async def test_lines_for_eyes_end_with_the_ids():
    async def work():
        bind(WHO)
        LOG.info("a stream finished: %s", "eos")

    with written(log_format="text") as lines:
        await asyncio.create_task(work())
        LOG.info("of nobody")
    assert lines() == [
        f"a stream finished: eos (session_id=s-1, utterance_id=u-1, trace_id={'a' * 32})",
        "of nobody",
    ]


async def test_serves_own_lines_look_the_same_and_keep_to_their_request():
    """Serve writes them later, when somebody else's task happens to fill its buffer."""

    def note_request(record):
        record.request_id = record.request_id if hasattr(record, "request_id") else "r-of-" + record.msg
        return True

    async def work():
        bind(WHO)
        LOG.info("ours")
        logging.getLogger("ray.serve").handlers[0].flush()

    with written() as lines:
        (gathering,) = logging.getLogger("ray.serve").handlers
        gathering.addFilter(note_request)
        logging.getLogger("serve_app").handlers.clear()
        join_serve_log()
        logging.getLogger("ray.serve").warning("serves")
        await asyncio.create_task(work())
    ours, serves = lines()
    assert (ours["message"], ours["request_id"], ours["session_id"]) == ("ours", "r-of-ours", "s-1")
    assert (serves["logger"], serves["message"], serves["request_id"]) == ("ray.serve", "serves", "r-of-serves")
    assert "session_id" not in serves


def test_every_field_that_is_given_is_written_and_explained():
    paths = [path for path in Path("serve_app").rglob("*.py") if "cli" not in path.parts]
    source = "".join(path.read_text() for path in paths)
    mappings = re.findall(r"(?:figures = |extra=)\{(.*?)\}", source, re.DOTALL)
    given = set(re.findall(r'"(\w+)":', "".join(mappings)))
    assert {"ttfa_ms", "rtf", "close_code", "resumed_frames", "timings_ms"} <= given <= {*IDS, *FIGURES}
    page = Path("docs/logs.md").read_text()
    for name in (*IDS, *FIGURES, "application", "deployment", "replica", "exception"):
        assert f"`{name}`" in page, name


def test_no_text_is_in_what_a_request_looks_like():
    codes = np.zeros((1, 16), np.int16)
    clip = VoiceClip(np.zeros(9, np.int16), "Secret words.", "d")
    request = SpeechRequest("Secret words.", "austen", delivered_codes=codes, clip=clip)
    assert "Secret" not in repr(request)
    assert "austen" in repr(request)


MARKERS = ("Zanzibar", "tts_qwertz", "Ouagadougou", "Timbuktu", "Reykjavik")


async def _client_that_says_markers(host, key, clip):
    """All that a client can say, in each of the places where it can say it."""
    text, _, transcript, name, wrong = MARKERS
    wrong_key = f"tts_{wrong}"
    spoken = {"type": "speak", "text": f"{text} is far, said {text}."}
    start = {"type": "start", "voice_audio": clip, "voice_transcript": transcript}
    for headers, query in (
        ({"authorization": f"Bearer {key}"}, ""),
        ({}, f"?api_key={key}"),
        ({}, f"?key={wrong_key}"),
    ):
        try:
            async with socket_to(host, f"/api/v1/speak{query}", additional_headers=headers) as ws:
                await say(ws, **start)
                await hear(ws, until=("ready", "error"))
                for more in ({}, {"voice": name}, {"language": wrong}, {wrong: wrong}, {"utterance_id": "u\n" + wrong}):
                    await say(ws, **spoken, **more)
                    await hear(ws, until=("complete", "error"))
                for frame in (f'{{"{wrong}', wrong.encode(), json.dumps({"type": wrong})):
                    await ws.send(frame)
                    await hear(ws, until=("error",))
        except InvalidStatus:  # without a key that is known
            assert wrong in query
    body = {"input": f"{text}.", "voice": "makima", "instructions": wrong}
    async with httpx.AsyncClient(base_url=f"http://{host}") as client:
        for given in (key, wrong_key):
            for path, fields in (("/v1/audio/speech", body), ("/api/tts", {"text": text, "voice": "makima"})):
                await client.post(path, json=fields, headers={"x-api-key": given})
                await client.post(f"{path}?api_key={given}", content=wrong)
            form = {"voice": "new", "transcript": transcript, "consent": wrong}
            files = {"audio": ("clip.wav", base64.b64decode(clip))}
            await client.post("/v1/audio/voices", data=form, files=files, headers={"x-api-key": given})


@pytest.mark.parametrize("fault", [None, RuntimeError("of the model")], ids=["healthy", "broken"])
async def test_nothing_that_a_client_says_is_in_any_line_at_the_default_level(tmp_path, caplog, fault):
    key = new_key().replace("tts_", "tts_qwertz", 1)
    keys = tmp_path / "keys.yaml"
    lines_of_keys = [Key(name="app", sha256=digest_of(key), scopes=("speak", "voices")).model_dump(mode="json")]
    keys.write_text(json.dumps(lines_of_keys))
    backend = KnownBackend()
    backend.raises = fault
    config = AppConfig(access=AccessConfig(keys_file=str(keys)))
    caplog.set_level(logging.INFO)
    with written() as lines:
        async with served(backend, config, access_log=True) as host:
            await _client_that_says_markers(host, key, base64.b64encode(wav()).decode())
    seen = json.dumps(lines())
    assert backend.requests
    assert "complete" in seen or fault
    others = [
        record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "websockets.client"))
    ]
    for marker in MARKERS:
        assert marker not in seen
    for marker in MARKERS[:3]:
        assert not [said for said in others if marker in said]
