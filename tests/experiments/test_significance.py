import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carclf.experiments.significance import compare_recipes


def answers(*rows: str) -> np.ndarray:
    """A row a seed, a digit an image."""
    return np.array([[digit == "1" for digit in row] for row in rows])


def simulated(random: np.random.Generator, num_recipes: int, num_seeds: int, num_images: int, shift: float) -> dict:
    """Recipes without a difference: images are hard or easy, seeds good or bad, and each answer has its own luck."""
    hardness = random.normal(2.5, 3, num_images)
    luck = random.normal(0, 2, (num_recipes, num_seeds, num_images))
    seeds = random.normal(0, shift, (num_recipes, num_seeds, 1))
    right = random.random(luck.shape) < 1 / (1 + np.exp(-(hardness + luck + seeds)))
    return {str(number): right[number] for number in range(num_recipes)}


@pytest.mark.parametrize(("num_recipes", "num_seeds", "num_images", "shift"), [
    (9, 2, 286, 0.0), (9, 2, 286, 0.3), (2, 2, 286, 0.3), (9, 1, 286, 0.0), (4, 3, 104, 0.2),
])
def test_of_2000_experiments_without_a_difference_at_most_one_in_twenty_finds_one(
    num_recipes, num_seeds, num_images, shift
):
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        verdicts, _ = compare_recipes(simulated(random, num_recipes, num_seeds, num_images, shift), "0")
        alarms += any(verdict.conclusion != "inconclusive" for verdict in verdicts)
    assert alarms / 2000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(("num_recipes", "num_kept", "num_seeds", "shift"), [(64, 2, 2, 0.1), (32, 1, 1, 0.0)])
def test_the_luckiest_of_many_that_raced_is_found_better_no_more_often(num_recipes, num_kept, num_seeds, shift):
    random = np.random.default_rng(6)
    alarms = 0
    for _ in range(1000):
        ran = simulated(random, num_recipes, num_seeds, 400, shift)
        best = sorted(list(ran)[1:], key=lambda name: -ran[name].mean())[:num_kept]
        verdicts, _ = compare_recipes({name: ran[name] for name in ("0", *best)}, "0",
                                      num_prior_recipes=num_recipes - 1 - num_kept)
        alarms += any(verdict.conclusion != "inconclusive" for verdict in verdicts)
    assert alarms / 1000 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1000)


def test_a_real_difference_is_found_with_its_sign_and_its_size_inside_of_the_interval():
    random = np.random.default_rng(1)
    base = random.random((2, 2000)) < 0.8
    better = base | (random.random((2, 2000)) < 0.3)  # a third of what was wrong is right
    worse = base & (random.random((2, 2000)) < 0.9)
    [up, down], shift = compare_recipes({"baseline": base, "up": better, "down": worse}, "baseline")
    assert (up.finding, down.finding) == ("better", "worse")
    assert up.low < 0.2 * 0.3 < up.high
    assert down.low < -0.8 * 0.1 < down.high
    assert shift == pytest.approx(0, abs=0.01)
    assert up.sentence(1.44).startswith(f"better by {100 * up.difference:.1f} points (")
    assert up.sentence(1.44).endswith(", at 1.4× the cost")


def test_one_and_the_same_answers_are_no_proof_of_equality():
    same = answers("1101", "1101")
    [verdict], _ = compare_recipes({"baseline": same, "again": same}, "baseline")
    assert verdict.difference == 0
    assert verdict.low < -0.2
    assert verdict.conclusion == "inconclusive"
    assert verdict.summary().startswith("no difference that this experiment could see: +0.0 points (")


def test_two_images_claim_no_more_than_there_is():
    [verdict], _ = compare_recipes({"baseline": answers("10", "00"), "other": answers("01", "11")}, "baseline")
    assert (verdict.low, verdict.high, verdict.minimum_detectable_difference) == (-1, 1, 1)
    assert verdict.conclusion == "inconclusive"


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    base = answers("1" * 3000 + "0")
    [verdict], _ = compare_recipes({"baseline": base, "other": answers("1" * 2999 + "00")}, "baseline")
    assert verdict.difference < 0
    assert ": +0.0 points (" in verdict.summary()


def test_a_seed_that_is_better_on_all_images_widens_every_interval():
    quiet = answers("1" * 80 + "0" * 20, "0" * 10 + "1" * 80 + "0" * 10)
    loud = answers("1" * 95 + "0" * 5, "1" * 65 + "0" * 35)
    other = answers("1" * 82 + "0" * 18, "0" * 10 + "1" * 82 + "0" * 8)
    [alone], no_shift = compare_recipes({"baseline": quiet, "other": other}, "baseline")
    [beside, _], shift = compare_recipes({"baseline": quiet, "other": other, "loud": loud}, "baseline")
    assert no_shift == 0
    assert shift > 0.05
    assert beside.high - beside.low > 2 * (alone.high - alone.low)


def test_more_recipes_make_each_claim_harder():
    random = np.random.default_rng(2)
    base = random.random((1, 500)) < 0.8
    other = base | (random.random((1, 500)) < 0.1)
    few, _ = compare_recipes({"baseline": base, "other": other}, "baseline")
    many, _ = compare_recipes({"baseline": base} | {f"other{n}": other for n in range(20)}, "baseline")
    assert many[0].p_value == pytest.approx(20 * few[0].p_value)
    assert many[0].high - many[0].low > few[0].high - few[0].low


def test_with_one_seed_nothing_is_said_of_other_seeds():
    one = answers("1110")
    [verdict], shift = compare_recipes({"baseline": one, "other": answers("0111")}, "baseline")
    assert (verdict.accuracy_std, verdict.num_seeds, shift) == (None, 1, None)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_whatever_the_answers_the_verdict_is_finite_and_swaps_with_its_sides(own, base, images, seed):
    random = np.random.default_rng(seed)
    a, b = random.random((own, images)) < 0.7, random.random((base, images)) < 0.7
    [there], _ = compare_recipes({"b": b, "a": a}, "b")
    [back], _ = compare_recipes({"a": a, "b": b}, "a")
    assert there.low <= there.difference <= there.high
    assert (there.difference, there.low) == (pytest.approx(-back.difference), pytest.approx(-back.high))
    assert 0 <= there.p_value <= 1
    assert math.isfinite(there.minimum_detectable_difference)
