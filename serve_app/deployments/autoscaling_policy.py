"""Serve's autoscaling policy of the generators: reads the load, asks :mod:`serve_app.cluster.autoscaling`, logs.

Serve calls it in its controller, ten times a second: nothing here may block, and nothing heavy is imported. Serve's
own delays and factors around it are set to do nothing; its bounds count.
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

_KNOB = "scaling_"
"""Before the name of a knob among a replica's numbers: a ``user_config`` reaches replicas, not the policy."""


@dataclass(frozen=True, slots=True)
class ReplicaStats:
    """What a generator says of itself to the policy, and passes on to it from the voice store's board.

    Attributes:
        running: streams in its slots.
        waiting: streams that wait for one of them.
        stream_s: seconds for which a stream held its slot lately.
        listeners: listeners who are past the start.
        late: those of them who are about to run dry.
        slack_s: the least that one of them has left to play.
        waiting_before: text chunks that wait at the ingresses, all of them together.
        waiting_before_s: seconds of a slot that those will take.
        arrivals_hz: text chunks that all ingresses together are asked for each second.
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
        """As Serve wants them from ``record_autoscaling_stats``, with the knobs that the replica was given."""
        return {**asdict(self), **{_KNOB + name: knob for name, knob in scaling.model_dump().items()}}


class ScaleGenerators:
    """The policy; Serve makes one whenever the deployment's configuration changes."""

    def __init__(self, slots: int, scaling: dict[str, float], recorder: Recorder | None = None) -> None:
        """Take what the application was built with.

        Args:
            slots: streams of a replica.
            scaling: a :class:`ScalingConfig`, in use until a replica reports another.
            recorder: of its decisions; None: Ray's.
        """
        join_serve_log()
        self._slots = slots
        self._recorder = recorder
        self._scaling = ScalingConfig.model_validate(scaling)

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Serve's question, some times a second; Serve keeps the second value for the next one."""
        numbers = _newest(ctx)
        self._take_knobs(numbers)
        load = self._load(ctx, [_stats(of) for of in numbers])
        bounds = Bounds(ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas)
        memory: Memory = ctx.policy_state.get("memory", Memory())
        decision = desired_replicas(load, bounds, self._scaling, memory, ctx.current_time or 0.0)
        if self._recorder is None:
            # In Serve's controller, whose own labels say nothing of an application.
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
        """The replicas' numbers together, and what waits in Serve on its way from an ingress to one of them."""
        ready = min(ctx.current_num_replicas, ctx.target_num_replicas)
        waiting = sum(replica.waiting for replica in replicas) + (ctx.total_queued_requests or 0.0)
        stream_s = _mean(replica.stream_s for replica in replicas if replica.stream_s)
        # Everybody passes the same board on, read at different moments.
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

    def _take_knobs(self, replicas: Sequence[Mapping[str, float]]) -> None:
        """Knobs as a replica has them now; without replicas, as they were."""
        names = ScalingConfig.model_fields
        knobs = next(({name: of[_KNOB + name] for name in names if _KNOB + name in of} for of in replicas), {})
        if any(getattr(self._scaling, name) != knob for name, knob in knobs.items()):
            self._scaling = ScalingConfig.model_validate({**self._scaling.model_dump(), **knobs})
            log.info("scaling by %s", self._scaling.model_dump_json())


def _newest(ctx: AutoscalingContext) -> list[dict[str, float]]:
    """The latest numbers of each replica that has reported; Serve has them by name, replica and time."""
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
