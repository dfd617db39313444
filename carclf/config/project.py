"""``carclf.toml``, the file of a project: its store, source, recipe and settings. And recipes in files of your own.

The values become the defaults of the variables CARCLF_STORE, CARCLF_RECIPE and CARCLF_SETTINGS, which the command line
and Airflow read: what these variables or the command line give takes precedence.
"""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from carclf.config.overrides import find_similar_settings, flatten, iter_settings, require_recipe
from carclf.config.recipes import RECIPE_DESCRIPTIONS
from carclf.config.sources import parse_source
from carclf.errors import ConfigError

PROJECT_FILE = "carclf.toml"
PROJECT_VARIABLE = "CARCLF_PROJECT_FILE"
RECIPE_SUFFIX = ".toml"  # of a recipe that is a file
KEYS = ("store", "source", "recipe", "settings")
RECIPE_KEYS = ("base", "settings")
TEMPLATE = """\
# Every carclf command in this folder and below reads this file. The command line and the variables CARCLF_STORE,
# CARCLF_RECIPE and CARCLF_SETTINGS take precedence.

# The store: a folder, relative to this file, or s3://bucket/prefix. `carclf store init` creates it.
store = {store}

# The images: a competition's slug on Kaggle, kaggle://owner/dataset, s3://bucket/prefix, or a path, relative to this
# file.
{source_comment}source = {source}

# `carclf recipes NAME` shows what a recipe sets. Your own recipe is a file, such as mine.toml, with the key base and
# the table [settings].
{recipes}
recipe = {recipe}

[settings]
# Settings of every run; `carclf settings` lists all of them.
# fine_tune.epochs = 3
"""


def apply_project_file(folder: Path) -> None:
    """Set the variables of this process to the values of the project file, unless they have a value.

    The file is carclf.toml in the folder or its nearest parent with one; files of other users are left out. If
    CARCLF_PROJECT_FILE is set, it is the file that the variable names, and none if it is empty. Raise ConfigError if
    the file is invalid.
    """
    if (path := _find_file(folder)) is None:
        return
    values = read_project_file(path)
    _prepend(values["settings"])
    if "store" in values and not os.environ.get("CARCLF_STORE"):
        os.environ["CARCLF_STORE"] = values["store"]
    if "recipe" in values and not os.environ.get("CARCLF_RECIPE"):
        os.environ["CARCLF_RECIPE"] = apply_recipe_file(values["recipe"])


def apply_recipe_file(recipe: str) -> str:
    """Return the name of a recipe. Of a file, it is the base; the file's settings precede those of CARCLF_SETTINGS.

    Raise ConfigError if the file cannot be read or is invalid.
    """
    if not recipe.endswith(RECIPE_SUFFIX):
        return recipe
    described = read_recipe_file(recipe)
    _prepend(described["settings"])
    return str(described["base"])


def read_recipe_file(path: str) -> dict[str, Any]:
    """Return the ``base`` of a recipe's file, and its ``settings`` by dotted name.

    Raise ConfigError with the line if a key is unknown or a value has another type.
    """
    return _read(Path(path), _parse_recipe, "the recipe")


def _prepend(settings: Mapping[str, Any]) -> None:
    """Add settings to CARCLF_SETTINGS of this process; the last value of a setting counts."""
    texts = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]
    if texts:
        os.environ["CARCLF_SETTINGS"] = f"{shlex.join(texts)} {os.environ.get('CARCLF_SETTINGS', '')}".strip()


def _find_file(folder: Path) -> Path | None:
    if (name := os.environ.get(PROJECT_VARIABLE)) is not None:
        return Path(name) if name else None
    return next((path for parent in (folder, *folder.parents) if _is_trusted(path := parent / PROJECT_FILE)), None)


def _is_trusted(path: Path) -> bool:
    """Return True if the file exists and is the user's or root's: another user could set the store in /tmp."""
    try:
        return path.is_file() and path.stat().st_uid in (os.getuid(), 0)
    except PermissionError:  # below a folder of another user
        return False


def read_project_file(path: Path) -> dict[str, Any]:
    """Return the keys of the file, with absolute paths and the source among the ``settings`` by dotted name.

    Raise ConfigError with the file and the line if a key is unknown or a value has another type.
    """
    return _read(path, lambda tables: _parse(tables, path.absolute().parent), f"{PROJECT_VARIABLE}")


def _read(path: Path, parse: Callable[[dict[str, Any]], dict[str, Any]], origin: str) -> dict[str, Any]:
    """Return the parsed file; raise ConfigError that names the line, or where the path is from if it is missing."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read: {error.strerror}. Fix {origin}, or restore the "
                          "file.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    try:
        return parse(tables)
    except _InvalidKeyError as error:
        raise ConfigError(f"{path}, line {_find_line(text, error.key)}: {error}") from error


def write_project_file(path: Path, *, store: str, source: str, recipe: str) -> None:
    """Write a commented file; raise ConfigError if it exists, or if the recipe or the source is invalid."""
    try:
        _parse({"recipe": recipe} | ({"source": source} if source else {}), path.parent)
    except _InvalidKeyError as error:
        raise ConfigError(f"{error.key}: {error}") from error
    content = TEMPLATE.format(
        store=json.dumps(store), recipe=json.dumps(recipe), source=json.dumps(source or "./photos"),
        source_comment="" if source else "# ", recipes="\n".join(
            f"# {name}: {description}" for name, description in RECIPE_DESCRIPTIONS.items()),
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists. Edit it, or remove it first.") from error


class _InvalidKeyError(Exception):
    """A key that is unknown or has an invalid value; the message states what was expected."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _parse(tables: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    settings = _parse_settings(tables, KEYS, {"source": parse_source, "recipe": _check_recipe})
    values = {key: tables[key] for key in ("store", "recipe") if key in tables}
    if "store" in values:
        values["store"] = _absolute(values["store"], folder)
    if str(values.get("recipe", "")).endswith(RECIPE_SUFFIX):
        values["recipe"] = _absolute(values["recipe"], folder)
    if "source" in tables:
        source = tables["source"]
        is_path = parse_source(source).kind in ("folder", "file")
        settings = {"data.source": _absolute(source, folder) if is_path else source} | settings
    return values | {"settings": settings}


def _parse_recipe(tables: Mapping[str, Any]) -> dict[str, Any]:
    settings = _parse_settings(tables, RECIPE_KEYS, {"base": require_recipe})
    if "base" not in tables:
        raise _InvalidKeyError("base", "the key base is missing. Expected the recipe that the settings change, such as "
                                       'base = "gpu".')
    return {"base": tables["base"], "settings": settings}


def _check_recipe(recipe: str) -> None:
    if not recipe.endswith(RECIPE_SUFFIX):  # the command that uses a file reads it
        require_recipe(recipe)


def _parse_settings(
    tables: Mapping[str, Any], keys: Sequence[str], checks: Mapping[str, Callable[[str], object]]
) -> dict[str, Any]:
    """Return the settings by dotted name; raise _InvalidKeyError if a key is unknown or a value is invalid."""
    for key, value in tables.items():
        _check_key(key, value, keys)
        try:
            if key in checks:
                checks[key](str(value))
        except (ConfigError, ValueError) as error:
            raise _InvalidKeyError(key, str(error)) from error
    settings = flatten(tables.get("settings", {}))
    for name, value in settings.items():
        _check_setting(name, value)
    return settings


def _check_key(key: str, value: Any, keys: Sequence[str]) -> None:
    if key not in keys:
        is_setting = key in {name.partition(".")[0] for name, _ in iter_settings()}
        similar = get_close_matches(key, keys, n=1)
        hint = " Move it to the table [settings]." if is_setting else f" Did you mean {similar[0]}?" if similar else ""
        raise _InvalidKeyError(key, f"unknown key {key!r}. Expected {', '.join(keys)}.{hint}")
    if not isinstance(value, dict if key == "settings" else str):
        raise _InvalidKeyError(key, f"{key} must be a {'table' if key == 'settings' else 'text'}, not {value!r}.")


def _check_setting(name: str, value: Any) -> None:
    if name not in {setting for setting, _ in iter_settings()}:
        similar = find_similar_settings(name)
        hint = f"Did you mean {' or '.join(similar)}?" if similar else "carclf settings lists all settings."
        raise _InvalidKeyError(f"settings.{name}", f"unknown setting {name!r}. {hint}")
    if not isinstance(value, str | int | float):
        raise _InvalidKeyError(f"settings.{name}", f"{name} must be a text, a number, true or false, not {value!r}.")


def _absolute(path: str, folder: Path) -> str:
    return path if "://" in path or path.startswith("~") else os.path.normpath(folder / path)


def _find_line(text: str, key: str) -> int:
    """Return the number of the line that sets a dotted key, counted from 1."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = f"{header[1]}."
        name = table.removesuffix(".") if header else table + line.partition("=")[0]
        if re.sub(r"[\s\"']", "", name) == key:
            return number
    return 1
