"""An experiment as the DAG's trigger form gives it, and as a file of the same fields does."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carclf.config import deployment_settings, parse_override
from carclf.errors import ConfigError
from carclf.experiments.plan import Plan, make_plan
from carclf.experiments.variants import split_words

MAX_TRIALS = 100  # of one search: Optuna takes minutes to propose tens of thousands


class Form(BaseModel):
    """The trigger form's fields; ``seeds`` and ``rungs`` are numbers separated by commas."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = "gpu"
    settings: str = ""
    recipes: list[str] = []
    seeds: str = "0,1"
    folds: int = 0
    rungs: str = ""
    keep_fraction: float = 0.5
    budget_minutes: float = 0
    promote: bool = False
    search: list[str] = []
    num_trials: int = Field(8, ge=1, le=MAX_TRIALS)
    study: str = ""


def read_form(text: str) -> Form:
    """The form in a JSON object or in a file of one; ConfigError says what is wrong in it."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else _content(Path(text)))
    except ValueError as error:
        raise ConfigError(f"{text}: this is no JSON: {error}. Mend it there.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{text}: give an object of {', '.join(Form.model_fields)}.")
    try:
        return Form.model_validate({name: value for name, value in found.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"An experiment has no field {name!r}. Its fields are {', '.join(Form.model_fields)}."
                              ) from error
        raise ConfigError(f"{name} = {first['input']!r}: {first['msg']}.") from error


def plan_from_form(experiment: str, form: Form, proposed: Mapping[str, dict[str, Any]] | None = None) -> Plan:
    """The plan that a form asks for, with the deployment's settings (CARCLF_SETTINGS) before its own.

    ``proposed`` are the recipes of its search.
    """
    settings = dict(map(parse_override, deployment_settings(split_words(form.settings))))
    return make_plan(
        experiment, form.recipe, [text for text in form.recipes if text.strip()], proposed, settings=settings,
        seeds=parse_integers(form.seeds, "seeds"), num_folds=form.folds, rungs=parse_integers(form.rungs, "rungs"),
        keep_fraction=form.keep_fraction, budget_minutes=form.budget_minutes, study=(form.study or experiment) if form.search else "",
    )


def parse_integers(text: str, field: str) -> list[int]:
    """Whole numbers separated by commas; ConfigError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"-?[0-9]{1,19}", part) for part in parts):
        raise ConfigError(f"{field} {text!r} are no whole numbers, separated by commas, such as 0,1.")
    return [int(part) for part in parts]


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give a file of the experiment's fields, such as "
                          "docs/experiments/ladder.json.") from error
