"""Every alert beside those of the objectives: when somebody should look, and how urgent it is."""

from dataclasses import dataclass

from objectives import FEW, OURS, error_share, underrun_share

from serve_app.errors import CapacityError
from serve_app.observability import metrics

SERVE_HEALTHY = "ray_serve_deployment_replica_healthy"
_THERE = f'sum(last_over_time({SERVE_HEALTHY}{{deployment="Generator"}}[1m]))'
"""Serve sets its gauge every ten seconds or so, and Ray forgets one that was not set in time."""

_INGRESS = f'{SERVE_HEALTHY}{{deployment="Ingress"}}'
_DOORS = f"sum(last_over_time({_INGRESS}[1m]))"
_USUAL_DOORS = f"quantile_over_time(0.5, {_DOORS}[30m:1m])"

_WANTED = f"max({metrics.REPLICAS_DESIRED.exported})"
_ENGINES = metrics.ENGINE_UP.exported
_TTFA = metrics.TTFA_SECONDS.exported
_FEW = f"sum(increase({metrics.UTTERANCES.exported}[10m])) > {FEW}"
"""Shares of a handful of utterances say nothing."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        name: also of its page in docs/runbooks.
        expr: PromQL that holds while something is wrong.
        hold: for how long, before anybody is told.
        severity: critical wakes somebody up, warning waits for the morning.
        summary: one line.
    """

    name: str
    expr: str
    hold: str
    severity: str
    summary: str


ALERTS = (
    Alert(
        "TtsNoMetrics",
        # Serve's own come from its controller, ours from each generator, where there is one.
        f'absent_over_time({SERVE_HEALTHY}{{deployment="Ingress"}}[2m])'
        f" or on () (absent_over_time({_ENGINES}[2m]) and on () {_THERE} > 0)",
        "3m",
        "critical",
        "No metrics of the service arrive: it is gone, or nobody can see how it is",
    ),
    Alert(
        "TtsFirstAudioSlow",
        f"histogram_quantile(0.95, sum by (le) (rate({_TTFA}_bucket[10m]))) > 1 and on () {_FEW}",
        "5m",
        "warning",
        "Of the first audio of ten minutes, one in twenty took more than {{ $value | humanizeDuration }}",
    ),
    Alert(
        "TtsListenersRunDry",
        f"{underrun_share('[10m]')} > 0.05 and on () {_FEW}",
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of utterances have gaps",
    ),
    Alert(
        "TtsErrors",
        f'{error_share("[10m]")} > 0.05 and on () sum(increase({metrics.ERRORS.exported}{{code=~"{OURS}"}}[10m])) > 5',
        "5m",
        "critical",
        "{{ $value | humanizePercentage }} of utterances end with an error of ours",
    ),
    Alert(
        "TtsRefused",
        f'sum(increase({metrics.ERRORS.exported}{{code="{CapacityError.code}"}}[10m])) > 5',
        "5m",
        "warning",
        "{{ $value | humanize }} clients were told in ten minutes that there is no room",
    ),
    Alert(
        "TtsReplicasAtMaximum",
        f"{_WANTED} >= max({metrics.REPLICAS_MAXIMUM.exported})",
        "15m",
        "warning",
        "{{ $value }} generators are wanted, and no more are allowed",
    ),
    Alert(
        "TtsReplicasMissing",
        f"{_WANTED} - ({_THERE} or vector(0)) > 0",
        "15m",
        "critical",
        "{{ $value }} generators that are wanted do not come",
    ),
    Alert(
        "TtsReplicaUnhealthy",
        f"min by (replica) ({_ENGINES}) == 0",
        "1m",
        "warning",
        "The engine of {{ $labels.replica }} is not healthy",
    ),
    Alert(
        "TtsReplicasRestarting",
        # Replicas that were seen, beyond those that were there at a time: one more for each that was replaced.
        f"count(count by (replica) (count_over_time({_ENGINES}[30m])))"
        f" - max_over_time(count(count by (replica) ({_ENGINES}))[30m:1m]) > 2",
        "0m",
        "warning",
        "{{ $value }} generators were replaced within half an hour",
    ),
    Alert(
        "TtsIngressLost",
        # Their number is fixed: one fewer is one that was lost. One that is replaced at once is seen by its new name.
        f"{_USUAL_DOORS} - ({_DOORS} or vector(0)) > 0"
        f" or count(count by (replica) (count_over_time({_INGRESS}[30m]))) - {_USUAL_DOORS} > 2",
        "5m",
        "warning",
        "{{ $value }} ingresses of the last half hour are gone, or were replaced",
    ),
    Alert(
        "TtsVoiceStoreDown",
        f"sum(increase({metrics.STORE_ERRORS.exported}[5m])) > 3"
        f" or absent({metrics.VOICES.exported}) and on () count({_ENGINES}) > 0",
        "5m",
        "warning",
        "The voice store does not answer: new voices cannot be spoken",
    ),
)
