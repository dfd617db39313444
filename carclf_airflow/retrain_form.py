"""The trigger form of car_retrain: one field per setting of carclf's configuration."""

from contextlib import suppress
from typing import Any, get_args

from airflow.sdk import Param
from pydantic.fields import FieldInfo

from carclf.config import (
    RECIPES,
    NoneIfAuto,
    deployment_settings,
    flatten,
    iter_settings,
    load_config,
    parse_override,
)
from carclf.errors import ConfigError
from carclf_airflow.deployment import deployment_recipe

# Not in the form: the sensor determines how long and how often score polls (CARCLF_POKE_INTERVAL_SECONDS).
EXCLUDED_SECTION = "score."
TYPES = {int: "integer", float: "number", str: "string"}
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "pattern": "pattern",
          "max_length": "maxLength"}
# Airflow shows a nullable boolean as a switch that is off, so a boolean setting is a choice.
ON, OFF = "on", "off"
EMPTY_CHOICE = "as in the recipe"


def form_params() -> dict[str, Param]:
    """Return the form's fields, with the limits of the configuration; an empty field keeps the recipe's value."""
    form = {
        "recipe": Param(deployment_recipe(), type="string", enum=list(RECIPES), section="Recipe", title="Recipe",
                        description="A named set of settings. The fields below override single settings.")
    }
    defaults = _defaults_by_recipe()
    settings = [(name, field) for name, field in iter_settings() if not name.startswith(EXCLUDED_SECTION)]
    return form | {name: _param(name, field, defaults) for name, field in settings}


def limited(**limits: Any) -> dict[str, Any]:
    """Return a JSON schema with limits that Airflow checks.

    Its form would replace a number beyond a ``minimum`` or ``maximum`` of the field itself without a message.
    """
    return {"allOf": [limits]} if limits else {}


def _param(name: str, field: FieldInfo, defaults: dict[str, dict[str, Any]]) -> Param:
    section, _, leaf = name.rpartition(".")
    return Param(
        None, section=section.replace("_", " ").capitalize() or "Run", title=leaf.replace("_", " ").capitalize(),
        description=f"{field.description} {_describe_defaults(name, defaults)}".strip(), **_schema(field),
    )


def _schema(field: FieldInfo) -> dict[str, Any]:
    """Return the JSON schema of a setting that may be left empty."""
    arguments = get_args(field.annotation)
    choices = [ON, OFF] if field.annotation is bool else [value for value in arguments if isinstance(value, str)]
    if choices:
        return {"type": ["string", "null"], "enum": [None, *choices], "values_display": {"null": EMPTY_CHOICE}}
    limits: dict[str, Any] = {}
    for rule in field.metadata:
        limits |= {LIMITS[key]: value for key in LIMITS if (value := getattr(rule, key, None)) is not None}
    if "pattern" in limits:
        limits["pattern"] = limits["pattern"].removesuffix("$") + r"\Z"  # in Python, $ also matches before a newline
    value_type = arguments[0] if arguments else field.annotation
    assert isinstance(value_type, type)
    if NoneIfAuto in field.metadata:  # Airflow shows a text field, and keeps a number a number
        return {"type": [TYPES[value_type], "string", "null"]} | limited(**limits, pattern=r"^auto\Z")
    return {"type": [TYPES[value_type], "null"]} | limited(**limits)


def _defaults_by_recipe() -> dict[str, dict[str, Any]]:
    """Return the settings of each recipe with the deployment's (CARCLF_SETTINGS), if they fit the recipe."""
    defaults = {}
    for recipe in dict.fromkeys([deployment_recipe(), *RECIPES]):
        with suppress(ConfigError):  # the first task reports it
            overrides = dict(map(parse_override, deployment_settings([])))
            defaults[recipe] = flatten(load_config(recipe, overrides).model_dump())
    return defaults


def _describe_defaults(name: str, defaults: dict[str, dict[str, Any]]) -> str:
    """Return the value of an empty field, by recipe if they differ, such as ``(gpu, demo: 12; cpu: 5)``."""
    recipes: dict[str, list[str]] = {}
    for recipe, settings in defaults.items():
        recipes.setdefault(_format(settings[name]), []).append(recipe)
    values = [value if len(recipes) == 1 else f"{', '.join(names)}: {value}" for value, names in recipes.items()]
    return f"({'; '.join(values)})" if values else ""


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return ON if value else OFF
    if value in (None, ""):
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)
