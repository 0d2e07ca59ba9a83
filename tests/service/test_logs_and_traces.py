"""What an operator sees of real sessions: lines of JSON and spans, of one trace across processes, and no text."""

import asyncio
import json
import re
import secrets
from pathlib import Path

import pytest
from running_service import Log, speak, wait_until

TEXT = "Zanzibar is a long way from here. Ouagadougou is a long way from there, as everybody knows."
KEY = "tts_" + "qwertz" * 7


def lines_of(service):
    """The lines of the replicas' logs, of all of them so far."""
    folder = Path(re.search(r"its logs in (\S+)", service.launched.printed)[1])
    files = list((folder / "serve").glob("replica_*.log"))
    assert len(files) >= 2
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def parent():
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


async def test_a_session_is_one_trace_from_its_proxy_to_the_generators_steps(service, collector, parent):
    trace_id, proxy = parent.split("-")[1:3]
    async with service.connect(additional_headers={"traceparent": parent, "tracestate": "vendor=1"}) as connection:
        assert (await speak(connection, TEXT, utterance_id="u-1")).end["type"] == "complete"
    await wait_for(lambda: "session" in {span.name for span in collector.of(trace_id)})
    await wait_for(lambda: [span.name for span in collector.of(trace_id)].count("stream") == 2)
    spans = {span.span_id: span for span in collector.of(trace_id)}

    def path(span):
        return [*(path(spans[span.parent_id]) if span.parent_id in spans else []), span.name]

    (root,) = [span for span in spans.values() if span.parent_id == proxy]
    assert root.name == "session"
    paths = {tuple(path(span)) for span in spans.values()}
    chunk = ("session", "utterance", "text chunk")
    assert {chunk[:1], chunk[:2], chunk, (*chunk, "admission"), (*chunk, "stream")} <= paths
    stages = ("prompt", "queue", "prefill", "first predict", "first decode")
    assert {(*chunk, "stream", stage) for stage in stages} <= paths
    assert {span.deployment for span in spans.values()} == {"Ingress", "Generator"}
    streams = [span for span in spans.values() if span.name == "stream"]
    for stream in streams:
        around = spans[stream.parent_id]
        assert around.begin_s - 0.05 < stream.begin_s <= stream.end_s < around.end_s + 0.05
        assert stream.attributes["tts.utterance_id"] == "u-1"
        assert stream.attributes["tts.frames"] == around.attributes["tts.frames"] > 0
    assert "Zanzibar" not in repr(spans)


async def test_lines_of_both_sides_name_the_session_the_utterance_and_the_trace(service, parent):
    async with service.connect(additional_headers={"traceparent": parent}) as connection:
        await speak(connection, TEXT, utterance_id="u-of-this-test")

    def mine(lines):
        return [line for line in lines if line.get("trace_id") == parent.split("-")[1]]

    await wait_for(lambda: any("close_code" in line for line in mine(lines_of(service))))
    (closed,) = [line for line in mine(lines_of(service)) if "close_code" in line]
    assert closed["message"] == "closed: the client is gone"
    spoken = [line for line in mine(lines_of(service)) if line.get("utterance_id") == "u-of-this-test"]
    assert {line["deployment"] for line in spoken} == {"Ingress", "Generator"}
    assert {line["session_id"] for line in spoken} == {closed["session_id"]}
    assert {line["application"] for line in spoken} == {"tts"}
    assert all(re.fullmatch(r"\S+T\S+Z", line["time"]) and line["replica"] and line["request_id"] for line in spoken)
    (complete,) = [line for line in spoken if line["deployment"] == "Ingress"]
    assert complete["ttfa_ms"] > 0
    assert all(line["timings_ms"]["prefill"] > 0 for line in spoken if line["deployment"] == "Generator")


def test_the_coordinator_writes_the_same_lines(service):
    folder = Path(re.search(r"its logs in (\S+)", service.launched.printed)[1])
    files = [file.read_text() for file in folder.glob("worker-*.err")]
    said = [json.loads(line) for text in files for line in text.splitlines() if line.startswith('{"time"')]
    assert {line["component"] for line in said} == {"coordinator"}


async def test_neither_text_nor_key_is_in_any_file(service):
    log = Log(service)
    async with service.connect(f"/api/v1/speak?key={KEY}&voice=austen") as connection:
        await connection.recv()
    for query in (f"?key={KEY}", f"?api_key={KEY}"):
        path = "/ws/tts" + query
        async with service.connect(path, additional_headers={"authorization": f"Bearer {KEY}"}) as connection:
            await connection.send(json.dumps({"text": TEXT}))
            await connection.recv()
        assert service.get("/v1/models" + query)[0] == 200
    async with service.connect(f"/api/v1/speak?api_key={KEY}") as connection:
        await speak(connection, TEXT)
    await wait_for(lambda: "GET /v1/models" in log.text())
    log._before.clear()
    written = log.text() + service.launched.printed
    assert "Zanzibar" not in written
    assert "Ouagadougou" not in written
    assert KEY not in written


async def wait_for(condition):
    await asyncio.to_thread(wait_until, condition, 15, "it arrives")
