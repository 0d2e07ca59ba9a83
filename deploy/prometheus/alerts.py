"""All alerts except those of the SLOs, with their severity."""

from dataclasses import dataclass

from objectives import FEW, OURS, error_share, heard, underrun_share

from serve_app.errors import CapacityError
from serve_app.observability import metrics

SERVE_HEALTHY = "ray_serve_deployment_replica_healthy"
_THERE = f'sum(last_over_time({SERVE_HEALTHY}{{deployment="Generator"}}[1m]))'
"""Serve sets this gauge about every ten seconds, and Ray drops a gauge that was not set in time."""

_INGRESS = f'{SERVE_HEALTHY}{{deployment="Ingress"}}'
_INGRESSES = f"sum(last_over_time({_INGRESS}[1m]))"
_USUAL_INGRESSES = f"quantile_over_time(0.5, {_INGRESSES}[30m:1m])"

_WANTED = f"max({metrics.REPLICAS_DESIRED.exported})"
_ENGINES = metrics.ENGINE_UP.exported
_TTFA = metrics.TTFA_SECONDS.exported
_FEW = f"{heard('[10m]')} > {FEW}"
"""Shares of few utterances are not significant."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        name: also the name of its runbook in docs/runbooks.
        expr: PromQL that is true while something is wrong.
        hold: how long it has to be true before the alert fires.
        severity: critical pages the person on call; a warning can wait until working hours.
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
        # Serve's gauge comes from its controller, ours from each running generator.
        f'absent_over_time({SERVE_HEALTHY}{{deployment="Ingress"}}[2m])'
        f" or on () (absent_over_time({_ENGINES}[2m]) and on () {_THERE} > 0)",
        "3m",
        "critical",
        "Prometheus gets no metrics: the service is down, or its metrics are not scraped",
    ),
    Alert(
        "TtsFirstAudioSlow",
        f"histogram_quantile(0.95, sum by (le) (rate({_TTFA}_bucket[10m]))) > 1 and on () {_FEW}",
        "5m",
        "warning",
        "p95 of the first audio is {{ $value | humanizeDuration }} over ten minutes",
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
        "{{ $value | humanizePercentage }} of utterances end with a server error",
    ),
    Alert(
        "TtsRefused",
        f'sum(increase({metrics.ERRORS.exported}{{code="{CapacityError.code}"}}[10m])) > 5',
        "5m",
        "warning",
        "{{ $value | humanize }} requests were refused in ten minutes for lack of capacity",
    ),
    Alert(
        "TtsReplicasAtMaximum",
        f"{_WANTED} >= max({metrics.REPLICAS_MAXIMUM.exported})",
        "15m",
        "warning",
        "The policy wants {{ $value }} generators, which is the maximum",
    ),
    Alert(
        "TtsReplicasMissing",
        f"{_WANTED} - ({_THERE} or vector(0)) > 0",
        "15m",
        "critical",
        "{{ $value }} wanted generators are not running",
    ),
    Alert(
        "TtsReplicaUnhealthy",
        f"min by (replica) ({_ENGINES}) == 0",
        "1m",
        "warning",
        "The engine of {{ $labels.replica }} is unhealthy",
    ),
    Alert(
        "TtsReplicasRestarting",
        # Replicas seen in the window, minus the most that ran at the same time: the number of replacements.
        f"count(count by (replica) (count_over_time({_ENGINES}[30m])))"
        f" - max_over_time(count(count by (replica) ({_ENGINES}))[30m:1m]) > 2",
        "0m",
        "warning",
        "{{ $value }} generators were replaced within half an hour",
    ),
    Alert(
        "TtsIngressLost",
        # The number of ingresses is fixed, so a missing one was lost. One that was replaced at once has a new name.
        f"{_USUAL_INGRESSES} - ({_INGRESSES} or vector(0)) > 0"
        f" or count(count by (replica) (count_over_time({_INGRESS}[30m]))) - {_USUAL_INGRESSES} > 2",
        "5m",
        "warning",
        "{{ $value }} ingresses were lost or replaced within half an hour",
    ),
    Alert(
        "TtsVoiceStoreDown",
        f"sum(increase({metrics.COORDINATOR_ERRORS.exported}[5m])) > 3"
        f" or absent({metrics.VOICES.exported}) and on () count({_ENGINES}) > 0",
        "5m",
        "warning",
        "The coordinator does not answer: new voices are not available",
    ),
)
