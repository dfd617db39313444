"""Refitting a promoted model on the training and the validation images."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_runs import evaluation_in_this_process, render_car_folders

from carclf.artifacts import Classifier, Evaluation, Model, RefittedModel, Split
from carclf.champion import champion_model, read_state
from carclf.champion_history import refit_of_model
from carclf.config import load_config
from carclf.errors import ConfigError
from carclf.runs.model_selection import select_model
from carclf.runs.repair import find_damage, repair
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, init_store, open_store
from carclf.training.refitting import replay_rates
from carclf.training.trainer import Trainer

SETTINGS = {
    "fine_tune.refit": True, "audit.enabled": False, "head.epochs": 2, "head.num_views": 2, "fine_tune.epochs": 2,
    "fine_tune.schedule": "plateau", "fine_tune.learning_rate": 1e-5, "fine_tune.num_phases": 2,
    "fine_tune.ema_fraction": 0.8, "fine_tune.batch_size": 16, "split.val_fraction": 0.3,
    "validation.min_images_per_class": 4, "gate.threshold": 0, "gate.min_recall": 0, "gate.max_calibration_error": 1,
    "evaluate.flip_tta": False,
}


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of images for each class."""
    return render_car_folders(tmp_path_factory.mktemp("cars"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with evaluation_in_this_process(tmp_path_factory.mktemp("cache")):
        yield


def start_run(store: Store, cars: Path, name: str = "r", **settings: Any) -> Run:
    config = load_config("demo", {**SETTINGS, "data.source": str(cars), **settings})
    return Run.start_or_resume(name, store, "demo", config)


def run_all(run: Run) -> dict[str, Result]:
    return {stage: run.run_stage(stage) for stage in run.stages if stage not in ("submit", "score")}


@pytest.fixture(scope="module")
def trainers() -> Iterator[list[Trainer]]:
    """The trainers in the order in which they start."""
    started: list[Trainer] = []
    original = Trainer.run

    def run(self: Trainer) -> pd.DataFrame:
        started.append(self)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        yield started


@pytest.fixture(scope="module")
def refitted(
    cars: Path, cache: None, trainers: list[Trainer], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, dict[str, Result]]:
    """A run up to its refit, and the results of its stages.

    With its small learning rate the accuracy does not change, so the first of two epochs is selected.
    """
    run = start_run(init_store(str(tmp_path_factory.mktemp("store") / "store")), cars)
    return run, run_all(run)


def weights(store: Store, model: Classifier) -> list[Any]:
    return list(model.network(store).get_weights())


def test_a_refit_has_as_many_steps_as_the_measured_model_on_all_images(refitted: tuple[Run, dict[str, Result]]) -> None:
    run, results = refitted
    measured, model = run.artifact(Model, "fine_tune"), run.artifact(RefittedModel, "refit")
    split = run.artifact(Split, "split")
    history, measured_history = (
        pd.read_csv(artifact.path(run.store, "history.csv")) for artifact in (model, measured))
    selected = measured_history.head(int(measured.number("epoch")))
    assert len(selected) < len(measured_history) == 2
    assert results["refit"].metrics["num_images"] == split.number("num_train") + split.number("num_val")
    assert history["step"].tolist() == selected["step"].tolist()
    np.testing.assert_allclose(history["learning_rate"], selected["learning_rate"], rtol=1e-6)
    pairs = list(zip(weights(run.store, model), weights(run.store, measured), strict=True))
    assert all(np.isfinite(new).all() for new, _ in pairs)
    assert not any(np.array_equal(new, old) for new, old in pairs[-4:])  # the head: other blocks train in phase 2


def test_a_refit_has_the_image_sizes_phases_and_average_of_the_measured_training(
    refitted: tuple[Run, dict[str, Result]], trainers: list[Trainer]
) -> None:
    measured, refit = trainers[:2]
    assert refit.source.sizes == measured.source.sizes == ((48, 64),) * 2
    assert refit.source.steps_per_epoch == measured.source.steps_per_epoch == refit.last_step
    blocks = list(refit.optimizer._rates.values())
    assert blocks == list(measured.optimizer._rates.values())
    assert {block.start_step for block in blocks} == {0, refit.source.steps_per_epoch}
    assert refit.optimizer.ema_momentum == measured.optimizer.ema_momentum > 0


def test_no_value_of_a_refit_is_a_measurement(refitted: tuple[Run, dict[str, Result]]) -> None:
    run, results = refitted
    model = run.artifact(RefittedModel, "refit")
    columns = pd.read_csv(model.path(run.store, "history.csv")).columns
    assert not [name for name in (*model.metrics, *results["refit"].metrics, *columns) if "val" in name]
    assert model.inputs["measured"] == results["refit"].metrics["measured"] == results["fine_tune"].key


def test_the_champion_stays_the_measured_model_and_names_the_refit(refitted: tuple[Run, dict[str, Result]]) -> None:
    run, results = refitted
    state = read_state(run.store)
    champion = champion_model(run.store)
    assert state and champion and champion.key == results["fine_tune"].key
    assert refit_of_model(state, champion.key) == results["refit"].key
    run.run_stage("refit")
    assert [event["action"] for event in read_state(run.store)["history"]] == ["promoted", "refitted"]


def test_what_reads_models_does_not_find_a_refit(refitted: tuple[Run, dict[str, Result]]) -> None:
    """Evaluations, comparisons, ensembles, warm starts and audits read a model by its key, as ``Model``."""
    run, results = refitted
    assert Model.find(run.store, results["refit"].key) is None
    evaluated = {Evaluation.require(run.store, key).input("model") for key in Evaluation.list_keys(run.store)}
    assert evaluated == {results["fine_tune"].key}


def test_the_refit_predicts_by_default_with_the_measured_models_calibration(
    refitted: tuple[Run, dict[str, Result]]
) -> None:
    run, results = refitted
    by_key = select_model(run.store, key=results["refit"].key)
    for selected in (select_model(run.store), select_model(run.store, run="r"), by_key):
        assert selected.model.key == results["refit"].key
        assert selected.evaluation and selected.evaluation.key == results["evaluate"].key
        assert selected.decision and selected.decision.key == results["promote"].key
    assert select_model(run.store, key=results["fine_tune"].key).model.key == results["fine_tune"].key


def test_without_a_competition_the_run_ends_with_the_refit(refitted: tuple[Run, dict[str, Result]]) -> None:
    _, results = refitted
    assert results["promote"].skip_reason == "" and results["promote"].omitted == []
    assert "not a competition" in results["refit"].skip_reason


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.acceptance
def test_an_interrupted_refit_has_the_weights_of_an_undisturbed_one(
    refitted: tuple[Run, dict[str, Result]], cars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    undisturbed, results = refitted
    shutil.copytree(str(undisturbed.store.url), tmp_path / "store")
    shutil.rmtree(tmp_path / "store/refits")
    run = start_run(open_store(str(tmp_path / "store")), cars, "interrupted", **{"fine_tune.checkpoint_minutes": 0})
    for stage in run.stages[: run.stages.index("refit")]:
        run.run_stage(stage)
    caplog.set_level("INFO", logger="carclf")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_record_epoch", interrupt)  # the checkpoint of the step before is saved
        run.run_stage("refit")
    result = run.run_stage("refit")
    assert "resumed step=" in caplog.text
    assert result.key == results["refit"].key and not result.reused
    pairs = zip(weights(run.store, run.artifact(RefittedModel, "refit")),
                weights(undisturbed.store, undisturbed.artifact(RefittedModel, "refit")), strict=True)
    assert all(np.array_equal(new, old) for new, old in pairs)


def test_a_run_without_refit_has_no_such_stage_and_the_same_keys(
    refitted: tuple[Run, dict[str, Result]], cars: Path
) -> None:
    first, results = refitted
    run = start_run(first.store, cars, "without", **{"fine_tune.refit": False})
    assert "refit" not in run.stages
    again = run_all(run)
    assert {stage: result.key for stage, result in again.items()} == {
        stage: result.key for stage, result in results.items() if stage != "refit"}
    assert all(result.reused for result in again.values())
    assert again["promote"].omitted == ["refit"] and "not a competition" in again["promote"].skip_reason
    with pytest.raises(ConfigError, match=r"fine_tune\.refit is off"):
        run.run_stage("refit")


def test_a_model_that_was_never_promoted_is_not_refitted(
    refitted: tuple[Run, dict[str, Result]], cars: Path, tmp_path: Path
) -> None:
    shutil.copytree(str(refitted[0].store.url), tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "store/champion.json").unlink()
    run = start_run(store, cars)
    with pytest.raises(ConfigError, match="never promoted"):
        run.run_stage("refit")


@pytest.mark.acceptance
def test_a_damaged_refit_is_found_and_rebuilt(
    refitted: tuple[Run, dict[str, Result]], tmp_path: Path
) -> None:
    shutil.copytree(str(refitted[0].store.url), tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    path = f"refits/{refitted[1]['refit'].key}"
    file = RefittedModel.require(store, path.partition("/")[2]).file("model.keras")
    (tmp_path / "store" / file.key).write_bytes(b"damaged")
    damage, = find_damage(store)
    assert damage.path == path
    assert repair(store, damage) == ("rebuilt", "")
    assert not list(find_damage(store))


def test_the_measured_models_learning_rates_are_replayed() -> None:
    epochs = pd.DataFrame({"step": [4, 8, 12], "learning_rate": [0.1, 0.05, 0.025]})  # after each epoch
    rate = replay_rates(epochs, 0.1)
    assert [round(float(rate(step)), 4) for step in range(12)] == [0.1] * 8 + [0.05] * 4
