"""The trigger form: one field per setting of carclf's configuration."""

import os
from typing import Any, get_args

from airflow.sdk import Param

from carclf.config import RECIPES, iter_settings, load_config

# How long and how often score looks is the sensor's matter here: CARCLF_POKE_INTERVAL_SECONDS.
NOT_IN_THE_FORM = "score."
TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "pattern": "pattern"}


def deployment_recipe() -> str:
    """The recipe of scheduled runs."""
    return os.environ.get("CARCLF_RECIPE") or "gpu"


def form_params() -> dict[str, Param]:
    """An empty field means "as the recipe says"; the limits are the configuration's own."""
    recipe = deployment_recipe()
    form = {
        "recipe": Param(recipe, type="string", enum=list(RECIPES), section="Recipe", title="Recipe",
                        description="A named set of settings; the fields below change single ones.")
    }
    shown = [(name, field) for name, field in iter_settings() if not name.startswith(NOT_IN_THE_FORM)]
    return form | {name: _param(name, field, recipe) for name, field in shown}


def _param(name: str, field: Any, recipe: str) -> Param:
    section, _, leaf = name.rpartition(".")
    schema: dict[str, Any] = {}
    for rule in field.metadata:
        schema |= {LIMITS[key]: value for key in LIMITS if (value := getattr(rule, key, None)) is not None}
    if choices := [choice for choice in get_args(field.annotation) if isinstance(choice, str)]:
        schema |= {"type": ["string", "null"], "enum": [*choices, None]}
    else:
        kind = get_args(field.annotation)[0] if get_args(field.annotation) else field.annotation
        schema["type"] = [TYPES[kind], "null"]
    return Param(
        None, section=section.replace("_", " ").capitalize() or "Run", title=leaf.replace("_", " ").capitalize(),
        description=f"{field.description} ({recipe}: {_value(name, recipe)})", **schema,
    )


def _value(name: str, recipe: str) -> Any:
    value: Any = load_config(recipe)
    for part in name.split("."):
        value = getattr(value, part)
    return value
