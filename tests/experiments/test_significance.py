import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carclf.experiments.significance import AccuracyResults, MetricResults
from carclf.experiments.significance import compare_recipes as compare_results
from carclf.metrics import METRICS
from carclf.paired_bootstrap import Examples


def compare_recipes(correct, baseline, **options):
    return compare_results(AccuracyResults(correct), baseline, **options)


def matrix(*rows: str) -> np.ndarray:
    """Return correct predictions: a row for each seed, a digit for each image."""
    return np.array([[digit == "1" for digit in row] for row in rows])


def simulated(random: np.random.Generator, num_recipes: int, num_seeds: int, num_images: int, seed_std: float) -> dict:
    """Simulate equal recipes: images differ in hardness, seeds in quality, and each prediction in luck."""
    hardness = random.normal(2.5, 3, num_images)
    luck = random.normal(0, 2, (num_recipes, num_seeds, num_images))
    seeds = random.normal(0, seed_std, (num_recipes, num_seeds, 1))
    correct = random.random(luck.shape) < 1 / (1 + np.exp(-(hardness + luck + seeds)))
    return {str(number): correct[number] for number in range(num_recipes)}


@pytest.mark.parametrize(("num_recipes", "num_seeds", "num_images", "seed_std"), [
    (9, 2, 286, 0.0), (9, 2, 286, 0.3), (2, 2, 286, 0.3), (9, 1, 286, 0.0), (4, 3, 104, 0.2),
])
def test_the_rate_of_false_conclusions_is_at_most_the_significance_level(num_recipes, num_seeds, num_images, seed_std):
    """Of 1000 experiments without any difference, at most 5% (and two standard errors) have a conclusion."""
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(1000):
        comparisons, _ = compare_recipes(simulated(random, num_recipes, num_seeds, num_images, seed_std), "0")
        alarms += any(comparison.conclusion != "inconclusive" for comparison in comparisons)
    assert alarms / 1000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(("num_recipes", "num_kept", "num_seeds", "seed_std"), [(64, 2, 2, 0.1), (32, 1, 1, 0.0)])
def test_a_race_does_not_increase_the_rate_of_false_conclusions(num_recipes, num_kept, num_seeds, seed_std):
    random = np.random.default_rng(6)
    alarms = 0
    for _ in range(1000):
        recipes = simulated(random, num_recipes, num_seeds, 400, seed_std)
        best = sorted(list(recipes)[1:], key=lambda name: -recipes[name].mean())[:num_kept]
        comparisons, _ = compare_recipes(
            {name: recipes[name] for name in ("0", *best)}, "0", num_prior_recipes=num_recipes - 1 - num_kept)
        alarms += any(comparison.conclusion != "inconclusive" for comparison in comparisons)
    assert alarms / 1000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_a_real_difference_is_detected_and_within_the_interval():
    random = np.random.default_rng(1)
    base = random.random((2, 2000)) < 0.8
    better = base | (random.random((2, 2000)) < 0.3)  # 30% of the wrong predictions become correct
    worse = base & (random.random((2, 2000)) < 0.9)
    [up, down], seed_std = compare_recipes({"baseline": base, "up": better, "down": worse}, "baseline")
    assert (up.conclusion, down.conclusion) == ("better", "worse")
    assert up.low < 0.2 * 0.3 < up.high
    assert down.low < -0.8 * 0.1 < down.high
    assert seed_std == pytest.approx(0, abs=0.01)
    assert up.summary(1.44).startswith(f"better by {100 * up.difference:.1f} points (")
    assert up.summary(1.44).endswith(", at 1.4 times the cost")


def test_equal_predictions_of_few_images_do_not_prove_equality():
    same = matrix("1101", "1101")
    [comparison], _ = compare_recipes({"baseline": same, "again": same}, "baseline")
    assert comparison.difference == 0
    assert comparison.low < -0.2
    assert comparison.conclusion == "inconclusive"
    assert comparison.summary().startswith("no significant difference: +0.0 points (")


def test_two_images_have_the_widest_interval():
    [comparison], _ = compare_recipes({"baseline": matrix("10", "00"), "other": matrix("01", "11")}, "baseline")
    assert (comparison.low, comparison.high, comparison.minimum_detectable_difference) == (-1, 1, 1)
    assert comparison.conclusion == "inconclusive"


def test_a_difference_that_rounds_to_zero_has_no_minus_sign():
    base = matrix("1" * 3000 + "0")
    [comparison], _ = compare_recipes({"baseline": base, "other": matrix("1" * 2999 + "00")}, "baseline")
    assert comparison.difference < 0
    assert ": +0.0 points (" in comparison.summary()


def test_a_seed_with_an_effect_on_all_images_widens_every_interval():
    quiet = matrix("1" * 80 + "0" * 20, "0" * 10 + "1" * 80 + "0" * 10)
    loud = matrix("1" * 95 + "0" * 5, "1" * 65 + "0" * 35)
    other = matrix("1" * 82 + "0" * 18, "0" * 10 + "1" * 82 + "0" * 8)
    [alone], no_effect = compare_recipes({"baseline": quiet, "other": other}, "baseline")
    [with_loud, _], seed_std = compare_recipes({"baseline": quiet, "other": other, "loud": loud}, "baseline")
    assert no_effect == 0
    assert seed_std > 0.05
    assert with_loud.high - with_loud.low > 2 * (alone.high - alone.low)


def test_more_recipes_widen_each_interval():
    random = np.random.default_rng(2)
    base = random.random((1, 500)) < 0.8
    other = base | (random.random((1, 500)) < 0.1)
    few, _ = compare_recipes({"baseline": base, "other": other}, "baseline")
    many, _ = compare_recipes({"baseline": base} | {f"other{n}": other for n in range(20)}, "baseline")
    assert many[0].p_value == pytest.approx(20 * few[0].p_value)
    assert many[0].high - many[0].low > few[0].high - few[0].low


def test_with_a_single_seed_the_effect_of_a_seed_is_unknown():
    base = matrix("1110")
    [comparison], seed_std = compare_recipes({"baseline": base, "other": matrix("0111")}, "baseline")
    assert (comparison.value_std, comparison.num_seeds, seed_std) == (None, 1, None)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_a_comparison_is_finite_and_antisymmetric(num_seeds_a, num_seeds_b, num_images, seed):
    random = np.random.default_rng(seed)
    a = random.random((num_seeds_a, num_images)) < 0.7
    b = random.random((num_seeds_b, num_images)) < 0.7
    [there], _ = compare_recipes({"b": b, "a": a}, "b")
    [back], _ = compare_recipes({"a": a, "b": b}, "a")
    assert there.low <= there.difference <= there.high
    assert (there.difference, there.low) == (pytest.approx(-back.difference), pytest.approx(-back.high))
    assert 0 <= there.p_value <= 1
    assert math.isfinite(there.minimum_detectable_difference)


def noisy_probabilities(random: np.random.Generator, labels: np.ndarray, signal: float) -> np.ndarray:
    """Return probabilities of three classes: the larger the signal, the better."""
    logits = random.normal(size=(len(labels), 3)) + signal * np.eye(3)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("name", ["log_loss", "macro_f1"])
def test_recipes_are_compared_by_the_metric_in_its_direction(name):
    random = np.random.default_rng(3)
    labels = np.arange(300) % 3
    signals = {"baseline": 1.0, "up": 2.5, "down": 0.0}
    probabilities = {
        recipe: np.stack([noisy_probabilities(random, labels, signal) for _ in range(2)])
        for recipe, signal in signals.items()
    }
    metric = METRICS[name]
    results = MetricResults(metric, Examples(labels, ["a", "b", "c"]), probabilities)
    [up, down], seed_std = compare_results(results, "baseline")
    assert (up.conclusion, down.conclusion) == ("better", "worse") and seed_std > 0
    assert metric.is_better(up.value, down.value) and metric.is_better(up.difference, 0)
    assert up.value == pytest.approx(np.mean([metric.compute(labels, p) for p in probabilities["up"]]))
    assert up.low < up.difference < up.high and (up.high < 0) == (not metric.higher_is_better)
    assert ("points" in up.summary()) == metric.higher_is_better


def test_recipes_that_differ_in_luck_only_are_rarely_different_by_a_metric():
    """Of 40 experiments, 5% are 2; more than 6 have a probability below 1%."""
    random = np.random.default_rng(4)
    labels = np.arange(150) % 3
    alarms = 0
    for _ in range(40):
        probabilities = {
            name: np.stack([noisy_probabilities(random, labels, 1.0) for _ in range(2)]) for name in ("a", "b")
        }
        results = MetricResults(METRICS["log_loss"], Examples(labels, ["a", "b", "c"]), probabilities)
        [comparison], _ = compare_results(results, "a")
        alarms += comparison.conclusion != "inconclusive"
    assert alarms <= 6
