"""An automatic batch size in real trainings: chosen once, recorded, and not searched without an epoch."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from carclf.artifacts import Archive, Model, Split
from carclf.cli.app import app
from carclf.config import load_config
from carclf.dataset.splits import units_of
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.runs.run import Run, find_setting
from carclf.services.storage import init_store
from carclf.training.fine_tuning import FineTuning
from carclf.training.trainer import Trainer

STAGES = ("download", "validate", "split", "train_head", "fine_tune")
SETTINGS = {
    "data.source": "cars", "fine_tune.batch_size": "auto", "fine_tune.learning_rate": "auto",
    "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
}
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def cars(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=200, num_test=10)
    return folder


@pytest.fixture
def run(cars, tmp_path, monkeypatch):
    """Return a run, trained up to a stage."""

    def run_to(last, **settings):
        config = load_config("demo", SETTINGS | settings)
        run = Run.start_or_resume("r", init_store(str(tmp_path / "store")), "demo", config)
        with DemoServer(open_competition(cars, slug="cars", work=tmp_path)) as server:
            monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
            monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
            results = {stage: run.run_stage(stage) for stage in STAGES[: STAGES.index(last) + 1]}
        return run, results

    return run_to


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.acceptance  # with real trainings
def test_an_automatic_batch_size_is_found_once_and_recorded_with_a_plot(run, tmp_path, monkeypatch, caplog):
    """This also holds if the training is killed afterwards. The command reports the same value as the training.

    Damaged trials are repeated. The learning rate fits the batch size.
    """
    trained, _ = run("train_head", **{"head.epochs": 2, "fine_tune.epochs": 1})
    store = trained.store
    trials, best = find_setting(trained, "learning_rate")
    assert 1e-6 < best < 0.1 and np.isfinite(trials["loss"]).all()
    arguments = ["--run", "r", "--store", str(store.url), "--plot"]
    output = CliRunner().invoke(app, ["find-lr", *arguments, str(tmp_path / "lr.png")]).output
    assert f"fine_tune.learning_rate={best:.3g} fine_tune.batch_size=32 " in output
    assert str(tmp_path / "lr.png") in output
    output = CliRunner().invoke(app, ["find-batch-size", *arguments, str(tmp_path / "batch.png")]).output
    assert "1024\n" in output and "fine_tune.batch_size=8 " in output
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("lr.png", "batch.png"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run", interrupt)
        trained.run_stage("fine_tune")
    keys = [key for key in store.list_keys("checkpoints/") if key.endswith("batch_size-trials.json")]
    for key in keys:
        store.write(key, b'{"best": 8, "trials": {}')
    metrics = trained.run_stage("fine_tune").metrics
    assert keys and all(key in caplog.text for key in keys)
    assert metrics["batch_size"] == 8  # of 170 images: larger batches would leave fewer than 16 steps per epoch
    assert metrics["learning_rate"] == pytest.approx(1.5e-3 / 2)  # the default of Tiny is for batches of 32
    assert "batch_size.png" in set(trained.artifact(Model, "fine_tune").files)
    assert [json.loads(store.read(key).data)["best"] for key in keys] == [metrics["batch_size"]]


def test_without_an_epoch_nothing_is_searched_and_the_head_is_kept(run):
    _, results = run("fine_tune", **{"head.epochs": 1, "fine_tune.epochs": 0})
    assert results["fine_tune"].metrics["val_accuracy"] == results["train_head"].metrics["val_accuracy"]
    assert results["fine_tune"].metrics["epoch"] == 0


@pytest.mark.acceptance  # with a real training
def test_with_plateau_other_training_images_select_the_epoch(run):
    settings = {"head.epochs": 2, "fine_tune.epochs": 3, "fine_tune.schedule": "plateau", "fine_tune.batch_size": 8,
                "fine_tune.learning_rate": 1e-3}
    trained, results = run("fine_tune", **settings)
    start = trained.artifact(Model, "train_head")
    archive, split = trained.artifact(Archive, "download"), trained.artifact(Split, "split")
    fine_tuning = FineTuning(archive, split, start, trained.context)
    held_out = fine_tuning.rows["train"][fine_tuning.selection_mask]
    assert 0.05 < len(held_out) / len(fine_tuning.rows["train"]) < 0.15
    units = units_of(fine_tuning.rows["train"])
    assert not set(units[held_out.index]) & set(units[fine_tuning.training_rows.index])
    history = pd.read_csv(trained.artifact(Model, "fine_tune").path(trained.store, "history.csv"))
    metrics = results["fine_tune"].metrics
    assert metrics["val_accuracy"] == history["val_accuracy"][metrics["epoch"] - 1]
