"""The values of the template ``run.html``, which both the page of a run and its self-contained report use."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from carclf.dashboard.charts import Chart
from carclf.dashboard.run_charts import curves, recalls, reliability, stage_times
from carclf.dashboard.run_facts import EvaluationFacts, RunFacts, is_viewable
from carclf.dashboard.run_reader import Facts
from carclf.metrics import METRICS, Metric
from carclf.reports.evaluation_report import confused_pairs, confusion_matrix
from carclf.reports.render import MAX_CLASSES
from carclf.runs.live import LiveProgress

X_TITLES = {"fine_tune": "step", "refit": "step"}  # the unit of an activity's progress, if not epochs
STAGE_TITLES = {"train_head": "Head", "fine_tune": "Fine-tuning", "refit": "Refit"}
METRIC_FORMATS = {"epoch": "{:.0f}", "loss": "{:.3f}", "accuracy": "{:.3f}", "images_per_second": "{:.0f}",
                  "data_wait_fraction": "{:.0%}"}


class ProgressLine(Facts):
    """Progress of a stage: a sentence, and the completed fraction."""

    stage: str
    text: str
    fraction: float


def run_view(facts: RunFacts) -> dict[str, Any]:
    """Return the values of the template ``run.html``."""
    return {
        "facts": facts, "row": facts.row, "metric": METRICS[facts.row["metric"]], "is_viewable": is_viewable,
        "version": page_version(facts.row, facts.live), "progress": progress_lines(facts.live),
        "training_charts": _training_charts(facts), "stage_times": stage_times(facts.stages),
    } | _evaluation_view(facts.evaluation)


def _evaluation_view(evaluation: EvaluationFacts | None) -> dict[str, Any]:
    if evaluation is None:
        return {"recalls": None, "reliability": None, "matrix": None, "confused_pairs": []}
    names, confusion = evaluation.class_names, evaluation.confusion
    return {
        "recalls": recalls(evaluation.classes),
        "reliability": reliability(evaluation.reliability) if evaluation.reliability else None,
        "matrix": confusion_matrix(names, confusion) if 0 < len(names) <= MAX_CLASSES else None,
        "confused_pairs": confused_pairs(names, confusion),
    }


def _training_charts(facts: RunFacts) -> dict[str, list[Chart]]:
    """Return the curves of each training stage by title, the latest first: live while it runs, then its history."""
    charts = {}
    metric = METRICS[facts.row["metric"]]
    for stage, epochs in reversed(facts.curves.items()):
        live = facts.live.get(stage)
        if epochs and not (live and live["state"] == "running"):
            charts[STAGE_TITLES[stage]] = curves(stage, epochs, "epoch", "epoch", metric)
        elif live:
            charts[f"{STAGE_TITLES[stage]}, live"] = live_curves(live, metric)
    return {title: stage_charts for title, stage_charts in charts.items() if stage_charts}


def live_curves(live: LiveProgress, metric: Metric) -> list[Chart]:
    """Return the curves of a stage from its live progress."""
    charts = []
    for activity, series in live["series"].items():
        points = sorted([*series["points"], *series["epochs"]], key=lambda point: float(point["done"]))
        charts += curves(f"live-{activity}", points, "done", X_TITLES.get(activity, "epoch"), metric)
    return charts


def progress_lines(live: Mapping[str, LiveProgress]) -> list[ProgressLine]:
    """Return a line for each stage that is running, or was running when its process was killed."""
    return [
        ProgressLine(stage=stage, text=_progress_text(stage, state), fraction=state["done"] / max(1, state["total"]))
        for stage, state in live.items()
        if state["state"] in ("running", "stale")
    ]


def _progress_text(stage: str, live: LiveProgress) -> str:
    if live["state"] == "stale":
        return f"{stage}: no heartbeat since {live['updated']}; the process was probably killed"
    if not live["total"]:
        return f"{stage}: starting"
    metrics = [
        f"{name.replace('_', ' ')} {form.format(live['metrics'][name])}"
        for name, form in METRIC_FORMATS.items()
        if live["metrics"].get(name) is not None
    ]
    remaining = [] if live["eta_seconds"] is None else [f"{live['eta_seconds']:.0f} s remaining"]
    activity = "" if live["activity"] == stage else f" {live['activity']}"
    return f"{stage}:{activity} " + ", ".join([f"{live['done']} of {live['total']}", *metrics, *remaining])


def page_version(row: Mapping[str, Any], live: Mapping[str, LiveProgress]) -> str:
    """Return a hash that changes when an open page must be reloaded, not only its charts updated."""
    stages = sorted((stage, state["state"], list(state["series"])) for stage, state in live.items())
    return hashlib.sha256(json.dumps([row["updated"], stages]).encode()).hexdigest()[:12]
