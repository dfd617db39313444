"""The values of an experiment's pages: each recipe compared with the baseline, and the metric over cost."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from carclf.dashboard.charts import Chart, Color, Spec, Values, axis, color_scale, format_cell, layered_spec, tooltip
from carclf.dashboard.liveness import mark_stale_runs
from carclf.dashboard.run_reader import MALFORMED_DATA_ERRORS, Facts
from carclf.dashboard.run_view import progress_lines
from carclf.errors import DataError
from carclf.metrics import METRICS, Metric
from carclf.reports.experiment_report import sort_by_metric, summarize_design
from carclf.runs.index import list_runs
from carclf.runs.live import read_live_progress
from carclf.services.storage import Store

COLORS = {"better": Color.GREEN, "worse": Color.RED, "inconclusive": Color.MUTED, "baseline": Color.BLUE}
COPIED = ("experiment", "stopped_early", "failed", "not_trained")
DRAWN = {"recipe", "minutes", "value", "accuracy", "summary"}


class RecipeRow(Facts):
    """A recipe in ``outcome.json``. Values that were not measured or do not apply to the baseline are None."""

    recipe: str
    conclusion: str  # better, worse or inconclusive; "" for the baseline
    summary: str
    command: str
    runs: tuple[str, ...]
    on_pareto_front: bool
    accuracy: float
    value: float  # of the metric
    value_std: float | None
    num_seeds: int
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    minutes: float | None = None
    images_per_second: float | None = None

    def cells(self, metric: Metric) -> tuple[str, ...]:
        """Return the values as the cells of a table; accuracy has its own cell unless it is the metric."""
        difference = ""
        if self.difference is not None and self.low is not None and self.high is not None:
            values = (metric.format_difference(value, "+") for value in (self.difference, self.low, self.high))
            difference = "{} ({} to {})".format(*values)
        accuracy = () if metric.name == "accuracy" else (f"{self.accuracy:.4f}",)
        return (f"{self.value:.4f}", *accuracy, format_cell(self.value_std, ".4f"), str(self.num_seeds), difference,
                format_cell(self.p_value, ".3g"), format_cell(self.minutes, ".1f"),
                format_cell(self.images_per_second, ".1f"))


class TrainingRunStatus(Facts):
    """A planned training run, its row of the index (None: not started), and its progress while it runs."""

    recipe: str
    seed: int
    fold: int
    run_id: str
    row: dict[str, Any] | None
    progress: tuple[str, ...]


def experiment_view(outcome: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """Return the values of ``experiment.html`` from an experiment's ``outcome.json``; DataError if it is malformed."""
    try:
        rows = [RecipeRow.model_validate(row) for row in sort_by_metric(outcome)]
        winner, metric = str(outcome.get("winner") or ""), METRICS[outcome["metric"]]
        return {name: outcome[name] for name in COPIED} | {
            "introduction": summarize_design(outcome), "rows": rows, "metric": metric,
            "metric_over_cost": metric_over_cost(rows, metric),
            "winner": winner,
            "promote_command": shlex.join(["carclf", "champion", "promote", "--run", winner, "--store", store.url]),
        }
    except MALFORMED_DATA_ERRORS as error:
        raise DataError(f"The outcome of the experiment has an unexpected format: {error!r}. Compute it again: carclf "
                        "experiment compare --name NAME") from error


def training_run_statuses(store: Store, training_runs: Sequence[Mapping[str, Any]]) -> list[TrainingRunStatus]:
    """Return the status of an experiment's planned runs, each with ``recipe``, ``seed``, ``fold`` and ``run_id``."""
    names = {run["run_id"] for run in training_runs}
    rows = mark_stale_runs(store, [row for row in list_runs(store) if row["run"] in names])
    by_run = {row["run"]: row for row in rows}
    statuses = []
    for run in training_runs:
        row = by_run.get(run["run_id"])
        live = read_live_progress(store, row["run"]) if row and row["state"] == "running" else {}
        progress = [line.text for line in progress_lines(live)]
        statuses.append(TrainingRunStatus.model_validate({**run, "row": row, "progress": progress}))
    return statuses


def metric_over_cost(rows: Sequence[RecipeRow], metric: Metric) -> Chart:
    """Return the metric of each recipe over its minutes of training, and the Pareto front as a line."""
    timed = [row for row in rows if row.minutes is not None]
    values: Values = [row.model_dump(include=DRAWN) | {"kind": row.conclusion or "baseline"} for row in timed]
    position: Spec = {"x": axis("minutes", "minutes of training", axis={"tickCount": 8, "format": "~g"}),
                      "y": axis("value", metric.label)}
    front = [value for value, row in zip(values, timed, strict=True) if row.on_pareto_front]
    lines = [{"field": "recipe"}, {"field": "value", "title": metric.title, "format": ".4f"},
             *tooltip(".1f", "minutes"), {"field": "summary", "title": "conclusion"}]
    layers: list[Spec] = [
        {"data": {"values": front}, "mark": {"type": "line", "color": Color.BLUE, "strokeWidth": 1, "opacity": 0.7},
         "encoding": position},
        {"mark": {"type": "circle", "size": 80, "opacity": 1},
         "encoding": position | {"color": color_scale("kind", COLORS), "tooltip": lines}},
        {"mark": {"type": "text", "align": "left", "dx": 7, "dy": -7, "color": Color.TEXT, "fontSize": 12},
         "encoding": position | {"text": {"field": "recipe"}}},
    ]
    table = [
        [row.recipe, format_cell(row.minutes, ".1f"), f"{row.value:.4f}", "yes" if row.on_pareto_front else ""]
        for row in timed
    ]
    columns = ["recipe", "minutes", metric.label, "on the Pareto front"]
    title = f"{metric.title} over minutes of training"
    spec = layered_spec(title, values, layers, 300)
    return Chart("metric-over-cost", title, spec, _summarize_costs(timed, metric), columns, table)


def _summarize_costs(timed: Sequence[RecipeRow], metric: Metric) -> str:
    if not timed:
        return "The cost of the recipes is unknown."
    best = max(timed, key=lambda row: metric.improvement(row.value, 0))
    by_cost = sorted(timed, key=lambda row: row.minutes or 0.0)
    front = ", ".join(row.recipe for row in by_cost if row.on_pareto_front)
    return (f"The best is {best.recipe}: {best.value:.4f} in {best.minutes:.1f} minutes. On the Pareto front, where no "
            f"recipe is better at the same cost or less: {front}.")
