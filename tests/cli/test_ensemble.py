"""Build ensembles from runs, and evaluate and promote them like other models."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import SMALL, reload_in_this_process, run_to

from carclf.artifacts import Archive, Decision, Evaluation, Model, Split
from carclf.champion import champion_model, champion_split
from carclf.cli.app import main
from carclf.cli.ensemble import join_runs, start_ensemble_run
from carclf.config import load_config
from carclf.ensembles.members import read_members
from carclf.errors import ConfigError
from carclf.evaluation.evaluate import evaluate_model
from carclf.inference.calibration import apply_temperature
from carclf.runs.run import Run
from carclf.services.storage import Store
from carclf.stages.chain import StageOptions
from carclf.stages.promote import PromotionOptions

pytestmark = [pytest.mark.usefixtures("kaggle_environment"), pytest.mark.integration]
PROBABILITIES = r"^p_\d"


def build_ensemble(store: Store, run_id: str, *names: str, settings: tuple[str, ...] = ()) -> Run:
    members = [Run.load(name, store) for name in names]
    run = start_ensemble_run(run_id, members, settings)
    join_runs(run, members)
    return run


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["carclf", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def predictions(store: Store, evaluation: Evaluation) -> pd.DataFrame:
    return pd.read_parquet(evaluation.path(store, "predictions.parquet")).set_index("id")


def calibrated_predictions(store: Store, run: Run) -> pd.DataFrame:
    evaluation = run.artifact(Evaluation, "evaluate")
    table = predictions(store, evaluation)
    columns = table.filter(regex=PROBABILITIES).columns
    probabilities = apply_temperature(table[columns].to_numpy(float), evaluation.number("temperature"))
    return table.assign(**dict(zip(columns, probabilities.T, strict=True)))


def assert_same_predictions(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert table.index.tolist() == expected.index.tolist()
    assert table["label"].tolist() == expected["label"].tolist()
    values, expected_values = (each.filter(regex=PROBABILITIES).to_numpy(float) for each in (table, expected))
    np.testing.assert_allclose(values, expected_values, atol=1e-6)


def test_the_command_builds_evaluates_and_promotes_an_ensemble(
    store_copy: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members are two seeds of a recipe and a model with another image size. Running it again reuses everything."""
    names = ["seed-0", "seed-1", "wide"]
    options = [word for name in names for word in ("--run", name)]
    for _ in range(2):
        assert run_main(monkeypatch, "ensemble", *options, "--name", "all", "--store", store_copy.url) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if " s  " in line] == ["fine_tune", "evaluate", "promote"] * 2
    run = Run.load("all", store_copy)
    model, evaluation = run.artifact(Model, "fine_tune"), run.artifact(Evaluation, "evaluate")
    assert champion_model(store_copy) == model
    assert champion_split(store_copy) == run.artifact(Split, "split")
    assert model.image_size == (96, 128)
    assert evaluation.metrics["reload_difference"] < 1e-5
    assert evaluation.metrics["model_mb"] > 0
    of_member = Run.load("seed-0", store_copy).artifact(Evaluation, "evaluate")
    assert predictions(store_copy, evaluation).index.tolist() == predictions(store_copy, of_member).index.tolist()
    with pytest.raises(ConfigError, match="seed-0, seed-1, wide"):
        run.run_stage("fine_tune")


def test_members_with_the_same_recipe_share_its_weight(store_copy: Store) -> None:
    names = ["seed-0", "seed-1", "wide"]
    model = build_ensemble(store_copy, "all", *names).artifact(Model, "fine_tune")
    members = read_members(model, store_copy)
    assert [member.run for member in members] == names
    assert [member.group for member in members] == [0, 0, 1]
    assert members[0].weight == members[1].weight
    assert abs(sum(member.weight for member in members) - 1) < 1e-9
    for number, member in enumerate(members):
        assert model.inputs[f"member_{number}"] == member.model
        assert model.inputs[f"member_{number}_evaluation"] == member.evaluation
        assert model.metrics[f"member_{number}_weight"] == round(member.weight, 4)
    content = json.loads(model.path(store_copy, "ensemble.json").read_text())
    evaluation = Run.load("seed-0", store_copy).artifact(Evaluation, "evaluate")
    assert content["num_images"] == evaluation.metrics["num_images"]
    assert content["log_loss"] < content["log_loss_uniform"]


@pytest.mark.acceptance
def test_an_ensemble_waits_for_approval_and_submits_on_request(
    store_copy: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--submit`` wins over ``submit.enabled=false`` of the members."""
    status = run_main(monkeypatch, "ensemble", "--run", "seed-0", "--run", "seed-1", "--name", "waits", "--submit",
                      "--set", "gate.approval=required", "--store", store_copy.url)
    assert status == 75
    assert f"carclf promote --run waits --store {store_copy.url} --approved-by NAME" in capsys.readouterr().out
    promoted = Run.load("waits", store_copy).run_stage("promote", StageOptions(PromotionOptions(approved_by="Ada")))
    assert (promoted.metrics["decision"], promoted.skip_reason) == ("promoted", "")


@pytest.mark.acceptance
def test_in_folds_each_image_is_predicted_by_the_member_not_trained_on_it(store_copy: Store) -> None:
    run = build_ensemble(store_copy, "folds", "fold-0", "fold-1")
    run.run_stage("evaluate")
    table = predictions(store_copy, run.artifact(Evaluation, "evaluate"))
    assert table.index.is_unique
    members = [calibrated_predictions(store_copy, Run.load(name, store_copy)) for name in ("fold-0", "fold-1")]
    assert_same_predictions(table, pd.concat(members))


@pytest.mark.acceptance
def test_on_another_split_each_image_is_predicted_by_members_not_trained_on_it(store_copy: Store) -> None:
    """If an ensemble is the champion, its members may have been trained on a later candidate's validation images."""
    run, member = build_ensemble(store_copy, "folds", "fold-0", "fold-1"), Run.load("fold-1", store_copy)
    model = run.artifact(Model, "fine_tune")
    split = member.artifact(Split, "split")
    evaluation, _ = evaluate_model(run.artifact(Archive, "download"), split, model, run.context)
    assert_same_predictions(predictions(store_copy, evaluation), calibrated_predictions(store_copy, member))


@pytest.mark.acceptance
def test_the_member_with_the_champions_split_comes_first(store_copy: Store) -> None:
    """They are compared on that member's validation images. Here, that member is also the champion."""
    champion = Run.load("fold-1", store_copy)
    champion.run_stage("promote")
    not_worse = ("gate.champion_rule=not_worse",)
    run = build_ensemble(store_copy, "folds", "fold-0", "fold-1", settings=not_worse)
    assert run.record["members"] == ["fold-1", "fold-0"]
    assert run.artifact(Split, "split") == champion.artifact(Split, "split")
    model = run.artifact(Model, "fine_tune")
    run.run_stage("evaluate")
    decision = run.run_stage("promote")
    assert decision.metrics["champion"] == champion.artifact(Model, "fine_tune").key
    assert str(decision.metrics["reason"]).startswith("rejected: cannot be compared with the champion")
    path = run.artifact(Decision, "promote").path(store_copy, "decision.json")
    comparison = json.loads(path.read_text())["champion_comparison"]
    num_images = champion.artifact(Evaluation, "evaluate").metrics["num_images"]
    expected = {"num_images": 0, "num_trained_on": 0, "num_same_members": num_images}
    assert {name: comparison[name] for name in expected} == expected
    again = build_ensemble(store_copy, "folds", "fold-0", "fold-1", settings=not_worse)
    assert again.artifact(Model, "fine_tune") == model


def test_a_run_cannot_start_from_the_weights_of_an_ensemble(
    store_copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reload_in_this_process(monkeypatch)
    run = build_ensemble(store_copy, "all", "seed-0", "seed-1", "wide")
    run.run_stage("evaluate")
    run.run_stage("promote")
    with pytest.raises(ConfigError, match=r"model\.weights.* ensemble"):
        run_to("train_head", store_copy, "warm", **{"model.weights": "champion"})


@pytest.mark.parametrize(("names", "message"), [
    (("seed-0",), "--run"), (("seed-0", "seed-0"), "--run"), (("seed-0", "folds"), "--run fold-0 --run fold-1"),
])
def test_members_must_be_two_different_models_that_are_not_ensembles(
    store_copy: Store, names: tuple[str, ...], message: str
) -> None:
    build_ensemble(store_copy, "folds", "fold-0", "fold-1")
    with pytest.raises(ConfigError, match=message):
        build_ensemble(store_copy, "rejected", *names)
    assert store_copy.read("runs/rejected.json") is None


def test_incompatible_members_raise_config_error(store_copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reload_in_this_process(monkeypatch)
    run_to("evaluate", store_copy, "square", **{"model.image_height": 64})
    other = run_to("validate", store_copy, "other", **{"validation.min_side": 33})
    other.record["stages"] |= {stage: Run.load("seed-1", store_copy).record["stages"][stage]
                               for stage in ("split", "fine_tune", "evaluate")}
    store_copy.write("runs/other.json", json.dumps(other.record).encode())
    Run.start_or_resume("new", store_copy, "demo", load_config("demo", SMALL))
    for name, message in (("square", "seed-0: 48x64, square: 64x64"), ("other", "validate"), ("new", "fine_tune")):
        with pytest.raises(ConfigError, match=message):
            build_ensemble(store_copy, f"with-{name}", "seed-0", name)


def test_an_ensemble_cannot_use_the_name_of_another_run(store_copy: Store) -> None:
    with pytest.raises(ConfigError, match="--name"):
        build_ensemble(store_copy, "seed-0", "seed-0", "seed-1")


def test_only_settings_after_training_can_be_changed(store_copy: Store) -> None:
    with pytest.raises(ConfigError, match=r"fine_tune\.epochs"):
        build_ensemble(store_copy, "changed", "seed-0", "seed-1", settings=("fine_tune.epochs=3",))
    run = build_ensemble(store_copy, "stricter", "seed-0", "seed-1", settings=("gate.min_recall=0.9",))
    assert run.config.gate.min_recall == 0.9


def test_an_ensemble_is_subject_to_the_policy_also_if_its_members_are_not(
    store_copy: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[settings]\ngate.approval = "required"\ngate.threshold = 0.99\nsubmit.enabled = false\n')
    monkeypatch.setenv("CARCLF_POLICY", str(path))
    members = [Run.load(name, store_copy) for name in ("seed-0", "seed-1")]
    for setting in ("gate.approval=none", "submit.enabled=true", "gate.threshold=0.5"):
        with pytest.raises(ConfigError, match=r"is looser than the policy .*policy\.toml"):
            start_ensemble_run("loose", members, [setting])
    config = start_ensemble_run("strict", members, []).config
    assert (config.gate.approval, config.gate.threshold, config.submit.enabled) == ("required", 0.99, False)
