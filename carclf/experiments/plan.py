"""What an experiment trains: recipes x seeds x folds, written down before anything is spent."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carclf.config import RECIPES, Config, load_config
from carclf.errors import ConfigError
from carclf.experiments.ablations import ENSEMBLE
from carclf.experiments.variants import BASELINE, COMPARED_SECTIONS, parse_recipes
from carclf.services.storage import Store

EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_TRAINING_RUNS = 1000
OF_IMAGES = ("split", "validation", "download", "duplicates", "seed", "competition")  # they say which images there are
# Members compete with each other: what they send, and whom they would replace, is for the one that wins.
OF_ALL = {"submit.enabled": False, "audit.enabled": False}


@dataclass(frozen=True)
class TrainingRun:
    """One training of an experiment; its run has an id of its own."""

    number: int
    recipe: str
    seed: int
    fold: int
    run_id: str


class Plan(BaseModel):
    """An experiment; ``recipes`` are what each changes of ``recipe`` with ``settings``, the baseline first.

    ``rungs`` are epochs after which the better ``keep`` of the recipes goes on. No member begins once
    ``budget_minutes`` of training are spent (0: no limit).
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
    ensemble: list[str] = []  # recipes of which all seeds' probabilities are averaged, as a row of its own
    study: str = ""  # whose trials are among the recipes

    @property
    def folds(self) -> range:
        """The folds that are trained; the one of a split without folds is 0."""
        return range(max(1, self.num_folds))

    @property
    def training_runs(self) -> list[TrainingRun]:
        """Every training: the baseline's first, and a seed of every recipe before the next seed of any."""
        found = [(recipe, seed, fold) for seed in self.seeds for recipe in self.recipes
                 for fold in self.folds]
        return [TrainingRun(number, recipe, seed, fold, self._run_id(recipe, seed, fold))
                for number, (recipe, seed, fold) in enumerate(found)]

    def _run_id(self, recipe: str, seed: int, fold: int) -> str:
        return f"{self.experiment}-{recipe}-s{seed}" + (f"-f{fold}" if self.num_folds else "")

    def config(self, recipe: str, seed: int, fold: int) -> Config:
        """A member's configuration: of a split that is the same for every seed."""
        folds = {"split.num_folds": self.num_folds, "split.fold": fold} if self.num_folds else {}
        seed_of_split = self.settings.get("split.seed", self.settings.get("seed", 0))
        own = {"seed": seed, "split.seed": seed_of_split} | folds
        return load_config(self.recipe, self.settings | OF_ALL | self.recipes[recipe] | own)

    def groups(self) -> list[list[int]]:
        """Numbers of members that differ in nothing but how they are evaluated: they share one training."""
        found: dict[str, list[int]] = {}
        for member in self.training_runs:
            config = self.config(member.recipe, member.seed, member.fold)
            found.setdefault(config.model_dump_json(exclude={"evaluate"}), []).append(member.number)
        return list(found.values())


def make_plan(
    experiment: str, recipe: str, recipes: Sequence[str], proposed: Mapping[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Plan:
    """The plan of these recipes (texts as ``parse_recipe`` reads them) and of those that a study proposed.

    Every member's configuration is checked: ConfigError says what is wrong, before anything is spent.
    """
    if not EXPERIMENT_NAME.fullmatch(experiment):
        raise ConfigError(f"{experiment!r} is no name of an experiment: use letters, digits and ._- only.")
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown recipe {recipe!r}; the recipes are {', '.join(RECIPES)}.")
    parsed, ensemble = parse_recipes(recipe, recipes)
    parsed += (proposed or {}).items()
    names = [BASELINE, *(name for name, _ in parsed)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"The recipe {twice[0]!r} is there twice. Give each a name of its own"
                          f"{'; the baseline is always there' if twice[0] == BASELINE else ''}.")
    try:
        plan = Plan(experiment=experiment, recipe=recipe, recipes={BASELINE: {}} | dict(parsed),
                    ensemble=ensemble, **options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}.") from error
    _check(plan)
    return plan


def _check(plan: Plan) -> None:
    if len(plan.training_runs) > MAX_TRAINING_RUNS:
        raise ConfigError(f"{len(plan.recipes)} recipes, {len(plan.seeds)} seeds and {plan.num_folds} folds make "
                          f"{len(plan.training_runs)} trainings; at most {MAX_TRAINING_RUNS} are taken. Leave some out.")
    if not plan.seeds or len(set(plan.seeds)) < len(plan.seeds) or min(plan.seeds) < 0:
        raise ConfigError(f"The seeds {plan.seeds} are not different whole numbers from 0, such as 0,1.")
    if plan.rungs != sorted(set(plan.rungs)) or any(rung < 1 for rung in plan.rungs):
        raise ConfigError(f"The rungs {plan.rungs} are not growing numbers of epochs, such as 2,5.")
    for name in plan.recipes:
        try:
            plan.config(name, plan.seeds[0], 0)
        except ConfigError as error:
            raise ConfigError(f"Recipe {name}: {error}") from error
        _check_changes(name, plan.recipes[name])
    if len(set(plan.ensemble)) * len(plan.seeds) == 1:
        raise ConfigError(f"{ENSEMBLE} {' '.join(plan.ensemble)}: one training makes no ensemble. Name a second recipe "
                          "in its line, or give a second seed.")


def _check_changes(name: str, changes: Mapping[str, Any]) -> None:
    if foreign := sorted(key for key in changes if key.partition(".")[0] not in COMPARED_SECTIONS):
        section = foreign[0].partition(".")[0]
        why = "then its images would be others" if section in OF_IMAGES else "that is no part of its training"
        raise ConfigError(f"Recipe {name} changes {foreign[0]}: {why}, and no comparison possible. Set it for all "
                          "recipes instead.")


def write_plan(plan: Plan, store: Store) -> None:
    """Keep the plan under ``experiments/<name>/plan.json``; ConfigError where another one is there."""
    data = plan.model_dump_json(indent=1).encode()
    if store.write_if(_key(plan.experiment), data, None):
        return
    if read_plan(plan.experiment, store) != plan:
        raise ConfigError(f"The experiment {plan.experiment!r} is in {store.url} with another plan. Take another name.")


def find_plan(experiment: str, store: Store) -> Plan | None:
    """The plan of that name, or None."""
    if not EXPERIMENT_NAME.fullmatch(experiment) or (found := store.read(_key(experiment))) is None:
        return None
    return Plan.model_validate(json.loads(found.data))


def read_plan(experiment: str, store: Store) -> Plan:
    """The plan of that name; ConfigError where there is none."""
    if (found := find_plan(experiment, store)) is None:
        raise ConfigError(f"There is no experiment {experiment!r} in {store.url}. Plan it: carclf experiment plan")
    return found


def _key(experiment: str) -> str:
    return f"experiments/{experiment}/plan.json"
