import math
from typing import get_args

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from carclf.config.settings import Data
from carclf.errors import DataError
from carclf.metrics import METRICS, class_ranks


def expected_values(labels, probabilities):
    """The same metrics, called on scikit-learn in the way of its user guide."""
    predicted = probabilities.argmax(axis=1)
    num_classes = probabilities.shape[1]
    scores = probabilities[:, 1] if num_classes == 2 else probabilities
    truth = labels if num_classes == 2 else np.eye(num_classes)[labels]
    return {
        "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn_metrics.f1_score(labels, predicted, average="macro"),
        "micro_f1": sklearn_metrics.f1_score(labels, predicted, average="micro"),
        "log_loss": sklearn_metrics.log_loss(labels, probabilities),
        "roc_auc": sklearn_metrics.roc_auc_score(truth, scores, average="macro"),
        "quadratic_weighted_kappa": sklearn_metrics.cohen_kappa_score(labels, predicted, weights="quadratic"),
    }


def random_model(num_classes, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=200)])
    logits = rng.normal(size=(len(labels), num_classes)) + 1.5 * np.eye(num_classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_metric_equals_that_of_scikit_learn(name, num_classes):
    for seed in range(5):
        labels, probabilities = random_model(num_classes, seed)
        assert METRICS[name].compute(labels, probabilities) == pytest.approx(
            expected_values(labels, probabilities)[name], abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_perfect_model_is_better_than_a_random_one(name):
    labels = np.arange(4).repeat(5)
    perfect = METRICS[name].compute(labels, np.eye(4)[labels])
    rotated = METRICS[name].compute(labels, np.full((20, 4), 0.1) + 0.6 * np.eye(4)[(labels + 1) % 4])
    assert METRICS[name].is_better(perfect, rotated)
    assert METRICS[name].improvement(perfect, rotated) > 0
    assert not METRICS[name].is_better(perfect, perfect)


def test_setting_offers_every_metric():
    assert set(get_args(Data.model_fields["metric"].annotation)) == {"auto", *METRICS}


def test_roc_auc_skips_a_class_without_images():
    labels, probabilities = random_model(3, 0)
    present = labels != 2
    areas = [sklearn_metrics.roc_auc_score(labels[present] == label, probabilities[present, label]) for label in (0, 1)]
    value = METRICS["roc_auc"].compute(labels[present], probabilities[present])
    assert value == pytest.approx(np.mean(areas))


def test_roc_auc_of_one_class_is_an_error():
    with pytest.raises(DataError, match=r"data\.metric"):
        METRICS["roc_auc"].compute(np.zeros(3, int), np.full((3, 2), 0.5))


def test_metric_without_images_is_an_error():
    with pytest.raises(DataError, match="Accuracy"):
        METRICS["accuracy"].compute(np.zeros(0, int), np.zeros((0, 2)))


def test_log_loss_accepts_float32_probabilities_and_zero():
    probabilities = np.array([[1, 0], [0.3, 0.7]], np.float32)
    assert math.isfinite(METRICS["log_loss"].compute(np.array([1, 1]), probabilities))


def test_integer_class_names_give_the_ranks_of_kappa():
    labels, probabilities = random_model(3, 1)
    ranks = np.array([0, 1, 4])
    predicted = ranks[probabilities.argmax(axis=1)]
    expected = sklearn_metrics.cohen_kappa_score(ranks[labels], predicted, labels=range(5), weights="quadratic")
    kappa = METRICS["quadratic_weighted_kappa"]
    assert kappa.compute(labels, probabilities, ["0", "1", "4"]) == pytest.approx(expected)
    assert kappa.compute(labels, probabilities) != pytest.approx(expected)


def test_other_class_names_are_ranked_by_position():
    assert class_ranks(["1", "2", "none"], 3).tolist() == [0, 1, 2]
    assert class_ranks([], 2).tolist() == [0, 1]


@pytest.mark.parametrize(("name", "valid", "invalid"), [
    ("accuracy", [0, 1], [-0.1, 1.1]), ("log_loss", [0, 5], [-0.1]), ("quadratic_weighted_kappa", [-1, 1], [1.1])])
def test_values_outside_the_limits_are_invalid(name, valid, invalid):
    assert all(METRICS[name].is_valid(value) for value in valid)
    assert not any(METRICS[name].is_valid(value) for value in (*invalid, math.nan, math.inf))


def test_noun_keeps_the_capitals_of_an_abbreviation():
    assert [METRICS[name].noun for name in ("log_loss", "roc_auc", "macro_f1")] == ["log loss", "ROC AUC", "macro F1"]
