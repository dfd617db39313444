"""The trigger form's fields as JSON, and the files of them that the documentation names."""

import json
from pathlib import Path

import pytest

from carclf.errors import ConfigError
from carclf.experiments.experiment_form import Form, plan_from_form, read_form
from carclf.experiments.plan import make_plan

FILES = Path(__file__).resolve().parents[2] / "docs" / "experiments"


def test_a_form_is_read_from_its_text_or_from_a_file_and_what_is_empty_is_as_by_default(tmp_path):
    text = json.dumps({"recipe": "demo", "recipes": ["frozen"], "settings": None, "rungs": None, "keep_fraction": 0.4})
    (tmp_path / "one.json").write_text(text)
    expected = Form(recipe="demo", recipes=["frozen"], keep=0.4)
    assert (read_form(text), read_form(str(tmp_path / "one.json"))) == (expected, expected)


def test_the_plan_has_what_the_form_says_and_the_deployments_settings_before_it(monkeypatch):
    monkeypatch.setenv("CARCLF_SETTINGS", "fine_tune.epochs=7 model.dropout=0.5")
    form = Form(recipe="demo", settings="fine_tune.epochs=3", recipes=["frozen", " ", "ensemble"], seeds="3, 4",
                folds=2, rungs="1,2", keep=0.4, budget_minutes=5)
    assert plan_from_form("one", form) == make_plan(
        "one", "demo", ["frozen", "ensemble"], settings={"fine_tune.epochs": 3, "model.dropout": 0.5}, seeds=[3, 4],
        num_folds=2, rungs=[1, 2], keep=0.4, budget_minutes=5)


@pytest.mark.parametrize(("text", "words"), [
    ("{", "this is no JSON"),
    ("nowhere.json", r"nowhere.json cannot be read: No such file"),
    ('{"recepies": []}', "An experiment has no field 'recepies'. Its fields are recipe, settings, recipes"),
    ('{"recipes": "frozen"}', "recipes = 'frozen': Input should be a valid list"),
    ('{"recipes": [3]}', r"recipes\.0 = 3: Input should be a valid string"),
    ('{"folds": "many"}', "folds = 'many'"),
    ('{"seeds": "a"}', "seeds 'a' are no whole numbers, separated by commas, such as 0,1"),
    ('{"seeds": "1_0"}', "seeds '1_0' are no whole numbers"),
    ('{"seeds": "\u0663"}', "are no whole numbers"),
    ('{"num_trials": 100000}', "trials = 100000: Input should be less than or equal to 100"),
    ('{"seeds": ","}', r"The seeds \[\] are not different whole numbers from 0"),
    ('{"seeds": "1,1"}', r"The seeds \[1, 1\] are not different"),
    ('{"recipe": "demos"}', "Unknown recipe 'demos'; the recipes are gpu"),
    ('{"recipes": ["frozzen"]}', "'frozzen' is no shipped ablation"),
    ('{"recipes": ["frozen", "frozen"]}', "The recipe 'frozen' is there twice. Give each a name of its own"),
    ('{"recipes": ["a fine_tune.mixups=1"]}', "Recipe a: Unknown configuration key 'fine_tune.mixups'"),
    ('{"settings": "fine_tune.epochs"}', "'fine_tune.epochs' is not of the form key=value"),
    ('{"settings": "fine_tune.epochs=\'3"}', "No closing quotation"),
])
def test_what_cannot_be_carried_out_is_refused_with_its_mend(text, words):
    with pytest.raises(ConfigError, match=words):
        plan_from_form("one", read_form(text))


@pytest.mark.parametrize("path", sorted(FILES.glob("*.json")), ids=lambda path: path.stem)
def test_every_recipe_of_the_shipped_experiments_can_be_trained(path):
    plan = plan_from_form(path.stem, read_form(str(path)))
    configs = [plan.config(member.recipe, member.seed, member.fold) for member in plan.training_runs]
    assert len(configs) == len(plan.recipes) * len(plan.seeds)
    assert len(plan.groups()) < len(configs)  # what differs only in its looks shares a training


def test_the_ladder_on_cars10_has_the_same_steps_with_other_sizes():
    real, small = (plan_from_form("one", read_form(str(FILES / name))) for name in ("ladder.json", "ladder-cars10.json"))
    assert list(real.recipes) == list(small.recipes)
    assert real.ensemble == small.ensemble == ["6-tta", "7-other-backbone"]
    changed = {key for name, changes in real.recipes.items() for key, value in changes.items()
               if small.recipes[name][key] != value}
    assert changed == {"model.image_height", "model.image_width", "model.backbone", "fine_tune.epochs",
                       "fine_tune.ema_momentum"}


def test_each_step_of_the_ladder_stands_on_an_earlier_one():
    steps = list(plan_from_form("one", read_form(str(FILES / "ladder.json"))).recipes.values())
    for number, changes in enumerate(steps[1:], 1):
        assert any(earlier.keys() <= changes.keys() for earlier in steps[:number])
    assert steps[6] == steps[4] | {"evaluate.flip_tta": True, "evaluate.zooms": "1,1.15"}
