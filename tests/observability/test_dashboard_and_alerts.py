"""The alerts and the dashboard query existing metrics only, and every metric and alert is documented."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from metric_names import (
    KNOWN_LABELS,
    airflow_metric_names,
    carclf_metric_names,
    flower_metric_names,
    parse_promql,
    prometheus_name,
)

from carclf.services.telemetry.instruments import METRICS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker/observability"
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "grafana/dashboards/carclf.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
QUERIES = [(rule["alert"], rule["expr"]) for rule in RULES] + TARGETS
EN_DASH = "\N{EN DASH}"
DOCS = (ROOT / "docs/observability.md").read_text()
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed (Debian package: prometheus)")


@pytest.fixture(scope="module")
def known_metrics() -> set[str]:
    return carclf_metric_names() | airflow_metric_names() | flower_metric_names() | {"ALERTS"}


@pytest.mark.parametrize(("name", "unit", "counter", "expected"), [  # as Prometheus stores them
    ("carclf.stage.runs", "{run}", True, "carclf_stage_runs_total"),
    ("carclf.stage.duration", "s", False, "carclf_stage_duration_seconds"),
    ("carclf.training.throughput", "{image}/s", False, "carclf_training_throughput_per_second"),
    ("carclf.training.data_wait", "1", False, "carclf_training_data_wait_ratio"),
    ("carclf.training.loss", "", False, "carclf_training_loss"),
    ("process.memory.usage", "By", False, "process_memory_usage_bytes"),
])
def test_names_follow_prometheus_rules(name: str, unit: str, counter: bool, expected: str) -> None:
    assert prometheus_name(name, unit, counter=counter) == expected


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_uses_existing_metrics_and_labels(known_metrics: set[str], title: str, query: str) -> None:
    used = parse_promql(query)
    assert used.names
    assert used.names <= known_metrics
    assert used.labels <= KNOWN_LABELS | {"alertstate"}


def test_every_metric_of_carclf_is_on_the_dashboard() -> None:
    shown = {name for _, query in TARGETS for name in parse_promql(query).names}
    assert carclf_metric_names() - shown == set()


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_is_complete_and_documented(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description"} and all(rule["annotations"].values())
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert used <= parse_promql(rule["expr"]).labels
    assert f"| {rule['alert']} |" in DOCS


def test_the_docs_list_every_metric_with_its_unit() -> None:
    for metric in METRICS:
        assert f"| `{metric.name}` | {metric.unit or EN_DASH} | " in DOCS, metric.name


def test_the_panels_of_the_dashboard_are_valid_and_do_not_overlap() -> None:
    source = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    datasource = {"type": source["type"], "uid": source["uid"]}
    assert {panel["type"] for panel in PANELS} <= {"timeseries", "stat", "bargauge", "table"}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells: list[tuple[int, int]] = []
    for panel in DASHBOARD["panels"]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        assert x >= 0 and x + w <= 24
        cells += [(column, line) for column in range(x, x + w) for line in range(y, y + h)]
    assert len(set(cells)) == len(cells)
    for panel in PANELS:
        assert panel["datasource"] == datasource and panel["title"] and panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"] == datasource and target["expr"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_queries_use_exactly_the_variables_of_the_dashboard() -> None:
    used = {name for _, query in TARGETS for name in re.findall(r"\$(\w+)", query)}
    variables = DASHBOARD["templating"]["list"]
    assert used - {"__range"} == {variable["name"] for variable in variables}
    for variable in variables:
        assert variable["query"]["query"] == f"label_values(carclf_stage_runs_total, {variable['name']})"


def test_grafana_finds_its_dashboard() -> None:
    grafana = yaml.safe_load((ROOT / "docker/observability.yml").read_text())["services"]["grafana"]
    provider = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/carclf.yml").read_text())["providers"][0]
    mounts = dict(volume.split(":")[:2][::-1] for volume in grafana["volumes"])
    assert mounts[provider["options"]["path"]] == "./observability/grafana/dashboards"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/carclf.json"


def test_the_services_are_locked_down() -> None:
    services = yaml.safe_load((ROOT / "docker/observability.yml").read_text())["services"]
    environment = services["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_PASSWORD:?run make secrets}"
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    for name, service in services.items():
        assert service["profiles"] == ["observability"] and service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service.get("user") != "root" and "healthcheck" in service and "mem_limit" in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@needs_promtool
def test_promtool_accepts_the_rules_and_the_configuration(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    text = (FOLDER / "prometheus.yml").read_text().replace("/etc/prometheus/", "")
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(["promtool", "check", "config", "--lint-fatal", str(tmp_path / "prometheus.yml")],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{len(RULES)} rules found" in done.stdout, done.stdout + done.stderr


@needs_promtool
def test_each_alert_fires_only_when_it_should() -> None:
    path = Path(__file__).parent / "alerts_test.yml"
    tests = yaml.safe_load(path.read_text())["tests"]
    tested = {rule["alertname"] for test in tests for rule in test["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in RULES}
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": re.sub(r"\$(__range|stage|recipe)", "1h", query)}
             for number, (_, query) in enumerate(TARGETS)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(tmp_path / "panels.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
