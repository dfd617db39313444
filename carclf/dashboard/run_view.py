"""What the page of a run and its report as one file have in common: its facts, and the charts made of them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from carclf.dashboard.charts import Chart
from carclf.dashboard.run_charts import curves, recalls, reliability, stage_times
from carclf.dashboard.run_facts import VIEWABLE_SUFFIXES
from carclf.reports.evaluation_report import MAX_CONFUSION_CLASSES, confused_pairs, confusion_matrix
from carclf.runs.live import LiveProgress

Facts = Mapping[str, Any]
UNITS = {"fine_tune": "step"}  # what the training loop counts; the head counts epochs
TITLES = {"train_head": "Head", "fine_tune": "Fine-tuning"}


def run_view(found: Facts) -> dict[str, Any]:
    """The values of the template ``run.html``, of a run's ``facts``."""
    evaluation = found["evaluation"]
    names, confusion = (evaluation["class_names"], evaluation["confusion"]) if evaluation else ([], [])
    return {
        **{name: found[name] for name in ("run", "store", "row", "header", "stages", "data", "evaluation", "errors",
                                          "decision", "problems", "unread")},
        "shown": VIEWABLE_SUFFIXES, "version": page_version(found["row"], found["live"]), "champion": found["row"]["champion"],
        "progress": progress(found["live"]), "trainings": trainings(found),
        "stage_times": stage_times(found["stages"]),
        "recalls": recalls(evaluation["classes"]) if evaluation else None,
        "reliability": reliability(evaluation["reliability"]) if "reliability" in (evaluation or {}) else None,
        "matrix": confusion_matrix(names, confusion) if 0 < len(names) <= MAX_CONFUSION_CLASSES else None,
        "pairs": confused_pairs(names, confusion),
    }


def trainings(found: Facts) -> list[dict[str, Any]]:
    """A title and the curves of each training: as it tells while it runs, as its history has them afterwards."""
    shown = []
    for stage, rows in reversed(found["curves"].items()):
        live = found["live"].get(stage)
        if rows and not (live and live["state"] == "running"):
            charts, how = curves(stage, rows, "epoch", "epoch"), ""
        else:
            charts, how = live_curves(live) if live else [], ", as it goes"
        if charts:
            shown.append({"title": f"{TITLES[stage]}{how}", "charts": charts})
    return shown


def live_curves(live: LiveProgress) -> list[Chart]:
    """The curves of a stage that trains or trained, of what it told meanwhile."""
    charts = []
    for what, series in live["series"].items():
        points = sorted([*series["points"], *series["epochs"]], key=lambda point: float(point["done"]))
        charts += curves(f"live-{what}", points, "done", UNITS.get(what, "epoch"))
    return charts


def progress(live: Mapping[str, LiveProgress]) -> list[dict[str, Any]]:
    """A line for each stage that is under way: ``stage``, ``text`` and ``share`` of the work that is done."""
    return [{"stage": stage, "text": _progress_text(stage, one), "share": one["done"] / max(1, one["total"])}
            for stage, one in live.items() if one["state"] in ("running", "stale")]


def _progress_text(stage: str, one: LiveProgress) -> str:
    if one["state"] == "stale":
        return f"{stage}: nothing was heard of it since {one['updated']}; it was probably killed"
    metrics = one["metrics"]
    known = {"epoch": "{:.0f}", "loss": "{:.3f}", "accuracy": "{:.3f}", "images_per_second": "{:.0f}",
             "data_wait_fraction": "{:.0%}"}
    said = [f"{name.replace('_', ' ')} {form.format(metrics[name])}" for name, form in known.items()
            if metrics.get(name) is not None]
    eta = [] if one["eta_seconds"] is None else [f"{one['eta_seconds']:.0f} s to go"]
    if not one["total"]:
        return f"{stage}: it begins"
    what = "" if one["activity"] == stage else f" {one['what']}"
    return f"{stage}:{what} " + ", ".join([f"{one['done']} of {one['total']}", *said, *eta])


def page_version(row: Mapping[str, Any], live: Mapping[str, LiveProgress]) -> str:
    """What changes where a page would show other parts than before, and not only other points."""
    parts = [row["updated"], sorted((stage, one["state"], list(one["series"])) for stage, one in live.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
