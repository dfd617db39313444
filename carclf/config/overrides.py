"""Build a configuration from a recipe and overrides."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from carclf.config.recipes import RECIPES, SOURCE_SETTINGS
from carclf.config.settings import NAMED_WEIGHTS, Config, Data, Section
from carclf.errors import ConfigError
from carclf.formatting import truncate
from carclf.os_errors import expand_home

DEFAULT_SOURCE = Data.model_fields["source"].default
MAX_SIMILAR = 3
MAX_SHOWN = 200  # characters of a rejected value in a message


def iter_settings(tree: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted name and the pydantic field of every setting, in order."""
    for name, field in tree.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from iter_settings(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a dumped configuration by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def build_config(recipe: str, overrides: Mapping[str, Any]) -> Config:
    """Return the recipe's configuration with overrides by dotted name, without the policy's limits.

    An override of None keeps the recipe's value. Raise ConfigError if the recipe or a setting does not exist, or if a
    value is out of range.
    """
    require_recipe(recipe)
    _require_known_settings(overrides)
    values = RECIPES[recipe] | {name: value for name, value in overrides.items() if value is not None}
    return config_from(SOURCE_SETTINGS.get(str(values.get("data.source", DEFAULT_SOURCE)), {}) | values)


def require_recipe(recipe: str) -> str:
    """Return the name of the recipe; raise ConfigError if it does not exist."""
    if recipe in RECIPES:
        return recipe
    similar = get_close_matches(recipe.strip().lower(), RECIPES, n=1)
    hint = f"Did you mean {similar[0]}? " if similar else ""
    shown = truncate(repr(recipe), MAX_SHOWN)
    raise ConfigError(f"Unknown recipe {shown}. {hint}The recipes are {', '.join(RECIPES)}.")


def config_from(settings: Mapping[str, Any]) -> Config:
    """Return the configuration with these settings by dotted name; raise ConfigError if a value is out of range."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        section, _, leaf = name.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_describe(error)) from error


def _require_known_settings(overrides: Mapping[str, Any]) -> None:
    if unknown := sorted(set(overrides) - {name for name, _ in iter_settings()}):
        shown = ", ".join(truncate(repr(name), MAX_SHOWN) for name in unknown)
        similar = ", ".join(find_similar_settings(unknown[0]))
        sections = ", ".join(dict.fromkeys(name.partition(".")[0] for name, _ in iter_settings() if "." in name))
        hint = f"Similar settings: {similar}" if similar else f"A setting is section.name; the sections are {sections}"
        if get_close_matches(unknown[0].strip().lower(), ["recipe"]):
            hint = "The recipe is given by --recipe, or by the field recipe of the trigger form"
        raise ConfigError(f"Unknown setting {shown}. {hint}.")


def find_similar_settings(unknown: str) -> list[str]:
    """Return a few settings with the same last part, a similar name, or a description with the word."""
    fields = dict(iter_settings())
    unknown = unknown.strip().lower()
    same = [name for name in fields if name.rpartition(".")[2] == unknown]
    similar = same or get_close_matches(unknown, fields)
    described = [name for name, field in fields.items() if unknown in str(field.description).lower()]
    return (similar or described)[:MAX_SIMILAR]


def _describe(error: ValidationError) -> str:
    """Return the first problem with the setting and its value; a type or limit also with the description."""
    first = error.errors()[0]
    name, problem = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    problem = problem.partition(", unable to parse")[0]
    field = dict(iter_settings()).get(name)
    if not field:
        return problem
    # the messages of validators state what is expected
    description = "" if first["type"] == "value_error" else f" {field.description}"
    return f"{name} = {truncate(repr(first['input']), MAX_SHOWN)}: {problem.removesuffix('.')}.{description}"


def deployment_settings(overrides: Sequence[str]) -> list[str]:
    """Return the deployment's ``key=value`` settings (CARCLF_SETTINGS), followed by these overrides.

    Raise ConfigError if CARCLF_SETTINGS has a quotation mark without a second one.
    """
    try:
        return [*shlex.split(os.environ.get("CARCLF_SETTINGS", "")), *overrides]
    except ValueError as error:
        raise ConfigError(f"CARCLF_SETTINGS cannot be split into key=value settings: {error}. Close the quotation "
                          "mark.") from error


def require_weights(weights: str) -> Path:
    """Return the file that ``model.weights`` names; raise ConfigError if it does not exist."""
    path = expand_home(os.path.expandvars(weights), "model.weights")
    if not path.is_file():
        names = ", ".join(map(repr, NAMED_WEIGHTS))
        raise ConfigError(f"model.weights: the file {weights!r} does not exist. Use {names}, a path or a URL.")
    return path


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key=value`` and parse the value as JSON. Invalid JSON and values of text settings stay text.

    Raise ConfigError if there is no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals:
        shown = truncate(repr(text), MAX_SHOWN)
        raise ConfigError(f"{shown} does not have the form key=value, for example fine_tune.epochs=3.")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):  # ValueError: not JSON, or an integer of thousands of digits
        return name, value
    is_text = any(setting == name and field.annotation is str for setting, field in iter_settings())
    return name, value if is_text and not isinstance(parsed, str | None) else parsed
