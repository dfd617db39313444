"""From a recipe and overrides to a configuration."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from carclf.config.recipes import RECIPES
from carclf.config.settings import NAMED_WEIGHTS, Config, Section
from carclf.errors import ConfigError

Overrides = Mapping[str, Any]


def iter_settings(tree: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, pydantic FieldInfo) of every leaf of the tree, in order."""
    for name, field in tree.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from iter_settings(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a dumped configuration, of whatever version, by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def load_config(recipe: str = "gpu", overrides: Overrides | None = None) -> Config:
    """The recipe's configuration with dotted overrides, ``{"fine_tune.epochs": 3}``; None means "as the recipe says".

    Raises ConfigError for an unknown recipe or key and for a value out of its limits.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"Unknown recipe {recipe!r}; the recipes are {', '.join(RECIPES)}.")
    values = RECIPES[recipe] | {key: value for key, value in (overrides or {}).items() if value is not None}
    known = dict(iter_settings())
    if unknown := sorted(set(overrides or {}) - set(known)):
        near = [key for key in known if key.rpartition(".")[2] == unknown[0]] or get_close_matches(unknown[0], known)
        raise ConfigError(f"Unknown configuration key {', '.join(map(repr, unknown))}. Remove it or use one of: "
                          f"{', '.join(near or known)}.")
    tree: dict[str, Any] = {}
    for key, value in values.items():
        section, _, leaf = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if name not in known:
            raise ConfigError(message) from error
        raise ConfigError(f"{name} = {first['input']!r}: {message}. {known[name].description}") from error


def deployment_settings(overrides: Sequence[str]) -> list[str]:
    """The deployment's ``key=value`` settings (CARCLF_SETTINGS), and then these."""
    return [*shlex.split(os.environ.get("CARCLF_SETTINGS", "")), *overrides]


def require_weights(weights: str) -> Path:
    """The file of ``model.weights`` where that is a path; ConfigError where there is none."""
    path = Path(os.path.expandvars(weights)).expanduser()
    if not path.is_file():
        raise ConfigError(f"model.weights: there is no file {weights!r}. Give {', '.join(map(repr, NAMED_WEIGHTS))}, a "
                          "path or a URL.")
    return path


def parse_override(text: str) -> tuple[str, Any]:
    """Read ``key=value``, the value as JSON where it is JSON; else, and where the setting is a text, as it stands."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not of the form key=value, for example fine_tune.epochs=3.")
    try:
        read = json.loads(value)
    except json.JSONDecodeError:
        return key, value
    is_text = (key, str) in ((name, field.annotation) for name, field in iter_settings())
    return key, value if is_text and not isinstance(read, str | None) else read
