import json

from carclf.experiments.plan import make_plan
from carclf.experiments.racing import recipes_stopped_early, remaining_groups, survivors
from carclf.experiments.trainings import rung_key
from carclf.services.storage import open_store

RECIPES = ["single-view", "a fine_tune.mixup=0.1", "b fine_tune.mixup=0.2", "c fine_tune.mixup=0.3"]


def raced(tmp_path, *rungs):
    """The plan and its store; a rung is what each recipe reached, in the plan's order (None: nothing)."""
    plan = make_plan("one", "demo", RECIPES, seeds=[0, 1], rungs=[2, 5], keep=0.4)
    store = open_store(str(tmp_path))
    for epoch, reached in zip(plan.rungs, rungs, strict=False):
        for member in plan.training_runs:
            if (accuracy := reached[list(plan.recipes).index(member.recipe)]) is not None:
                told = {"val_accuracy": accuracy + 0.01 * member.seed}
                store.write(rung_key(plan, member.number, epoch), json.dumps(told).encode())
    return plan, store


def test_before_a_rung_all_race_and_after_it_the_better_share_and_the_baseline(tmp_path):
    plan, store = raced(tmp_path, [0.1, 0.2, 0.9, 0.8, 0.3])
    assert survivors(plan, 0, store) == list(plan.recipes)
    # the baseline always goes on, and who shares its training costs nothing
    assert survivors(plan, 1, store) == ["baseline", "single-view", "a", "b"]
    assert recipes_stopped_early(plan, store)["c"] == (2, 0.305)


def test_who_did_not_get_to_a_rung_is_out_and_a_second_rung_halves_again(tmp_path):
    plan, store = raced(tmp_path, [0.5, 0.5, 0.9, None, 0.8], [0.5, 0.5, 0.7, None, 0.9])
    assert survivors(plan, 1, store) == ["baseline", "single-view", "a", "c"]
    assert survivors(plan, 2, store) == ["baseline", "single-view", "a", "c"]  # of four 40% are two


def test_groups_keep_the_members_that_go_on(tmp_path):
    plan, store = raced(tmp_path, [0.1, 0.1, 0.9, 0.1, 0.1])
    assert remaining_groups(plan, 0, store) == [[0, 1], [2], [3], [4], [5, 6], [7], [8], [9]]
    assert remaining_groups(plan, 1, store) == [[0, 1], [2], [5, 6], [7]]
