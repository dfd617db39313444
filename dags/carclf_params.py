"""The trigger form: one field per setting of carclf's configuration."""

import os
from typing import Any, get_args

from airflow.sdk import Param

from carclf.config import RECIPES, fields, load

TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "pattern": "pattern"}


def deployment_recipe() -> str:
    """The recipe of scheduled runs."""
    return os.environ.get("CARCLF_RECIPE") or "gpu"


def params() -> dict[str, Param]:
    """An empty field means "as the recipe says"; the limits are the configuration's own."""
    recipe = deployment_recipe()
    form = {
        "recipe": Param(recipe, type="string", enum=list(RECIPES), section="Recipe", title="Recipe",
                        description="A named set of settings; the fields below change single ones.")
    }
    return form | {name: _param(name, info, recipe) for name, info in fields()}


def _param(name: str, info: Any, recipe: str) -> Param:
    section, _, leaf = name.rpartition(".")
    schema: dict[str, Any] = {}
    for rule in info.metadata:
        schema |= {LIMITS[key]: value for key in LIMITS if (value := getattr(rule, key, None)) is not None}
    if choices := [choice for choice in get_args(info.annotation) if isinstance(choice, str)]:
        schema |= {"type": ["string", "null"], "enum": [*choices, None]}
    else:
        kind = get_args(info.annotation)[0] if get_args(info.annotation) else info.annotation
        schema["type"] = [TYPES[kind], "null"]
    return Param(
        None, section=section.replace("_", " ").capitalize() or "Run", title=leaf.replace("_", " ").capitalize(),
        description=f"{info.description} ({recipe}: {_value(name, recipe)})", **schema,
    )


def _value(name: str, recipe: str) -> Any:
    value: Any = load(recipe)
    for part in name.split("."):
        value = getattr(value, part)
    return value
