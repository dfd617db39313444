"""Temperature, calibration error and reliability, on made-up answers of which the truth is known."""

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


def drawn(num: int, temperature: float, seed: int, num_classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from probabilities, and what a model tells whose logits are too large by the temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (num, num_classes))
    true = softmax(logits, 1)
    labels = (random.random((num, 1)) > true.cumsum(1)).sum(1).clip(max=num_classes - 1)
    return labels, softmax(logits * temperature, 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_the_answers_were_made_with_is_found(temperature: float) -> None:
    labels, told = drawn(4000, temperature, seed=1)
    assert fit_temperature(labels, told) == pytest.approx(temperature, rel=0.06)
    sure = apply_temperature(told, fit_temperature(labels, told))
    table = reliability_bins(sure.max(1), sure.argmax(1) == labels)
    assert expected_calibration_error(table) < 0.02


def test_the_temperature_of_many_answers_is_that_of_the_smallest_likelihood_loss() -> None:
    labels, told = drawn(3000, 1.7, seed=2)
    logits = np.log(told)
    plain = minimize_scalar(lambda t: -log_softmax(logits / t, 1)[np.arange(3000), labels].mean(), bounds=(0.1, 9))
    assert fit_temperature(labels, told) == pytest.approx(plain.x, rel=0.01)


def test_probabilities_at_a_temperature_are_the_softmax_of_the_divided_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (20, 4))
    np.testing.assert_allclose(apply_temperature(softmax(logits, 1), 1.9), softmax(logits / 1.9, 1), rtol=1e-9)


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Any answers, sure ones with probabilities of exactly 0 and 1 among them."""
    num, num_classes = draw(st.integers(1, 60)), draw(st.integers(2, 6))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    told = softmax(random.normal(0, draw(st.sampled_from([0.0, 1.0, 5.0, 2000.0])), (num, num_classes)), 1)
    right = random.random(num) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return np.where(right, told.argmax(1), random.integers(0, num_classes, num)), told


@given(answers())
@settings(max_examples=60, deadline=None)
def test_the_likelihood_is_never_worse_after_the_temperature_and_no_answer_changes(found) -> None:
    labels, told = found
    temperature = fit_temperature(labels, told)
    after = apply_temperature(told, temperature)
    assert 0.05 <= temperature <= 20 and np.isfinite(after).all()
    before = negative_log_likelihood(labels, told)
    assert negative_log_likelihood(labels, after) <= before + 1e-9  # 0 is taken for 1e-12
    np.testing.assert_allclose(after.sum(1), 1)
    top = told[np.arange(len(told)), after.argmax(1)]
    np.testing.assert_array_equal(top, told.max(1))


@given(answers(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_a_reliability_table_has_each_image_once_and_forgets_their_order(found, random) -> None:
    labels, told = found
    sure, correct = told.max(1), told.argmax(1) == labels
    table = reliability_bins(sure, correct)
    assert sum(row["num_images"] for row in table) == len(labels)
    assert sum(round(row["accuracy"] * row["num_images"]) for row in table) == correct.sum()
    assert [row["accuracy"] for row in table] == sorted(row["accuracy"] for row in table)
    assert 0 <= expected_calibration_error(table) <= 1
    order = list(range(len(labels)))
    random.shuffle(order)
    again = reliability_bins(sure[order], correct[order])
    assert expected_calibration_error(again) == pytest.approx(expected_calibration_error(table)) and len(again) == len(table)


@given(st.lists(st.sampled_from([0.1, 0.5, 0.5000001, 1.0]) | st.floats(0, 1), min_size=1, max_size=80),
       st.integers(1, 15))
def test_groups_are_of_equal_size_but_for_equal_values(values: list[float], num: int) -> None:
    groups = equal_frequency_bins(np.array(values), num)
    assert set(groups) == set(range(groups.max() + 1)) and groups.max() < num
    assert all((a <= b) for a, b in zip(groups[np.argsort(values)], groups[np.argsort(values)][1:], strict=False))
    assert len({(value, group) for value, group in zip(values, groups, strict=True)}) == len(set(values))
    if len(set(values)) == len(values):
        assert np.bincount(groups).max() <= -(-len(values) // num) + 1


def test_a_table_of_a_small_example_is_right() -> None:
    sure = np.repeat([0.6, 0.9], 20)
    correct = np.r_[np.arange(20) < 12, np.arange(20) < 17]
    (low, high), (low_sure, high_sure) = wilson_interval(12, 20), wilson_interval(17, 20)
    table = reliability_bins(sure, correct)
    assert table == [
        {"confidence": pytest.approx(0.6), "accuracy": 0.6, "low": low, "high": high, "num_images": 20},
        {"confidence": pytest.approx(0.9), "accuracy": 0.85, "low": low_sure, "high": high_sure, "num_images": 20},
    ]
    assert expected_calibration_error(table) == pytest.approx(0.025)


def test_a_model_that_is_always_right_is_made_surer_but_not_without_end() -> None:
    told = np.full((100, 4), 0.1)
    told[:, 2] = 0.7
    temperature = fit_temperature(np.full(100, 2), told)
    assert apply_temperature(told, temperature).max() == pytest.approx(1 - 1 / 102, abs=1e-3)


@pytest.mark.parametrize("label", [0, 1])
def test_one_image_and_one_class_have_a_temperature_too(label: int) -> None:
    assert 0.05 <= fit_temperature(np.array([label]), np.array([[0.9, 0.1]])) <= 20
    assert fit_temperature(np.array([0]), np.array([[1.0]])) == 1.0
    assert len(reliability_bins(np.array([0.9]), np.array([True]))) == 1


def test_more_bins_are_taken_where_there_are_more_images() -> None:
    counts = []
    for num in (30, 300, 30_000):
        labels, told = drawn(num, 1.0, seed=3)
        counts.append(len(reliability_bins(told.max(1), told.argmax(1) == labels)))
    assert counts == sorted(counts) and counts[0] <= 3 and counts[-1] >= 8
