"""The page of an experiment, and accuracy over cost with its Pareto front."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from carclf.reports.render import render_template

COLOURS = {"better": "#1a7f37", "worse": "#b42318"}


def render_experiment(found: dict[str, Any], picture: bytes) -> str:
    """The page of an experiment's ``outcome.json`` and its picture (PNG)."""
    return render_template("experiment_report.html", found=found, rows=sort_by_accuracy(found), introduction=summarize_design(found),
                  picture=base64.b64encode(picture).decode())


def summarize_design(found: Mapping[str, Any]) -> str:
    """What was compared, and what its intervals and p-values promise, of an experiment's ``outcome.json``."""
    num, shift = found["num_comparisons"], found["seed_std"]
    folds = f" out of {found['num_folds']} folds" if found["num_folds"] else ""
    seeds = ("With one seed it tells these models apart, and says nothing of other seeds." if shift is None else
             f"Beside chance on single images a seed changes the accuracy by {100 * shift:.2f} points, which is taken "
             "to be so for every recipe.")
    return (f"{num} {'recipe' if num == 1 else 'recipes'} beside the baseline (recipe {found['recipe']}), seeds "
            f"{', '.join(map(str, found['seeds']))}, {found['num_images']} images{folds}. Intervals and p-values are "
            "corrected for the number of recipes, also of those that lost a race or that the study tried before: the "
            "chance that an experiment without any real difference finds one is at most "
            f"{100 * found['significance_level']:.0f}%. {seeds}")


def sort_by_accuracy(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows, the most accurate first."""
    return sorted(found["rows"], key=lambda row: -row["accuracy"])


def plot_pareto_front(found: dict[str, Any]) -> bytes:
    """Accuracy over minutes of training of each recipe, the front as a line; a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in found["rows"] if "minutes" in row]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for row in rows:
        axes.plot(row["minutes"], row["accuracy"], "o", color=COLOURS.get(row["conclusion"], "#57606a"))
        axes.annotate(row["recipe"], (row["minutes"], row["accuracy"]), (4, 4), textcoords="offset points", fontsize=8)
    front = sorted((row["minutes"], row["accuracy"]) for row in rows if row["on_pareto_front"])
    axes.plot(*zip(*front, strict=True), "-", color="#0969da", linewidth=1, zorder=0, label="Pareto front")
    axes.margins(x=0.12)  # the names stand to the right of their points
    axes.set(xlabel="minutes of training", ylabel="accuracy", title=found["experiment"])
    axes.legend()
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100)
        plt.close(figure)
        return file.getvalue()
