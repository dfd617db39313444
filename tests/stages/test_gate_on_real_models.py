"""The gate on saved networks that are evaluated, among them a file that does not match the trained model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gate_candidates import Candidate, build_artifact

from carclf.artifacts import Archive, Evaluation, Model, Provenance, Split, StageContext
from carclf.config import Config, load_config
from carclf.dataset.archives import extract_images
from carclf.demo.competition import open_competition
from carclf.demo.rendering import render_competition
from carclf.demo.server import DemoServer
from carclf.evaluation.evaluate import evaluate_model
from carclf.services.storage import Store, open_store
from carclf.stages.download import download
from carclf.stages.split import split
from carclf.stages.validate import validate
from carclf.training.saving import write_reference_logits

SIZE = (32, 48)
# The networks are untrained: only the rule under test may reject them.
SETTINGS = {
    "data.source": "cars",
    "validation.min_images_per_class": 4,
    "gate.threshold": 0.0,
    "gate.min_recall": 0.0,
    "gate.max_calibration_error": 1.0,
}
CONFIG = load_config("demo", SETTINGS | {"gate.champion_rule": "off"})


@pytest.fixture(scope="module")
def cars_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=60, num_test=10)
    with DemoServer(open_competition(folder, slug="cars", work=tmp_path_factory.mktemp("work"))) as server:
        yield server


@pytest.fixture
def data(cars_server: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Archive, Split]:
    monkeypatch.setenv("CARCLF_KAGGLE_ENDPOINT", cars_server.url)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "demo-key")
    context = StageContext(open_store(str(tmp_path / "store")), CONFIG)
    archive, _ = download(context)
    dataset, _ = validate(archive, context)
    return context.store, archive, split(dataset, None, context)[0]


def save_model(data: tuple[Store, Archive, Split], folder: Path, seed: int, bias: float = 0.0) -> Model:
    """Save a small network whose biases rise to ``bias`` after its reference logits were written."""
    import keras

    store, archive, data_split = data
    keras.utils.set_random_seed(seed)
    num_classes = len(data_split.class_names)
    pixels = keras.Input((*SIZE, 3))
    hidden = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    network = keras.Model(pixels, keras.layers.Dense(num_classes)(keras.layers.Flatten()(hidden)))
    rows = data_split.rows(store)
    folder.mkdir()
    write_reference_logits(network, rows[rows["subset"] == "val"], extract_images(archive, store), SIZE, folder)
    network.layers[-1].bias.assign(np.linspace(0, bias, num_classes))
    network.save(folder / "model.keras")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    metrics = {"image_height": SIZE[0], "image_width": SIZE[1], "class_names": data_split.class_names}
    provenance = Provenance(1, {"archive": archive.key, "split": data_split.key}, {"seed": seed, "bias": bias})
    return build_artifact(store, Model, provenance, metrics, files)


def evaluate(store: Store, archive: Archive, data_split: Split, model: Model, config: Config) -> Evaluation:
    return evaluate_model(archive, data_split, model, StageContext(store, config))[0]


@pytest.mark.acceptance
def test_a_saved_file_that_differs_from_the_trained_model_is_rejected(
    data: tuple[Store, Archive, Split], tmp_path: Path
) -> None:
    store, archive, data_split = data
    decisions: list[dict[str, Any]] = []
    for name, bias in (("intact", 0.0), ("damaged", 5.0)):
        model = save_model(data, tmp_path / name, 1, bias)
        evaluation = evaluate(store, archive, data_split, model, CONFIG)
        decision, _ = Candidate(archive, data_split, model, evaluation, CONFIG).promote(store)
        decisions.append(json.loads(decision.path(store, "decision.json").read_text()))
    intact, damaged = decisions
    assert (intact["decision"], damaged["decision"]) == ("promoted", "rejected")
    failed = [rule for rule in damaged["rules"] if not rule["passed"]]
    assert [(rule["name"], rule["limit"]) for rule in failed] == [("reload", 0.01)]
    assert failed[0]["value"] > 0.01


@pytest.mark.acceptance  # evaluates several networks
def test_the_gate_evaluates_a_champion_of_another_split_on_the_candidates_split(
    data: tuple[Store, Archive, Split], tmp_path: Path
) -> None:
    store, archive, data_split = data
    config = load_config("demo", SETTINGS | {"gate.significance": 0.001})
    first, second = (save_model(data, tmp_path / f"model{seed}", seed) for seed in (1, 2))
    files = {name: data_split.path(store, name).read_bytes() for name in data_split.files}
    provenance = Provenance(1, data_split.inputs, {"name": "another"})
    other = build_artifact(store, Split, provenance, data_split.metrics, files)
    Candidate(archive, other, first, evaluate(store, archive, other, first, config), config).promote(store)
    evaluation = evaluate(store, archive, data_split, second, config)
    decision, _ = Candidate(archive, data_split, second, evaluation, config).promote(store)
    champion_evaluation, reused = evaluate_model(archive, data_split, first, StageContext(store, config))
    assert reused and decision.inputs["champion_evaluation"] == champion_evaluation.key
    comparison = json.loads(decision.path(store, "decision.json").read_text())["champion_comparison"]
    difference = evaluation.number("val_accuracy") - champion_evaluation.number("val_accuracy")
    assert (comparison["num_images"], comparison["num_trained_on"]) == (data_split.metrics["num_val"], 0)
    assert comparison["difference"] == pytest.approx(difference)
