import json

from carclf.experiments.plan import make_plan
from carclf.experiments.racing import RungScore, recipes_stopped_early, remaining_groups, survivors
from carclf.experiments.trainings import rung_key
from carclf.services.storage import open_store

RECIPES = ["single-view", "a fine_tune.mixup=0.1", "b fine_tune.mixup=0.2", "c fine_tune.mixup=0.3"]


def race(tmp_path, *rungs, metric=""):
    """Return a plan and its store; each rung has the accuracies in the plan's order (None: not reached)."""
    plan = make_plan("one", "demo", RECIPES, seeds=[0, 1], rungs=[2, 5], keep_fraction=0.4)
    store = open_store(str(tmp_path))
    for epoch, accuracies in zip(plan.rungs, rungs, strict=False):
        for run in plan.training_runs:
            if (accuracy := accuracies[list(plan.recipes).index(run.recipe)]) is not None:
                report = {"val_accuracy": accuracy + 0.01 * run.seed}
                if metric:
                    report = {"val_accuracy": 0.5, "metric": metric, "val_metric": accuracy}
                store.write(rung_key(plan, run.number, epoch), json.dumps(report).encode())
    return plan, store


def test_after_a_rung_the_best_recipes_and_the_baseline_continue(tmp_path):
    plan, store = race(tmp_path, [0.1, 0.2, 0.9, 0.8, 0.3])
    assert survivors(plan, 0, store) == list(plan.recipes)
    # single-view shares the training of the baseline, so it costs nothing
    assert survivors(plan, 1, store) == ["baseline", "single-view", "a", "b"]
    assert recipes_stopped_early(plan, store)["c"] == RungScore(2, 0.305, 0.305, 0.305)


def test_a_lower_loss_survives(tmp_path):
    plan, store = race(tmp_path, [0.9, 0.8, 0.2, 0.1, 0.7], metric="log_loss")
    assert survivors(plan, 1, store) == ["baseline", "single-view", "a", "b"]
    assert recipes_stopped_early(plan, store)["c"] == RungScore(2, 0.5, 0.7, -0.7)


def test_a_recipe_that_did_not_reach_a_rung_is_eliminated(tmp_path):
    plan, store = race(tmp_path, [0.5, 0.5, 0.9, None, 0.8], [0.5, 0.5, 0.7, None, 0.9])
    assert survivors(plan, 1, store) == ["baseline", "single-view", "a", "c"]
    assert survivors(plan, 2, store) == ["baseline", "single-view", "a", "c"]  # 40% of four, rounded up, are two


def test_groups_keep_the_training_runs_that_continue(tmp_path):
    plan, store = race(tmp_path, [0.1, 0.1, 0.9, 0.1, 0.1])
    assert remaining_groups(plan, 0, store) == [[0, 1], [2], [3], [4], [5, 6], [7], [8], [9]]
    assert remaining_groups(plan, 1, store) == [[0, 1], [2], [5, 6], [7]]
