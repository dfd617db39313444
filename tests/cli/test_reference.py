"""``carclf settings`` and ``carclf recipes``."""

import json

import pytest
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import RECIPES, iter_settings
from carclf.errors import ConfigError


def output(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    return result.stdout


def test_every_setting_is_listed_with_its_values_and_the_recipes_that_set_it() -> None:
    settings = json.loads(output("settings", "--json"))
    assert [setting["name"] for setting in settings] == [name for name, _ in iter_settings()]
    by_name = {setting["name"]: setting for setting in settings}
    epochs = by_name["fine_tune.epochs"]
    assert (epochs["default"], epochs["values"]) == (12, "integer, at least 0, at most 500")
    assert epochs["recipes"] == {name: values["fine_tune.epochs"] for name, values in RECIPES.items()
                                 if "fine_tune.epochs" in values}
    assert by_name["force"]["values"] == "on or off"
    assert by_name["fine_tune.drop_path"]["values"] == "number or auto, at least 0, below 1"
    assert by_name["gate.champion_rule"]["values"] == "not_worse or better or off"


def test_a_text_selects_settings_by_name_or_description() -> None:
    assert output("settings", "patience").splitlines() == [
        "fine_tune.patience = 5  (integer, at least 1)",
        "    Plateau schedule only: stop after this many epochs of the last phase without a better metric.",
    ]
    assert "fine_tune.epochs = 12" in output("settings", "FINE_TUNE.EPOCHS")
    assert "model.image_height" in output("settings", "height of the network")


def test_every_recipe_has_a_description() -> None:
    recipes = json.loads(output("recipes", "--json"))
    assert {recipe["name"]: recipe["settings"] for recipe in recipes} == RECIPES
    assert all(recipe["description"].endswith(".") for recipe in recipes)


def test_a_recipe_is_shown_with_the_defaults_that_it_replaces() -> None:
    lines = [line.split() for line in output("recipes", "cpu").splitlines()]
    assert lines[0][0] == "cpu"
    assert ["fine_tune.epochs", "9", "12"] in lines
    assert len(lines) == 3 + len(RECIPES["cpu"])


@pytest.mark.parametrize(("arguments", "suggestion"), [
    (["recipes", "cpu-fats"], "Did you mean cpu-fast?"),
    (["run", "--recipe", "cpu-fats"], "Did you mean cpu-fast?"),
    (["settings", "fine_tune.epoch_count"], "fine_tune.epochs"),
    (["run", "--set", "fine_tune.num_epochs=3"], "fine_tune.epochs"),
    (["run", "--set", "epochs=3"], "head.epochs, fine_tune.epochs"),
])
def test_a_typing_error_in_a_recipe_or_a_setting_gets_a_suggestion(arguments: list[str], suggestion: str) -> None:
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError) and suggestion in str(error)
