"""What a setting accepts and what a recipe sets: for the command line, the trigger form and the documentation."""

from collections.abc import Iterator
from typing import Any, TypedDict, get_args

from pydantic.fields import FieldInfo

from carclf.config.governed import format_setting
from carclf.config.overrides import find_similar_settings, iter_settings, require_recipe
from carclf.config.recipes import RECIPE_DESCRIPTIONS, RECIPES
from carclf.config.settings import NoneIfAuto
from carclf.errors import ConfigError

ON, OFF = "on", "off"
COMMON_SETTINGS = ("data.source", "seed", "gate.approval", "submit.enabled", "force")  # a form shows them first
TASK_SETTINGS = "score."  # prefix of the settings that Airflow's sensor replaces (CARCLF_POKE_INTERVAL_SECONDS)
# Attributes of pydantic's rules, and the keywords of JSON Schema with the same meaning.
LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "pattern": "pattern",
          "max_length": "maxLength"}
RANGE_TEXTS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
TYPE_TEXTS = {int: "integer", float: "number", str: "text"}


class SettingDescription(TypedDict):
    """A setting: ``values`` are its choices or its range as text, ``recipes`` the values of the recipes that set it."""

    name: str
    default: Any
    values: str
    description: str
    recipes: dict[str, Any]


class RecipeDescription(TypedDict):
    """A recipe and the settings that it changes, by dotted name."""

    name: str
    description: str
    settings: dict[str, Any]


def setting_title(name: str) -> str:
    """Return the label of a setting in a form, below the heading of its section."""
    section, _, title = name.rpartition(".")
    if name in COMMON_SETTINGS:
        title = title.replace("enabled", section)  # "Enabled" needs the name of its section
    return title.replace("_", " ").capitalize()


def setting_type(field: FieldInfo) -> type:
    """Return the type of a setting's value: bool, int, float or str."""
    value_type = next(iter(get_args(field.annotation)), field.annotation)
    return value_type if isinstance(value_type, type) else str


def setting_choices(field: FieldInfo) -> list[str]:
    """Return the values of a setting that is a choice, as ``--set`` accepts them; [] for a number or a text."""
    if field.annotation is bool:
        return [ON, OFF]
    return [value for value in get_args(field.annotation) if isinstance(value, str)]


def setting_limits(field: FieldInfo) -> dict[str, Any]:
    """Return the limits of a number or a text as keywords of JSON Schema."""
    limits: dict[str, Any] = {}
    for rule in field.metadata:
        limits |= {LIMITS[key]: value for key in LIMITS if (value := getattr(rule, key, None)) is not None}
    return limits


def describe_settings(text: str = "") -> list[SettingDescription]:
    """Return the settings whose name or description contains the text; raise ConfigError if there are none."""
    described = list(_describe_settings())
    word = text.strip().lower()
    matching = [setting for setting in described if word in f"{setting['name']} {setting['description']}".lower()]
    if not matching:
        similar = ", ".join(find_similar_settings(text)) or "none; carclf settings lists all of them"
        raise ConfigError(f"No setting contains {text!r}. Similar settings: {similar}.")
    return matching


def _describe_settings() -> Iterator[SettingDescription]:
    for name, field in iter_settings():
        recipes = {recipe: settings[name] for recipe, settings in RECIPES.items() if name in settings}
        yield {"name": name, "default": field.default, "values": _describe_values(field),
               "description": str(field.description), "recipes": recipes}


def _describe_values(field: FieldInfo) -> str:
    """Return the choices, or the type with the range, such as ``number, at least 0, below 1``."""
    if choices := setting_choices(field):
        return " or ".join(choices)
    limits = [f"{RANGE_TEXTS[key]} {format_setting(value)}" for key, value in setting_limits(field).items()
              if key in RANGE_TEXTS]
    auto = " or auto" if NoneIfAuto in field.metadata else ""
    return ", ".join([f"{TYPE_TEXTS[setting_type(field)]}{auto}", *limits])


def describe_recipes(name: str = "") -> list[RecipeDescription]:
    """Return the recipe with this name, or all recipes; raise ConfigError if it does not exist."""
    names = [require_recipe(name)] if name else list(RECIPES)
    return [{"name": recipe, "description": RECIPE_DESCRIPTIONS[recipe], "settings": RECIPES[recipe]}
            for recipe in names]
