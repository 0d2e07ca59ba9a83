"""The autoscaling policy that Ray Serve calls for the generators.

It reads the load, asks :mod:`serve_app.cluster.autoscaling` for a decision, and logs it. Serve calls it in its
controller ten times a second, so nothing here may block, and the module imports no heavy package. Serve's own delays
and factors are configured to have no effect; its bounds on the number of replicas apply.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.cluster.autoscaling import Bounds, Load, Memory, desired_replicas
from serve_app.config import ScalingConfig
from serve_app.deployments.ray_metrics import RayRecorder
from serve_app.observability import metrics
from serve_app.observability.logging import join_serve_log
from serve_app.observability.metrics import Recorder

log = logging.getLogger(__name__)

_SETTING = "scaling_"
"""Prefix of scaling settings in a replica's statistics: Serve passes ``user_config`` to replicas, not to the policy."""


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What a generator reports to the policy, including totals that it received from the coordinator.

    Attributes:
        running: streams in its slots.
        waiting: streams that wait for a slot.
        stream_s: recent average of the seconds that a stream holds its slot.
        listeners: listeners past the first seconds of playback.
        late: number of these listeners that are close to an underrun.
        slack_s: the smallest slack among them.
        waiting_before: text chunks that wait at the ingresses, in total.
        waiting_before_s: seconds of slot time that these text chunks will take.
        arrivals_hz: text chunks per second that arrive at all ingresses.
    """

    running: float = 0.0
    waiting: float = 0.0
    stream_s: float = 0.0
    listeners: float = 0.0
    late: float = 0.0
    slack_s: float = 0.0
    waiting_before: float = 0.0
    waiting_before_s: float = 0.0
    arrivals_hz: float = 0.0

    def numbers(self, scaling: ScalingConfig) -> dict[str, float]:
        """The statistics for ``record_autoscaling_stats``, with the scaling settings that the replica received."""
        return {**asdict(self), **{_SETTING + name: setting for name, setting in scaling.model_dump().items()}}


class ScaleGenerators:
    """The policy. Serve creates a new one whenever the deployment's configuration changes."""

    def __init__(self, slots: int, scaling: dict[str, float], recorder: Recorder | None = None) -> None:
        """Store the settings that the application was built with.

        Args:
            slots: streams that one replica can hold.
            scaling: a :class:`ScalingConfig`, used until a replica reports another one.
            recorder: records the decisions; None for Ray's metrics.
        """
        join_serve_log()
        self._slots = slots
        self._recorder = recorder
        self._scaling = ScalingConfig.model_validate(scaling)

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas and the state that Serve passes to the next call."""
        numbers = _newest(ctx)
        self._take_settings(numbers)
        load = self._load(ctx, [_stats(of) for of in numbers])
        bounds = Bounds(ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas)
        memory: Memory = ctx.policy_state.get("memory", Memory())
        decision = desired_replicas(load, bounds, self._scaling, memory, ctx.current_time or 0.0)
        if self._recorder is None:
            # Serve's controller adds labels of its own, which do not include the application.
            self._recorder = RayRecorder(application=ctx.app_name or "")
        self._recorder.set(metrics.REPLICAS_DESIRED, decision.replicas)
        self._recorder.set(metrics.REPLICAS_MAXIMUM, bounds.max_replicas)
        if decision.replicas != ctx.target_num_replicas:
            direction = "up" if decision.replicas > ctx.target_num_replicas else "down"
            self._recorder.add(metrics.DECISIONS, direction=direction, reason=decision.cause)
            said = {"from": ctx.target_num_replicas, "to": decision.replicas, "reason": decision.reason, **asdict(load)}
            log.info("scaling %s", json.dumps({name: _rounded(value) for name, value in said.items()}))
        return decision.replicas, {"memory": decision.memory}

    def _load(self, ctx: AutoscalingContext, replicas: Sequence[ReplicaStats]) -> Load:
        """Total load of the replicas, plus the requests that wait in Serve between ingress and generator."""
        ready = min(ctx.current_num_replicas, ctx.target_num_replicas)
        waiting = sum(replica.waiting for replica in replicas) + (ctx.total_queued_requests or 0.0)
        stream_s = _mean(replica.stream_s for replica in replicas if replica.stream_s)
        # Every replica reports the same totals, as it last received them.
        before = max((replica.waiting_before for replica in replicas), default=0.0)
        before_s = max((replica.waiting_before_s for replica in replicas), default=0.0)
        return Load(
            ready=ready,
            starting=ctx.target_num_replicas - ready,
            slots=self._slots,
            running=sum(replica.running for replica in replicas),
            waiting=waiting + before,
            waiting_s=waiting * stream_s + before_s,
            stream_s=stream_s,
            arrivals_hz=max((replica.arrivals_hz for replica in replicas), default=0.0),
            late=sum(replica.late for replica in replicas) / max(1.0, sum(replica.listeners for replica in replicas)),
        )

    def _take_settings(self, replicas: Sequence[Mapping[str, float]]) -> None:
        """Apply the scaling settings that a replica reports; without replicas, keep the current ones."""
        names = ScalingConfig.model_fields
        settings = next(({name: of[_SETTING + name] for name in names if _SETTING + name in of} for of in replicas), {})
        if any(getattr(self._scaling, name) != setting for name, setting in settings.items()):
            self._scaling = ScalingConfig.model_validate({**self._scaling.model_dump(), **settings})
            log.info("the scaling settings are now %s", self._scaling.model_dump_json())


def _newest(ctx: AutoscalingContext) -> list[dict[str, float]]:
    """The latest statistics of each replica that has reported; Serve keeps them by name, replica and time."""
    raw: Mapping[str, Mapping[Any, Sequence[Any]]] = ctx.raw_metrics or {}
    replicas = {replica for of in raw.values() for replica in of}
    return [{name: of[replica][-1].value for name, of in raw.items() if of.get(replica)} for replica in replicas]


def _stats(numbers: Mapping[str, float]) -> ReplicaStats:
    return ReplicaStats(**{field.name: numbers.get(field.name, 0.0) for field in fields(ReplicaStats)})


def _mean(numbers: Iterable[float]) -> float:
    known = list(numbers)
    return sum(known) / len(known) if known else 0.0


def _rounded(value: object) -> object:
    return round(value, 2) if isinstance(value, float) else value
