"""The trigger form of car_retrain: one field per setting of carclf's configuration."""

import re
from contextlib import suppress
from typing import Any

from airflow.sdk import Param, get_parsing_context
from pydantic.fields import FieldInfo

from carclf.config import (
    AT_LEAST,
    AT_MOST,
    COMMON_SETTINGS,
    EXACTLY,
    RECIPES,
    RULES,
    TASK_SETTINGS,
    ZERO_IS_NO_LIMIT,
    NoneIfAuto,
    Policy,
    deployment_settings,
    flatten,
    format_setting,
    iter_settings,
    load_config,
    load_policy,
    parse_override,
    setting_limits,
    setting_title,
    setting_type,
)
from carclf.errors import ConfigError
from carclf_airflow.deployment import deployment_recipe

TYPES = {int: "integer", float: "number", str: "string"}
EMPTY_CHOICE = "as in the recipe"
# JSON schema of what a policy allows, by its rule. Rules without a schema are checked by the first task.
POLICY_SCHEMA = {AT_LEAST: ("minimum",), AT_MOST: ("maximum",), EXACTLY: ("minimum", "maximum")}


def form_params() -> dict[str, Param]:
    """Return the form's fields, with the limits of the configuration and of the policy.

    An empty field keeps the recipe's value.
    """
    policy = form_policy()
    defaults = _defaults_by_recipe()
    settings = {name: field for name, field in iter_settings() if not name.startswith(TASK_SETTINGS)}
    names = [*COMMON_SETTINGS, *(name for name in settings if name not in COMMON_SETTINGS)]
    description = "A named set of settings. The fields below override single settings."
    form = {"recipe": recipe_param(policy, title="Recipe", description=description)}
    return checked_at_trigger(form | {name: _param(name, settings[name], defaults, policy) for name in names})


def checked_at_trigger(form: dict[str, Param]) -> dict[str, Param]:
    """Return the form; in the process of a task, without its checks, which would repeat those of the trigger.

    The form may have become stricter since the run was queued. Airflow would retry the task, but carclf rejects the
    values with status 78, and tightens those of a run that has started.
    """
    return {name: Param(field.value) for name, field in form.items()} if get_parsing_context().task_id else form


def form_policy() -> Policy:
    """Return the deployment's policy; one that allows everything if it cannot be read, which the first task reports."""
    with suppress(ConfigError):
        return load_policy()
    return Policy()


def recipe_param(policy: Policy, **options: Any) -> Param:
    """Return the field of the recipe with the recipes that the policy allows."""
    recipes = policy.allowed_recipes()
    return Param(policy.default_recipe(deployment_recipe()), type="string", enum=recipes or list(RECIPES), **options)


def limited(**limits: Any) -> dict[str, Any]:
    """Return a JSON schema with limits that Airflow checks.

    Its form would replace a number beyond a ``minimum`` or ``maximum`` of the field itself without a message.
    """
    return {"allOf": [limits]} if limits else {}


def _param(name: str, field: FieldInfo, defaults: dict[str, dict[str, Any]], policy: Policy) -> Param:
    options = _restricted(name, _schema(field, policy.setting_choices(name, field)), policy)
    if name not in COMMON_SETTINGS:  # these are without a section: Airflow shows them first, and folds the others
        options["section"] = name.partition(".")[0].replace("_", " ").capitalize()
    parts = [field.description, _describe_defaults(name, defaults), policy.setting_hint(name)]
    description = " ".join(part for part in parts if part)
    return Param(None, title=setting_title(name), description=description, **options)


def _restricted(name: str, schema: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """Return the schema of a field with the policy's limit, as far as a schema can express it."""
    if name == "data.source":
        return _with_limits(schema, _source_limits(policy))
    limit = policy.limits.get(name)
    if limit is None or "enum" in schema:
        return schema
    rule = RULES[name]
    if not isinstance(rule, str) or rule not in POLICY_SCHEMA:
        return schema
    limits = dict.fromkeys(POLICY_SCHEMA[rule], limit)
    if name in ZERO_IS_NO_LIMIT:
        limits["exclusiveMinimum"] = 0
    return _with_limits(schema, limits)


def _source_limits(policy: Policy) -> dict[str, Any]:
    """Return the pattern of the allowed sources as they are written in the policy; {} if it allows all of them."""
    patterns = policy.allowed.sources
    if "*" in patterns or any("[" in pattern for pattern in patterns):
        return {}
    escaped = [re.sub(r"[.^$+{}()|\\]", r"\\\g<0>", pattern) for pattern in patterns]
    regexes = [text.replace("*", ".*").replace("?", ".") for text in escaped]
    return {"pattern": rf"^({'|'.join(regexes)})/?\Z"}


def _with_limits(schema: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    return schema | {"allOf": [*schema.get("allOf", []), limits]} if limits else schema


def _schema(field: FieldInfo, choices: list[str]) -> dict[str, Any]:
    """Return the JSON schema of a setting that may be left empty."""
    if choices:  # also on and off: Airflow shows a nullable boolean as a switch that is off
        return {"type": ["string", "null"], "enum": [None, *choices], "values_display": {"null": EMPTY_CHOICE}}
    limits = setting_limits(field)
    if "pattern" in limits:
        limits["pattern"] = limits["pattern"].removesuffix("$") + r"\Z"  # in Python, $ also matches before a newline
    value_type = setting_type(field)
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
    return "empty" if value in (None, "") else format_setting(value)
