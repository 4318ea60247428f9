"""Every query of the dashboard and of the rules, asked of a real Prometheus that has scraped a real proxy."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.metric_labels import LABELS
from proxy.policy import Unsteered

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/dashboards/rass-proxy.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules/rass-proxy.yml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$language": ".*"}
SELECTOR = re.compile(r"(?<![\w:])((?:rass[\w:]+|up)(?:\{[^}]*\})?)")
# A query may rightly find nothing; then its name is here, with the reason.
EMPTY_IS_RIGHT = {
    name: "an alert that finds nothing is one that does not fire; rules-test.yml shows that it can" for name in ALERTS
} | {"Waiting for a place B": "nobody had to wait for one"}


def panel_queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield f"{panel['title']} {target['refId']}", query


QUERIES = dict(panel_queries()) | RECORDS | ALERTS


def test_no_two_queries_have_one_name():
    assert len(QUERIES) == len(list(panel_queries())) + len(RULES)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_parses_and_finds_something(prometheus, name):
    values = prometheus.values(QUERIES[name])
    if name not in EMPTY_IS_RIGHT:
        assert any(math.isfinite(value) for value in values), f"{QUERIES[name]} gave {values}"


@pytest.mark.parametrize("name", QUERIES)
def test_every_series_that_a_query_names_exists(prometheus, name):
    selectors = SELECTOR.findall(QUERIES[name])
    assert selectors
    assert [selector for selector in selectors if not prometheus.values(selector)] == []


def test_every_rule_is_evaluated_without_an_error(prometheus):
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == RECORDS.keys() | ALERTS.keys()
    assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}


def test_the_traffic_held_every_outcome_and_attempts_of_the_common_results(prometheus):
    outcomes = {
        series["metric"]["outcome"]
        for series in prometheus.get("query", query="sum by (outcome) (rass_requests_total) > 0")["result"]
    }
    assert outcomes == set(LABELS["outcome"].values) - {"steered"}  # which mode recover never says
    results = prometheus.get("query", query="sum by (result) (rass_recoveries_total) > 0")["result"]
    assert {series["metric"]["result"] for series in results} >= {"answered", "still_refused", "harmful", "out_of_time"}


def test_the_language_variable_lists_what_was_refused(prometheus):
    (variable,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "language")
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
    assert prometheus.get(f"label/{label}/values", **{"match[]": metric}) == ["en", "es"]


def test_every_reason_not_to_steer_at_once_is_left_out_of_the_attempts():
    (left_out,) = re.findall(r'rass_steered_first_total\{result!~"([^"]*)"', RECORDS["rass:attempts:increase15m"])
    assert set(left_out.split("|")) == set(Unsteered)


def test_what_an_operator_must_see_is_on_the_dashboard():
    shown = " ".join(query for _, query in panel_queries())
    wanted = ("steered_first_total", "reloads_total", "upstream_circuit", "upstream_rejected_total")
    assert [
        name for name in (*wanted, "upstream_queue_length", "upstream_queue_seconds") if f"rass_{name}" not in shown
    ] == []


def test_promtool_accepts_rules_and_configuration(promtool, deploy):
    files = {"rules": deploy / "prometheus/rules/rass-proxy.yml", "config": deploy / "prometheus/prometheus.yml"}
    for kind, path in files.items():
        result = subprocess.run([promtool, "check", kind, path], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_each_alert_fires_when_it_should_and_not_before(promtool):
    cases = Path(__file__).parent / "rules-test.yml"
    result = subprocess.run([promtool, "test", "rules", cases], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    shown = {
        case["alertname"]
        for test in yaml.safe_load(cases.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert shown == ALERTS.keys()
