"""The paired test and its interval against scipy, statsmodels, published examples, brute force and simulation."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from carclf.stats import POWER, PairedCounts, mcnemar_power, wilson_interval


# statsmodels 0.15.0: mcnemar([[100, gained], [lost, 50]], exact=True).pvalue
@pytest.mark.parametrize(("gained", "lost", "p_value"), [
    (12, 15, 0.7011080384254456), (1, 7, 0.0703125), (0, 1, 1.0), (12, 2, 0.012939453125), (3, 3, 1.0), (0, 0, 1.0),
    (40, 20, 0.01348929373119186), (250, 300, 0.036578745549102676),
])
def test_the_two_sided_test_is_statsmodels_exact_mcnemar(gained: int, lost: int, p_value: float) -> None:
    assert PairedCounts(1000, gained, lost).p_different == pytest.approx(p_value, rel=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(12, 15), (1, 7), (9, 0), (0, 9), (200, 260)])
def test_the_one_sided_tests_are_scipys_binomial_test(gained: int, lost: int) -> None:
    paired, number = PairedCounts(1000, gained, lost), gained + lost
    assert paired.p_worse == pytest.approx(binomtest(gained, number, alternative="less").pvalue, rel=1e-12)
    assert paired.p_better == pytest.approx(binomtest(lost, number, alternative="less").pvalue, rel=1e-12)


def test_without_a_different_answer_nothing_is_shown() -> None:
    paired = PairedCounts(50, 0, 0)
    assert (paired.p_worse, paired.p_better, paired.p_different, paired.difference) == (1.0, 1.0, 1.0, 0.0)


# Published: the first three in the tests of R's ratesci (pairbinci, the second and third from Tango 1998), the last as
# R's PropCIs answers scoreci.mp(25, 28, 618, 0.9).
@pytest.mark.parametrize(("paired", "z", "digits", "ends"), [
    (PairedCounts(21, 1, 7), 1.959964, 3, (-0.517, -0.026)),
    (PairedCounts(32, 9, 3), 1.959964, 3, (-0.027, 0.390)),
    (PairedCounts(44, 0, 1), 1.644854, 3, (-0.096, 0.037)),
    (PairedCounts(618, 28, 25), 1.644854, 4, (-0.0148, 0.0247)),
])
def test_the_interval_is_tangos_in_published_examples(
    paired: PairedCounts, z: float, digits: int, ends: tuple[float, float]
) -> None:
    assert tuple(round(end, digits) for end in paired.interval(z)) == ends


@pytest.mark.parametrize("paired", [PairedCounts(40, 5, 11), PairedCounts(300, 2, 0), PairedCounts(12, 12, 0), PairedCounts(30, 0, 4)])
def test_the_ends_of_the_interval_are_where_the_score_of_a_numeric_fit_is_z(paired: PairedCounts) -> None:
    n, gained, lost = paired.num_images, paired.gained, paired.lost

    def score(delta: float) -> float:
        def misfit(p_lost: float) -> float:
            shares = (p_lost + delta, p_lost, 1 - 2 * p_lost - delta)
            counts = (gained, lost, n - gained - lost)
            return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True))

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        p_lost = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return (gained - lost - n * delta) / math.sqrt(n * (2 * p_lost + delta - delta * delta))

    inner = [end for end in paired.interval() if abs(end) < 1]
    assert inner and [abs(score(end)) for end in inner] == pytest.approx([1.959963984540054] * len(inner), abs=1e-3)


def test_the_interval_covers_the_true_difference_19_times_of_20() -> None:
    draws = np.random.default_rng(3).multinomial(120, [0.10, 0.05, 0.85], size=3000)
    ends = {(a, b): PairedCounts(120, a, b).interval() for a, b in {(int(a), int(b)) for a, b, _ in draws}}
    covered = np.mean([low <= 0.05 <= high for low, high in (ends[int(a), int(b)] for a, b, _ in draws)])
    assert 0.94 <= covered <= 0.97


@pytest.mark.parametrize("differing", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_false_alarm_rate_is_at_most_the_level(differing: float, level: float) -> None:
    """Two equally good models, 20,000 times: as often as the level allows, and no more, one is found worse."""
    num_pairs, num_images = 20_000, 286
    random = np.random.default_rng(int(1000 * differing))
    draws = random.multinomial(num_images, [differing / 2, differing / 2, 1 - differing], size=num_pairs)
    values, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    alarms = [PairedCounts(num_images, int(a), int(b)).p_worse <= level for a, b in values]
    rate = float(np.sum(counts[alarms])) / num_pairs
    assert rate <= level + 2 * math.sqrt(level * (1 - level) / num_pairs)
    assert rate == pytest.approx(mcnemar_power(num_images, differing, 0.0, level), abs=0.005)


@pytest.mark.parametrize("paired", [PairedCounts(286, 12, 15), PairedCounts(60, 3, 1), PairedCounts(2300, 80, 90)])
def test_the_smallest_difference_is_found_four_times_of_five_in_a_simulation(paired: PairedCounts) -> None:
    smallest, differing = paired.minimum_detectable_difference(0.05), (paired.gained + paired.lost) / paired.num_images
    assert smallest is not None
    differing = max(differing, smallest)
    better, worse = (differing + smallest) / 2, (differing - smallest) / 2
    draws = np.random.default_rng(1).multinomial(paired.num_images, [better, worse, 1 - differing], size=20_000)
    found = binom.sf(draws[:, 0] - 1, draws[:, 0] + draws[:, 1], 0.5) <= 0.05
    assert found.mean() == pytest.approx(POWER, abs=0.01)


def test_power_is_the_sum_over_all_tables() -> None:
    n, differing, difference, level = 14, 0.5, 0.3, 0.1
    gained, lost = (differing + difference) / 2, (differing - difference) / 2
    total = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            if PairedCounts(n, a, b).p_better <= level:
                ways = math.comb(n, a) * math.comb(n - a, b)
                total += ways * gained**a * lost**b * (1 - differing) ** (n - a - b)
    assert mcnemar_power(n, differing, difference, level) == pytest.approx(total, abs=1e-8)


def test_too_few_images_can_show_no_difference() -> None:
    assert PairedCounts(4, 1, 1).minimum_detectable_difference(0.05) is None
    assert PairedCounts(5, 0, 0).minimum_detectable_difference(0.05) == pytest.approx(0.8 ** (1 / 5), abs=1e-5)


def test_wilsons_interval_is_scipys() -> None:
    for right, total in ((0, 10), (7, 10), (250, 286), (10, 10)):
        found = binomtest(right, total).proportion_ci(method="wilson")
        assert wilson_interval(right, total) == pytest.approx((found.low, found.high), abs=1e-12)
