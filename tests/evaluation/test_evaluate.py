"""Models measured through the real stages: metrics, files, the probe, the champion beside the candidate."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pytest

from carclf.artifacts import Archive, Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.champion import change_state
from carclf.config import load_config
from carclf.dataset.archives import pack
from carclf.errors import DataError, QualityError
from carclf.evaluation.evaluate import evaluate_model
from carclf.inference.calibration import apply_temperature
from carclf.services.storage import Store, open_store
from carclf.stages.evaluate import evaluate
from carclf.stages.fine_tune import fine_tune
from carclf.stages.train_head import train_head

CONFIG = load_config("demo", {"head.epochs": 3, "head.num_views": 1, "audit.enabled": False, "fine_tune.epochs": 1,
                       "model.precision": "bfloat16"})
CLASSES = [2, 5, 7]


def rows_of(folder: Path, num: int) -> pd.DataFrame:
    """Pictures whose color tells their class, mostly."""
    random, found = np.random.default_rng(0), []
    for number in range(num):
        label = CLASSES[number % 3]
        path = folder / "train" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 200, (40 + number % 7, 60, 3), np.uint8)
        pixels[..., number % 3 if number % 5 else random.integers(3)] += 40
        cv2.imwrite(str(path), pixels)
        found.append({"id": path.name, "path": str(path.relative_to(folder)), "label": label, "class_index": number % 3,
                      "width": 60, "height": pixels.shape[0], "brightness": float(pixels.mean()), "problem": "",
                      "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "cluster": number,
                      "pixels_sha256": str(number), "phash": 0, "color_signature": b"", "source": "train",
                      "subset": "val" if number % 2 else "train"})
    return pd.DataFrame(found).sample(frac=1, random_state=1)


def split_of(store: Store, rows: pd.DataFrame, name: str) -> Split:
    def make(folder: Path) -> Metrics:
        rows.to_parquet(folder / "split.parquet", index=False)
        return {"class_names": " ".join(map(str, sorted(rows["label"].unique())))}

    return build(Split, make, Provenance(1, {}, {"name": name}), store)[0]


def copied(
    model: Model, store: Store, name: str, *, network: Path | None = None, without: frozenset[str] = frozenset()
) -> Model:
    """Another model of the same files, or with another network, without some files and metrics."""
    files = {file: model.path(store, file) for file in model.files.keys() - without}
    if network is not None:
        files["model.keras"] = network

    def make(folder: Path) -> Metrics:
        for file, path in files.items():
            (folder / file).write_bytes(path.read_bytes())
        return {key: value for key, value in model.metrics.items() if key not in without}

    return build(Model, make, Provenance(1, model.inputs, {"name": name}), store)[0]


class Trained:
    """A store with an archive, a split and a model of the two training stages."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(str(folder / "store"))
        self.rows = rows_of(folder, 120)

        def make(work: Path) -> Metrics:
            pack(work / "archive.zip", {path: folder / path for path in self.rows["path"]})
            return {}

        self.archive = build(Archive, make, Provenance(1, {}, {}), self.store)[0]
        self.split = split_of(self.store, self.rows, "own")
        self.head, _ = train_head(self.archive, self.split, StageContext(self.store, CONFIG))
        self.model, _ = fine_tune(self.archive, self.split, self.head, StageContext(self.store, CONFIG))
        self.evaluation, _ = self.measured(self.model)

    def measured(self, model: Model, split: Split | None = None) -> tuple[Evaluation, bool]:
        return evaluate_model(self.archive, split or self.split, model, StageContext(self.store, CONFIG))

    def told(self, evaluation: Evaluation) -> dict[str, Any]:
        return json.loads(evaluation.path(self.store, "evaluation.json").read_text())

    def predictions(self, evaluation: Evaluation) -> pd.DataFrame:
        return pd.read_parquet(evaluation.path(self.store, "predictions.parquet"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CARCLF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return Trained(tmp_path_factory.mktemp("trained"))


def test_an_evaluation_tells_what_its_predictions_give(trained: Trained) -> None:
    table, found = trained.predictions(trained.evaluation), trained.told(trained.evaluation)
    metrics = trained.evaluation.metrics
    val = trained.rows[trained.rows["subset"] == "val"]
    assert table["id"].tolist() == val["id"].tolist() and table["label"].tolist() == val["label"].tolist()
    shares = table[["p2", "p5", "p7"]].to_numpy()
    np.testing.assert_array_equal(table["predicted"], np.array(CLASSES)[shares.argmax(1)])
    right = (table["predicted"] == table["label"]).to_numpy()
    assert metrics["val_accuracy"] == found["accuracy"] == right.mean() and found["num_correct"] == right.sum()
    weakest = right[table["label"] == metrics["weakest_class"]].mean()
    assert metrics["weakest_recall"] == weakest == min(found["recall"])
    sure = apply_temperature(shares, found["temperature"]).max(1)
    gaps = [abs(row["confidence"] - row["accuracy"]) * row["num_images"] for row in found["reliability"]]
    assert metrics["calibration_error"] == pytest.approx(sum(gaps) / len(table))
    assert sum(row["confidence"] * row["num_images"] for row in found["reliability"]) == pytest.approx(sure.sum())
    assert metrics["model_mb"] == trained.model.files["model.keras"].num_bytes / 1e6
    assert 0 < metrics["latency_ms"] < 1000
    assert {name for name in found if name in metrics} == {"num_images", "temperature", "calibration_error",
                                                           "latency_ms", "model_mb", "reload_difference"}
    assert set(trained.evaluation.files) == {"predictions.parquet", "evaluation.json", "error_images.json", "report.html"}


def test_both_training_stages_leave_the_classes_and_what_their_saved_model_answers(trained: Trained) -> None:
    for model in (trained.head, trained.model):
        probe = pd.read_parquet(model.path(trained.store, "reference_logits.parquet"))
        val = trained.rows[trained.rows["subset"] == "val"].set_index("id")
        assert set(probe["id"]) == set(val.index) and model.class_names == [2, 5, 7]
        assert set(probe.dtypes.astype(str)[["logit0", "logit1", "logit2"]]) == {"float32"}
        assert probe["sha256"].tolist() == val["sha256"][probe["id"]].tolist()
        assert trained.measured(model)[0].metrics["reload_difference"] < 1e-5


def test_a_fine_tuning_of_no_epochs_leaves_a_probe_too(trained: Trained) -> None:
    config = CONFIG.model_copy(update={"fine_tune": CONFIG.fine_tune.model_copy(update={"epochs": 0})})
    model, _ = fine_tune(trained.archive, trained.split, trained.head, StageContext(trained.store, config))
    own, heads = (pd.read_parquet(one.path(trained.store, "reference_logits.parquet")) for one in (model, trained.head))
    pd.testing.assert_frame_equal(own, heads, rtol=1e-4, atol=1e-5)


def test_a_saved_file_that_is_not_what_was_trained_shows_in_the_reload_difference(
    trained: Trained, tmp_path: Path
) -> None:
    network = keras.models.load_model(trained.model.path(trained.store, "model.keras"), compile=False)
    layer = network.get_layer("head").layers[-1]
    weights, bias = layer.get_weights()
    layer.set_weights([weights, bias + np.array([0.2, 0, 0], np.float32)])
    network.save(tmp_path / "model.keras")
    wrong = copied(trained.model, trained.store, "wrong", network=tmp_path / "model.keras")
    assert trained.measured(wrong)[0].metrics["reload_difference"] == pytest.approx(0.05, abs=0.03)


def test_a_model_from_before_there_were_probes_is_measured_without_one(trained: Trained) -> None:
    old = copied(trained.model, trained.store, "old", without=frozenset({"reference_logits.parquet", "class_names"}))
    found, _ = trained.measured(old)
    assert "reload_difference" not in found.metrics and "reload_difference" not in trained.told(found)
    pd.testing.assert_frame_equal(trained.predictions(found), trained.predictions(trained.evaluation))
    nobody = old.model_copy(update={"inputs": {"split": "gone"}})
    with pytest.raises(DataError, match=r"split gone, which is gone from .*Restore that split"):
        nobody.class_names


def test_a_model_on_a_split_with_a_class_that_it_does_not_know(trained: Trained) -> None:
    newer = trained.rows.assign(label=trained.rows["label"].where(trained.rows.index > 10, 4))
    found, _ = trained.measured(trained.model, split_of(trained.store, newer, "newer"))
    table, told = trained.predictions(found), trained.told(found)
    assert list(table.columns) == ["id", "label", "predicted", "p2", "p5", "p7"]
    assert told["class_names"] == [2, 4, 5, 7] and told["unknown_classes"] == [4]
    assert told["recall"][1] == 0 and (found.metrics["weakest_class"], found.metrics["weakest_recall"]) == (4, 0.0)
    assert "does not know the classes 4" in found.path(trained.store, "report.html").read_text()


def test_a_probe_of_pictures_that_are_gone_tells_nothing(trained: Trained) -> None:
    strangers = split_of(trained.store, trained.rows.assign(sha256="0"), "strangers")
    assert "reload_difference" not in trained.measured(trained.model, strangers)[0].metrics


def test_a_model_that_answers_no_numbers_is_refused(trained: Trained, tmp_path: Path) -> None:
    network = keras.models.load_model(trained.model.path(trained.store, "model.keras"), compile=False)
    network.set_weights([np.full_like(weight, np.nan) for weight in network.get_weights()])
    network.save(tmp_path / "model.keras")
    broken = copied(trained.model, trained.store, "broken", network=tmp_path / "model.keras")
    with pytest.raises(QualityError, match=f"{broken.key} answers what is no number"):
        trained.measured(broken)


def test_the_champion_is_measured_on_the_same_images_and_the_candidates_key_does_not_know_it(
    trained: Trained, caplog: pytest.LogCaptureFixture
) -> None:
    given = (trained.archive, trained.split, trained.model, CONFIG, trained.store)
    assert evaluate(*given) == (trained.evaluation, True)
    champion = copied(trained.head, trained.store, "champion")
    change_state(trained.store, lambda state: {"champion": {"model": champion.key}, "threshold": 0.5, "history": []})
    caplog.set_level("INFO", "carclf")
    assert evaluate(*given) == (trained.evaluation, False)
    theirs, reused = trained.measured(champion)
    assert reused and trained.predictions(theirs)["id"].equals(trained.predictions(trained.evaluation)["id"])
    assert f"the champion {champion.key} has the accuracy {theirs.metrics['val_accuracy']:.4f}" in caplog.text
    assert evaluate(*given) == (trained.evaluation, True)
    change_state(trained.store, lambda state: {**state, "champion": {"model": trained.model.key}})
    assert evaluate(*given) == (trained.evaluation, True)


def test_an_evaluation_that_is_reused_imports_no_training_framework(trained: Trained) -> None:
    keys = (trained.archive.key, trained.split.key, trained.model.key)
    settings = CONFIG.model_dump_json()
    code = ("import sys; from carclf.artifacts import Archive, Split, Model; from carclf.config import Config; "
            "from carclf.services.storage import open_store; from carclf.stages.evaluate import evaluate; "
            f"store = open_store({trained.store.url!r}); a, s, m = {keys!r}; "
            f"config = Config.model_validate_json({settings!r}); "
            "found = evaluate(Archive.find(store, a), Split.find(store, s), Model.find(store, m), config, store); "
            "print(found[1], {'tensorflow', 'keras', 'jax', 'pandas', 'scipy'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout == "True set()\n", done.stderr[-2000:]
