"""Which generators a text chunk is offered to, and in which order. No I/O."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

FANOUT = 3
"""Replicas of one rank that are asked; asking all of a large fleet for every text chunk costs more than it finds."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running replica as the ingress knows it.

    Attributes:
        name: its id.
        running: streams that it has, as last heard; None where nothing was heard lately.
        slots: streams that it can have.
        voices: those whose prompts it holds.
        silent: it has not said for seconds that it lives.
    """

    name: str
    running: int | None
    slots: int
    voices: Collection[str]
    silent: bool = False


def ranks(voice: str, candidates: Sequence[Candidate]) -> list[list[str]]:
    """Names in order: room and the voice, room alone, those without (they may have some by now), those who are silent.

    Within a rank the least loaded come first; of equals each voice has its own first, the same for every ingress, so
    that voices that nobody holds yet spread over the fleet. So the text chunks of a session stay where its voice is for
    as long as there is room, and a voice spreads when its replicas are full.
    """

    def rank(candidate: Candidate) -> int:
        if candidate.silent:
            return 3
        if candidate.running is not None and candidate.running >= candidate.slots:
            return 2
        return 0 if voice in candidate.voices else 1

    ordered = sorted(candidates, key=lambda each: (rank(each), each.running or 0, _distance(voice, each.name)))
    by_rank = [[each.name for each in ordered if rank(each) == number] for number in range(4)]
    return [names[:FANOUT] for names in by_rank if names]


def _distance(voice: str, name: str) -> bytes:
    """Rendezvous hashing; the same in every process."""
    return hashlib.blake2b(f"{voice}/{name}".encode(), digest_size=8).digest()
