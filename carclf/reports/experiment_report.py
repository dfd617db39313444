"""Render the report of an experiment, and plot the metric against cost with the Pareto front."""

import base64
import io
from collections.abc import Mapping
from typing import Any

from carclf.formatting import format_count
from carclf.metrics import METRICS, Metric
from carclf.reports.render import render_template

COLORS = {"better": "#1a7f37", "worse": "#b42318"}
OTHER_COLOR = "#57606a"
FRONT_COLOR = "#0969da"


def render_experiment(outcome: Mapping[str, Any], plot: bytes) -> str:
    """Return the page of an ``outcome.json`` with its plot, a PNG."""
    return render_template(
        "experiment_report.html", outcome=outcome, rows=sort_by_metric(outcome), metric=METRICS[outcome["metric"]],
        design=summarize_design(outcome),
        plot=base64.b64encode(plot).decode(),
    )


def summarize_design(outcome: Mapping[str, Any]) -> str:
    """Describe the comparisons of an experiment and the meaning of its intervals and p-values."""
    num_comparisons, seed_std, metric = outcome["num_comparisons"], outcome["seed_std"], METRICS[outcome["metric"]]
    folds = f" in {format_count(outcome['num_folds'], 'fold')}" if outcome["num_folds"] else ""
    seed_effect = "With one seed, the conclusions hold for these models, not for other seeds."
    if seed_std is not None:
        seed_effect = (f"The seed changes the {metric.noun} by {_describe_size(seed_std, metric)} (standard deviation, "
                       "assumed to be the same for every recipe), in addition to the variation between images.")
    optimism = ""
    if "selection_optimism" in outcome:
        size = _describe_size(abs(outcome["selection_optimism"]), metric)
        optimism = (f" The same images select the best model and measure it: its {metric.noun} is expected to be "
                    f"better than on other images by {size} or more.")
    return (f"{format_count(num_comparisons, 'recipe')} compared with the baseline (recipe "
            f"{outcome['recipe']}), seeds {', '.join(map(str, outcome['seeds']))}, "
            f"{format_count(outcome['num_images'], 'image')}{folds}. Intervals and p-values are corrected for the "
            "number of recipes, including those that were stopped early or tried earlier in the same study: the "
            "probability that an experiment without any real difference reports one is at most "
            f"{100 * outcome['significance_level']:.0f}%. {seed_effect}{optimism}")


def _describe_size(value: float, metric: Metric) -> str:
    return f"{100 * value:.2f} points" if metric.higher_is_better else f"{value:.4f}"


def sort_by_metric(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an outcome, the best first."""
    metric = METRICS[outcome["metric"]]
    return sorted(outcome["rows"], key=lambda row: -metric.improvement(row["value"], 0))


def plot_pareto_front(outcome: Mapping[str, Any]) -> bytes:
    """Return a PNG of the metric of each recipe over its minutes of training, with the Pareto front as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in outcome["rows"] if "minutes" in row]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for row in rows:
        point = row["minutes"], row["value"]
        axes.plot(*point, "o", color=COLORS.get(row["conclusion"], OTHER_COLOR))
        axes.annotate(row["recipe"], point, (4, 4), textcoords="offset points", fontsize=8)
    front = sorted((row["minutes"], row["value"]) for row in rows if row["on_pareto_front"])
    axes.plot(*zip(*front, strict=True), "-", color=FRONT_COLOR, linewidth=1, zorder=0, label="Pareto front")
    axes.margins(x=0.12)  # room for the names to the right of their points
    axes.set(xlabel="minutes of training", ylabel=METRICS[outcome["metric"]].label, title=outcome["experiment"])
    axes.legend()
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100)
        plt.close(figure)
        return file.getvalue()
