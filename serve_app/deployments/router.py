"""Serve's router of the generators' handle: replicas become candidates, which :mod:`serve_app.cluster.routing` ranks.

Loaded by name wherever a handle of the generators is used, so it imports nothing heavy.
"""

from collections.abc import Collection
from typing import cast

from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import FIFOMixin, RequestRouter

from serve_app.cluster.routing import Candidate, ranks
from serve_app.speech import SpeechRequest

VOICES = "voices"
"""Key under which a replica's routing statistics name the voices that it holds."""


class HeardOf:
    """Which generators the ingress of this process heard of lately; Serve makes the router itself, so they meet here.

    Attributes:
        generators: their ids; None until anything was heard.
    """

    generators: frozenset[str] | None = None


HEARD_OF = HeardOf()


class VoiceRouter(FIFOMixin, RequestRouter):
    """Prefers a free slot, then the voice at hand, then the least loaded; the silent last. In order of arrival."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Called by Serve, which asks the replicas of one rank after the other whether they take the request."""
        candidates = [
            Candidate(
                name=replica.replica_id.unique_id,
                running=self.replica_queue_len_cache.get(replica.replica_id),
                slots=replica.max_ongoing_requests,
                voices=cast("Collection[str]", replica.routing_stats.get(VOICES, ())),
                silent=HEARD_OF.generators is not None and replica.replica_id.unique_id not in HEARD_OF.generators,
            )
            for replica in candidate_replicas
        ]
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ranked = ranks(_voice_of(pending_request), candidates)
        return [[by_name[name] for name in names] for names in ranked]


def _voice_of(pending: PendingRequest | None) -> str:
    if pending is not None and pending.args and isinstance(pending.args[0], SpeechRequest):
        request = pending.args[0]
        return request.voice if request.clip is None else request.clip.digest
    return ""
