"""Sends one text to ``POST /v1/audio/speech/batch``, and decides what its answer means for the run."""

import base64
import json
import random
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection

from serve_app.cli.address import Address, refusal, unreachable
from serve_app.cli.batch.table import BatchError, Json
from serve_app.errors import CapacityError, RateLimitedError, ServiceRestartError, TtsUnavailableError

PATH = "/v1/audio/speech/batch"
LATER = frozenset(kind.code for kind in (CapacityError, RateLimitedError, ServiceRestartError, TtsUnavailableError))
"""Codes of a service that is overloaded or unreachable: the same text succeeds later."""
MAX_FAILURES = 3
"""How often the synthesis of a text may fail before that is its result."""
LATER_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
MIN_WAIT_S, MAX_WAIT_S = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Result:
    """What the manifest says about a text, and its audio; None if the text cannot be spoken, or was not."""

    facts: Json
    audio: bytes | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """The service is overloaded or unreachable.

    Attributes:
        message: why, for a terminal.
        retry_after_s: the time that the service asked for; None if it did not.
        reached: whether the service answered.
    """

    message: str
    retry_after_s: float | None = None
    reached: bool = True


def connect(address: Address, timeout_s: float) -> HTTPConnection:
    """Return a connection for one thread, which opens when it is used, and again when it is used after it was closed.

    Args:
        address: the address of the service.
        timeout_s: how long the service may send nothing; while it works, it sends white space.
    """
    kind = HTTPSConnection if address.secure else HTTPConnection
    return kind(address.authority, timeout=timeout_s)


def ask(connection: HTTPConnection, address: Address, item: Json) -> Result | Later:
    """Send one text and wait for its answer.

    Raises:
        BatchError: the service refuses every request, for example because of the API key.
    """
    headers = {"content-type": "application/json"}
    if address.key:
        headers["authorization"] = f"Bearer {address.key}"
    try:
        connection.request("POST", address.prefix + PATH, json.dumps({"items": [item]}).encode(), headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, HTTPException) as error:
        connection.close()
        return Later(unreachable(address, error), reached=False)
    return answer_of(response.status, response.headers.get("retry-after"), content)


def answer_of(status: int, retry_after: str | None, content: bytes) -> Result | Later:
    """Interpret the response to a batch of one text.

    Raises:
        BatchError: other requests would get the same response.
    """
    if status in LATER_STATUSES:
        after_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
        return Later(refusal(status, content), after_s)
    if status != 200:
        raise BatchError(refusal(status, content))
    try:
        (result,) = json.loads(content)["results"]
        if result["status"] == "success":
            facts = {name: result[name] for name in ("voice", "seed", "finish_reason")}
            audio = base64.b64decode(result["audio_data"], validate=True)
            return Result({"seconds": result["duration_ms"] / 1000, **facts}, audio)
        code, message, retry_after_ms = str(result["code"]), str(result["error"]), result.get("retry_after_ms")
    except (ValueError, KeyError, TypeError):
        raise BatchError(f"the answer is not that of this service: {content[:100].decode(errors='replace')}") from None
    if code in LATER:
        return Later(f"{code}: {message}", None if retry_after_ms is None else retry_after_ms / 1000)
    return Result({"code": code, "error": message})


def wait_s(later: Later, attempt: int, chance: random.Random) -> float:
    """Return how long to wait before the next attempt.

    The service's own time is used if it has said one, otherwise the time doubles with each attempt. Up to half of it is
    added at random, so that not all texts come back at once.
    """
    asked_s = MIN_WAIT_S * 2 ** min(attempt, 10) if later.retry_after_s is None else later.retry_after_s
    return min(MAX_WAIT_S, max(MIN_WAIT_S / 2, asked_s)) * (1 + chance.random() / 2)
