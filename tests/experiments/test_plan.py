import pytest

from carclf.config import load_config
from carclf.errors import ConfigError, DataError
from carclf.experiments.ablations import ABLATIONS
from carclf.experiments.plan import find_rejection, make_plan, read_plan, record_rejection, write_plan
from carclf.experiments.trainings import prepare
from carclf.experiments.variants import COMPARED_SECTIONS, parse_recipe
from carclf.services.storage import open_store


def test_a_recipe_is_an_ablation_or_a_name_with_changes():
    assert parse_recipe("mixup") == ("mixup", ABLATIONS["mixup"])
    assert parse_recipe("wild mixup fine_tune.mixup=0.9 augment.flip=false") == (
        "wild", {"fine_tune.mixup": 0.9, "augment.flip": False})


def test_preparing_a_fold_that_does_not_exist_raises_config_error(tmp_path):
    plan = make_plan("one", "demo", ["mixup"], num_folds=2)
    for fold in (-1, 2):
        with pytest.raises(ConfigError, match=f"'one' has no fold {fold}.* from 0 to 1"):
            prepare(plan, fold, open_store(str(tmp_path)))


def test_a_recipe_may_extend_earlier_ones_and_an_ensemble_names_its_members():
    plan = make_plan("one", "demo", ["a fine_tune.mixup=0.1 augment.flip=false", "b a fine_tune.mixup=0.2",
                                     "ensemble a b"])
    assert plan.recipes["b"] == {"fine_tune.mixup": 0.2, "augment.flip": False}
    assert plan.ensemble == ["a", "b"]
    assert make_plan("one", "demo", ["ensemble"]).ensemble == ["baseline"]
    assert make_plan("one", "demo", ["a augment.flip=false"]).ensemble == []


def test_a_line_may_name_another_recipe_of_carclf():
    plan = make_plan("one", "cpu", ["notebook baseline-xception", "baseline-b5", "half notebook fine_tune.epochs=4"])
    for name, recipe in (("notebook", "baseline-xception"), ("baseline-b5", "baseline-b5")):
        config, original = plan.config(name, 0, 0), load_config(recipe)
        sections = set(COMPARED_SECTIONS)
        assert config.model_dump(include=sections) == original.model_dump(include=sections)
        assert config.gate == plan.config("baseline", 0, 0).gate
    assert plan.recipes["half"] == plan.recipes["notebook"] | {"fine_tune.epochs": 4}


@pytest.mark.parametrize("line", ["cpu", "mine cpu", "mine cpu fine_tune.epochs=2"])
def test_a_line_may_not_name_a_recipe_that_the_policy_does_not_allow(line, tmp_path, monkeypatch):
    (tmp_path / "policy.toml").write_text('[allowed]\nrecipes = ["demo", "cpu-fast"]\n')
    monkeypatch.setenv("CARCLF_POLICY", str(tmp_path / "policy.toml"))
    with pytest.raises(ConfigError, match="Unknown recipe 'cpu'"):
        make_plan("one", "demo", [line])
    assert make_plan("one", "demo", ["cpu-fast"]).recipes["cpu-fast"]


@pytest.mark.parametrize("baseline", ["cpu-fast", "baseline-xception"])
def test_settings_that_a_line_resets_follow_its_backbone(baseline):
    backbone = "model.backbone=ConvNeXtTiny"
    config = make_plan("one", baseline, [f"next gpu {backbone}"]).config("next", 0, 0)
    expected = load_config("gpu", {"model.backbone": "ConvNeXtTiny"})
    assert config.model.image_size == expected.model.image_size == (192, 256)
    assert config.fine_tune == expected.fine_tune
    settings = config.fine_tune
    assert (settings.learning_rate, settings.layer_decay, settings.weight_decay) == (1.25e-5, 0.9, 1e-8)


@pytest.mark.parametrize(("text", "message"), [
    ("", "Invalid recipe ''"), ("a/b x=1", "Invalid recipe 'a/b x=1'"), ("mixupp", "'mixupp'"),
    ("gro\u017f fine_tune.mixup=0.1", "Invalid recipe"), ("\u212a fine_tune.mixup=0.1", "Invalid recipe"),
    ("wild mixupp", "'mixupp'"), ("wild 'mixup", "No closing quotation"),
])
def test_an_invalid_recipe_raises_config_error(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipe(text)


# The ablations that do not change a recipe, by recipe.
OF_ALL = {"head-with-batch-norm", "no-hidden-layer", "all-unfrozen", "batch-32", "cosine", "label-smoothing",
          "flip-view"}
OF_BASELINES = {"head-with-batch-norm", "hidden-layer", "half-unfrozen", "plateau", "size-224", "no-label-smoothing",
                "no-ema", "single-view"}
UNCHANGED = {
    "gpu": OF_ALL | {"ema", "size-384x512", "backbone-EfficientNetV2S"},
    "cpu": OF_ALL - {"all-unfrozen"} | {"half-unfrozen", "backbone-EfficientNetV2B0"},
    "baseline-xception": OF_BASELINES | {"batch-32", "no-drop-path", "backbone-Xception"},
    "baseline-b5": OF_BASELINES | {"batch-16", "backbone-EfficientNetB5"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_valid_for_every_recipe(name):
    for recipe, unchanged in UNCHANGED.items():
        plan = make_plan("one", recipe, [name], settings={"fine_tune.epochs": 5})
        is_same = plan.config(name, 0, 0) == plan.config("baseline", 0, 0)
        assert is_same == (name in unchanged)


@pytest.mark.parametrize(("recipes", "options", "message"), [
    (["a fine_tune.mixup=2"], {}, r"Recipe a: fine_tune\.mixup = 2"),
    (["a fine_tune.mixups=0.2"], {}, r"Recipe a: .*'fine_tune\.mixups'"),
    (["a split.val_fraction=0.2"], {}, r"Recipe a changes split\.val_fraction"),
    (["a seed=3"], {}, "Recipe a changes seed"),
    (["a gate.min_recall=0"], {}, r"Recipe a changes gate\.min_recall"),
    (["a submit.enabled=true"], {}, r"Recipe a changes submit\.enabled"),
    (["a fine_tune.refit=true"], {}, r"Recipe a changes fine_tune\.refit"),
    (["ensemble"], {"seeds": [0]}, "ensemble baseline: .* at least two"),
    (["a augment.flip=false", "ensemble a a"], {"seeds": [3]}, "ensemble a: .* at least two"),
    (["mixup", "mixup"], {}, "'mixup' is listed twice"),
    (["baseline augment.flip=false"], {}, "'baseline' is listed twice"),
    (["mixup"], {"seeds": [1, 1]}, r"seeds = \[1, 1\]"),
    (["mixup"], {"seeds": []}, r"seeds = \[\]"),
    (["ensemble mixup"], {}, "ensemble mixup: .*'mixup'"),
    (["ensemble", "ensemble baseline"], {}, "'ensemble'"),
    (["a b", "b mixup"], {}, "'b'"),
    (["mixup"], {"rungs": [5, 2]}, r"rungs = \[5, 2\]"),
    (["mixup"], {"keep_fraction": 1.0}, r"keep_fraction = 1\.0"),
    (["mixup"], {"seeds": list(range(600))}, "1200 trainings"),
])
def test_an_invalid_plan_raises_config_error(recipes, options, message):
    with pytest.raises(ConfigError, match=message):
        make_plan("one", "demo", recipes, **options)


def test_every_recipe_is_trained_with_every_seed_and_fold_on_the_same_split():
    plan = make_plan("one", "demo", ["wide augment.aspect_jitter=0.3"], seeds=[0, 7], num_folds=2,
                     settings={"seed": 3, "fine_tune.refit": True})
    assert [run.run_id for run in plan.training_runs] == [
        "one-baseline-s0-f0", "one-baseline-s0-f1", "one-wide-s0-f0", "one-wide-s0-f1",
        "one-baseline-s7-f0", "one-baseline-s7-f1", "one-wide-s7-f0", "one-wide-s7-f1",
    ]
    configs = [plan.config(run.recipe, run.seed, run.fold) for run in plan.training_runs]
    assert {config.split.seed for config in configs} == {3}
    assert [config.seed for config in configs] == [0] * 4 + [7] * 4
    assert [config.split.fold for config in configs] == [0, 1] * 4
    assert not any(config.submit.enabled or config.fine_tune.refit for config in configs)


def test_training_runs_that_differ_only_in_evaluation_are_one_group():
    plan = make_plan("one", "demo", ["single-view", "no-augmentation"], seeds=[0, 1])
    assert plan.groups() == [[0, 1], [2], [3, 4], [5]]


def test_a_plan_is_written_once(tmp_path):
    store = open_store(str(tmp_path))
    plan = make_plan("one", "demo", ["single-view"])
    write_plan(plan, store)
    write_plan(plan, store)  # the same plan again changes nothing
    assert read_plan("one", store) == plan
    with pytest.raises(ConfigError, match=r"'one' exists .* with another plan"):
        write_plan(make_plan("one", "demo", ["single-view"], seeds=[5]), store)


@pytest.mark.parametrize("name", ["two", "../one"])
def test_reading_a_plan_that_does_not_exist_raises_config_error(tmp_path, name):
    store = open_store(str(tmp_path))
    write_plan(make_plan("one", "demo", ["single-view"]), store)
    with pytest.raises(ConfigError, match=f"There is no experiment '{name}'"):
        read_plan(name, store)


def test_a_damaged_plan_raises_data_error(tmp_path):
    store = open_store(str(tmp_path))
    store.write("experiments/one/plan.json", b'{"experiment": "one"}')
    with pytest.raises(DataError, match=r"experiments/one/plan\.json"):
        read_plan("one", store)


def test_the_reason_of_a_rejection_is_stored_without_secrets(tmp_path):
    store = open_store(str(tmp_path))
    record_rejection("one", store, ConfigError("https://ada:planted@host/w.h5 is missing."))
    assert find_rejection("one", store) == "https://***@host/w.h5 is missing."
