"""The command that reproduces one row of an experiment."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from carclf.config import RECIPES
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.plan import Plan, TrainingRun
from carclf.experiments.variants import BASELINE


def reproduce_command(name: str, plan: Plan, finished: Iterable[TrainingRun]) -> str:
    """Return the command that trains a recipe with the first seed, or that combines the ensemble's finished runs."""
    if name == ENSEMBLE:
        members = [f"--run {run.run_id}" for run in finished if run.recipe in plan.ensemble]
        return " ".join(["carclf ensemble", *members])
    folds = {"split.num_folds": plan.num_folds} if plan.num_folds else {}
    settings = folds | plan.settings | plan.recipes[name] | _seeds(plan) | {"submit.enabled": False}
    changed = {key: value for key, value in settings.items() if RECIPES[plan.recipe].get(key) != value}
    options = [f"--set {_assignment(key, value)}" for key, value in changed.items()]
    return " ".join(["carclf run --recipe", plan.recipe, *options])


def _seeds(plan: Plan) -> dict[str, Any]:
    """Return the settings of the first seed and of the split's seed, without default values."""
    config = plan.planned_config(BASELINE)
    if config.seed == config.split.seed:
        return {"seed": config.seed} if config.seed or "seed" in plan.settings else {}
    return {"seed": config.seed, "split.seed": config.split.seed}


def _assignment(key: str, value: Any) -> str:
    """Return ``key=value`` quoted for a shell. A weights file loses its folder, which differs between machines."""
    if key == "model.weights" and Path(value).is_absolute():
        value = Path(value).name
    return shlex.quote(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
