"""Parse the recipes of an experiment: lines with a name and changes to the baseline's settings."""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from carclf.config import RECIPES, iter_settings, parse_override
from carclf.errors import ConfigError
from carclf.experiments.ablations import ABLATIONS, ENSEMBLE

BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,59}")
COMPARED_SECTIONS = ("model", "augment", "head", "fine_tune", "evaluate")  # the only settings a recipe may change
Changes = dict[str, Any]


def parse_recipe(text: str, available: Mapping[str, Changes] = ABLATIONS) -> tuple[str, Changes]:
    """Parse ``NAME`` or ``NAME [OTHER ...] [key=value ...]`` into the name and its changes.

    A name alone, and each OTHER, must be one of the ``available`` recipes. Raise ConfigError if the line is invalid.
    """
    name, *words = split_words(text) or [""]
    if not NAME.fullmatch(name):
        raise ConfigError(f"Invalid recipe {text!r}: it must start with a name of letters, digits and .- as in "
                          "'my-rates fine_tune.learning_rate=2e-3'.")
    changes: Changes = {}
    for word in words or [name]:
        if "=" in word:
            key, value = parse_override(word)
            changes[key] = value
        elif word in available:
            changes |= available[word]
        else:
            raise ConfigError(f"Unknown recipe {word!r}. Use key=value, or one of {', '.join(available)}.")
    return name, changes


def split_words(text: str) -> list[str]:
    """Split a line into words as a shell does; raise ConfigError if a quotation mark is not closed."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"Cannot parse {text!r}: {error}. Close the quotation mark or remove it.") from error


def parse_recipes(
    baseline: str, lines: Sequence[str], allowed: Collection[str] = tuple(RECIPES)
) -> tuple[list[tuple[str, Changes]], list[str]]:
    """Parse the lines of an experiment; return its recipes in order, and the members of the ensemble, if any.

    A line may refer to ablations, to the recipes of carclf that are ``allowed``, and to the recipes of earlier lines.
    Raise ConfigError if a line is invalid, or if there are two ensembles.
    """
    recipes: list[tuple[str, Changes]] = []
    ensembles: list[list[str]] = []
    known = _recipes_relative_to(baseline)
    available = {name: known[name] for name in known if name in allowed} | ABLATIONS
    for line in lines:
        words = split_words(line)
        if words[:1] == [ENSEMBLE]:
            ensembles.append(words[1:] or [BASELINE])
            continue
        name, changes = parse_recipe(line, available)
        recipes.append((name, changes))
        available[name] = changes
    if len(ensembles) > 1:
        raise ConfigError(f"There are {len(ensembles)} {ENSEMBLE!r} lines. An experiment can have one.")
    members = list(dict.fromkeys(ensembles[0])) if ensembles else []
    names = {BASELINE, *(name for name, _ in recipes)}
    if unknown := [name for name in members if name not in names]:
        raise ConfigError(f"{ENSEMBLE} {' '.join(members)}: the experiment has no recipe {unknown[0]!r}. "
                          "Add it, or remove it from the ensemble line.")
    return recipes, members


def _recipes_relative_to(baseline: str) -> dict[str, Changes]:
    """Return the changes from the baseline to each recipe of carclf, in the compared sections.

    Settings that only the baseline changes go back to their defaults. Automatic ones stay automatic, because their
    values depend on other changes of the line.
    """
    defaults = {name: field.default for name, field in iter_settings()}
    reset = {key: defaults[key] for key in RECIPES[baseline]}
    return {
        name: {key: value for key, value in (reset | settings).items() if key.partition(".")[0] in COMPARED_SECTIONS}
        for name, settings in RECIPES.items()
    }
