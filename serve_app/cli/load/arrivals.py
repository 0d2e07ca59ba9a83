"""Arrivals of a load: when each listener arrives and what they request, at random or from a trace.

This module has no I/O and no clock; times are seconds from the start of the load.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.config import SAMPLE_RATE_HZ

MAX_ARRIVALS = 100_000
MAX_SECONDS = 86_400.0
MAX_TEXT_CHARACTERS = 20_000


class ArrivalsError(ValueError):
    """The requested load is not possible; the message says why, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One listener, who requests and hears one text.

    Attributes:
        at_s: time of arrival, from the start of the load.
        text: the text to speak.
        voice: None for the server's default.
        language: None for the server's default.
        seed: seed of the generation, so that the same load gives the same audio.
    """

    at_s: float
    text: str
    voice: str | None
    language: str | None
    seed: int

    def message(self) -> dict[str, Any]:
        """The ``speak`` message of dialect B for this arrival."""
        fields = {"voice": self.voice, "language": self.language}
        given = {name: value for name, value in fields.items() if value is not None}
        audio = {"encoding": "pcm16", "sample_rate": SAMPLE_RATE_HZ, "transport": "binary"}
        return {"type": "speak", "text": self.text, "seed": self.seed, **audio, **given}


class Line(BaseModel):
    """One line of a trace."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_s: float = Field(ge=0, le=MAX_SECONDS)
    text: str = Field(min_length=1, max_length=MAX_TEXT_CHARACTERS)
    voice: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Speech:
    """What random listeners request.

    Attributes:
        texts: at least one; each listener gets one of them, chosen at random.
        voice: None for the server's default.
        language: None for the server's default.
    """

    texts: Sequence[str]
    voice: str | None = None
    language: str | None = None


def poisson(rate_hz: float, seconds: float, speech: Speech, seed: int) -> list[Arrival]:
    """Poisson arrivals: independent of each other, and of how fast the service answers.

    With the same seed, another rate has the same sequence of listeners, closer together or further apart.

    Raises:
        ArrivalsError: more than MAX_ARRIVALS or MAX_SECONDS, or no arrival at all.
    """
    if not 0 < rate_hz * seconds <= MAX_ARRIVALS or not 0 < seconds <= MAX_SECONDS:
        raise ArrivalsError(
            f"{rate_hz:g}/s for {seconds:g} s: allowed: both above 0, {MAX_ARRIVALS} arrivals, {MAX_SECONDS:g} s"
        )
    chance = random.Random(seed)  # noqa: S311 - no secret
    arrivals: list[Arrival] = []
    at_s = chance.expovariate(1.0) / rate_hz
    while at_s < seconds:
        text = speech.texts[chance.randrange(len(speech.texts))]
        arrivals.append(Arrival(at_s, text, speech.voice, speech.language, chance.getrandbits(53)))
        at_s += chance.expovariate(1.0) / rate_hz
    if not arrivals:
        raise ArrivalsError(
            f"at {rate_hz:g}/s there was no arrival within {seconds:g} s: use more seconds or another seed"
        )
    return arrivals


def trace(lines: Iterable[str], seed: int) -> list[Arrival]:
    """The arrivals of a trace, ordered by time; empty lines are skipped.

    Raises:
        ArrivalsError: a line is invalid, or the trace has too many arrivals or none.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    arrivals: list[Arrival] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(arrivals) == MAX_ARRIVALS:
            raise ArrivalsError(f"the trace has more than {MAX_ARRIVALS} arrivals")
        try:
            parsed = Line.model_validate_json(line)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            raise ArrivalsError(f"line {number} of the trace: {where}: {fault['msg']}".replace(": :", ":")) from error
        arrivals.append(Arrival(parsed.at_s, parsed.text, parsed.voice, parsed.language, chance.getrandbits(53)))
    if not arrivals:
        raise ArrivalsError("the trace has no arrivals")
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def span_s(arrivals: Sequence[Arrival]) -> float:
    """Seconds from the start to the last arrival, rounded up; at least 1."""
    return max(1.0, math.ceil(arrivals[-1].at_s))
