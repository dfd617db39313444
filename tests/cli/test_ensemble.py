"""carclf ensemble: joined models pass through the gate as any other, and answer only for what they did not see."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from small_runs import SMALL, run_to

from carclf.artifacts import Archive, Decision, Evaluation, Model, Split, StageContext
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

pytestmark = pytest.mark.usefixtures("kaggle_environment")  # runs begun here ask it for the archive


def runs(store: Store, *names: str) -> list[Run]:
    return [Run.load(name, store) for name in names]


def joined(store: Store, name: str, *names: str, change: tuple[str, ...] = ()) -> Run:
    members = runs(store, *names)
    run = start_ensemble_run(name, members, change)
    join_runs(run, members)
    return run


def predictions(store: Store, evaluation: Evaluation) -> pd.DataFrame:
    return pd.read_parquet(evaluation.path(store, "predictions.parquet")).set_index("id")


def shares(table: pd.DataFrame) -> np.ndarray:
    return table.filter(regex=r"^p\d").to_numpy(float)


def evaluation_size(store: Store, name: str) -> int:
    return int(Run.load(name, store).artifact(Evaluation, "evaluate").metrics["num_images"])


def told_by(store: Store, run: Run) -> pd.DataFrame:
    """A run's predictions, calibrated by its temperature."""
    evaluation = run.artifact(Evaluation, "evaluate")
    table = predictions(store, evaluation)
    columns = table.filter(regex=r"^p\d").columns
    return table.assign(**dict(zip(columns, apply_temperature(shares(table), evaluation.metrics["temperature"]).T,
                                   strict=True)))


def test_seeds_and_another_size_are_joined_promoted_and_found_again(
    store_copy: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [word for name in ("seed-0", "seed-1", "wide") for word in ("--run", name)]
    arguments = ["ensemble", *members, "--name", "all", "--store", str(store_copy.url)]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["carclf", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    run, lines = Run.load("all", store_copy), capsys.readouterr().out.splitlines()
    model = run.artifact(Model, "fine_tune")
    assert [line.split()[0] for line in lines if " s  " in line] == ["fine_tune", "evaluate", "promote"] * 2
    assert champion_model(store_copy) == model and champion_split(store_copy) == run.artifact(Split, "split")
    members = read_members(model, store_copy)
    assert [member.run for member in members] == ["seed-0", "seed-1", "wide"]
    assert [member.group for member in members] == [0, 0, 1] and members[0].weight == members[1].weight
    assert abs(sum(member.weight for member in members) - 1) < 1e-9
    told = json.loads(model.path(store_copy, "ensemble.json").read_text())
    assert told["num_images"] == evaluation_size(store_copy, "seed-0") and told["log_loss"] < told["log_loss_uniform"]
    assert (model.metrics["image_height"], model.metrics["image_width"]) == (96, 128)
    evaluation = run.artifact(Evaluation, "evaluate")
    assert evaluation.metrics["reload_difference"] < 1e-5 and evaluation.metrics["model_mb"] > 0
    assert predictions(store_copy, evaluation).index.tolist() == predictions(
        store_copy, runs(store_copy, "seed-0")[0].artifact(Evaluation, "evaluate")).index.tolist()
    with pytest.raises(ConfigError, match="is an ensemble of seed-0, seed-1, wide: they did fine_tune"):
        run.run_stage("fine_tune")


def test_where_approval_is_needed_the_command_that_gives_it_is_named_and_then_it_is_submitted(
    store_copy: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the members' submit.enabled is off: --submit was asked for."""
    monkeypatch.setattr(sys, "argv", ["carclf", "ensemble", "--run", "seed-0", "--run", "seed-1", "--name", "waits",
                                      "--submit", "--set", "gate.approval=required", "--store", store_copy.url])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 75
    assert (f"To go on: carclf promote --run waits --store {store_copy.url} --approved-by NAME"
            in capsys.readouterr().out.splitlines())
    run = Run.load("waits", store_copy)
    promoted = run.run_stage("promote", StageOptions(approved_by="Ada"))
    assert (promoted.metrics["decision"], promoted.skip) == ("promoted", "")


def test_of_folds_each_picture_is_answered_by_the_member_that_was_not_trained_on_it(store_copy: Store) -> None:
    run = joined(store_copy, "folds", "fold-0", "fold-1")
    run.run_stage("evaluate")
    found = predictions(store_copy, run.artifact(Evaluation, "evaluate"))
    wanted = pd.concat([told_by(store_copy, one) for one in runs(store_copy, "fold-0", "fold-1")])
    assert found.index.tolist() == wanted.index.tolist() and len(found) == found.index.nunique() == len(wanted)
    np.testing.assert_allclose(shares(found), shares(wanted), atol=1e-6)
    assert found["label"].tolist() == wanted["label"].tolist()


def test_the_member_of_the_champions_split_comes_first_and_stays_first(store_copy: Store) -> None:
    """Those are the only pictures on which it is compared with the champion, which alone answers for both here."""
    champion = Run.load("fold-1", store_copy)
    champion.run_stage("promote")
    run = joined(store_copy, "folds", "fold-0", "fold-1", change=("gate.champion_rule=not_worse",))
    assert run.record["members"] == ["fold-1", "fold-0"]
    assert run.artifact(Split, "split") == Run.load("fold-1", store_copy).artifact(Split, "split")
    key = run.artifact(Model, "fine_tune").key
    run.run_stage("evaluate")
    decided = run.run_stage("promote")
    assert decided.metrics["champion"] == champion.artifact(Model, "fine_tune").key
    assert str(decided.metrics["reason"]).startswith("rejected: nothing to compare with the champion on")
    paired = json.loads(run.artifact(Decision, "promote").path(store_copy, "decision.json").read_text())["paired"]
    assert (paired["num_images"], paired["num_trained_on"], paired["num_same_members"]) == (
        0, 0, evaluation_size(store_copy, "fold-1"))
    assert joined(store_copy, "folds", "fold-0", "fold-1", change=("gate.champion_rule=not_worse",)).artifact(
        Model, "fine_tune").key == key


def test_on_another_split_too_only_members_answer_that_were_not_trained_on_a_picture(store_copy: Store) -> None:
    """As for a later candidate, whose pictures the champion may know."""
    run, other = joined(store_copy, "folds", "fold-0", "fold-1"), Run.load("fold-1", store_copy)
    evaluation, _ = evaluate_model(run.artifact(Archive, "download"), other.artifact(Split, "split"), run.artifact(Model, "fine_tune"), StageContext(store_copy, run.config))
    found, wanted = predictions(store_copy, evaluation), told_by(store_copy, other)
    assert found.index.tolist() == wanted.index.tolist()
    np.testing.assert_allclose(shares(found), shares(wanted), atol=1e-6)


def test_nobody_goes_on_from_an_ensembles_backbone(store_copy: Store) -> None:
    run_of_all = joined(store_copy, "all", "seed-0", "seed-1", "wide")
    run_of_all.run_stage("evaluate")
    run_of_all.run_stage("promote")
    with pytest.raises(ConfigError, match="is an ensemble of several networks"):
        run_to("train_head", store_copy, "warm", **{"model.weights": "champion"})


def test_members_must_be_two_different_models_that_are_no_ensembles(store_copy: Store) -> None:
    joined(store_copy, "folds", "fold-0", "fold-1")
    for names, message in (
        (("seed-0",), "of two models or more"), (("seed-0", "seed-0"), "each once"),
        (("seed-0", "folds"), r"'folds' is an ensemble itself\. Give its members instead: --run fold-0 --run fold-1"),
    ):
        with pytest.raises(ConfigError, match=message):
            joined(store_copy, "rejected", *names)
    assert store_copy.read("runs/refused.json") is None


def test_members_of_other_shapes_other_data_or_unfinished_runs_are_refused(store_copy: Store) -> None:
    run_to("evaluate", store_copy, "square", **{"model.image_height": 64})
    other = run_to("validate", store_copy, "other", **{"validation.min_side": 33})
    other.record["stages"] |= {stage: Run.load("seed-1", store_copy).record["stages"][stage]
                               for stage in ("split", "fine_tune", "evaluate")}
    store_copy.write("runs/other.json", json.dumps(other.record).encode())
    Run.start_or_resume("begun", store_copy, "demo", load_config("demo", SMALL))
    for name, message in (
        ("square", r"different shapes \(seed-0: 48x64, square: 64x64\)"), ("other", "their validate differs"),
        ("begun", "fine_tune has not run in 'begun'"),
    ):
        with pytest.raises(ConfigError, match=message):
            joined(store_copy, f"refused-{name}", "seed-0", name)


def test_a_run_of_that_name_is_not_made_an_ensemble_and_settled_settings_stay(store_copy: Store) -> None:
    with pytest.raises(ConfigError, match="Take another --name"):
        joined(store_copy, "seed-0", "seed-0", "seed-1")
    with pytest.raises(ConfigError, match=r"fine_tune\.epochs was settled when the members were made"):
        joined(store_copy, "changed", "seed-0", "seed-1", change=("fine_tune.epochs=3",))
    stricter = joined(store_copy, "stricter", "seed-0", "seed-1", change=("gate.min_recall=0.9",))
    assert stricter.config.gate.min_recall == 0.9
