"""The fields of the trigger form as JSON, and the shipped files of them."""

import json
from pathlib import Path

import pytest

from carclf.errors import ConfigError
from carclf.experiments.plan import make_plan
from carclf.experiments.plan_form import Form, plan_from_form, read_form

FILES = Path(__file__).resolve().parents[2] / "docs" / "experiments"


def test_a_form_is_read_from_text_or_from_a_file(tmp_path):
    text = json.dumps({"recipe": "demo", "recipes": ["frozen"], "settings": None, "rungs": None, "keep_fraction": 0.4})
    path = tmp_path / "form.json"
    path.write_text(text)
    expected = Form(recipe="demo", recipes=["frozen"], keep_fraction=0.4)
    assert (read_form(text), read_form(str(path))) == (expected, expected)


def test_the_settings_of_the_form_override_those_of_the_deployment(monkeypatch):
    monkeypatch.setenv("CARCLF_SETTINGS", "fine_tune.epochs=7 model.dropout=0.5")
    form = Form(recipe="demo", settings="fine_tune.epochs=3", recipes=["frozen", " ", "ensemble"], seeds="3, 4",
                folds=2, rungs="1,2", keep_fraction=0.4, budget_minutes=5)
    assert plan_from_form("one", form) == make_plan(
        "one", "demo", ["frozen", "ensemble"], settings={"fine_tune.epochs": 3, "model.dropout": 0.5}, seeds=[3, 4],
        num_folds=2, rungs=[1, 2], keep_fraction=0.4, budget_minutes=5)


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not valid JSON"),
    ("nowhere.json", "nowhere.json"),
    ('{"recepies": []}', "'recepies'.*recipe, settings, recipes"),
    ('{"recepies": null}', "'recepies'"),
    ('{"recipes": "frozen"}', "recipes = 'frozen': Input should be a valid list"),
    ('{"recipes": [3]}', r"recipes\.0 = 3: Input should be a valid string"),
    ('{"folds": "many"}', "folds = 'many'"),
    ('{"seeds": "a"}', "seeds = 'a'"),
    ('{"seeds": "1_0"}', "seeds = '1_0'"),
    ('{"seeds": "\u0663"}', "seeds = "),
    ('{"num_trials": 100000}', "num_trials = 100000: Input should be less than or equal to 100"),
    ('{"seeds": ","}', r"seeds = \[\]"),
    ('{"seeds": "1,1"}', r"seeds = \[1, 1\]"),
    ('{"recipe": "demos"}', "'demos'.* gpu"),
    ('{"recipes": ["frozzen"]}', "'frozzen'"),
    ('{"recipes": ["frozen", "frozen"]}', "'frozen'"),
    ('{"recipes": ["a fine_tune.mixups=1"]}', r"Recipe a: .*'fine_tune\.mixups'"),
    ('{"settings": "fine_tune.epochs"}', r"'fine_tune\.epochs'"),
    ('{"settings": "fine_tune.epochs=\'3"}', "No closing quotation"),
])
def test_an_invalid_form_raises_config_error(text, message):
    with pytest.raises(ConfigError, match=message):
        plan_from_form("one", read_form(text))


@pytest.mark.parametrize("path", sorted(FILES.glob("*.json")), ids=lambda path: path.stem)
def test_every_recipe_of_the_shipped_experiments_can_be_trained(path):
    plan = plan_from_form(path.stem, read_form(str(path)))
    configs = [plan.config(run.recipe, run.seed, run.fold) for run in plan.training_runs]
    assert len(configs) == len(plan.recipes) * len(plan.seeds)
    assert len(plan.groups()) < len(configs)  # recipes that differ only in TTA share a training


def test_the_ladder_on_cars10_has_the_same_steps_in_other_sizes():
    real = plan_from_form("one", read_form(str(FILES / "ladder.json")))
    small = plan_from_form("one", read_form(str(FILES / "ladder-cars10.json")))
    assert list(real.recipes) == list(small.recipes)
    assert real.ensemble == small.ensemble == ["6-tta", "7-other-backbone"]
    changed = {key for name, changes in real.recipes.items() for key, value in changes.items()
               if small.recipes[name][key] != value}
    assert changed == {"model.image_height", "model.image_width", "model.backbone", "fine_tune.epochs",
                       "fine_tune.ema_fraction"}


def test_each_step_of_the_ladder_extends_an_earlier_step():
    steps = list(plan_from_form("one", read_form(str(FILES / "ladder.json"))).recipes.values())
    for number, changes in enumerate(steps[1:], 1):
        assert any(earlier.keys() <= changes.keys() for earlier in steps[:number])
    assert steps[6] == steps[4] | {"evaluate.flip_tta": True, "evaluate.zooms": "1,1.15"}
