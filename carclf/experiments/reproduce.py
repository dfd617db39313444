"""The command that repeats a row of an experiment alone."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from carclf.config import RECIPES
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.plan import Plan, TrainingRun
from carclf.experiments.variants import BASELINE


def reproduce_command(name: str, plan: Plan, runs: Iterable[TrainingRun]) -> str:
    """What repeats a row alone, of its first seed; the ensemble is made of those runs of its recipes that finished."""
    if name == ENSEMBLE:
        return " ".join(["carclf ensemble", *(f"--run {run.run_id}" for run in runs if run.recipe in plan.ensemble)])
    folds = {"split.num_folds": plan.num_folds} if plan.num_folds else {}
    changed = folds | plan.settings | plan.recipes[name] | _seeds(plan) | {"submit.enabled": False}
    own = {key: value for key, value in changed.items() if RECIPES[plan.recipe].get(key) != value}
    return " ".join(["carclf run --recipe", plan.recipe, *(f"--set {_word(key, own[key])}" for key in own)])


def _seeds(plan: Plan) -> dict[str, Any]:
    """The first seed, and the split's where it is another one; nothing where both are as by default."""
    config = plan.config(BASELINE, plan.seeds[0], 0)
    if config.seed == config.split.seed:
        return {"seed": config.seed} if config.seed or "seed" in plan.settings else {}
    return {"seed": config.seed, "split.seed": config.split.seed}


def _word(key: str, value: Any) -> str:
    """``key=value`` for a shell; of a file of weights the name, for where it lies is another matter elsewhere."""
    if key == "model.weights" and Path(value).is_absolute():
        value = Path(value).name
    return shlex.quote(f"{key}={str(value).lower() if isinstance(value, bool) else value}")
