"""Prometheus' names for the metrics of carclf, Airflow and Flower, and the names in a query."""

import re
from dataclasses import dataclass

from carclf.services.telemetry.instruments import METRICS

UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "1": ""}
PER = {"s": "second"}
KNOWN_LABELS = {
    "stage", "recipe", "outcome", "decision", "error_type", "hw_id", "instance", "dag_id", "queue", "worker",
}  # fmt: skip
KEYWORDS = {"or", "and", "unless", "offset", "bool"}


def prometheus_name(name: str, unit: str, *, counter: bool = False) -> str:
    """Translate a name by the default strategy of prometheus/otlptranslator, UnderscoreEscapingWithSuffixes."""
    main, _, per = unit.partition("/")
    suffixes = ["" if "{" in main else UNITS[main] if main else "", f"per_{PER[per]}" if per else ""]
    parts = re.findall(r"[A-Za-z0-9:]+", name)
    parts += [suffix for suffix in suffixes if suffix and suffix not in parts]
    if counter:
        parts = [*(part for part in parts if part != "total"), "total"]
    elif unit == "1":
        parts = [*(part for part in parts if part != "ratio"), "ratio"]
    return "_".join(parts)


def carclf_metric_names() -> set[str]:
    return {prometheus_name(metric.name, metric.unit, counter=metric.kind == "counter") for metric in METRICS}


def airflow_metric_names() -> set[str]:
    """Return the metrics in the registry of the installed Airflow. Its timers are histograms in milliseconds."""
    # Airflow has no public list of its metrics; this module also generates the tables in its documentation.
    from airflow._shared.observability.metrics.metrics_registry import YAML_REGISTRY_PATH, read_metrics_yaml

    return {prometheus_name(f"airflow.{metric['name']}", "ms" if kind == "timer" else "", counter=kind == "counter")
            for metric in read_metrics_yaml(str(YAML_REGISTRY_PATH))
            if "{" not in metric["name"] for kind in [metric["type"]]}


def flower_metric_names() -> set[str]:
    from flower.events import get_prometheus_metrics

    return {family.name for metric in vars(get_prometheus_metrics()).values() for family in metric.describe()}


@dataclass(frozen=True)
class PromqlNames:
    """The metrics and labels in a PromQL query."""

    names: set[str]
    labels: set[str]


def parse_promql(query: str) -> PromqlNames:
    query = re.sub(r'"[^"]*"', '""', query)
    matchers = re.findall(r"\{([^}]*)\}", query)
    labels = {label for matcher in matchers for label in re.findall(r"(\w+)\s*[=!]", matcher)}
    labels |= {label for group in re.findall(r"\bby \(([^)]*)\)", query) for label in re.findall(r"\w+", group)}
    plain = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\boffset \w+", " ", query)
    names = {name for name in re.findall(r"\b([A-Za-z_]\w*)\b(?!\s*\()", plain) if name not in KEYWORDS}
    return PromqlNames(names, labels)
