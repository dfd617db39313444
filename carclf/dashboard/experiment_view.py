"""What the page of an experiment shows: each recipe beside the baseline, in words, and accuracy over cost."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from carclf.dashboard.charts import BLUE, GREEN, MUTED, RED, Chart, Spec, Values, axis, color_scale, format_number, spec
from carclf.dashboard.liveness import mark_stale_runs
from carclf.dashboard.run_sources import MALFORMED_DATA_ERRORS
from carclf.dashboard.run_view import progress
from carclf.errors import DataError
from carclf.reports.experiment_report import sort_by_accuracy, summarize_design
from carclf.runs.index import list_runs as rows_of
from carclf.runs.live import read_live_progress
from carclf.services.storage import Store

Row = Mapping[str, Any]
TITLE = "Accuracy over minutes of training"
KINDS = {"better": GREEN, "worse": RED, "inconclusive": MUTED, "baseline": BLUE}
SHARED = ("experiment", "stopped_early", "failed", "not_trained")


def experiment_view(found: Mapping[str, Any], store: Store) -> dict[str, Any]:
    """The values of the template ``experiment.html``, of an experiment's ``outcome.json``; DataError for another."""
    try:
        rows, winner = sort_by_accuracy(found), str(found.get("winner") or "")
        promote = shlex.join(["carclf", "champion", "promote", "--run", winner, "--store", store.url])
        return {name: found[name] for name in SHARED} | {
            "introduction": summarize_design(found), "rows": [_shown(row) for row in rows], "accuracy_over_cost": accuracy_over_cost(rows),
            "winner": winner, "promote": promote}
    except MALFORMED_DATA_ERRORS as error:
        raise DataError(f"The comparison is damaged, or of another version of carclf: {error!r}. Make it again: carclf "
                        "experiment compare --name with the experiment's name") from error


def training_runs_view(store: Store, members: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the trainings go that an experiment planned: each ``recipe``, ``seed``, ``fold`` and ``run_id``.

    With ``row`` of the index (None: not begun) and ``progress``: a line for what is under way.
    """
    names = {member["run_id"] for member in members}
    found = {row["run"]: row for row in mark_stale_runs(store, [row for row in rows_of(store) if row["run"] in names])}
    return [{**member, "row": (row := found.get(member["run_id"])), "progress": _under_way(store, row)}
            for member in members]


def _under_way(store: Store, row: Row | None) -> list[str]:
    if row is None or row["state"] != "running":
        return []
    return [line["text"] for line in progress(read_live_progress(store, row["run"]))]


def accuracy_over_cost(rows: Sequence[Row]) -> Chart:
    """Accuracy over minutes of training of each recipe, and the Pareto front as a line."""
    known = [row for row in rows if "minutes" in row]
    values: Values = [{"recipe": row["recipe"], "minutes": row["minutes"], "accuracy": row["accuracy"],
                       "kind": row["conclusion"] or "baseline", "said": row["summary"]} for row in known]
    at: Spec = {"x": axis("minutes", "minutes of training", axis={"tickCount": 8, "format": "~g"}),
                "y": axis("accuracy", "accuracy")}
    layers: list[Spec] = [
        {"data": {"values": [value for value, row in zip(values, known, strict=True) if row["on_pareto_front"]]},
         "mark": {"type": "line", "color": BLUE, "strokeWidth": 1, "opacity": 0.7}, "encoding": at},
        {"mark": {"type": "circle", "size": 80, "opacity": 1},
         "encoding": at | {"color": color_scale("kind", KINDS), "tooltip": [
             {"field": "recipe"}, {"field": "accuracy", "format": ".4f"}, {"field": "minutes", "format": ".1f"},
             {"field": "said", "title": "conclusion"}]}},
        {"mark": {"type": "text", "align": "left", "dx": 7, "dy": -7, "color": "var(--text)", "fontSize": 12},
         "encoding": at | {"text": {"field": "recipe"}}},
    ]
    table = [[row["recipe"], format_number(row["minutes"], ".1f"), format_number(row["accuracy"], ".4f"),
              "yes" if row["on_pareto_front"] else ""] for row in known]
    return Chart("accuracy-over-cost", TITLE, spec(TITLE, values, layers, 300), _said(known),
                 ["recipe", "minutes", "accuracy", "on the front"], table)


def _said(known: Sequence[Row]) -> str:
    if not known:
        return "No cost is known."
    best = max(known, key=lambda row: row["accuracy"])
    front = ", ".join(row["recipe"] for row in sorted(known, key=lambda row: row["minutes"]) if row["on_pareto_front"])
    return (f"The most accurate is {best['recipe']}: {best['accuracy']:.4f} for {best['minutes']:.1f} minutes. None is "
            f"more accurate for the same cost or less than these: {front}.")


def _shown(row: Row) -> dict[str, Any]:
    """A row of the table as texts."""
    difference = (f"{100 * row['difference']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
                  if "difference" in row else "")
    metrics = [f"{row['accuracy']:.4f}", format_number(row["accuracy_std"], ".4f"), str(row["num_seeds"]), difference,
               format_number(row.get("p_value"), ".3g"), format_number(row.get("minutes"), ".1f"),
               format_number(row.get("images_per_second"), ".1f")]
    return {name: row[name] for name in ("recipe", "conclusion", "summary", "command", "runs", "on_pareto_front")} | {
        "metrics": metrics}
