"""Several workers share the computation of features through the store."""

import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from gate_candidates import build_archive, build_split

from carclf.artifacts import Model, StageContext
from carclf.config import load_config
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.runs.run import Run
from carclf.services.storage import init_store, open_store
from carclf.training import feature_shards
from carclf.training.feature_shards import FeatureShards, Shard

SETTINGS = {"data.source": "cars", "head.epochs": 1, "validation.min_images_per_class": 5,
            "validation.max_unusable_fraction": 0.5}
WORKER = """
import sys
from carclf.cli.app import main
from carclf.training import feature_shards
feature_shards.SHARD_ROWS = 7
sys.argv = ["carclf", "train_head", "--run", "r"]
main()
"""


def start(store, cache):
    environment = dict(os.environ) | {"CARCLF_STORE": store.url, "CARCLF_CACHE": str(cache)}
    return subprocess.Popen([sys.executable, "-c", WORKER], stderr=subprocess.PIPE, text=True, env=environment)


def finish(workers):
    lines = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(workers), lines
    return lines


def weights(store):
    path = Run.load("r", store).artifact(Model, "train_head").path(store, "model.keras")
    return keras.models.load_model(path, compile=False).get_weights()


@pytest.mark.parametrize("name", ["model.deterministic", "model.image_width"])
def test_settings_of_the_network_change_the_key_of_its_features(tmp_path, monkeypatch, name):
    store = open_store(str(tmp_path))
    archive, split = build_archive(store), build_split(store)
    monkeypatch.setattr(feature_shards, "build", lambda kind, make, provenance, store: (provenance.key(kind), False))

    def key(**changes):
        config = load_config("demo", changes)
        settings = {"model": config.model.model_dump(), "precision": "float32", "seed": 0, "salt": ""}
        shards = FeatureShards(None, settings, StageContext(store, config), None)
        return shards._build(archive, split, Shard(split.rows(store), "val", 0, 0))[0]

    assert key() == key(**{"head.epochs": 3}) != key(**{name: {"model.deterministic": False}.get(name, 96)})


@pytest.mark.acceptance  # with real trainings
def test_two_workers_share_the_shards_and_train_the_same_model(tmp_path, monkeypatch):
    """Both may compute the same shard by chance, but not all shards."""
    render_competition(tmp_path / "cars", num_train=100, num_test=10)
    store = init_store(str(tmp_path / "store"))
    with DemoServer(open_competition(tmp_path / "cars", slug="cars", work=tmp_path)) as server:
        monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", server.url)
        monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
        run = Run.start_or_resume("r", store, "demo", load_config("demo", SETTINGS))
        for stage in ("download", "validate", "split"):
            run.run_stage(stage)
    shutil.copytree(tmp_path / "store", tmp_path / "other-store")
    other_store = init_store(str(tmp_path / "other-store"))
    lines = finish([start(store, tmp_path / name) for name in ("first", "second")])
    finish([start(other_store, tmp_path / "third")])
    counts = [re.search(r"features: computed=(\d+) shards=(\d+)", text).groups() for text in lines]
    computed, num_shards = zip(*((int(here), int(total)) for here, total in counts), strict=True)
    manifests = [key for key in store.list_keys("features/") if key.endswith("manifest.json")]
    assert num_shards == (len(manifests), len(manifests)) and len(manifests) > 20
    assert len(manifests) <= sum(computed) < 2 * len(manifests)
    assert len([key for key in store.list_keys("models/") if key.endswith("manifest.json")]) == 1
    pairs = list(zip(weights(store), weights(other_store), strict=True))
    assert len(pairs) > 2 and all(np.array_equal(weight, other) for weight, other in pairs)
