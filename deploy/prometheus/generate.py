"""Write Prometheus' rules from `objectives.py` and `alerts.py`, as a file and as a resource of its operator.

``python deploy/prometheus/generate.py`` writes them; with ``--check`` it says which have drifted, and fails.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from alerts import ALERTS, Alert
from objectives import BURNS, OBJECTIVES, WINDOWS, Burn, Objective

HERE = Path(__file__).parent
COMPONENT = HERE.parent / "kuberay" / "components" / "prometheus-rules"
HEADER = "# Written by deploy/prometheus/generate.py: change objectives.py or alerts.py there, and run it again.\n"


def rules() -> dict[str, Any]:
    """All groups, as Prometheus reads them."""
    recorded = [{"record": one.recorded(window), "expr": one.over(window)} for one in OBJECTIVES for window in WINDOWS]
    return {
        "groups": [
            {"name": "tts-objectives", "rules": recorded},
            {"name": "tts-budgets", "rules": [_budget(one, burn) for one in OBJECTIVES for burn in BURNS]},
            {"name": "tts-alerts", "rules": [_alert(one) for one in ALERTS]},
        ]
    }


def manifest() -> dict[str, Any]:
    """The same for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tts", "labels": {"app.kubernetes.io/part-of": "tts"}},
        "spec": rules(),
    }


def files() -> dict[Path, str]:
    """Every file to write, with its text."""
    documents = {HERE / "rules.yaml": rules(), COMPONENT / "rules.yaml": manifest()}
    return {path: HEADER + yaml.safe_dump(one, sort_keys=False, width=1000) for path, one in documents.items()}


def _alert(one: Alert) -> dict[str, Any]:
    return {
        "alert": one.name,
        "expr": one.expr,
        "for": one.hold,
        "labels": {"severity": one.severity},
        "annotations": {"summary": one.summary, "runbook": _runbook(one.name)},
    }


def _budget(one: Objective, burn: Burn) -> dict[str, Any]:
    gone = f"in {burn.long} at {burn.factor:g} times the rate that 30 days allow"
    return {
        "alert": one.alert,
        "expr": one.burning(burn),
        "for": "2m",
        "labels": {"severity": burn.severity, "window": burn.long},
        "annotations": {
            "summary": f"{one.promise}: {{{{ $value | humanizePercentage }}}} were not, {gone}",
            "runbook": _runbook(one.alert),
        },
    }


def _runbook(alert: str) -> str:
    return f"docs/runbooks/{alert}.md"


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file has drifted")
    check: bool = parser.parse_args().check
    drifted = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in drifted.items():
        print(f"{'drifted' if check else 'written'}: {path}")
        if not check:
            path.write_text(text)
    sys.exit(1 if check and drifted else 0)


if __name__ == "__main__":
    main()
