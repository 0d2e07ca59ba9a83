"""Who comes when and says what: at random, or as a trace has it.

It knows no service, and no clock: times are seconds from the beginning of the load.
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
    """What was asked for cannot be sent; says what, and what can."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One listener who comes, hears one text, and goes.

    Attributes:
        at_s: when, from the beginning of the load.
        text: what is said.
        voice: None for the server's.
        language: None for the server's.
        seed: of the generation, so that the same load has the same audio.
    """

    at_s: float
    text: str
    voice: str | None
    language: str | None
    seed: int

    def message(self) -> dict[str, Any]:
        """The ``speak`` of dialect B that asks for it."""
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
    """What is said by listeners who come at random.

    Attributes:
        texts: at least one; each listener hears one of them, drawn at random.
        voice: None for the server's.
        language: None for the server's.
    """

    texts: Sequence[str]
    voice: str | None = None
    language: str | None = None


def poisson(rate_hz: float, seconds: float, speech: Speech, seed: int) -> list[Arrival]:
    """Listeners who come independently of each other, and of how the service fares.

    The same seed at another rate has the same listeners, drawn together or apart.

    Raises:
        ArrivalsError: more than MAX_ARRIVALS or MAX_SECONDS, or nobody came.
    """
    if not 0 < rate_hz * seconds <= MAX_ARRIVALS or not 0 < seconds <= MAX_SECONDS:
        raise ArrivalsError(
            f"{rate_hz:g}/s for {seconds:g} s: both above 0, at most {MAX_ARRIVALS} arrivals and {MAX_SECONDS:g} s"
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
            f"at {rate_hz:g}/s there was no arrival within {seconds:g} s: take more seconds or another seed"
        )
    return arrivals


def trace(lines: Iterable[str], seed: int) -> list[Arrival]:
    """The arrivals of a trace in order of their times; empty lines are skipped.

    Raises:
        ArrivalsError: a line is not one of a trace, there are too many, or none.
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
    """Seconds from the beginning to the last arrival, whole ones, at least one."""
    return max(1.0, math.ceil(arrivals[-1].at_s))
