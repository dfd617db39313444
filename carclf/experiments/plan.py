"""The plan of an experiment: recipes x seeds x folds, checked and stored before any training starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carclf.config import RECIPES, Config, build_config, load_config, load_policy
from carclf.errors import ConfigError, DataError, NotFoundError
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.variants import BASELINE, COMPARED_SECTIONS, Changes, parse_recipes
from carclf.formatting import format_count
from carclf.redaction import redact
from carclf.services.storage import Store, format_command, parse_object

EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_TRAINING_RUNS = 1000
# Settings that determine the dataset; recipes that differ in them cannot be compared.
IMAGE_SECTIONS = ("split", "validation", "download", "duplicates", "seed", "data")
# Only the winner is promoted and submitted, by a separate command.
SETTINGS_OF_ALL = {"submit.enabled": False, "audit.enabled": False, "fine_tune.refit": False}


@dataclass(frozen=True)
class TrainingRun:
    """One training of an experiment: a recipe with a seed on a fold. ``run_id`` is the id of its run."""

    number: int
    recipe: str
    seed: int
    fold: int
    run_id: str


class Plan(BaseModel):
    """A stored experiment.

    ``recipes`` maps each name to its changes to the baseline, which is ``recipe`` with ``settings``; the baseline
    itself comes first and has no changes. After each epoch of ``rungs`` the best ``keep_fraction`` of the recipes
    continue. No training starts after ``budget_minutes`` of training (0: no limit). ``ensemble`` names recipes whose
    probabilities are averaged over all seeds for another row. ``study`` is the search that proposed some recipes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    recipe: str
    settings: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]]
    seeds: list[int] = [0, 1]
    num_folds: int = Field(0, ge=0, le=20)
    rungs: list[int] = []
    keep_fraction: float = Field(0.5, gt=0, lt=1)
    budget_minutes: float = Field(0, ge=0)
    significance_level: float = Field(0.05, gt=0, lt=0.5)
    ensemble: list[str] = []
    study: str = ""

    @property
    def folds(self) -> range:
        """The folds to train; fold 0 alone if the split has no folds."""
        return range(max(1, self.num_folds))

    @property
    def training_runs(self) -> list[TrainingRun]:
        """All trainings: for each seed every recipe, the baseline first."""
        design = [(recipe, seed, fold) for seed in self.seeds for recipe in self.recipes for fold in self.folds]
        return [
            TrainingRun(number, recipe, seed, fold, self._run_id(recipe, seed, fold))
            for number, (recipe, seed, fold) in enumerate(design)
        ]

    def _run_id(self, recipe: str, seed: int, fold: int) -> str:
        return f"{self.experiment}-{recipe}-s{seed}" + (f"-f{fold}" if self.num_folds else "")

    def config(self, recipe: str, seed: int, fold: int) -> Config:
        """Return the configuration of one training; the seed of the split is the same for all seeds.

        Raise ConfigError if the policy does not allow it.
        """
        return load_config(self.recipe, self._overrides(recipe, seed, fold), base=SETTINGS_OF_ALL)

    def planned_config(self, recipe: str) -> Config:
        """Return the configuration of a recipe as planned, also if the policy has become stricter since."""
        return build_config(self.recipe, SETTINGS_OF_ALL | self._overrides(recipe, self.seeds[0], 0))

    def _overrides(self, recipe: str, seed: int, fold: int) -> Changes:
        split_seed = self.settings.get("split.seed", self.settings.get("seed", 0))
        design: Changes = {"seed": seed, "split.seed": split_seed}
        if self.num_folds:
            design |= {"split.num_folds": self.num_folds, "split.fold": fold}
        chosen = {name: value for name, value in self.settings.items() if name not in SETTINGS_OF_ALL}
        return chosen | self.recipes[recipe] | design

    def groups(self) -> list[list[int]]:
        """Group the numbers of the training runs that differ only in evaluation and therefore share one training."""
        groups: dict[str, list[int]] = {}
        for run in self.training_runs:
            config = self.config(run.recipe, run.seed, run.fold)
            groups.setdefault(config.model_dump_json(exclude={"evaluate"}), []).append(run.number)
        return list(groups.values())


def make_plan(
    experiment: str, recipe: str, recipes: Sequence[str], proposed: Mapping[str, Changes] | None = None, **options: Any
) -> Plan:
    """Plan an experiment and check the configuration of every training; raise ConfigError if the plan is invalid.

    The baseline is ``recipe``. It is compared with ``recipes``, lines for ``parse_recipes``, and with the recipes
    ``proposed`` by a study. ``options`` are further fields of ``Plan``.
    """
    if not EXPERIMENT_NAME.fullmatch(experiment):
        raise ConfigError(f"Invalid experiment name {experiment!r}: use letters, digits and ._- only.")
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown recipe {recipe!r}. The recipes are {', '.join(RECIPES)}.")
    parsed, ensemble = parse_recipes(recipe, recipes, load_policy().allowed_recipes())
    parsed += (proposed or {}).items()
    names = [BASELINE, *(name for name, _ in parsed)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        hint = "; the baseline is always included" if repeated[0] == BASELINE else ""
        raise ConfigError(f"The recipe {repeated[0]!r} is listed twice. Give each a unique name{hint}.")
    try:
        plan = Plan(
            experiment=experiment, recipe=recipe, recipes={BASELINE: {}} | dict(parsed), ensemble=ensemble, **options
        )
    except ValidationError as error:
        raise ConfigError(describe_validation_error(error)) from error
    _check_plan(plan)
    for name in plan.recipes:
        plan.config(name, plan.seeds[0], 0)
    return plan


def describe_validation_error(error: ValidationError) -> str:
    """Return the field, the value and the reason of pydantic's first error."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}."


def _check_plan(plan: Plan) -> None:
    """Raise ConfigError if the design is invalid, or the settings of a recipe."""
    if unknown := {BASELINE, *plan.ensemble} - set(plan.recipes):
        raise ConfigError(f"The plan lacks the recipes {', '.join(sorted(unknown))}.")
    _check_design(plan)
    for name in plan.recipes:
        _check_recipe(plan, name)


def _check_design(plan: Plan) -> None:
    if (num_runs := len(plan.training_runs)) > MAX_TRAINING_RUNS:
        raise ConfigError(f"{format_count(len(plan.recipes), 'recipe')}, {format_count(len(plan.seeds), 'seed')} and "
                          f"{format_count(plan.num_folds, 'fold')} make {num_runs} trainings; at most "
                          f"{MAX_TRAINING_RUNS} are allowed.")
    if not plan.seeds or len(set(plan.seeds)) < len(plan.seeds) or min(plan.seeds) < 0:
        raise ConfigError(f"seeds = {plan.seeds}: expected distinct integers of at least 0, such as 0,1.")
    if plan.rungs != sorted(set(plan.rungs)) or any(rung < 1 for rung in plan.rungs):
        raise ConfigError(f"rungs = {plan.rungs}: expected increasing numbers of epochs, such as 2,5.")
    if len(set(plan.ensemble)) * len(plan.seeds) == 1:
        raise ConfigError(f"{ENSEMBLE} {' '.join(plan.ensemble)}: an ensemble needs at least two trainings. Add a "
                          "recipe to the line or a second seed.")


def _check_recipe(plan: Plan, name: str) -> None:
    try:
        plan.planned_config(name)
    except ConfigError as error:
        raise ConfigError(f"Recipe {name}: {error}") from error
    for key in sorted(plan.recipes[name]):
        section = key.partition(".")[0]
        if key in SETTINGS_OF_ALL:
            raise ConfigError(f"Recipe {name} changes {key}, which is off in every training of an experiment. Remove "
                              "it, and set it in a run with the settings of the winner instead.")
        if section in COMPARED_SECTIONS:
            continue
        reason = "it determines the dataset" if section in IMAGE_SECTIONS else "it does not affect training"
        raise ConfigError(f"Recipe {name} changes {key}, which must be the same for all recipes: {reason}. Set it for "
                          "the whole experiment instead.")


def write_plan(plan: Plan, store: Store) -> None:
    """Write the plan to ``experiments/<name>/plan.json``; raise ConfigError if another plan has this name."""
    data = plan.model_dump_json(indent=1).encode()
    if store.write_if(_plan_key(plan.experiment), data, None):
        return
    if read_plan(plan.experiment, store) != plan:
        raise ConfigError(f"The experiment {plan.experiment!r} exists in {store.url} with another plan. Choose another "
                          "name.")


def record_rejection(experiment: str, store: Store, error: ConfigError) -> None:
    """Write why the plan of an experiment was rejected, for its page."""
    if EXPERIMENT_NAME.fullmatch(experiment):
        store.write(_rejection_key(experiment), redact(str(error)).encode(errors="backslashreplace"))


def find_rejection(experiment: str, store: Store) -> str:
    """Return why the plan of an experiment was rejected; "" if it was not."""
    stored = store.read(_rejection_key(experiment)) if EXPERIMENT_NAME.fullmatch(experiment) else None
    return stored.data.decode(errors="replace") if stored else ""


def find_plan(experiment: str, store: Store) -> Plan | None:
    """Return the plan of an experiment, or None if it does not exist; raise DataError if the plan is damaged."""
    if not EXPERIMENT_NAME.fullmatch(experiment) or (stored := store.read(_plan_key(experiment))) is None:
        return None
    path = f"{_plan_key(experiment)} in {store.url}"
    fix = "Restore it from a backup, or plan the experiment again under another name."
    plan = parse_object(Plan, stored.data, path, fix)
    if plan.experiment != experiment:
        raise DataError(f"{path} is damaged: it is the plan of {plan.experiment!r}. {fix}")
    try:
        _check_plan(plan)
    except ConfigError as error:
        raise DataError(f"{path} is damaged: {error} {fix}") from error
    return plan


def read_plan(experiment: str, store: Store) -> Plan:
    """Return the plan of an experiment; raise ConfigError if it does not exist, DataError if it is damaged."""
    if (plan := find_plan(experiment, store)) is None:
        command = format_command(store, "experiment plan")
        raise NotFoundError(f"There is no experiment {experiment!r} in {store.url}. Plan it: {command}")
    return plan


def _plan_key(experiment: str) -> str:
    return f"experiments/{experiment}/plan.json"


def _rejection_key(experiment: str) -> str:
    return f"experiments/{experiment}/rejection.txt"
