"""The gate on saved networks that are really measured: a file that answers otherwise than what was trained."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gate_candidates import build_artifact

from carclf.artifacts import Archive, Model, Split, StageContext
from carclf.config import load_config
from carclf.dataset.archives import extract_images
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.evaluation.evaluate import evaluate_model
from carclf.services.storage import Store, open_store
from carclf.stages.download import download
from carclf.stages.promote import promote
from carclf.stages.split import split
from carclf.stages.validate import validate
from carclf.training.probe import write_reference_logits

SIZE = (32, 48)
# untrained networks: only what is under test may refuse them
SETTINGS = {"competition": "cars", "validation.min_images_per_class": 4, "gate.threshold": 0.0, "gate.min_recall": 0.0,
            "gate.max_calibration_error": 1.0}
CONFIG = load_config("demo", SETTINGS | {"gate.champion_rule": "off"})


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=60, num_test=10)
    with DemoServer(open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))) as server:
        yield server


@pytest.fixture
def data(kaggle: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Archive, Split]:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", kaggle.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    store = open_store(str(tmp_path / "store"))
    archive, _ = download(StageContext(store, CONFIG))
    dataset, _ = validate(archive, StageContext(store, CONFIG))
    return store, archive, split(dataset, None, StageContext(store, CONFIG))[0]


def saved(store: Store, archive: Archive, own: Split, folder: Path, seed: int, damage: float = 0.0) -> Model:
    """A small network with its probe; ``damage`` is done to its weights after the probe and before it is saved."""
    import keras

    keras.utils.set_random_seed(seed)
    names = own.class_names
    pixels = keras.Input((*SIZE, 3))
    hidden = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    network = keras.Model(pixels, keras.layers.Dense(len(names.split()))(keras.layers.Flatten()(hidden)))
    rows = pd.read_parquet(own.path(store, "split.parquet"))
    folder.mkdir()
    write_reference_logits(network, rows[rows["subset"] == "val"], extract_images(archive, store), SIZE, folder)
    network.layers[-1].bias.assign(np.linspace(0, damage, len(names.split())))
    network.save(folder / "model.keras")
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    metrics = {"image_height": SIZE[0], "image_width": SIZE[1], "class_names": names}
    return build_artifact(store, Model, {"archive": archive.key, "split": own.key}, {"seed": seed, "damage": damage}, metrics,
                 files)


def test_a_saved_file_that_answers_otherwise_than_the_trained_model_is_refused_by_that_rule_alone(
    data: tuple[Store, Archive, Split], tmp_path: Path
) -> None:
    store, archive, own = data
    decisions = []
    for name, damage in (("whole", 0.0), ("damaged", 5.0)):
        model = saved(store, archive, own, tmp_path / name, 1, damage)
        evaluation, _ = evaluate_model(archive, own, model, StageContext(store, CONFIG))
        decisions.append(promote(archive, own, model, evaluation, CONFIG, store)[0])
    whole, damaged = (decision.metrics for decision in decisions)
    assert whole["decision"] == "promoted"
    assert damaged["decision"] == "rejected"
    clauses = str(damaged["reason"]).removeprefix("rejected: ").split("; ")
    assert clauses[0].startswith("difference after reloading 0.") and clauses[0].endswith("is above 0.01")
    assert clauses[1].endswith("reaches the threshold 0.0000") and len(clauses) == 3


@pytest.mark.acceptance  # with real trainings
def test_a_champion_that_was_never_measured_on_this_split_is_measured_there_by_the_gate(
    data: tuple[Store, Archive, Split], tmp_path: Path
) -> None:
    store, archive, own = data
    config = load_config("demo", SETTINGS | {"gate.significance": 0.001})
    first, second = (saved(store, archive, own, tmp_path / f"m{seed}", seed) for seed in (1, 2))
    other = build_artifact(store, Split, own.inputs, {"name": "another"}, own.metrics,
                  {name: own.path(store, name).read_bytes() for name in own.files})
    promote(archive, other, first, evaluate_model(archive, other, first, StageContext(store, config))[0], config, store)
    decision, _ = promote(archive, own, second, evaluate_model(archive, own, second, StageContext(store, config))[0], config, store)
    champions, reused = evaluate_model(archive, own, first, StageContext(store, config))
    assert reused and decision.inputs["champion_evaluation"] == champions.key
    paired = json.loads(decision.path(store, "decision.json").read_text())["champion_comparison"]
    right = {model.key: evaluate_model(archive, own, model, StageContext(store, config))[0].metrics["val_accuracy"]
             for model in (first, second)}
    assert (paired["num_images"], paired["num_trained_on"]) == (own.metrics["num_val"], 0)
    assert paired["difference"] == pytest.approx(float(right[second.key]) - float(right[first.key]))
