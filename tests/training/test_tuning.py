"""Found settings: a rate that trains, a batch that fits, and a model that is as it was."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from carclf.artifacts import Model
from carclf.cli.app import app
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.errors import QualityError
from carclf.runs.run import Run, find_setting
from carclf.services.storage import open_store
from carclf.training import tuning as finding
from carclf.training.trainer import Trainer
from carclf.training.tuning import best_batch_size, best_learning_rate, plot_trials, range_test, try_batch_sizes


class Valley:
    """A model whose loss falls with the rate until 0.01 and grows without bound after it."""

    def __init__(self, schedule):
        self.schedule, self.step, self.loss = schedule, 0, 2.0

    def reset_metrics(self):
        """Nothing is summed up here."""

    def train_on_batch(self, pixels, shares, return_dict):
        rate = float(self.schedule(self.step))
        self.step += 1
        self.loss *= 0.95 if rate < 1e-2 else 2.0
        return {"loss": self.loss}


def test_the_rate_is_a_tenth_of_where_the_loss_turns():
    tried = range_test(Valley, iter([(0, 0)] * 200), 200)
    assert 1e-2 / 10 / 2 < best_learning_rate(tried) < 1e-2 / 10 * 2
    assert len(tried) < 200 and list(tried.columns) == ["rate", "loss", "smoothed"]


def test_a_loss_that_never_falls_is_told():
    rising = pd.DataFrame({"rate": [1e-6, 1e-5], "loss": [1.0, 2.0], "smoothed": [1.0, 2.0]})
    with pytest.raises(QualityError, match="No learning rate lowered the loss"):
        best_learning_rate(rising)


def test_the_smallest_of_the_fast_batches_is_taken():
    tried = pd.DataFrame({"batch_size": [8, 16, 32, 64], "images_per_second": [50.0, 97.0, 100.0, 99.0]})
    assert best_batch_size(tried, 64) == 16 and best_batch_size(tried, 8) == 8


def test_no_batch_that_fits_is_told():
    with pytest.raises(QualityError, match=r"Not even the smallest batch fits into memory: lower model\.image_height"):
        best_batch_size(pd.DataFrame([]), 8)


class Net:
    """A model of three classes that does something else than training with a batch of pictures."""

    output_shape = (None, 3)

    def __init__(self, train):
        self.train = train

    def train_on_batch(self, pixels, shares):
        assert pixels.shape[1:] == (2, 4, 3) and shares.shape == (len(pixels), 3)
        self.train(len(pixels))


@pytest.mark.parametrize("message", ["RESOURCE_EXHAUSTED: Out of memory", "OOM when allocating"])
def test_batches_are_tried_until_a_device_has_no_more_memory(message):
    def train(batch_size):
        if batch_size > 32:
            raise RuntimeError(message)

    assert list(try_batch_sizes(Net(train), (2, 4), 8, 1024)["batch_size"]) == [8, 16, 32]


def test_another_error_of_a_batch_is_told():
    with pytest.raises(ZeroDivisionError):
        try_batch_sizes(Net(lambda batch_size: 1 / 0), (2, 4), 8, 1024)


def test_no_batch_is_tried_that_would_use_up_the_machines_memory(monkeypatch):
    kept, available = [], SimpleNamespace(available=130e6)
    monkeypatch.setattr(finding.psutil, "virtual_memory", lambda: available)
    # three steps of each size: 24, 48 and 96 MB more
    tried = try_batch_sizes(Net(lambda batch_size: kept.append(b"x" * batch_size * 1_000_000)), (2, 4), 8, 1024)
    assert list(tried["batch_size"]) == [8, 16, 32]


def test_the_curve_is_drawn(tmp_path):
    plot_trials(pd.DataFrame({"rate": [1e-6, 1e-3], "smoothed": [2.0, 1.0]}), 1e-4, tmp_path / "lr.png")
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def cars(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=200, num_test=10)
    return folder


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.acceptance  # with real trainings
def test_auto_is_found_once_also_where_the_training_is_killed_and_recorded_with_its_plots(cars, tmp_path, monkeypatch):
    settings = {
        "competition": "cars", "fine_tune.learning_rate": "auto", "fine_tune.batch_size": "auto", "head.epochs": 2,
        "fine_tune.epochs": 1, "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
    }
    store = open_store(str(tmp_path / "store"))
    with DemoServer(open_competition(cars, slug="cars", work=tmp_path)) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
        run = Run.start_or_resume("r", store, "demo", load_config("demo", settings))
        for stage in ("download", "validate", "split", "train_head"):
            run.run_stage(stage)
    tried, chosen = find_setting(run, "learning_rate")
    assert 1e-6 < chosen < 0.1 and np.isfinite(tried["loss"]).all()
    command = ["find-lr", "--run", "r", "--store", store.url, "--plot", str(tmp_path / "lr.png")]
    told = CliRunner().invoke(app, command).output  # the same test gives the same answer
    assert f"fine_tune.learning_rate={chosen:.3g}   (the curve is in {tmp_path / 'lr.png'})" in told
    command = ["find-batch-size", "--run", "r", "--store", store.url, "--plot", str(tmp_path / "batch.png")]
    told = CliRunner().invoke(app, command).output
    assert "of those that can be set: 1024\nfine_tune.batch_size=8   (the curve is in" in told
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("lr.png", "batch.png"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "run", interrupted)
        run.run_stage("fine_tune")
    found = [key for key in store.list_keys("checkpoints/") if key.endswith("learning_rate-trials.json")]
    metrics = run.run_stage("fine_tune").metrics
    assert metrics["batch_size"] == 8  # of 170 pictures: larger ones would leave fewer than 16 steps an epoch
    assert 1e-6 < metrics["learning_rate"] < 0.1
    assert {"learning_rate.png", "batch_size.png"} <= set(run.artifact(Model, "fine_tune").files)
    assert [json.loads(store.read(key).data)["chosen"] for key in found] == [metrics["learning_rate"]]


def test_without_an_epoch_nothing_is_searched_and_the_heads_model_is_kept(cars, tmp_path, monkeypatch):
    settings = {
        "competition": "cars", "fine_tune.learning_rate": "auto", "fine_tune.batch_size": "auto", "head.epochs": 1,
        "fine_tune.epochs": 0, "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5,
    }
    store = open_store(str(tmp_path / "store"))
    with DemoServer(open_competition(cars, slug="cars", work=tmp_path)) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
        run = Run.start_or_resume("r", store, "demo", load_config("demo", settings))
        results = [run.run_stage(stage) for stage in ("download", "validate", "split", "train_head", "fine_tune")]
    assert results[-1].metrics["val_accuracy"] == results[-2].metrics["val_accuracy"]
    assert results[-1].metrics["best_epoch"] == 0
