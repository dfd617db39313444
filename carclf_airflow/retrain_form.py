"""The trigger form of car_retrain: one field per setting of carclf's configuration."""

from typing import Any, get_args

from airflow.sdk import Param
from pydantic.fields import FieldInfo

from carclf.config import RECIPES, iter_settings, load_config
from carclf_airflow.deployment import deployment_recipe

# Not in the form: the sensor determines how long and how often score polls (CARCLF_POKE_INTERVAL_SECONDS).
EXCLUDED_SECTION = "score."
TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "pattern": "pattern"}


def form_params() -> dict[str, Param]:
    """Return the form's fields, with the limits of the configuration; an empty field keeps the recipe's value."""
    recipe = deployment_recipe()
    form = {
        "recipe": Param(recipe, type="string", enum=list(RECIPES), section="Recipe", title="Recipe",
                        description="A named set of settings. The fields below override single settings.")
    }
    settings = [(name, field) for name, field in iter_settings() if not name.startswith(EXCLUDED_SECTION)]
    return form | {name: _param(name, field, recipe) for name, field in settings}


def _param(name: str, field: FieldInfo, recipe: str) -> Param:
    section, _, leaf = name.rpartition(".")
    return Param(
        None, section=section.replace("_", " ").capitalize() or "Run", title=leaf.replace("_", " ").capitalize(),
        description=f"{field.description} ({recipe}: {_recipe_value(name, recipe)})", **_schema(field),
    )


def _schema(field: FieldInfo) -> dict[str, Any]:
    """Return the JSON schema of a setting that may be left empty."""
    schema: dict[str, Any] = {}
    for rule in field.metadata:
        schema |= {LIMITS[key]: value for key in LIMITS if (value := getattr(rule, key, None)) is not None}
    arguments = get_args(field.annotation)
    if choices := [choice for choice in arguments if isinstance(choice, str)]:
        return schema | {"type": ["string", "null"], "enum": [*choices, None]}
    value_type = arguments[0] if arguments else field.annotation
    assert isinstance(value_type, type)
    return schema | {"type": [TYPES[value_type], "null"]}


def _recipe_value(name: str, recipe: str) -> Any:
    value: Any = load_config(recipe)
    for part in name.split("."):
        value = getattr(value, part)
    return value
