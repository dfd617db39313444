"""``kill -9`` in the middle of a training command, then the same command again."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from carclf.artifacts import Model
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.runs.live import read_live_progress
from carclf.runs.run import Run
from carclf.services.storage import open_store

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]
SETTINGS = {"competition": "cars", "head.epochs": 2, "fine_tune.epochs": 4, "fine_tune.checkpoint_minutes": 0,
            "validation.min_images_per_class": 5, "validation.max_unusable_fraction": 0.5}


@pytest.fixture()
def stores(tmp_path, monkeypatch):
    """Two stores with the same run, split and ready to train."""
    render_competition(tmp_path / "cars", num_train=300, num_test=10)
    found = [open_store(str(tmp_path / name)) for name in ("undisturbed", "killed")]
    with DemoServer(open_competition(tmp_path / "cars", slug="cars", work=tmp_path)) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
        for store in found:
            run = Run.start_or_resume("r", store, "demo", load_config("demo", SETTINGS))
            for stage in ("download", "validate", "split"):
                run.run_stage(stage)
    return found


def start(stage, store):
    command = [sys.executable, "-m", "carclf", stage, "--run", "r", "--store", store.url]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finish(stage, store):
    child = start(stage, store)
    text = child.communicate(timeout=600)[1]
    assert child.returncode == 0, text
    return text


def checkpoint_step(store):
    """The step of the latest checkpoint, -1 where there is none."""
    found = [store.read(key) for key in store.list_keys("checkpoints/") if key.endswith("latest.json")]
    state = json.loads(found[0].data) if found else None
    return state["state"]["step"] if state else -1


def kill_when(child, due):
    while not due():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()


def weights(store, stage):
    path = Run.load("r", store).artifact(Model, stage).path(store, "model.keras")
    return keras.models.load_model(path, compile=False).get_weights()


def test_trainings_killed_again_and_again_end_with_the_weights_of_one_never_killed(stores):
    undisturbed, killed = stores
    kill_when(start("train_head", killed), lambda: any(killed.list_keys("features/")))
    for store in stores:
        finish("train_head", store)
    finish("fine_tune", undisturbed)
    steps = []
    for target in (0, 3, 9, 17):
        kill_when(start("fine_tune", killed), lambda target=target: checkpoint_step(killed) >= target)
        steps.append(checkpoint_step(killed))
        assert Run.load("r", killed).record["attempts"]["fine_tune"]["state"] == "running"
    assert f"taken up at step {steps[-1]}" in finish("fine_tune", killed)
    assert steps == sorted(steps) and steps[-1] >= 17
    told = read_live_progress(killed, "r")["fine_tune"]
    epochs = [epoch["step"] for epoch in told["series"]["fine_tune"]["epochs"]]
    assert (told["state"], told["done"], Run.load("r", killed).record["attempts"]) == ("ended", told["total"], {})
    assert epochs == sorted(set(epochs)) and epochs[-1] == told["total"]
    for stage in ("train_head", "fine_tune"):
        for one, other in zip(weights(undisturbed, stage), weights(killed, stage), strict=True):
            np.testing.assert_array_equal(one, other)
