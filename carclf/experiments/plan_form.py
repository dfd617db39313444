"""The form of an experiment: the fields of the DAG's trigger form, also accepted as JSON by the command line."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carclf.config import deployment_settings, parse_override
from carclf.errors import ConfigError
from carclf.experiments.plan import Plan, describe_validation_error, make_plan
from carclf.experiments.variants import split_words

MAX_TRIALS = 100  # Optuna takes minutes to propose tens of thousands


class Form(BaseModel):
    """The fields of the form; ``seeds`` and ``rungs`` are integers separated by commas."""

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
    """Parse a form from a JSON object or from the path of a file that contains one; raise ConfigError if invalid."""
    try:
        fields = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {text}: {error.strerror}. Give a JSON file such as "
                          "docs/experiments/ladder.json.") from error
    except ValueError as error:
        raise ConfigError(f"{text} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{text}: expected a JSON object with the fields {', '.join(Form.model_fields)}.")
    try:
        unset = {name for name in Form.model_fields if fields.get(name) is None}
        return Form.model_validate({name: value for name, value in fields.items() if name not in unset})
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            name = ".".join(map(str, first["loc"]))
            raise ConfigError(f"Unknown field {name!r}. The fields are {', '.join(Form.model_fields)}.") from error
        raise ConfigError(describe_validation_error(error)) from error


def plan_from_form(experiment: str, form: Form, proposed: Mapping[str, dict[str, Any]] | None = None) -> Plan:
    """Return the plan that a form describes, with ``proposed`` as the recipes of its search.

    The deployment's settings (CARCLF_SETTINGS) apply first, then those of the form. Raise ConfigError if a field or a
    setting is invalid.
    """
    settings = dict(map(parse_override, deployment_settings(split_words(form.settings))))
    return make_plan(
        experiment, form.recipe, [line for line in form.recipes if line.strip()], proposed, settings=settings,
        seeds=parse_integers(form.seeds, "seeds"), num_folds=form.folds, rungs=parse_integers(form.rungs, "rungs"),
        keep_fraction=form.keep_fraction, budget_minutes=form.budget_minutes,
        study=(form.study or experiment) if form.search else "",
    )


def parse_integers(text: str, field: str) -> list[int]:
    """Parse integers separated by commas; raise ConfigError with the field if a part is not an integer."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(r"-?[0-9]{1,19}", part) for part in parts):
        raise ConfigError(f"{field} = {text!r}: expected integers separated by commas, such as 0,1.")
    return [int(part) for part in parts]
