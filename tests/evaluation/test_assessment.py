"""The content of ``evaluation.json``, for predictions that can be counted by hand."""

import json

import numpy as np
import pandas as pd

from carclf.evaluation.assessment import MAX_ERRORS, Predictions, compute_evaluation
from carclf.stats import wilson_interval

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
    assert list(table.columns) == ["id", "label", "predicted", "p_3", "p_5", "p_9"]
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


def test_a_class_without_images_has_no_recall() -> None:
    evaluation = compute_evaluation(Predictions(rows(["3", "5"]), CLASSES, probabilities("3", "5")))
    assert evaluation["recall"] == [1.0, 1.0, None]
