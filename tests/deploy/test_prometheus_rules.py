"""The rules of deploy/prometheus: in step with what writes them, tried out, each with a page that says what to do."""

import re
import subprocess
import sys

import pytest
import yaml
from prometheus_names import ROOT, RUNBOOKS, metrics_in, promtool, unknown_labels, unknown_metrics

FOLDER = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
NAMES = sorted({alert["alert"] for alert in ALERTS})
HEADINGS = ["What it means", "Look at", "Likely causes", "What to do", "When it is over"]


def test_files_are_those_of_the_code():
    result = subprocess.run(
        [sys.executable, str(FOLDER / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"run python deploy/prometheus/generate.py: {result.stdout}{result.stderr}"


def test_the_operator_gets_the_same_rules():
    component = ROOT / "deploy" / "kuberay" / "components" / "prometheus-rules" / "rules.yaml"
    assert yaml.safe_load(component.read_text())["spec"] == RULES


def test_promtool_takes_the_rules_and_the_configuration():
    promtool("check", "rules", str(FOLDER / "rules.yaml"))
    promtool("check", "config", str(FOLDER / "prometheus.yaml"))


@pytest.mark.slow
def test_every_alert_fires_when_it_should_and_not_otherwise():
    promtool("test", "rules", str(FOLDER / "rules_test.yaml"))


def test_every_alert_is_tried_both_ways():
    tried = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    cases = [case for one in tried for case in one["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(NAMES)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(NAMES)
    fired = {
        (case["alertname"], alert["exp_labels"]["severity"], alert["exp_labels"].get("window"))
        for case in cases
        for alert in case.get("exp_alerts", ())
    }
    assert fired == {(one["alert"], one["labels"]["severity"], one["labels"].get("window")) for one in ALERTS}


def test_every_metric_and_label_exists():
    queries = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    assert unknown_metrics(queries) == set()
    assert unknown_labels(queries) == set()


def test_what_alerts_look_at_is_recorded():
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    used = {name for alert in ALERTS for name in re.findall(r"\btts:[\w:]+", alert["expr"])}
    assert used == recorded


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert['alert']}-{alert['labels']['severity']}")
def test_alerts_say_how_urgent_they_are_and_what_to_do(alert):
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook"] == f"docs/runbooks/{alert['alert']}.md"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_runbooks_say_everything_and_name_panels_that_exist(name):
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    panels = re.findall(r"\*(Listeners|Capacity|Replica): ([^*]+)\*", text)
    assert panels
    for page, title in panels:
        assert f'"title": "{title}"' in (ROOT / "deploy" / "grafana" / f"{page.lower()}.json").read_text(), title


def test_metrics_are_found_in_promql():
    query = 'sum(rate(ray_tts_ttfa_seconds_bucket{le="0.5"}[5m])) / ray_tts_errors_total + ray_nobodys_count'
    assert metrics_in(query) == {"ray_tts_ttfa_seconds", "ray_tts_errors_total", "ray_nobodys_count"}
    assert unknown_metrics([query]) == {"ray_nobodys_count"}


def test_labels_are_found_in_promql():
    query = (
        'sum by (code, part) (rate(ray_tts_errors_total{stage="x"}[5m])) / sum by (le) (ray_tts_ttfa_seconds_bucket)'
    )
    assert unknown_labels([query]) == {("ray_tts_errors_total", "part"), ("ray_tts_errors_total", "stage")}
