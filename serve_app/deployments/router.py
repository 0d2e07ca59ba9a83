"""Serve's request router for the generators: ranks replicas with :mod:`serve_app.cluster.routing`.

Serve loads this module by name in every process with a handle of the generators, so it imports no heavy package.
"""

from collections.abc import Collection
from typing import cast

from serve_app.cluster.routing import Candidate, ranks
from serve_app.deployments.ray_internals import FIFOMixin, PendingRequest, RequestRouter, RunningReplica
from serve_app.speech import SpeechRequest

VOICES = "voices"
"""Key in a replica's routing statistics; lists the voices that the replica holds."""


class VoiceRouter(FIFOMixin, RequestRouter):
    """Prefers replicas with a free slot, then those with the voice, then the least loaded; silent replicas come last.

    Requests are routed in order of arrival.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Called by Serve, which offers the request to the replicas of each rank in turn."""
        request = _request_of(pending_request)
        reporting = None if request is None else request.generators
        candidates = [
            Candidate(
                name=replica.replica_id.unique_id,
                running=self.replica_queue_len_cache.get(replica.replica_id),
                slots=replica.max_ongoing_requests,
                voices=cast("Collection[str]", replica.routing_stats.get(VOICES, ())),
                silent=reporting is not None and replica.replica_id.unique_id not in reporting,
            )
            for replica in candidate_replicas
        ]
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ranked = ranks(_voice_of(request), candidates)
        return [[by_name[name] for name in names] for names in ranked]


def _request_of(pending: PendingRequest | None) -> SpeechRequest | None:
    """The request of a pending call; None if Serve asks without one."""
    request = pending.args[0] if pending is not None and pending.args else None
    return request if isinstance(request, SpeechRequest) else None


def _voice_of(request: SpeechRequest | None) -> str:
    if request is None:
        return ""
    return request.voice if request.clip is None else request.clip.digest
