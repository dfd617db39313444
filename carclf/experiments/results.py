"""The results of an experiment: its files in the store, and its table in the documentation."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carclf.errors import NotFoundError
from carclf.experiments.outcome import Outcome, compute_outcome
from carclf.experiments.plan import EXPERIMENT_NAME, Plan
from carclf.experiments.search import report_results
from carclf.formatting import format_count
from carclf.metrics import METRICS, Metric
from carclf.reports.experiment_report import plot_pareto_front, render_experiment, sort_by_metric
from carclf.services.storage import Store, format_command, parse_object

SECTION_START = "<!-- experiment {name} -->"
SECTION_END = "<!-- end of {name} -->"
SINGLE_SEED_WARNING = " With a single seed, the conclusions hold for these models, not for other seeds."
INTRODUCTION = """\
# Results

`carclf experiment table` writes these sections from the outcomes of experiments; do not edit them by hand. Differences
are in points of the metric, or of a loss as they are, on the same images, with intervals corrected for the number of
recipes. The metric is the mean over the seeds ± their standard deviation, minutes are the training time of one seed,
and bold recipes are on the Pareto front of the two. The command of a row trains with the first seed; add `--set seed=1
--set split.seed=0` for the next seed on the same images.
"""


def write_outcome(plan: Plan, store: Store) -> dict[str, Any]:
    """Compare the recipes; write ``outcome.json``, ``report.html`` and ``pareto_front.png`` and return the outcome.

    The files are in ``experiments/<name>/``. If a study proposed recipes, it gets their results.
    """
    outcome = compute_outcome(plan, store)
    if plan.study:
        report_results(plan.study, outcome, store)
    chart_png = plot_pareto_front(outcome)
    files = {
        "pareto_front.png": chart_png,
        "report.html": render_experiment(outcome, chart_png).encode("utf-8", errors="backslashreplace"),
        "outcome.json": json.dumps(outcome, indent=1).encode(),
    }
    for name, data in files.items():
        store.write(f"experiments/{plan.experiment}/{name}", data)
    return outcome


def read_outcome(experiment: str, store: Store) -> dict[str, Any]:
    """Return the content of ``outcome.json``; raise NotFoundError if it is missing, DataError if it is damaged."""
    if (outcome := find_outcome(experiment, store)) is None:
        command = format_command(store, f"experiment compare --name {experiment}")
        raise NotFoundError(f"The experiment {experiment!r} in {store.url} has not been compared yet. Run: {command}")
    return outcome


def find_outcome(experiment: str, store: Store) -> dict[str, Any] | None:
    """Return the content of ``outcome.json``, or None if it is missing; raise DataError if it is damaged."""
    key = f"experiments/{experiment}/outcome.json"
    if not EXPERIMENT_NAME.fullmatch(experiment) or (stored := store.read(key)) is None:
        return None
    command = format_command(store, f"experiment compare --name {experiment}")
    return dict(parse_object(Outcome, stored.data, f"{key} in {store.url}", f"Write it again: {command}"))


def find_report(experiment: str, store: Store) -> bytes | None:
    """Return ``report.html``, or None if the experiment does not exist or has not been compared yet."""
    stored = store.read(f"experiments/{experiment}/report.html") if EXPERIMENT_NAME.fullmatch(experiment) else None
    return stored.data if stored else None


def results_table(outcome: Mapping[str, Any], note: str) -> str:
    """Return the experiment as a Markdown section; the note describes where and when it ran."""
    name, metric = outcome["experiment"], METRICS[outcome["metric"]]
    lines = [
        SECTION_START.format(name=name),
        f"## {name}", "",
        f"{_design(outcome)} {note}".rstrip() + (SINGLE_SEED_WARNING if outcome["seed_std"] is None else ""), "",
        f"| recipe | {metric.label} | compared with the baseline | minutes | reproduce |",
        "|---|---|---|---|---|",
        *(_table_row(row, metric) for row in sort_by_metric(outcome)), "",
    ]
    if without_row := _recipes_without_row(outcome):
        lines += [*without_row, ""]
    lines += [f"![{metric.title} over minutes of training]({name}.png)", SECTION_END.format(name=name), ""]
    return "\n".join(lines)


def update_results_file(path: Path, outcome: Mapping[str, Any], note: str, chart_png: bytes) -> None:
    """Write the experiment's section to a Markdown file and the chart next to it; replace an earlier section."""
    name = outcome["experiment"]
    (path.parent / f"{name}.png").write_bytes(chart_png)
    text = path.read_text(encoding="utf-8") if path.exists() else INTRODUCTION
    section = results_table(outcome, note)
    start, end = (re.escape(mark.format(name=name)) for mark in (SECTION_START, SECTION_END))
    earlier = re.compile(f"{start}.*?{end}\n", re.DOTALL)
    text = earlier.sub(lambda _: section, text) if earlier.search(text) else f"{text.rstrip()}\n\n{section}"
    path.write_text(text, encoding="utf-8")


def _design(outcome: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, outcome["seeds"]))
    folds = f" in {format_count(outcome['num_folds'], 'fold')}" if outcome["num_folds"] else ""
    return f"Recipe {outcome['recipe']}, seeds {seeds}, {format_count(outcome['num_images'], 'image')}{folds}."


def _table_row(row: Mapping[str, Any], metric: Metric) -> str:
    name = f"**{row['recipe']}**" if row["on_pareto_front"] else row["recipe"]
    std = "" if row["value_std"] is None else f" ± {metric.format_difference(row['value_std'])}"
    minutes = f"{row['minutes']:.1f}" if "minutes" in row else ""
    cells = (name, f"{metric.format_difference(row['value'])}{std}", row["summary"], minutes, f"`{row['command']}`")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _recipes_without_row(outcome: Mapping[str, Any]) -> list[str]:
    lines = [
        f"- Stopped early: {row['recipe']} after epoch {row['epoch']}, at {row['val_metric']:.4f}."
        for row in outcome["stopped_early"]
    ]
    lines += [f"- Failed: {row['run']}: {row['error']}" for row in outcome["failed"]]
    if outcome["not_trained"]:
        lines.append(f"- Not trained: {', '.join(outcome['not_trained'])}.")
    return lines
