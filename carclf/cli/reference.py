"""``carclf settings`` and ``carclf recipes``: what a run can change, and what a recipe sets."""

import json
from typing import Annotated, Any

import typer

from carclf.cli.completion import complete_recipe, complete_setting
from carclf.cli.options import JsonOption
from carclf.cli.tables import format_table
from carclf.config import (
    RECIPE_SUFFIX,
    RecipeDescription,
    SettingDescription,
    describe_recipes,
    describe_settings,
    format_setting,
    iter_settings,
    read_recipe_file,
)


def settings(
    text: Annotated[
        str, typer.Argument(metavar="FILTER", help="Only settings whose name or description contains this text.",
                            autocompletion=complete_setting)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List the settings of a run: default, possible values, description, and the recipes with other values."""
    described = describe_settings(text)
    if as_json:
        print(json.dumps(described, indent=1))
        return
    for setting in described:
        print(f"{setting['name']} = {_format(setting['default'])}  ({setting['values']})")
        print(*(f"    {line}" for line in (setting["description"], _recipe_values(setting)) if line), sep="\n")


def recipes(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Only this recipe, with the settings it changes.",
                            autocompletion=complete_recipe)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List the recipes, or show what a recipe sets and the defaults that it replaces. NAME may be a file."""
    if name.endswith(RECIPE_SUFFIX):
        file = read_recipe_file(name)
        (base,) = describe_recipes(file["base"])
        settings = {**base["settings"], **file["settings"]}
        described = [RecipeDescription(name=name, description=f"Your own, based on {base['name']}.", settings=settings)]
    else:
        described = describe_recipes(name)
    if as_json:
        print(json.dumps(described, indent=1))
        return
    print(*format_table([(recipe["name"], recipe["description"]) for recipe in described]), sep="\n")
    if name and (values := described[0]["settings"]):
        defaults = {setting: field.default for setting, field in iter_settings()}
        rows = [(setting, _format(value), _format(defaults[setting])) for setting, value in values.items()]
        print("", *format_table([("setting", "value", "default"), *rows]), sep="\n")


def _recipe_values(setting: SettingDescription) -> str:
    """Return the values of the recipes, such as ``8 in baseline-xception, baseline-b5; 5 in cpu``."""
    names: dict[str, list[str]] = {}
    for recipe, value in setting["recipes"].items():
        names.setdefault(_format(value), []).append(recipe)
    return "; ".join(f"{value} in {', '.join(recipes)}" for value, recipes in names.items())


def _format(value: Any) -> str:
    return "empty" if value in (None, "") else format_setting(value)
