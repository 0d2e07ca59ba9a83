"""The dashboards of deploy/grafana: complete, and about metrics and labels that exist."""

import json
import re

import pytest
from prometheus_names import OURS, ROOT, checked_rules, metrics_in, unknown_labels, unknown_metrics

FOLDER = ROOT / "deploy" / "grafana"
FILES = sorted(FOLDER.glob("*.json"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def page(request):
    return json.loads(request.param.read_text())


def panels(page):
    return [panel for panel in page["panels"] if panel["type"] != "row"]


def queries(page):
    return [target["expr"] for panel in panels(page) for target in panel["targets"]]


def test_there_are_three_dashboards():
    assert [path.stem for path in FILES] == ["capacity", "listeners", "replica"]


def test_panels_say_what_they_show_and_in_which_unit(page):
    for panel in panels(page):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_titles_of_a_page_are_its_own(page):
    titles = [panel["title"] for panel in panels(page)]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])


def test_queries_go_to_the_chosen_datasource(page):
    assert page["templating"]["list"][0]["type"] == "datasource"
    for panel in panels(page):
        for place in (panel, *panel["targets"]):
            assert place["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_fill_the_grid_and_overlap_nowhere(page):
    taken = set()
    for panel in page["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_variables_in_queries_are_declared(page):
    declared = {one["name"] for one in page["templating"]["list"]}
    for query in queries(page):
        assert set(re.findall(r"\$(\w+)", query)) <= declared | {"__rate_interval"}


def test_every_metric_exists(page):
    assert unknown_metrics(queries(page)) == set()


def test_every_label_exists(page):
    assert unknown_labels(queries(page)) == set()


def test_the_dashboards_show_every_metric_of_the_table():
    shown = {name for path in FILES for query in queries(json.loads(path.read_text())) for name in metrics_in(query)}
    assert OURS - shown == set()


def test_queries_are_promql(page, tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries(page))
    ]
    checked_rules(tmp_path / "rules.yaml", rules)
