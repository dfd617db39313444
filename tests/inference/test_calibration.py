"""Temperature, calibration error and reliability, on random predictions whose true probabilities are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from carclf.inference.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from carclf.stats import equal_frequency_bins, wilson_interval


def sample(num: int, temperature: float, seed: int, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return labels sampled from probabilities, and the predictions of a model with logits scaled by a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (num, num_classes))
    true = softmax(logits, 1)
    labels = (random.random((num, 1)) > true.cumsum(1)).sum(1).clip(max=num_classes - 1)
    return labels, softmax(logits * temperature, 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_true_temperature_is_fitted(temperature: float) -> None:
    labels, predicted = sample(4000, temperature, seed=1)
    assert fit_temperature(labels, predicted) == pytest.approx(temperature, rel=0.06)
    calibrated = apply_temperature(predicted, fit_temperature(labels, predicted))
    bins = reliability_bins(calibrated.max(1), calibrated.argmax(1) == labels)
    assert expected_calibration_error(bins) < 0.02


def test_with_many_images_the_temperature_minimizes_the_log_likelihood_loss() -> None:
    labels, predicted = sample(3000, 1.7, seed=2)
    logits = np.log(predicted)
    plain = minimize_scalar(lambda t: -log_softmax(logits / t, 1)[np.arange(3000), labels].mean(), bounds=(0.1, 9))
    assert fit_temperature(labels, predicted) == pytest.approx(plain.x, rel=0.01)


def test_a_temperature_divides_the_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (20, 4))
    np.testing.assert_allclose(apply_temperature(softmax(logits, 1), 1.9), softmax(logits / 1.9, 1), rtol=1e-9)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and predictions, some with probabilities of exactly 0 and 1."""
    num, num_classes = draw(st.integers(1, 60)), draw(st.integers(2, 6))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    predicted = softmax(random.normal(0, draw(st.sampled_from([0.0, 1.0, 5.0, 2000.0])), (num, num_classes)), 1)
    right = random.random(num) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return np.where(right, predicted.argmax(1), random.integers(0, num_classes, num)), predicted


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_calibration_never_lowers_the_likelihood_and_keeps_the_classes(drawn) -> None:
    labels, predicted = drawn
    temperature = fit_temperature(labels, predicted)
    after = apply_temperature(predicted, temperature)
    assert 0.05 <= temperature <= 20 and np.isfinite(after).all()
    before = negative_log_likelihood(labels, predicted)
    assert negative_log_likelihood(labels, after) <= before + 1e-9  # 0 counts as 1e-12
    np.testing.assert_allclose(after.sum(1), 1)
    top = predicted[np.arange(len(predicted)), after.argmax(1)]
    np.testing.assert_array_equal(top, predicted.max(1))


@given(predictions(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_reliability_bins_count_each_image_once_in_any_order(drawn, random) -> None:
    labels, predicted = drawn
    confidence, correct = predicted.max(1), predicted.argmax(1) == labels
    bins = reliability_bins(confidence, correct)
    assert sum(row["num_images"] for row in bins) == len(labels)
    assert sum(round(row["accuracy"] * row["num_images"]) for row in bins) == correct.sum()
    assert [row["accuracy"] for row in bins] == sorted(row["accuracy"] for row in bins)
    assert 0 <= expected_calibration_error(bins) <= 1
    order = list(range(len(labels)))
    random.shuffle(order)
    shuffled = reliability_bins(confidence[order], correct[order])
    assert expected_calibration_error(shuffled) == pytest.approx(expected_calibration_error(bins))
    assert len(shuffled) == len(bins)


@given(st.lists(st.sampled_from([0.1, 0.5, 0.5000001, 1.0]) | st.floats(0, 1), min_size=1, max_size=80),
       st.integers(1, 15))
def test_bins_have_equal_sizes_except_for_equal_values(values: list[float], num: int) -> None:
    groups = equal_frequency_bins(np.array(values), num)
    assert set(groups) == set(range(groups.max() + 1)) and groups.max() < num
    assert all((a <= b) for a, b in zip(groups[np.argsort(values)], groups[np.argsort(values)][1:], strict=False))
    assert len({(value, group) for value, group in zip(values, groups, strict=True)}) == len(set(values))
    if len(set(values)) == len(values):
        assert np.bincount(groups).max() <= -(-len(values) // num) + 1


def test_reliability_bins_of_a_small_example_are_correct() -> None:
    confidence = np.repeat([0.6, 0.9], 20)
    correct = np.r_[np.arange(20) < 12, np.arange(20) < 17]
    (low, high), (upper_low, upper_high) = wilson_interval(12, 20), wilson_interval(17, 20)
    bins = reliability_bins(confidence, correct)
    assert bins == [
        {"confidence": pytest.approx(0.6), "accuracy": 0.6, "low": low, "high": high, "num_images": 20},
        {"confidence": pytest.approx(0.9), "accuracy": 0.85, "low": upper_low, "high": upper_high, "num_images": 20},
    ]
    assert expected_calibration_error(bins) == pytest.approx(0.025)


def test_the_confidence_of_a_perfect_model_stays_bounded() -> None:
    predicted = np.full((100, 4), 0.1)
    predicted[:, 2] = 0.7
    temperature = fit_temperature(np.full(100, 2), predicted)
    assert apply_temperature(predicted, temperature).max() == pytest.approx(1 - 1 / 102, abs=1e-3)


@pytest.mark.parametrize("label", [0, 1])
def test_the_temperature_is_defined_for_one_image_or_class(label: int) -> None:
    assert 0.05 <= fit_temperature(np.array([label]), np.array([[0.9, 0.1]])) <= 20
    assert fit_temperature(np.array([0]), np.array([[1.0]])) == 1.0
    assert len(reliability_bins(np.array([0.9]), np.array([True]))) == 1


def test_more_images_give_more_bins() -> None:
    counts = []
    for num in (30, 300, 30_000):
        labels, predicted = sample(num, 1.0, seed=3)
        counts.append(len(reliability_bins(predicted.max(1), predicted.argmax(1) == labels)))
    assert counts == sorted(counts) and counts[0] <= 3 and counts[-1] >= 8
