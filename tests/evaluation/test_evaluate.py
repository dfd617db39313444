"""Evaluate models of the real training stages."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from small_runs import reload_in_this_process

from carclf.artifacts import Archive, Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.champion import change_state
from carclf.config import Config, Evaluate, load_config
from carclf.dataset.archives import pack
from carclf.errors import DataError, QualityError
from carclf.evaluation.evaluate import evaluate_holdout, evaluate_model, with_champion_tta
from carclf.inference.calibration import apply_temperature
from carclf.services.storage import open_store
from carclf.stages.evaluate import evaluate
from carclf.stages.fine_tune import fine_tune
from carclf.stages.train_head import train_head

CONFIG = load_config("demo", {"head.epochs": 3, "head.num_views": 1, "audit.enabled": False, "fine_tune.epochs": 1,
                              "model.precision": "bfloat16"})
CLASSES = ["2", "5", "7"]


def write_images(folder: Path, num: int) -> pd.DataFrame:
    """Write images whose color indicates their class for the most part; return the rows of a split."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(num):
        label = CLASSES[number % 3]
        path = folder / "train" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 200, (40 + number % 7, 60, 3), np.uint8)
        pixels[..., number % 3 if number % 5 else random.integers(3)] += 40
        cv2.imwrite(str(path), pixels)
        rows.append({"id": path.name, "path": str(path.relative_to(folder)), "label": label, "class_index": number % 3,
                     "width": 60, "height": pixels.shape[0], "brightness": float(pixels.mean()), "problem": "",
                     "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "cluster": number,
                     "pixels_sha256": str(number), "phash": 0, "color_signature": b"", "source": "train",
                     "subset": "val" if number % 2 else "train"})
    return pd.DataFrame(rows).sample(frac=1, random_state=1)


class Experiment:
    """A store with an archive, a split, and the models of both training stages."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(str(folder / "store"))
        self.rows = write_images(folder, 120)
        self.context = StageContext(self.store, CONFIG)

        def make(work: Path) -> Metrics:
            pack(work / "archive.zip", {path: folder / path for path in self.rows["path"]})
            return {}

        self.archive = build(Archive, make, Provenance(1, {}, {}), self.store)[0]
        self.split = self.build_split(self.rows, "first")
        self.head, _ = train_head(self.archive, self.split, self.context)
        self.model, _ = fine_tune(self.archive, self.split, self.head, self.context)
        self.evaluation, _ = self.evaluate(self.model)

    def build_split(self, rows: pd.DataFrame, name: str) -> Split:
        def make(folder: Path) -> Metrics:
            rows.to_parquet(folder / "split.parquet", index=False)
            return {"class_names": sorted(rows["label"].unique())}

        return build(Split, make, Provenance(1, {}, {"name": name}), self.store)[0]

    def copy_model(self, model: Model, name: str, network: keras.Model | None = None) -> Model:
        """Return a model with the same files, except for another network if there is one."""

        def make(folder: Path) -> Metrics:
            for file in model.files:
                (folder / file).write_bytes(model.path(self.store, file).read_bytes())
            if network is not None:
                network.save(folder / "model.keras")
            return model.metrics

        return build(Model, make, Provenance(1, model.inputs, {"name": name}), self.store)[0]

    def load_network(self) -> keras.Model:
        return keras.models.load_model(self.model.path(self.store, "model.keras"), compile=False)

    def evaluate(self, model: Model, split: Split | None = None) -> tuple[Evaluation, bool]:
        return evaluate_model(self.archive, split or self.split, model, self.context)

    def content(self, evaluation: Evaluation) -> dict[str, Any]:
        return json.loads(evaluation.path(self.store, "evaluation.json").read_text())

    def predictions(self, evaluation: Evaluation) -> pd.DataFrame:
        return pd.read_parquet(evaluation.path(self.store, "predictions.parquet"))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return Experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(autouse=True)
def fast_reload(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the experiment's own evaluation reloads the model in a new process."""
    reload_in_this_process(monkeypatch)


def test_metrics_agree_with_the_predictions(experiment: Experiment) -> None:
    table, content = experiment.predictions(experiment.evaluation), experiment.content(experiment.evaluation)
    metrics = experiment.evaluation.metrics
    val = experiment.rows[experiment.rows["subset"] == "val"]
    assert table["id"].tolist() == val["id"].tolist()
    assert table["label"].tolist() == val["label"].tolist()
    probabilities = table[["p_2", "p_5", "p_7"]].to_numpy()
    np.testing.assert_array_equal(table["predicted"], np.array(CLASSES)[probabilities.argmax(1)])
    correct = (table["predicted"] == table["label"]).to_numpy()
    assert metrics["val_accuracy"] == content["accuracy"] == correct.mean()
    assert content["num_correct"] == correct.sum()
    weakest_recall = correct[table["label"] == metrics["weakest_class"]].mean()
    assert metrics["weakest_recall"] == weakest_recall == min(content["recall"])
    confidence = apply_temperature(probabilities, table["temperature"].to_numpy()).max(1)
    bins = content["reliability"]
    gaps = [abs(row["confidence"] - row["accuracy"]) * row["num_images"] for row in bins]
    assert metrics["calibration_error"] == pytest.approx(sum(gaps) / len(table))
    assert sum(row["confidence"] * row["num_images"] for row in bins) == pytest.approx(confidence.sum())


def test_an_evaluation_has_measurements_and_all_files(experiment: Experiment) -> None:
    content, metrics = experiment.content(experiment.evaluation), experiment.evaluation.metrics
    assert metrics["model_mb"] == experiment.model.files["model.keras"].num_bytes / 1e6
    assert 0 < metrics["latency_ms"] < 1000
    assert 0 <= metrics["reload_difference"] < 1e-5
    assert {name for name in content if name in metrics} == {
        "num_images", "temperature", "calibration_error", "latency_ms", "model_mb", "reload_difference", "metric",
        "val_metric", "val_metric_low", "val_metric_high"}
    assert set(experiment.evaluation.files) == {
        "predictions.parquet", "evaluation.json", "error_images.json", "report.html"}


def test_models_of_both_training_stages_have_reference_logits(experiment: Experiment) -> None:
    val = experiment.rows[experiment.rows["subset"] == "val"].set_index("id")
    for model in (experiment.head, experiment.model):
        reference = pd.read_parquet(model.path(experiment.store, "reference_logits.parquet"))
        assert set(reference["id"]) == set(val.index)
        assert model.class_names == CLASSES
        assert set(reference.dtypes.astype(str)[["logit0", "logit1", "logit2"]]) == {"float32"}
        assert reference["sha256"].tolist() == val["sha256"][reference["id"]].tolist()
        assert experiment.evaluate(model)[0].metrics["reload_difference"] < 1e-5


def test_fine_tuning_for_no_epochs_keeps_the_heads_reference_logits(experiment: Experiment) -> None:
    no_epochs = CONFIG.fine_tune.model_copy(update={"epochs": 0})
    context = StageContext(experiment.store, CONFIG.model_copy(update={"fine_tune": no_epochs}))
    model, _ = fine_tune(experiment.archive, experiment.split, experiment.head, context)
    logits, head_logits = (pd.read_parquet(item.path(experiment.store, "reference_logits.parquet"))
                           for item in (model, experiment.head))
    pd.testing.assert_frame_equal(logits, head_logits, rtol=1e-4, atol=1e-5)


def test_a_damaged_network_has_a_large_reload_difference(experiment: Experiment) -> None:
    network = experiment.load_network()
    layer = network.get_layer("head").layers[-1]
    weights, bias = layer.get_weights()
    layer.set_weights([weights, bias + np.array([0.2, 0, 0], np.float32)])
    damaged = experiment.copy_model(experiment.model, "damaged", network)
    assert experiment.evaluate(damaged)[0].metrics["reload_difference"] == pytest.approx(0.05, abs=0.03)


def test_without_reference_images_there_is_no_reload_difference(experiment: Experiment) -> None:
    split = experiment.build_split(experiment.rows.assign(sha256="0"), "other images")
    evaluation, _ = experiment.evaluate(experiment.model, split)
    assert "reload_difference" not in evaluation.metrics
    assert "reload_difference" not in experiment.content(evaluation)


def test_a_class_that_the_model_was_not_trained_on_counts_as_an_error(experiment: Experiment) -> None:
    rows = experiment.rows.assign(label=experiment.rows["label"].where(experiment.rows.index > 10, "4"))
    evaluation, _ = experiment.evaluate(experiment.model, experiment.build_split(rows, "new class"))
    content = experiment.content(evaluation)
    columns = list(experiment.predictions(evaluation))
    assert columns == ["id", "label", "predicted", "temperature", "p_2", "p_5", "p_7"]
    assert content["class_names"] == ["2", "4", "5", "7"]
    assert content["unknown_classes"] == ["4"]
    assert content["recall"][1] == 0
    assert (evaluation.metrics["weakest_class"], evaluation.metrics["weakest_recall"]) == ("4", 0.0)
    assert "not trained on the classes <bdi>4</bdi>" in evaluation.path(experiment.store, "report.html").read_text()


def test_a_model_that_predicts_nan_raises_quality_error(experiment: Experiment) -> None:
    network = experiment.load_network()
    network.set_weights([np.full_like(weight, np.nan) for weight in network.get_weights()])
    broken = experiment.copy_model(experiment.model, "broken", network)
    with pytest.raises(QualityError, match=broken.key):
        experiment.evaluate(broken)


def test_the_champion_keeps_its_own_test_time_augmentation(experiment: Experiment) -> None:
    def config_with(**settings: Any) -> Config:
        return CONFIG.model_copy(update={"evaluate": Evaluate(**settings)})

    promoted_with = config_with(flip_tta=False, zooms="1.2")
    context = StageContext(experiment.store, promoted_with)
    evaluation, _ = evaluate_model(experiment.archive, experiment.split, experiment.model, context)
    config = config_with(crops="corners", batch_size=7)
    champion = with_champion_tta(config, {"evaluation": evaluation.key}, experiment.store)
    assert champion == config_with(flip_tta=False, zooms="1.2", batch_size=7)
    with pytest.raises(DataError, match="evaluations/missing"):
        with_champion_tta(config, {"evaluation": "missing"}, experiment.store)


def test_the_stage_evaluates_the_champion_on_the_same_images(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    """The candidate's evaluation is the same with and without a champion."""
    arguments = (experiment.archive, experiment.split, experiment.model, experiment.context)
    assert evaluate(*arguments) == (experiment.evaluation, True)
    champion = experiment.copy_model(experiment.head, "champion")
    event = {"action": "promoted", "time": "2026-01-01T00:00:00+00:00", "model": champion.key, "decision": "0" * 16,
             "evaluation": experiment.evaluation.key}
    change_state(experiment.store, lambda _: {"champion": event, "threshold": 0.5, "history": []})
    caplog.set_level("INFO", "carclf")
    assert evaluate(*arguments) == (experiment.evaluation, False)
    evaluation, reused = experiment.evaluate(champion)
    assert reused
    assert experiment.predictions(evaluation)["id"].equals(experiment.predictions(experiment.evaluation)["id"])
    assert champion.key in caplog.text
    assert f"{evaluation.metrics['val_accuracy']:.4f}" in caplog.text
    assert evaluate(*arguments) == (experiment.evaluation, True)
    event = event | {"model": experiment.model.key}
    change_state(experiment.store, lambda state: {**state, "champion": event})
    assert evaluate(*arguments) == (experiment.evaluation, True)


def test_labeled_test_images_are_measured_with_the_temperature_of_the_validation(experiment: Experiment) -> None:
    rows = experiment.rows.assign(subset=experiment.rows["subset"].where(experiment.rows["cluster"] > 30, "holdout"))
    split = experiment.build_split(rows, "labeled test images")
    arguments = (experiment.archive, split, experiment.evaluation, experiment.context)
    holdout, reused = evaluate_holdout(*arguments)
    assert not reused
    table = experiment.predictions(holdout)
    assert table["id"].tolist() == rows.loc[rows["subset"] == "holdout", "id"].tolist()
    assert holdout.metrics["holdout_accuracy"] == (table["predicted"] == table["label"]).mean()
    assert holdout.number("holdout_accuracy_low") < holdout.number("holdout_accuracy_high")
    assert holdout.metrics["temperature"] == experiment.evaluation.metrics["temperature"]
    assert not [name for name in holdout.metrics if name.startswith("val_")]
    assert holdout.metrics["subset"] == "holdout"
    assert evaluate_holdout(*arguments) == (holdout, True)


def test_metric_that_the_labeled_test_images_do_not_define_is_left_out(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    is_holdout = (experiment.rows["cluster"] <= 30) & (experiment.rows["label"] == experiment.rows["label"].iloc[0])
    rows = experiment.rows.assign(subset=experiment.rows["subset"].mask(is_holdout, "holdout"))
    split = experiment.build_split(rows, "one class")
    split = split.model_copy(update={"metrics": split.metrics | {"metric": "roc_auc"}})
    holdout, _ = evaluate_holdout(experiment.archive, split, experiment.evaluation, experiment.context)
    assert 0 <= holdout.number("holdout_accuracy") <= 1
    assert not [name for name in holdout.metrics if name.startswith("holdout_metric")]
    assert "ROC AUC" in caplog.text


def test_reusing_an_evaluation_does_not_import_the_training_framework(experiment: Experiment) -> None:
    keys = (experiment.archive.key, experiment.split.key, experiment.model.key)
    code = f"""
import sys
from carclf.artifacts import Archive, Model, Split, StageContext
from carclf.config import Config
from carclf.services.storage import open_store
from carclf.stages.evaluate import evaluate
store = open_store({experiment.store.url!r})
context = StageContext(store, Config.model_validate_json({CONFIG.model_dump_json()!r}))
artifacts = [kind.require(store, key) for kind, key in zip((Archive, Split, Model), {keys!r})]
print(evaluate(*artifacts, context)[1], {{"tensorflow", "keras", "jax", "pandas", "scipy"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True set()\n", done.stderr[-2000:]
