"""Classes are identified by their names, also if natural order differs from the order of characters."""

import json
from pathlib import Path

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from gate_candidates import build_artifact

from carclf.artifacts import Archive, Evaluation, Model, Provenance, Split, StageContext
from carclf.config import load_config
from carclf.dataset.archives import pack
from carclf.ensembles.build import TrainedModel, build_ensemble_model
from carclf.ensembles.members import read_members
from carclf.evaluation.assessment import Predictions, compute_evaluation
from carclf.inference.gradcam import Explainer
from carclf.natural_order import sort_naturally
from carclf.services.storage import Store, open_store
from carclf.stats import class_positions, classes_with_probabilities, probability_columns

CLASS_NAMES = ["2", "10", "a b", "Ü/x"]
SIZE = (32, 32)
NUM = 40
IMAGE = "train/0/a.png"


def test_natural_order_is_not_the_order_of_characters() -> None:
    assert sort_naturally(reversed(CLASS_NAMES)) == CLASS_NAMES != sorted(CLASS_NAMES)
    assert class_positions(["Ü/x", "2", "new"], CLASS_NAMES).tolist() == [3, 0, -1]


@pytest.mark.parametrize("name", ["redicted", "predicted", "id", "_", "p_", "label", ""])
def test_no_name_of_a_class_collides_with_another_column(name: str) -> None:
    rows = pd.DataFrame({"id": ["a"], "path": ["a"], "label": [name]})
    table = Predictions(rows, [name, "x"], np.array([[0.75, 0.25]])).table()
    assert table.columns.is_unique and classes_with_probabilities(table) == [name, "x"]
    assert table["predicted"].item() == name and table[probability_columns([name])].to_numpy() == [[0.75]]


def test_predictions_and_recalls_belong_to_their_names() -> None:
    """Class "10" is always predicted as "Ü/x"; the model was not trained on class "3"."""
    labels = [*CLASS_NAMES, *CLASS_NAMES, "3"]
    confused = {"10": "Ü/x", "3": "2"}
    positions = class_positions([confused.get(label, label) for label in labels], CLASS_NAMES)
    probabilities = np.full((len(labels), 4), 0.1)
    probabilities[np.arange(len(labels)), positions] = 0.7
    rows = pd.DataFrame({"id": range(len(labels)), "path": "x", "label": labels})
    predictions = Predictions(rows, CLASS_NAMES, probabilities)
    table = predictions.table()
    assert list(table) == ["id", "label", "predicted", "temperature", "p_2", "p_10", "p_a b", "p_Ü/x"]
    assert table["predicted"].tolist() == [confused.get(label, label) for label in labels]
    evaluation = json.loads(json.dumps(compute_evaluation(predictions)))
    assert evaluation["class_names"] == ["2", "3", "10", "a b", "Ü/x"]
    assert evaluation["unknown_classes"] == ["3"]
    assert dict(zip(evaluation["class_names"], evaluation["recall"], strict=True)) == {
        "2": 1, "3": 0, "10": 0, "a b": 1, "Ü/x": 1}
    assert evaluation["confusion"][2] == [0, 0, 0, 0, 2]
    assert [row["name"] for row in evaluation["slices"] if row["by"] == "class"] == evaluation["class_names"]
    assert {(error["label"], error["predicted"]) for error in evaluation["errors"]} == {("10", "Ü/x"), ("3", "2")}


def quarter_network(hot: str) -> keras.Model:
    """Return a network whose logit of one class is the brightness of the image's upper left quarter."""
    inputs = keras.Input((*SIZE, 3))
    maps = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 255)(inputs))
    network = keras.Model(inputs, keras.layers.Dense(4, name="logits")(keras.layers.Flatten()(maps)))
    quarter = np.zeros((8, 8, 3), np.float32)
    quarter[:4, :4] = 1
    weights = np.zeros((192, 4), np.float32)
    weights[:, CLASS_NAMES.index(hot)] = quarter.ravel()
    network.get_layer("logits").set_weights([weights, np.zeros(4, np.float32)])
    return network


def write_image(path: Path) -> None:
    cv2.imwrite(str(path), np.full((*SIZE, 3), 255, np.uint8))


@pytest.mark.parametrize("hot", CLASS_NAMES)
def test_a_heatmap_explains_the_class_with_the_predicted_name(hot: str, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    explain = Explainer(quarter_network(hot), tmp_path, SIZE, CLASS_NAMES)
    heat = [bool(heat.any()) for _, heat in explain(["a.png"] * 4, CLASS_NAMES)]
    assert heat == [name == hot for name in CLASS_NAMES]


def train_member(store: Store, split: Split, name: str, correct: bool, folder: Path) -> TrainedModel:
    """Return a model whose predictions of the validation images are all correct, or off by one class."""
    config = load_config("demo", {"model.dropout": 0.1 if correct else 0.2})
    quarter_network("10").save(folder / f"{name}.keras")
    metrics = {"class_names": CLASS_NAMES, "num_classes": 4, "image_height": SIZE[0], "image_width": SIZE[1]}
    provenance = Provenance(1, {"split": split.key}, {"name": name})
    model = build_artifact(store, Model, provenance, metrics, {"model.keras": (folder / f"{name}.keras").read_bytes()})
    rows = split.rows(store)
    positions = class_positions(rows["label"].to_numpy(), CLASS_NAMES)
    probabilities = np.full((NUM, 4), 0.1)
    probabilities[np.arange(NUM), positions if correct else (positions + 1) % 4] = 0.7
    files = {"predictions.parquet": Predictions(rows, CLASS_NAMES, probabilities).table()}
    inputs = {"model": model.key, "split": split.key}
    evaluation = build_artifact(store, Evaluation, Provenance(1, inputs, {}), {"temperature": 1.0}, files)
    return TrainedModel(name, config, model, evaluation, split)


def test_an_ensemble_weighs_its_members_by_the_probability_of_the_label(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    write_image(tmp_path / "a.png")
    pack(tmp_path / "archive.zip", {IMAGE: tmp_path / "a.png"})
    content = (tmp_path / "archive.zip").read_bytes()
    archive = build_artifact(store, Archive, Provenance(1, {}, {}), {}, {"archive.zip": content})
    labels = [CLASS_NAMES[number % 4] for number in range(NUM)]
    rows = pd.DataFrame({
        "id": [f"{number}.png" for number in range(NUM)], "path": IMAGE, "label": labels, "problem": "",
        "sha256": [f"{number:064}" for number in range(NUM)], "subset": "val"})
    split = build_artifact(store, Split, Provenance(1, {}, {}), {"class_names": CLASS_NAMES}, {"split.parquet": rows})
    members = [train_member(store, split, name, name == "right", tmp_path) for name in ("wrong", "right")]
    ensemble, _ = build_ensemble_model(archive, members, StageContext(store, members[0].config))
    assert ensemble.class_names == CLASS_NAMES
    wrong, right = (member.weight for member in read_members(ensemble, store))
    assert right > 0.9
    assert wrong == pytest.approx(1 - right)
