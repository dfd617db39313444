"""The head's fit."""

import keras
import numpy as np
import pytest

from carclf.config import load_config
from carclf.metrics import METRICS
from carclf.training.heads import build_head, fit_head
from carclf.training.validation import Objective, Validation


def test_the_accuracy_of_the_head_is_exact() -> None:
    """In float32 an equal accuracy would seem better."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(103, 4)).astype(np.float32), random.integers(0, 3, 103)
    config = load_config("demo", {"head.epochs": 3})
    keras.utils.set_random_seed(0)
    head = build_head(4, 3, config.model)
    accuracy = fit_head(head, (x, labels), (x, labels), config.head).validation.accuracy
    assert accuracy == (head.predict(x, verbose=0).argmax(1) == labels).mean() != np.float32(accuracy)


@pytest.mark.parametrize("name", ["log_loss", "macro_f1", "quadratic_weighted_kappa"])
def test_the_head_has_the_weights_of_the_last_epoch(name: str) -> None:
    random = np.random.default_rng(1)
    x, labels = random.normal(size=(60, 4)).astype(np.float32), random.integers(0, 3, 60)
    config = load_config("demo", {"head.epochs": 6, "head.learning_rate": 0.3})
    keras.utils.set_random_seed(0)
    objective = Objective(METRICS[name], ("0", "1", "10"))
    head = build_head(4, 3, config.model)
    fitted = fit_head(head, (x[:30], labels[:30]), (x[30:], labels[30:]), config.head, objective)
    values = fitted.history["val_metric"].tolist()
    best = max(values) if METRICS[name].higher_is_better else min(values)
    assert len(values) == 6 and fitted.validation.metric == values[-1] != best
    assert objective.measure(head.predict(x[30:], verbose=0), labels[30:]).metric == pytest.approx(values[-1])


def test_a_validation_without_finite_logits_is_never_better() -> None:
    objective = Objective(METRICS["log_loss"])
    diverged = objective.measure(np.full((2, 3), np.nan), np.array([0, 1]))
    valid = Validation(0.5, 0.5, 0.5)
    assert objective.is_better(valid, diverged) and not objective.is_better(diverged, valid)
    assert not objective.is_better(diverged, diverged)


def test_in_a_tie_the_lower_loss_is_better_unless_the_metric_is_accuracy() -> None:
    early, late = Validation(0.9, 0.5, 1.0), Validation(0.2, 1.0, 1.0)
    ranking = Objective(METRICS["roc_auc"])
    assert ranking.is_better(late, early) and not ranking.is_better(early, late)
    assert not Objective().is_better(late, early)


def test_the_training_loss_is_the_validation_loss_without_smoothing() -> None:
    random = np.random.default_rng(0)
    x, labels = random.normal(size=(40, 4)).astype(np.float32), random.integers(0, 3, 40)
    config = load_config("demo", {"head.epochs": 1, "head.learning_rate": 1e-9, "head.label_smoothing": 0.5,
                                  "model.dropout": 0.0})
    history = fit_head(build_head(4, 3, config.model), (x, labels), (x, labels), config.head).history
    assert list(history) == ["epoch", "accuracy", "loss", "val_loss", "val_accuracy", "val_metric"]
    assert history["loss"][0] == pytest.approx(history["val_loss"][0], rel=1e-5)


def test_only_kernels_of_the_head_decay() -> None:
    """Features of zero give scale and kernel no gradient in the first step: only weight decay changes them."""
    x, labels = np.zeros((8, 4), np.float32), np.arange(8) % 2
    config = load_config("demo", {"head.epochs": 1, "head.batch_size": 8, "head.weight_decay": 1.0,
                                  "head.learning_rate": 0.1, "model.batch_norm": True})
    head = build_head(4, 2, config.model)
    scale, kernel = head.trainable_variables[0], head.trainable_variables[2]
    initial_kernel = np.array(kernel)
    fit_head(head, (x, labels), (x, labels), config.head)
    np.testing.assert_array_equal(scale, np.ones(4))
    np.testing.assert_allclose(kernel, 0.9 * initial_kernel, rtol=1e-5)
