"""What evaluation.json says, of answers small enough to count by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from carclf.evaluation.assessment import MAX_ERRORS, Predictions, compute_evaluation
from carclf.evaluation.slices import compute_slices
from carclf.stats import wilson_interval

CLASSES = [3, 5, 9]


def rows(labels: list[int]) -> pd.DataFrame:
    num = len(labels)
    return pd.DataFrame({"id": [f"{n}.jpg" for n in range(num)], "path": [f"train/{c}/{n}.jpg" for n, c in
                         enumerate(labels)], "label": labels, "width": 100, "height": 80,
                         "brightness": np.linspace(10, 200, num)}, index=range(100, 100 + num))


def told(*predicted: int, sure: float = 0.8) -> np.ndarray:
    found = np.full((len(predicted), 3), (1 - sure) / 2)
    found[np.arange(len(predicted)), [CLASSES.index(name) for name in predicted]] = sure
    return found


def test_the_table_of_predictions_keeps_the_rows_order_and_the_classes_names() -> None:
    answers = Predictions(rows([9, 3, 5]), CLASSES, told(9, 5, 5))
    table = answers.table()
    assert list(table.columns) == ["id", "label", "predicted", "p3", "p5", "p9"]
    assert table[["id", "label", "predicted"]].values.tolist() == [["0.jpg", 9, 9], ["1.jpg", 3, 5], ["2.jpg", 5, 5]]
    np.testing.assert_array_equal(table[["p3", "p5", "p9"]], answers.probabilities)


def test_the_figures_of_a_small_example_are_right_and_are_json() -> None:
    found = json.loads(json.dumps(compute_evaluation(Predictions(rows([9, 3, 5, 5]), CLASSES, told(9, 5, 5, 5)))))
    assert {name: found[name] for name in ("num_images", "num_correct", "accuracy", "recall", "confusion",
                                           "class_names", "unknown_classes")} == {
        "num_images": 4, "num_correct": 3, "accuracy": 0.75, "recall": [0.0, 1.0, 1.0],
        "confusion": [[0, 1, 0], [0, 2, 0], [0, 0, 1]], "class_names": CLASSES, "unknown_classes": []}
    assert found["interval"] == list(wilson_interval(3, 4))
    (error,) = found["errors"]
    assert error | {"probability": 0} == {"id": "1.jpg", "path": "train/3/1.jpg", "label": 3, "predicted": 5,
                                          "probability": 0}


def test_the_surest_errors_come_first_and_not_all_of_them() -> None:
    sure = np.linspace(0.4, 0.99, 60)
    probabilities = np.vstack([told(5, sure=value) for value in sure])
    errors = compute_evaluation(Predictions(rows([3] * 60), CLASSES, probabilities))["errors"]
    assert [error["id"] for error in errors] == [f"{59 - n}.jpg" for n in range(MAX_ERRORS)]
    assert [error["probability"] for error in errors] == sorted((e["probability"] for e in errors), reverse=True)


def test_images_of_classes_that_the_model_does_not_know_count_as_wrong_and_not_for_the_temperature() -> None:
    known = Predictions(rows([3, 5, 9] * 10), CLASSES, told(*[3, 5, 3] * 10))
    more = Predictions(rows([3, 5, 9] * 10 + [4, 4]), CLASSES, np.vstack([known.probabilities, told(9, 9)]))
    before, after = compute_evaluation(known), compute_evaluation(more)
    assert after["class_names"] == [3, 4, 5, 9] and after["unknown_classes"] == [4]
    assert (before["num_correct"], after["num_correct"]) == (20, 20) and after["num_images"] == 32
    assert after["confusion"] == [[10, 0, 0, 0], [0, 0, 0, 2], [0, 0, 10, 0], [10, 0, 0, 0]]
    assert after["recall"] == [1.0, 0.0, 1.0, 0.0] and after["temperature"] == before["temperature"]


def test_a_class_without_images_has_no_recall() -> None:
    assert compute_evaluation(Predictions(rows([3, 5]), CLASSES, told(3, 5)))["recall"] == [1.0, 1.0, None]


def test_slices_are_by_class_size_and_brightness_in_groups_of_equal_size() -> None:
    given = rows([3, 5] * 40).assign(width=[100] * 40 + [200] * 40)
    correct = np.arange(80) >= 20  # the darkest are wrong
    found = compute_slices(given, correct)
    assert [(part["by"], part["name"], part["num_images"], part["num_correct"]) for part in found] == [
        ("class", "3", 40, 30), ("class", "5", 40, 30),
        ("megapixels", "0.008 to 0.008", 40, 20), ("megapixels", "0.016 to 0.016", 40, 40),
        ("brightness", "10 to 55.7", 20, 0), ("brightness", "58.1 to 104", 20, 20),
        ("brightness", "106 to 152", 20, 20), ("brightness", "154 to 200", 20, 20)]
    assert (found[0]["low"], found[0]["high"]) == wilson_interval(30, 40) and found[0]["accuracy"] == 0.75


@pytest.mark.parametrize("num", [1, 3])
def test_few_images_and_unknown_measures_make_few_slices(num: int) -> None:
    found = compute_slices(rows([3] * num)[["id", "path", "label", "brightness"]], np.ones(num, bool))
    assert [part["by"] for part in found] == ["class", "brightness"]
