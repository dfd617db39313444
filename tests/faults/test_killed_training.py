"""``kill -9`` in the middle of a training command, then the same command again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.runs.live import read_live_progress
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store
from carclf.stages.chain import STAGES

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]
SETTINGS = {
    "data.source": "cars",
    "head.epochs": 2,
    "fine_tune.epochs": 4,
    "fine_tune.checkpoint_minutes": 0,
    "augment.trivial": True,
    "augment.erasing": 0.5,
    "augment.half_crop": 0.5,
    "fine_tune.refit": True,
    "gate.threshold": 0,
    "gate.min_recall": 0,
    "gate.max_calibration_error": 1,
    "validation.min_images_per_class": 5,
    "validation.max_unusable_fraction": 0.5,
}
KILL_STEPS = (0, 3, 9, 17)
REFIT_KILL_STEP = 5


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Two stores with the same run, split and ready to train."""
    render_competition(tmp_path / "cars", num_train=300, num_test=10)
    stores = [init_store(str(tmp_path / name)) for name in ("undisturbed", "killed")]
    with DemoServer(open_competition(tmp_path / "cars", slug="cars", work=tmp_path)) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
        for store in stores:
            run = Run.start_or_resume("r", store, "demo", load_config("demo", SETTINGS))
            for stage in ("download", "validate", "split"):
                run.run_stage(stage)
    return stores


def start(stage: str, store: Store) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "carclf", stage, "--run", "r", "--store", store.url]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finish(stage: str, store: Store) -> str:
    child = start(stage, store)
    log = child.communicate(timeout=600)[1]
    assert child.returncode == 0, log
    return log


def checkpoint_step(store: Store) -> int:
    """Return the step of the latest checkpoint of an unfinished training, or -1 if there is none."""
    keys = [key for key in store.list_keys("checkpoints/") if key.endswith("latest.json")]
    latest = [json.loads(content.data) for content in map(store.read, keys) if content]
    return max((entry["state"]["step"] for entry in latest if entry), default=-1)


def kill_when(child: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    while not condition():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()


def read_weights(store: Store, stage: str) -> list[Any]:
    path = Run.load("r", store).artifact(STAGES[stage].artifact, stage).path(store, "model.keras")
    return keras.models.load_model(path, compile=False).get_weights()


def test_a_repeatedly_killed_training_has_the_weights_of_an_undisturbed_training(stores: list[Store]) -> None:
    undisturbed, killed = stores
    kill_when(start("train_head", killed), lambda: any(killed.list_keys("features/")))
    for store in stores:
        finish("train_head", store)
    finish("fine_tune", undisturbed)
    steps = []
    for step in KILL_STEPS:
        kill_when(start("fine_tune", killed), lambda step=step: checkpoint_step(killed) >= step)
        steps.append(checkpoint_step(killed))
        assert Run.load("r", killed).record["attempts"]["fine_tune"]["state"] == "running"
    log = finish("fine_tune", killed)
    assert str(steps[-1]) in next(line for line in log.splitlines() if "resumed" in line)
    assert steps == sorted(steps) and steps[-1] >= KILL_STEPS[-1]
    live = read_live_progress(killed, "r")["fine_tune"]
    epochs = [epoch["done"] for epoch in live["series"]["fine_tune"]["epochs"]]
    assert (live["state"], live["done"], Run.load("r", killed).record["attempts"]) == ("ended", live["total"], {})
    assert epochs == sorted(set(epochs)) and epochs[-1] == live["total"]
    for store in stores:
        for stage in ("evaluate", "promote"):
            Run.load("r", store).run_stage(stage)
    finish("refit", undisturbed)
    kill_when(start("refit", killed), lambda: checkpoint_step(killed) >= REFIT_KILL_STEP)
    assert "refit: resumed" in finish("refit", killed)
    for stage in ("train_head", "fine_tune", "refit"):
        pairs = zip(read_weights(undisturbed, stage), read_weights(killed, stage), strict=True)
        for expected, weights in pairs:
            np.testing.assert_array_equal(expected, weights)
