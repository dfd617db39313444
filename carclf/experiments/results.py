"""What an experiment leaves in the store, and the table of results in the documentation."""

import json
import re
from pathlib import Path
from typing import Any

from carclf.errors import ConfigError, DataError
from carclf.experiments.outcome import compute_outcome
from carclf.experiments.plan import EXPERIMENT_NAME, Plan
from carclf.experiments.search import report_results
from carclf.reports.experiment_report import plot_pareto_front, render_experiment, sort_by_accuracy
from carclf.services.storage import Store

BEGIN = "<!-- experiment {name} -->"
END = "<!-- end of {name} -->"
INTRODUCTION = """\
# Results

Made by `carclf experiment table` from the artifacts of experiments; do not edit between the marks. A difference is in
points of accuracy on the same images; its interval is corrected for the number of recipes. Accuracy is the mean over
the seeds ± their standard deviation, minutes are of training one seed; bold: on the Pareto front of the two.
A row's command trains with the first seed; `--set seed=1 --set split.seed=0` is the next one on the same images.
"""


def write_outcome(plan: Plan, store: Store) -> dict[str, Any]:
    """Compare, and leave ``outcome.json``, ``report.html`` and ``pareto_front.png`` under ``experiments/<name>/``."""
    found = compute_outcome(plan, store)
    if plan.study:
        report_results(plan.study, found, store)
    picture = plot_pareto_front(found)
    page = render_experiment(found, picture).encode("utf-8", errors="backslashreplace")
    for name, data in (("pareto_front.png", picture), ("report.html", page),
                       ("outcome.json", json.dumps(found, indent=1).encode())):
        store.write(f"experiments/{plan.experiment}/{name}", data)
    return found


def read_outcome(experiment: str, store: Store) -> dict[str, Any]:
    """What ``write_outcome`` left; ConfigError where there is nothing."""
    if (found := find_outcome(experiment, store)) is None:
        raise ConfigError(f"The experiment {experiment!r} in {store.url} was not compared yet: "
                          f"carclf experiment compare --name {experiment}")
    return found


def find_outcome(experiment: str, store: Store) -> dict[str, Any] | None:
    """The same; None where nothing was compared yet, or for what is no experiment. DataError where it is damaged."""
    key = f"experiments/{experiment}/outcome.json"
    if not EXPERIMENT_NAME.fullmatch(experiment) or (found := store.read(key)) is None:
        return None
    try:
        parsed: dict[str, Any] = json.loads(found.data)
    except ValueError as error:
        raise DataError(f"{key} in {store.url} is damaged. Make it again: carclf experiment compare --name "
                        f"{experiment}") from error
    return parsed


def find_report(experiment: str, store: Store) -> bytes | None:
    """The page that ``write_outcome`` left; None where nothing was compared yet, or for what is no experiment."""
    found = store.read(f"experiments/{experiment}/report.html") if EXPERIMENT_NAME.fullmatch(experiment) else None
    return None if found is None else found.data


def results_table(found: dict[str, Any], told: str) -> str:
    """The experiment as a section in Markdown; ``told`` says where and when it ran."""
    name = found["experiment"]
    head = ["| recipe | accuracy | against the baseline | minutes | repeat |", "|---|---|---|---|---|"]
    lines = [_line(row) for row in sort_by_accuracy(found)]
    rest = [f"- Stopped early: {row['recipe']} after epoch {row['epoch']}, at {row['val_accuracy']:.4f}."
            for row in found["stopped_early"]]
    rest += [f"- Failed: {row['run']}: {row['error']}" for row in found["failed"]]
    rest += [f"- Not trained: {', '.join(found['not_trained'])}."] if found["not_trained"] else []
    folds = f" in {found['num_folds']} folds" if found["num_folds"] else ""
    text = (f"Recipe {found['recipe']}, seeds {', '.join(map(str, found['seeds']))}, {found['num_images']} images"
            f"{folds}. {told}".rstrip())
    if found["seed_std"] is None:
        text += " With one seed the verdicts tell these models apart, and say nothing of other seeds."
    picture = ["", f"![Accuracy over minutes of training]({name}.png)"]
    body = "\n".join([*head, *lines, *(["", *rest] if rest else []), *picture])
    return f"{BEGIN.format(name=name)}\n## {name}\n\n{text}\n\n{body}\n{END.format(name=name)}\n"


def update_results_file(path: Path, found: dict[str, Any], told: str, picture: bytes) -> None:
    """Write the experiment's section into a file, in the place of what was there of it or at the end.

    The picture goes beside the file.
    """
    (path.parent / f"{found['experiment']}.png").write_bytes(picture)
    text = path.read_text(encoding="utf-8") if path.exists() else INTRODUCTION
    name, section = found["experiment"], results_table(found, told)
    there = re.compile(f"{re.escape(BEGIN.format(name=name))}.*?{re.escape(END.format(name=name))}\n", re.DOTALL)
    text = there.sub(lambda _: section, text) if there.search(text) else f"{text.rstrip()}\n\n{section}"
    path.write_text(text, encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    spread = "" if row["accuracy_std"] is None else f" ± {100 * row['spread']:.1f}"
    minutes = f"{row['minutes']:.1f}" if "minutes" in row else ""
    name = f"**{row['recipe']}**" if row["on_pareto_front"] else row["recipe"]
    cells = (name, f"{100 * row['accuracy']:.1f}{spread}", row["summary"], minutes, f"`{row['command']}`")
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
