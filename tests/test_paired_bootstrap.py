"""The paired bootstrap against the metrics it resamples, exact tests and simulation."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bootstrap_coverage import Scenario, measure, simulate
from carclf.errors import DataError
from carclf.metrics import METRICS
from carclf.paired_bootstrap import (
    NUM_RESAMPLES,
    Examples,
    _resamples,
    _statistic,
    compare_models,
    metric_interval,
    selection_optimism,
)
from carclf.stats import PairedCounts

NAMES = list(METRICS)


def sample(num_classes=4, num_images=120, group_size=1, seed=0):
    return simulate(Scenario(num_classes, num_images, group_size), np.random.default_rng(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [2, 5])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_statistic_of_repeated_images_equals_the_metric(name, num_classes, seed):
    """Whole weights are repetitions, and scikit-learn computes the metric of repeated images."""
    data = sample(num_classes, 60, seed=seed)
    labels, probabilities = data.examples.labels, data.models[0].round(1) + 0.01  # with ties
    weights = np.random.default_rng(seed).integers(0, 4, size=len(labels))
    weights[: 2 * num_classes] = 1  # every class stays
    repeated = np.repeat(np.arange(len(labels)), weights)
    statistic = _statistic(METRICS[name], data.examples, probabilities)
    expected = METRICS[name].compute(labels[repeated], probabilities[repeated], data.examples.class_names)
    assert statistic(weights[None].astype(float))[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_comparison_is_antisymmetric_and_the_same_in_every_call(name):
    data = sample()
    first, second = data.models
    test, reversed_test = (compare_models(METRICS[name], data.examples, *pair)
                           for pair in ((first, second), (second, first)))
    assert test == compare_models(METRICS[name], data.examples, first, second)
    assert reversed_test.difference == -test.difference
    assert (reversed_test.p_worse, reversed_test.p_better) == (test.p_better, test.p_worse)
    assert reversed_test.interval == pytest.approx((-test.interval[1], -test.interval[0]))


def test_the_best_of_equal_models_is_optimistic_as_in_a_simulation():
    """Twenty models that are correct in 80% of 300 images: by chance, the best one seems better by 4 points."""
    random, num_models, num_images = np.random.default_rng(0), 20, 300
    correct = random.random((40, num_models, num_images)) < 0.8
    excess = (correct.mean(axis=2).max(axis=1) - 0.8).mean()
    examples = Examples(np.zeros(num_images, int), ["a", "b"])
    estimates = [selection_optimism(METRICS["accuracy"], examples, np.stack([models, ~models], axis=-1).astype(float))
                 for models in correct[:4]]
    assert excess == pytest.approx(0.043, abs=0.004)
    assert 0.5 * excess < np.mean(estimates) < excess


@pytest.mark.parametrize("name", NAMES)
def test_a_single_model_has_no_optimism(name):
    data = sample()
    metric = METRICS[name]
    alone = selection_optimism(metric, data.examples, data.models[:1])
    both = selection_optimism(metric, data.examples, data.models)
    assert abs(alone) < 0.005 and metric.improvement(both, 0) >= 0


@pytest.mark.parametrize("name", NAMES)
def test_identical_models_are_not_different(name):
    data = sample()
    test = compare_models(METRICS[name], data.examples, data.models[0], data.models[0])
    assert (test.difference, test.interval, test.p_worse, test.p_better) == (0, (0, 0), 1, 1)
    assert test.minimum_detectable_difference(0.05) is None


def test_accuracy_agrees_with_mcnemars_exact_test():
    data = sample(4, 800, seed=3)
    correct = [model.argmax(axis=1) == data.examples.labels for model in data.models]
    counts = PairedCounts(800, int((correct[0] & ~correct[1]).sum()), int((correct[1] & ~correct[0]).sum()))
    test = compare_models(METRICS["accuracy"], data.examples, *data.models)
    assert test.difference == pytest.approx(counts.difference)
    assert test.p_worse == pytest.approx(counts.p_worse, abs=0.05)
    assert test.interval == pytest.approx(counts.interval(), abs=0.005)


def test_variance_is_unbiased_in_small_strata():
    """The variance of a mean in strata of three images; a plain bootstrap gives two thirds of it."""
    labels = np.arange(40).repeat(3)
    values = np.random.default_rng(0).normal(size=120)
    weights = np.concatenate(list(_resamples(Examples(labels, [str(label) for label in range(40)]))))
    expected = np.mean([values[labels == label].var(ddof=1) / 3 for label in range(40)]) / 40
    assert (weights @ values / 120).var() == pytest.approx(expected, rel=0.15)
    assert weights.shape == (NUM_RESAMPLES, 120)
    assert weights.sum(axis=1) == pytest.approx(120)


def test_images_of_a_group_are_drawn_together_and_classes_stay_balanced():
    labels = np.arange(4).repeat(6)
    groups = [f"patient {row // 2}" for row in range(24)]
    weights = np.concatenate(list(_resamples(Examples(labels, list("abcd"), groups))))
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    for label in range(4):
        assert weights[:, labels == label].sum(axis=1) == pytest.approx(6)


def test_groups_of_several_classes_and_classes_of_one_image_are_resampled():
    labels = np.array([0, 0, 1, 1, 2, 3])
    examples = Examples(labels, list("abcd"), ["p", "p", "p", "q", "", ""])
    probabilities = np.full((6, 4), 0.2) + 0.2 * np.eye(4)[[0, 1, 1, 2, 2, 3]]
    for metric in METRICS.values():
        low, high = metric_interval(metric, examples, probabilities)
        assert np.isfinite([low, high]).all()


def test_groups_widen_the_interval():
    data = sample(4, 400, group_size=10)
    single = dataclasses.replace(data.examples, groups=())
    widths = [np.diff(metric_interval(METRICS["macro_f1"], examples, data.models[0]))[0]
              for examples in (data.examples, single)]
    assert widths[0] > 1.3 * widths[1]


@pytest.mark.parametrize("name", ["macro_f1", "roc_auc", "quadratic_weighted_kappa"])
def test_interval_of_perfect_predictions_does_not_exclude_errors(name):
    labels = np.arange(3).repeat(20)
    low, high = metric_interval(METRICS[name], Examples(labels, list("abc")), np.eye(3)[labels])
    assert high == pytest.approx(1)
    assert 0.9 < low < 0.97


def test_interval_of_a_perfect_log_loss_does_not_exclude_errors():
    labels = np.arange(3).repeat(20)
    low, high = metric_interval(METRICS["log_loss"], Examples(labels, list("abc")), np.eye(3)[labels])
    assert low == pytest.approx(0)
    assert 0.05 < high < 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_groups", [1, 5])
def test_few_groups_are_too_few_for_any_difference(name, num_groups):
    data = sample(4, 60)
    examples = dataclasses.replace(data.examples, groups=[f"patient {row % num_groups}" for row in range(60)])
    test = compare_models(METRICS[name], examples, data.models[0], np.full((60, 4), 0.25))
    assert (test.interval, test.p_worse, test.p_better, test.p_different) == (None, 1, 1, 1)
    assert test.minimum_detectable_difference(0.05) is None


@pytest.mark.parametrize(("num_classes", "group_size"), [(2, 1), (6, 1), (6, 5)])
def test_linear_areas_have_nearly_the_same_distribution(num_classes, group_size, monkeypatch):
    data = sample(num_classes, 600, group_size)
    exact = compare_models(METRICS["roc_auc"], data.examples, *data.models)
    exact_interval = metric_interval(METRICS["roc_auc"], data.examples, data.models[0])
    monkeypatch.setattr("carclf.paired_bootstrap.MAX_EXACT_AREAS", 0)
    linear = compare_models(METRICS["roc_auc"], data.examples, *data.models)
    interval = metric_interval(METRICS["roc_auc"], data.examples, data.models[0])
    assert linear.standard_error == pytest.approx(exact.standard_error, rel=0.03)
    assert linear.p_worse == pytest.approx(exact.p_worse, abs=0.02)
    assert interval == pytest.approx(exact_interval, abs=0.1 * np.diff(exact_interval)[0])


def test_comparison_without_two_classes_is_an_error():
    examples = Examples(np.zeros(5, int), ["a", "b"])
    with pytest.raises(DataError, match="ROC AUC"):
        compare_models(METRICS["roc_auc"], examples, np.full((5, 2), 0.5), np.full((5, 2), 0.5))


@pytest.mark.parametrize("name", ["log_loss", "macro_f1", "roc_auc"])
def test_false_alarms_are_rare_and_intervals_cover(name):
    """With wide bounds for 100 trials; benchmarks/README.md has the rates of more."""
    rates = measure(name, Scenario(4, 120), 100)
    assert max(rates.worse, rates.better) <= 0.13
    assert min(rates.covers_difference, rates.covers_metric) >= 0.84


def test_detectable_difference_is_detected_with_the_promised_power():
    """The logarithms of the labels' probabilities differ by the difference that is detectable at this error."""
    rng = np.random.default_rng(0)
    examples = Examples(np.zeros(200, int), ["a", "b"])
    minimum, detected = 2.486 * 0.3 * np.sqrt(2 / 200), []
    for _ in range(200):
        models = [0.1 * np.exp(rng.normal(mean, 0.3, size=200)) for mean in (minimum, 0)]
        test = compare_models(METRICS["log_loss"], examples, *(np.stack([p, 1 - p], axis=1) for p in models))
        assert test.minimum_detectable_difference(0.05) == pytest.approx(minimum, rel=0.3)
        detected.append(test.p_better <= 0.05)
    assert 0.7 < np.mean(detected) < 0.9


@pytest.mark.parametrize(
    ("name", "num_classes", "num_images"),
    [("log_loss", 10, 2330), ("macro_f1", 10, 2330), ("roc_auc", 10, 2330), ("roc_auc", 200, 10_000)])
def test_comparison_of_a_competitions_validation_images_takes_seconds(name, num_classes, num_images):
    data = sample(num_classes, num_images)
    started = time.process_time()
    compare_models(METRICS[name], data.examples, *data.models)
    assert time.process_time() - started < 20
