"""The content of ``evaluation.json``, for predictions that can be counted by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carclf.evaluation.assessment import MAX_ERRORS, Predictions, compute_evaluation
from carclf.inference.calibration import negative_log_likelihood
from carclf.metrics import METRICS
from carclf.stats import class_positions, wilson_interval

CLASSES = ["3", "5", "9"]


def rows(labels: list[str]) -> pd.DataFrame:
    num = len(labels)
    paths = [f"train/{label}/{n}.jpg" for n, label in enumerate(labels)]
    return pd.DataFrame({"id": [f"{n}.jpg" for n in range(num)], "path": paths, "label": labels, "width": 100,
                         "height": 80, "brightness": np.linspace(10, 200, num)}, index=range(100, 100 + num))


def probabilities(*predicted: str, confidence: float = 0.8) -> np.ndarray:
    values = np.full((len(predicted), 3), (1 - confidence) / 2)
    values[np.arange(len(predicted)), [CLASSES.index(name) for name in predicted]] = confidence
    return values


def test_prediction_table_keeps_the_order_of_the_rows() -> None:
    predictions = Predictions(rows(["9", "3", "5"]), CLASSES, probabilities("9", "5", "5"))
    table = predictions.table()
    assert list(table.columns) == ["id", "label", "predicted", "temperature", "p_3", "p_5", "p_9"]
    assert table[["id", "label", "predicted"]].values.tolist() == [
        ["0.jpg", "9", "9"], ["1.jpg", "3", "5"], ["2.jpg", "5", "5"]]
    np.testing.assert_array_equal(table[["p_3", "p_5", "p_9"]], predictions.probabilities)


def test_evaluation_of_a_small_example_is_correct_and_valid_json() -> None:
    predictions = Predictions(rows(list("9355")), CLASSES, probabilities(*"9555"))
    evaluation = json.loads(json.dumps(compute_evaluation(predictions)))
    expected = {
        "num_images": 4, "num_correct": 3, "accuracy": 0.75, "interval": list(wilson_interval(3, 4)),
        "recall": [0.0, 1.0, 1.0], "confusion": [[0, 1, 0], [0, 2, 0], [0, 0, 1]], "class_names": CLASSES,
        "unknown_classes": [],
    }
    assert {name: evaluation[name] for name in expected} == expected
    (error,) = evaluation["errors"]
    del error["probability"]
    assert error == {"id": "1.jpg", "path": "train/3/1.jpg", "label": "3", "predicted": "5"}


def test_most_confident_errors_come_first_and_are_limited() -> None:
    confidences = np.linspace(0.4, 0.99, 60)
    values = np.vstack([probabilities("5", confidence=confidence) for confidence in confidences])
    errors = compute_evaluation(Predictions(rows(["3"] * 60), CLASSES, values))["errors"]
    assert [error["id"] for error in errors] == [f"{59 - n}.jpg" for n in range(MAX_ERRORS)]
    listed = [error["probability"] for error in errors]
    assert listed == sorted(listed, reverse=True)


def test_images_of_unknown_classes_are_errors_and_do_not_change_the_temperature() -> None:
    known = Predictions(rows(list("359") * 10), CLASSES, probabilities(*"353" * 10))
    values = np.vstack([known.probabilities, probabilities("9", "9")])
    before = compute_evaluation(known)
    after = compute_evaluation(Predictions(rows(list("359" * 10 + "44")), CLASSES, values))
    assert after["class_names"] == ["3", "4", "5", "9"]
    assert after["unknown_classes"] == ["4"]
    assert (before["num_correct"], after["num_correct"], after["num_images"]) == (20, 20, 32)
    assert after["confusion"] == [[10, 0, 0, 0], [0, 0, 0, 2], [0, 0, 10, 0], [10, 0, 0, 0]]
    assert after["recall"] == [1.0, 0.0, 1.0, 0.0]
    assert after["temperature"] == before["temperature"]


def test_no_image_calibrates_itself_or_its_copies() -> None:
    """Other labels of an image and its copy change the temperatures of other images only."""
    random = np.random.default_rng(0)
    table = rows([CLASSES[n] for n in random.integers(0, 3, 60)]).assign(cluster=np.arange(60) // 2)
    values = random.dirichlet([0.3] * 3, 60)
    before = Predictions(table, CLASSES, values)
    changed = table.assign(label=["3" if table["label"].iloc[0] != "3" else "5"] * 2 + table["label"].tolist()[2:])
    after = Predictions(changed, CLASSES, values)
    assert (after.temperatures[:2] == before.temperatures[:2]).all()
    assert (after.temperatures != before.temperatures).any()
    assert after.deployed_temperature() != before.deployed_temperature()
    assert before.table()["temperature"].tolist() == before.temperatures.tolist()


def test_log_loss_is_measured_with_cross_fitted_temperatures() -> None:
    """The temperature that is fitted to all images has a smaller log loss on them: it would be too good."""
    random = np.random.default_rng(1)
    fitted, cross_fitted = [], []
    for _ in range(30):
        values = random.dirichlet([0.5] * 3, 20)
        table = rows([CLASSES[random.choice(3, p=row)] for row in values])
        predictions = Predictions(table, CLASSES, values, METRICS["log_loss"])
        evaluation = compute_evaluation(predictions)
        labels = class_positions(table["label"].to_numpy(), CLASSES)
        fitted.append(negative_log_likelihood(labels, predictions.calibrated(evaluation["temperature"], CLASSES)))
        cross_fitted.append(evaluation["val_metric"])
    assert np.mean(cross_fitted) > np.mean(fitted) + 0.01


def test_a_given_temperature_is_that_of_every_image() -> None:
    predictions = Predictions(rows(["3", "5"]), CLASSES, probabilities("3", "5"), temperature=1.5)
    assert predictions.temperatures.tolist() == [1.5, 1.5]
    assert compute_evaluation(predictions)["temperature"] == 1.5


def test_a_class_without_images_has_no_recall() -> None:
    evaluation = compute_evaluation(Predictions(rows(["3", "5"]), CLASSES, probabilities("3", "5")))
    assert evaluation["recall"] == [1.0, 1.0, None]


def test_many_images_are_processed_in_parts_with_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    table = rows([CLASSES[n] for n in random.integers(0, 3, 200)] + ["unknown"])
    predictions = Predictions(table, CLASSES, random.dirichlet([0.3] * 3, 201), METRICS["log_loss"])
    whole = compute_evaluation(predictions)
    monkeypatch.setattr("carclf.stats.CHUNK_SIZE", 60)
    predictions = Predictions(table, CLASSES, predictions.probabilities, METRICS["log_loss"])
    assert compute_evaluation(predictions) == whole
    predictions.write_table(tmp_path / "predictions.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "predictions.parquet"), predictions.table(),
                                  check_dtype=False, check_exact=True)
