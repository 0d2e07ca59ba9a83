"""Decides which generators a text chunk is offered to, and in which order. No I/O."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

FANOUT = 3
"""Maximum number of replicas of one rank that are asked; asking all replicas of a large cluster costs too much."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running replica as the ingress knows it.

    Attributes:
        name: its id.
        running: its last reported number of streams; None if there is no recent report.
        slots: streams that it can run.
        voices: voices whose prompts it holds.
        silent: it has not sent a heartbeat for seconds.
    """

    name: str
    running: int | None
    slots: int
    voices: Collection[str]
    silent: bool = False


def ranks(voice: str, candidates: Sequence[Candidate]) -> list[list[str]]:
    """Return the names of the replicas by rank.

    The ranks are: replicas with a free slot and the voice, replicas with a free slot, full replicas (which may have a
    free slot by now), and silent replicas. Within a rank, the least loaded replica comes first. Among equally loaded
    ones, each voice has its own order, which is the same for every ingress; this spreads new voices over the cluster.
    The text chunks of a session therefore stay with the replicas that hold its voice. Other replicas get the voice when
    these are full.
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
    """Return the rendezvous hash of a voice and a replica; it is the same in every process."""
    return hashlib.blake2b(f"{voice}/{name}".encode(), digest_size=8).digest()
