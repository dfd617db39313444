"""Successive halving: after each rung the better share of the recipes trains on, from its checkpoints.

Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter optimization".
"""

import json
import math
from statistics import mean

from carclf.experiments.plan import Plan
from carclf.experiments.trainings import rung_key
from carclf.experiments.variants import BASELINE
from carclf.services.storage import Store


def reached(plan: Plan, rung: int, store: Store) -> dict[str, float]:
    """Mean validation accuracy over the members of each recipe that got to the rung."""
    found: dict[str, list[float]] = {}
    for member in plan.training_runs:
        if told := store.read(rung_key(plan, member.number, rung)):
            found.setdefault(member.recipe, []).append(float(json.loads(told.data)["val_accuracy"]))
    return {recipe: mean(values) for recipe, values in found.items()}


def survivors(plan: Plan, num_rungs: int, store: Store) -> list[str]:
    """The recipes that go on after that many rungs, in the plan's order; the baseline always does.

    Whoever failed at a rung is out. Equals stand in the plan's order.
    """
    racing = list(plan.recipes)
    for rung in plan.rungs[:num_rungs]:
        accuracy = {name: value for name, value in reached(plan, rung, store).items() if name in racing}
        num_kept = math.ceil(len(racing) * plan.keep_fraction)
        best = sorted(accuracy, key=lambda name: -accuracy[name])[:num_kept]
        racing = _with_sharers(plan, [name for name in racing if name in best or name == BASELINE])
    return racing


def _with_sharers(plan: Plan, names: list[str]) -> list[str]:
    """Also those that share a training with one of them: it costs nothing to evaluate them too."""
    members = plan.training_runs
    shared = [{members[number].recipe for number in group} for group in plan.groups()]
    kept = set(names).union(*(recipes for recipes in shared if recipes & set(names)))
    return [name for name in plan.recipes if name in kept]


def remaining_groups(plan: Plan, num_rungs: int, store: Store) -> list[list[int]]:
    """The groups of members that train on after that many rungs (0: all)."""
    names, members = set(survivors(plan, num_rungs, store)), plan.training_runs
    kept = ([number for number in group if members[number].recipe in names] for group in plan.groups())
    return [group for group in kept if group]


def recipes_stopped_early(plan: Plan, store: Store) -> dict[str, tuple[int, float]]:
    """Recipes that raced and lost: the epoch at which they were stopped, and what they had reached."""
    found: dict[str, tuple[int, float]] = {}
    for number, rung in enumerate(plan.rungs):
        accuracy = reached(plan, rung, store)
        on = survivors(plan, number + 1, store)
        found |= {name: (rung, accuracy[name]) for name in survivors(plan, number, store)
                  if name in accuracy and name not in on}
    return found
