import pytest

from carclf.experiments.plan import make_plan
from carclf.experiments.reproduce import reproduce_command


@pytest.mark.parametrize(("settings", "seeds", "expected"), [
    ({}, [0, 1], ""), ({}, [3, 4], "--set seed=3 --set split.seed=0 "), ({"seed": 5}, [5], "--set seed=5 "),
    ({"seed": 5}, [0], "--set seed=0 --set split.seed=5 "),
    ({"split.seed": 7}, [0], "--set split.seed=7 --set seed=0 "),
])
def test_a_command_uses_the_first_seed_and_the_split_of_the_experiment(settings, seeds, expected):
    plan = make_plan("one", "demo", ["mixup"], settings=settings, seeds=seeds)
    before, _, after = reproduce_command("mixup", plan, []).partition("--set fine_tune.mixup=0.5 ")
    changed = before.removeprefix("carclf run --recipe demo ") + after.removesuffix("--set submit.enabled=false")
    assert sorted(changed.split("--set ")) == sorted(expected.split("--set "))


def test_the_command_of_an_ensemble_names_the_runs_that_finished():
    plan = make_plan("one", "demo", ["mixup", "cutmix", "ensemble baseline mixup"])
    finished = [run for run in plan.training_runs if run.run_id != "one-mixup-s0"]
    assert reproduce_command("ensemble", plan, finished) == (
        "carclf ensemble --run one-baseline-s0 --run one-baseline-s1 --run one-mixup-s1")
