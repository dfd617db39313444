"""Successive halving: after each rung only the best recipes continue, from their checkpoints.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
"""

import math
from dataclasses import dataclass
from statistics import mean
from typing import NotRequired  # pydantic needs it on Python 3.11

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from carclf.champion_history import MetricName
from carclf.experiments.plan import Plan
from carclf.experiments.trainings import rung_key
from carclf.experiments.variants import BASELINE
from carclf.metrics import METRICS
from carclf.services.storage import Store, format_command, parse_object


class RungReport(TypedDict):
    """The part of a training run's report at a rung that decides whether its recipe continues.

    Reports of older versions have no metric; accuracy decided then.
    """

    val_accuracy: float
    val_metric: NotRequired[FiniteFloat]
    metric: NotRequired[MetricName]


@dataclass(frozen=True)
class RungScore:
    """Means over the training runs of a recipe: accuracy, metric, and improvement of the metric over 0."""

    epoch: int
    accuracy: float
    value: float
    improvement: float


def survivors(plan: Plan, num_rungs: int, store: Store) -> list[str]:
    """Return the recipes that continue after ``num_rungs`` rungs, in the plan's order.

    The baseline always continues. A recipe that did not reach a rung is eliminated. Of two equally good recipes,
    the earlier recipe is preferred.
    """
    remaining = list(plan.recipes)
    for rung in plan.rungs[:num_rungs]:
        scores = {name: score for name, score in _rung_scores(plan, rung, store).items() if name in remaining}
        num_kept = math.ceil(len(remaining) * plan.keep_fraction)
        best = sorted(scores, key=lambda name: -scores[name].improvement)[:num_kept]
        remaining = _add_shared(plan, [name for name in remaining if name in best or name == BASELINE])
    return remaining


def remaining_groups(plan: Plan, num_rungs: int, store: Store) -> list[list[int]]:
    """Return the groups of training runs that continue after ``num_rungs`` rungs (0: all)."""
    names = set(survivors(plan, num_rungs, store))
    runs = plan.training_runs
    groups = ([number for number in group if runs[number].recipe in names] for group in plan.groups())
    return [group for group in groups if group]


def recipes_stopped_early(plan: Plan, store: Store) -> dict[str, RungScore]:
    """Return the recipes eliminated at a rung, with their score there."""
    stopped: dict[str, RungScore] = {}
    for number, rung in enumerate(plan.rungs):
        scores = _rung_scores(plan, rung, store)
        surviving = survivors(plan, number + 1, store)
        for name in survivors(plan, number, store):
            if name in scores and name not in surviving:
                stopped[name] = scores[name]
    return stopped


def _rung_scores(plan: Plan, rung: int, store: Store) -> dict[str, RungScore]:
    """Return the score of each recipe over its training runs that reached the rung."""
    reports: dict[str, list[RungReport]] = {}
    for run in plan.training_runs:
        if report := read_rung(rung_key(plan, run.number, rung), plan.experiment, store):
            reports.setdefault(run.recipe, []).append(report)
    return {recipe: _mean_score(rung, by_run) for recipe, by_run in reports.items()}


def _mean_score(rung: int, reports: list[RungReport]) -> RungScore:
    accuracy = mean(report["val_accuracy"] for report in reports)
    value = mean(report.get("val_metric", report["val_accuracy"]) for report in reports)
    return RungScore(rung, accuracy, value, METRICS[reports[0].get("metric", "accuracy")].improvement(value, 0))


def read_rung(key: str, experiment: str, store: Store) -> RungReport | None:
    """Return a report at a rung, or None if it is missing; raise DataError if it is damaged."""
    if (stored := store.read(key)) is None:
        return None
    command = format_command(store, f"experiment run --name {experiment}")
    fix = f"Remove it, then continue the experiment: {command}"
    return parse_object(RungReport, stored.data, f"{key} in {store.url}", fix)


def _add_shared(plan: Plan, names: list[str]) -> list[str]:
    """Add the recipes that share a training with one of ``names``: their evaluation costs almost nothing."""
    runs = plan.training_runs
    shared = [{runs[number].recipe for number in group} for group in plan.groups()]
    kept = set(names).union(*(recipes for recipes in shared if recipes & set(names)))
    return [name for name in plan.recipes if name in kept]
