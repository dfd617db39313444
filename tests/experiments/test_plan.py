import pytest

from carclf.config import load_config
from carclf.errors import ConfigError
from carclf.experiments.ablations import ABLATIONS
from carclf.experiments.plan import make_plan, read_plan, write_plan
from carclf.experiments.trainings import prepare
from carclf.experiments.variants import COMPARED_SECTIONS, parse_recipe
from carclf.services.storage import open_store


def test_a_recipe_is_a_shipped_ablation_or_a_name_with_changes():
    assert parse_recipe("mixup") == ("mixup", ABLATIONS["mixup"])
    assert parse_recipe("wild mixup fine_tune.mixup=0.9 augment.flip=false") == (
        "wild", {"fine_tune.mixup": 0.9, "augment.flip": False})


def test_a_fold_that_the_experiment_does_not_have_is_refused(tmp_path):
    plan = make_plan("one", "demo", ["mixup"], num_folds=2)
    for fold in (-1, 2):
        with pytest.raises(ConfigError, match=f"'one' has no fold {fold}: give one from 0 to 1"):
            prepare(plan, fold, open_store(str(tmp_path)))


def test_a_recipe_stands_on_earlier_ones_and_an_ensemble_is_of_those_that_are_named():
    plan = make_plan("one", "demo", ["a fine_tune.mixup=0.1 augment.flip=false", "b a fine_tune.mixup=0.2",
                                     "ensemble a b"])
    assert plan.recipes["b"] == {"fine_tune.mixup": 0.2, "augment.flip": False}
    assert plan.ensemble == ["a", "b"]
    assert make_plan("one", "demo", ["ensemble"]).ensemble == ["baseline"]
    assert make_plan("one", "demo", ["a augment.flip=false"]).ensemble == []


def test_a_line_may_name_another_recipe_of_carclf_and_then_it_trains_as_that_one_does():
    plan = make_plan("one", "cars10", ["seed baseline-xception", "baseline-b5", "half seed fine_tune.epochs=4"])
    for name, recipe in (("seed", "baseline-xception"), ("baseline-b5", "baseline-b5")):
        own, other = plan.config(name, 0, 0), load_config(recipe)
        assert own.model_dump(include=set(COMPARED_SECTIONS)) == other.model_dump(include=set(COMPARED_SECTIONS))
        assert own.gate == plan.config("baseline", 0, 0).gate
    assert plan.recipes["half"] == plan.recipes["seed"] | {"fine_tune.epochs": 4}


@pytest.mark.parametrize(("text", "words"), [
    ("", "begins with no name"), ("a/b x=1", "begins with no name"),
    ("mixupp", "no shipped ablation, no recipe and no key=value"),
    ("gro\u017f fine_tune.mixup=0.1", "begins with no name"), ("\u212a fine_tune.mixup=0.1", "begins with no name"),
    ("wild mixupp", "no shipped ablation"), ("wild 'mixup", "No closing quotation. Close the quotation mark"),
])
def test_what_is_neither_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_recipe(text)


# what the recipe does already
OURS = {"head-with-batch-norm", "no-hidden-layer", "whole-unfrozen", "batch-32", "cosine", "label-smoothing",
        "flip-view"}
SEEDS = {"head-with-batch-norm", "hidden-layer", "half-unfrozen", "plateau", "size-224", "no-label-smoothing",
         "no-ema", "single-view"}
SAME = {"gpu": OURS | {"average", "size-384x512", "backbone-EfficientNetV2S"},
        "cars10": OURS | {"backbone-EfficientNetV2B0"},
        "baseline-xception": SEEDS | {"batch-32", "backbone-Xception"},
        "baseline-b5": SEEDS | {"batch-16", "backbone-EfficientNetB5"}}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_shipped_ablation_fits_every_recipe_of_a_net_that_has_blocks(name):
    for recipe in SAME:
        plan = make_plan("one", recipe, [name], settings={"fine_tune.epochs": 5})
        same = plan.config(name, 0, 0) == plan.config("baseline", 0, 0)
        assert same == (name in SAME[recipe])


@pytest.mark.parametrize(("recipes", "options", "words"), [
    (["a fine_tune.mixup=2"], {}, "Recipe a: fine_tune.mixup = 2"),
    (["a fine_tune.mixups=0.2"], {}, "Recipe a: Unknown configuration key 'fine_tune.mixups'"),
    (["a split.val_fraction=0.2"], {}, "Recipe a changes split.val_fraction"),
    (["a seed=3"], {}, "Recipe a changes seed"),
    (["a gate.min_recall=0"], {}, "Recipe a changes gate.min_recall: that is no part of its training"),
    (["a submit.enabled=true"], {}, "Recipe a changes submit.enabled"),
    (["ensemble"], {"seeds": [0]}, "ensemble baseline: one training makes no ensemble"),
    (["a augment.flip=false", "ensemble a a"], {"seeds": [3]}, "ensemble a: one training makes no ensemble"),
    (["mixup", "mixup"], {}, "'mixup' is there twice"),
    (["baseline augment.flip=false"], {}, "the baseline is always there"),
    (["mixup"], {"seeds": [1, 1]}, "not different whole numbers"),
    (["mixup"], {"seeds": []}, r"The seeds \[\] are not different whole numbers from 0, such as 0,1"),
    (["ensemble mixup"], {}, "ensemble mixup: 'mixup' is no recipe of this experiment"),
    (["ensemble", "ensemble baseline"], {}, "'ensemble' is there twice"),
    (["a b", "b mixup"], {}, "'b' is no shipped ablation, no recipe"),
    (["mixup"], {"rungs": [5, 2]}, "not growing numbers of epochs"),
    (["mixup"], {"keep_fraction": 1.0}, "keep_fraction"),
    (["mixup"], {"seeds": list(range(600))}, "1200 trainings"),
])
def test_a_plan_that_cannot_be_carried_out_is_refused_before_anything_is_spent(recipes, options, words):
    with pytest.raises(ConfigError, match=words):
        make_plan("one", "demo", recipes, **options)


def test_members_are_every_recipe_seed_and_fold_on_a_split_that_no_seed_changes():
    plan = make_plan("one", "demo", ["wide augment.aspect_jitter=0.3"], seeds=[0, 7], num_folds=2, settings={"seed": 3})
    assert [member.run_id for member in plan.training_runs] == [
        "one-baseline-s0-f0", "one-baseline-s0-f1", "one-wide-s0-f0", "one-wide-s0-f1",
        "one-baseline-s7-f0", "one-baseline-s7-f1", "one-wide-s7-f0", "one-wide-s7-f1",
    ]
    configs = [plan.config(member.recipe, member.seed, member.fold) for member in plan.training_runs]
    assert {config.split.seed for config in configs} == {3}
    assert [config.seed for config in configs] == [0] * 4 + [7] * 4
    assert [config.split.fold for config in configs] == [0, 1] * 4
    assert not any(config.submit.enabled for config in configs)


def test_members_that_are_only_evaluated_otherwise_share_a_training():
    plan = make_plan("one", "demo", ["single-view", "no-augmentation"], seeds=[0, 1])
    assert plan.groups() == [[0, 1], [2], [3, 4], [5]]


def test_a_plan_is_written_once_and_the_same_one_again_changes_nothing(tmp_path):
    store = open_store(str(tmp_path))
    plan = make_plan("one", "demo", ["single-view"])
    write_plan(plan, store)
    write_plan(plan, store)
    assert read_plan("one", store) == plan
    with pytest.raises(ConfigError, match="with another plan"):
        write_plan(make_plan("one", "demo", ["single-view"], seeds=[5]), store)
    with pytest.raises(ConfigError, match="There is no experiment 'two'"):
        read_plan("two", store)
    with pytest.raises(ConfigError, match=r"There is no experiment '\.\./one'"):
        read_plan("../one", store)
