"""Render the report of a decision."""

from collections.abc import Mapping
from typing import Any

from carclf.metrics import METRICS
from carclf.reports.render import render_template


def render_decision(decision: Mapping[str, Any]) -> str:
    """Return the page of a ``decision.json``."""
    metric = METRICS[decision["metric"]]
    return render_template(
        "decision_report.html", decision=decision, comparison=decision["champion_comparison"], metric=metric.title,
        is_accuracy=metric.is_accuracy,
    )
