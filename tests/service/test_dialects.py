import asyncio
import base64
import json
from http.client import HTTPConnection

import pytest
from running_service import speak

WRONG_IN_B = {
    "not JSON": ("{", "INVALID_MESSAGE"),
    "an unknown type": ('{"type": "sing"}', "INVALID_MESSAGE"),
    "an unknown field": ('{"type": "speak", "text": "Hello.", "loud": true}', "INVALID_MESSAGE"),
    "no text": ('{"type": "speak", "text": "  "}', "TEXT_EMPTY"),
    "too much text": (json.dumps({"type": "speak", "text": "word " * 5000}), "TEXT_TOO_LONG"),
    "an unknown voice": ('{"type": "speak", "text": "Hello.", "voice": "nobody"}', "VOICE_NOT_FOUND"),
    "a voice without its clip": ('{"type": "speak", "text": "Hello.", "voice": "makima"}', "VOICE_NOT_FOUND"),
    "an unknown language": ('{"type": "speak", "text": "Hello.", "language": "latin"}', "UNSUPPORTED_LANGUAGE"),
}


async def next_json(connection) -> dict:
    while True:
        message = await asyncio.wait_for(connection.recv(), 30)
        if isinstance(message, str):
            return json.loads(message)


@pytest.mark.parametrize(("message", "code"), WRONG_IN_B.values(), ids=WRONG_IN_B)
async def test_an_error_of_the_full_contract_leaves_the_socket_open(service, message, code):
    async with service.connect() as connection:
        await connection.send(message)
        error = await next_json(connection)
        assert (error["type"], error["code"]) == ("error", code)
        assert error["message"]
        assert (await speak(connection, "Hello.")).end["type"] == "complete"


async def test_the_research_contract_ends_with_one_final_audio_and_complete(service):
    async with service.connect("/ws/tts") as connection:
        await connection.send(json.dumps({"type": "synthesize", "text": "Hello there.", "mood": "ignored"}))
        messages = [await next_json(connection)]
        while messages[-1]["type"] == "audio":
            messages.append(await next_json(connection))
    *audio, complete = messages
    assert complete["type"] == "complete"
    assert [message["final"] for message in audio] == [False] * (len(audio) - 1) + [True]
    samples = sum(len(base64.b64decode(message["data"])) // 2 for message in audio)
    assert complete["duration_ms"] == round(samples / 24)


async def test_an_error_of_the_research_contract_leaves_the_socket_open(service):
    async with service.connect("/ws/tts") as connection:
        await connection.send(json.dumps({"text": ""}))
        assert (await next_json(connection))["type"] == "error"
        await connection.send(json.dumps({"text": "Hello."}))
        assert (await next_json(connection))["type"] == "audio"


async def test_raw_framing_is_bare_audio_and_one_text_frame(service):
    async with service.connect("/api/v1/speak?framing=raw") as connection:
        await connection.send(json.dumps({"type": "speak", "text": "Hello there."}))
        audio = 0
        while isinstance(message := await asyncio.wait_for(connection.recv(), 30), bytes):
            audio += len(message)
        assert audio > 0
        assert json.loads(message)["type"] == "audio_end"


def test_a_post_answers_a_whole_wav(service):
    connection = HTTPConnection(service.address, timeout=60)
    connection.request("POST", "/api/tts", json.dumps({"text": "Hello there."}), {"content-type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert (answer.status, answer.headers["content-type"]) == (200, "audio/wav")
    assert body[:4] == b"RIFF"
    assert len(body) > 1920 * 2
