"""A recipe of an experiment as a line of text: a name, and what it changes of the baseline."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from carclf.config import RECIPES, flatten, load_config, parse_override
from carclf.errors import ConfigError
from carclf.experiments.ablations import ABLATIONS, ENSEMBLE

BASELINE = "baseline"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,59}")
COMPARED_SECTIONS = ("model", "augment", "head", "fine_tune", "evaluate")  # the sections in which recipes are compared


def parse_recipe(text: str, known: Mapping[str, dict[str, Any]] = ABLATIONS) -> tuple[str, dict[str, Any]]:
    """``NAME`` among what is known, or ``NAME [OTHER...] key=value...``: a name and what it changes.

    OTHER is among ``known``, by default the shipped ablations. ConfigError where it is not.
    """
    name, *words = split_words(text) or [""]
    if not NAME.fullmatch(name):
        raise ConfigError(f"{text!r} begins with no name: letters, digits and .- (such as my-rates "
                          "fine_tune.learning_rate=2e-3).")
    changes: dict[str, Any] = {}
    for word in words or [name]:
        if "=" in word:
            key, value = parse_override(word)
            changes[key] = value
        elif word in known:
            changes |= known[word]
        else:
            raise ConfigError(f"{word!r} is no shipped ablation, no recipe and no key=value. The ablations and "
                              f"recipes are {', '.join(known)}, and {ENSEMBLE}.")
    return name, changes


def split_words(text: str) -> list[str]:
    """The words of a line, as a shell would part them; ConfigError where it cannot."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} cannot be read: {error}. Close the quotation mark, or leave it out.") from error


def _instead_of(baseline: str) -> dict[str, dict[str, Any]]:
    """What each of carclf's recipes changes of the baseline's, of what is trained: its own, and the defaults."""
    defaults = flatten(load_config().model_dump())
    found = {name: {key: defaults[key] for key in RECIPES[baseline]} | changes for name, changes in RECIPES.items()}
    return {name: {key: value for key, value in changes.items() if key.partition(".")[0] in COMPARED_SECTIONS}
            for name, changes in found.items()}


def parse_recipes(baseline: str, recipes: Sequence[str]) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """The recipes in their order, and of which the ensemble is made (none: there is none)."""
    found: list[tuple[str, dict[str, Any]]] = []
    known = _instead_of(baseline) | ABLATIONS
    ensembles: list[list[str]] = []
    for text in recipes:
        if (words := split_words(text))[:1] == [ENSEMBLE]:
            ensembles.append(words[1:] or [BASELINE])
        else:
            found.append(parse_recipe(text, known))
            known |= found[-1:]
    if len(ensembles) > 1:
        raise ConfigError(f"{ENSEMBLE!r} is there twice. One experiment compares one: leave one out.")
    members = list(dict.fromkeys(ensembles[0])) if ensembles else []
    if unknown := [name for name in members if name not in (BASELINE, *(name for name, _ in found))]:
        raise ConfigError(f"{ENSEMBLE} {' '.join(members)}: {unknown[0]!r} is no recipe of this experiment.")
    return found, members
