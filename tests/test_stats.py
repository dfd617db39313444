"""Intervals and tests against scipy, statsmodels, published examples, brute force and simulation."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from carclf.stats import (
    POWER,
    Z_95,
    PairedCounts,
    Proportion,
    gap_warning,
    mcnemar_power,
    newcombe_interval,
    row_chunks,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "total"), [
    (0, 10), (10, 10), (7, 10), (250, 286), (930, 1000), (1, 3),
])
def test_wilson_interval_equals_scipys(successes: int, total: int) -> None:
    expected = binomtest(successes, total).proportion_ci(method="wilson")
    assert wilson_interval(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


# Newcombe 1998, table II, method 10
@pytest.mark.parametrize(("first", "second", "expected"), [
    ((56, 70), (48, 80), (0.0524, 0.3339)),
    ((9, 10), (3, 10), (0.1705, 0.8090)),
    ((6, 7), (2, 7), (0.0582, 0.8062)),
    ((5, 56), (0, 29), (-0.0381, 0.1926)),
    ((0, 10), (0, 20), (-0.1611, 0.2775)),
    ((10, 10), (0, 10), (0.6075, 1.0)),
])
def test_newcombe_interval_equals_published_examples(
    first: tuple[int, int], second: tuple[int, int], expected: tuple[float, float]
) -> None:
    proportions = [Proportion(k / n, *wilson_interval(k, n)) for k, n in (first, second)]
    assert newcombe_interval(*proportions) == pytest.approx(expected, abs=5e-5)


def proportion(successes: int, total: int) -> Proportion:
    return Proportion(successes / total, *wilson_interval(successes, total))


def test_gap_warning_has_a_false_alarm_rate_of_five_percent() -> None:
    rng = np.random.default_rng(0)
    val = rng.binomial(1500, 0.95, 4000)
    test = rng.binomial(6675, 0.95, 4000)
    warnings = [
        bool(gap_warning("accuracy", proportion(k, 1500), proportion(n, 6675)))
        for k, n in zip(val, test, strict=True)
    ]
    assert 0.035 < np.mean(warnings) < 0.065


def test_gap_warning_reports_both_values_and_the_likely_cause() -> None:
    validation = proportion(1470, 1500)
    assert gap_warning("accuracy", validation, proportion(6528, 6675)) == ""
    warning = gap_warning("accuracy", validation, proportion(6208, 6675))
    for text in ("accuracy 0.9800", "0.9300", "+0.0500", "+0.0397 to +0.0587", "leakage"):
        assert text in warning
    easier = gap_warning("accuracy", proportion(1350, 1500), proportion(6541, 6675))
    assert "easier" in easier
    assert "leakage" not in easier


def test_gap_warning_of_log_loss_suspects_leakage_if_validation_is_lower() -> None:
    validation, public = Proportion(0.2, 0.15, 0.25), Proportion(0.6, 0.55, 0.65)
    assert "leakage" in gap_warning("log loss", validation, public, higher_is_better=False)
    assert "easier" in gap_warning("log loss", public, validation, higher_is_better=False)


# statsmodels 0.15.0: mcnemar([[100, candidate_only], [champion_only, 50]], exact=True).pvalue
@pytest.mark.parametrize(("candidate_only", "champion_only", "p_value"), [
    (12, 15, 0.7011080384254456), (1, 7, 0.0703125), (0, 1, 1.0), (12, 2, 0.012939453125), (3, 3, 1.0), (0, 0, 1.0),
    (40, 20, 0.01348929373119186), (250, 300, 0.036578745549102676),
])
def test_two_sided_p_value_equals_statsmodels(candidate_only: int, champion_only: int, p_value: float) -> None:
    assert PairedCounts(1000, candidate_only, champion_only).p_different == pytest.approx(p_value, rel=1e-12)


@pytest.mark.parametrize(("candidate_only", "champion_only"), [(12, 15), (1, 7), (9, 0), (0, 9), (200, 260)])
def test_one_sided_p_values_equal_scipys_binomial_test(candidate_only: int, champion_only: int) -> None:
    counts = PairedCounts(1000, candidate_only, champion_only)
    total = candidate_only + champion_only
    p_worse = binomtest(candidate_only, total, alternative="less").pvalue
    p_better = binomtest(champion_only, total, alternative="less").pvalue
    assert counts.p_worse == pytest.approx(p_worse, rel=1e-12)
    assert counts.p_better == pytest.approx(p_better, rel=1e-12)


def test_identical_predictions_show_no_difference() -> None:
    counts = PairedCounts(50, 0, 0)
    assert (counts.p_worse, counts.p_better, counts.p_different, counts.difference) == (1.0, 1.0, 1.0, 0.0)


# The first three are in the tests of R's ratesci (pairbinci, the second and third from Tango 1998), the last is the
# result of R's PropCIs: scoreci.mp(25, 28, 618, 0.9).
@pytest.mark.parametrize(("counts", "z", "digits", "bounds"), [
    (PairedCounts(21, 1, 7), 1.959964, 3, (-0.517, -0.026)),
    (PairedCounts(32, 9, 3), 1.959964, 3, (-0.027, 0.390)),
    (PairedCounts(44, 0, 1), 1.644854, 3, (-0.096, 0.037)),
    (PairedCounts(618, 28, 25), 1.644854, 4, (-0.0148, 0.0247)),
])
def test_paired_interval_equals_published_examples(
    counts: PairedCounts, z: float, digits: int, bounds: tuple[float, float]
) -> None:
    assert tuple(round(bound, digits) for bound in counts.interval(z)) == bounds


@pytest.mark.parametrize("counts", [
    PairedCounts(40, 5, 11), PairedCounts(300, 2, 0), PairedCounts(12, 12, 0), PairedCounts(30, 0, 4),
])
def test_paired_interval_ends_where_a_numeric_score_is_z(counts: PairedCounts) -> None:
    n = counts.num_images
    b = counts.candidate_only_correct
    c = counts.champion_only_correct

    def score(delta: float) -> float:
        def misfit(p_champion_only: float) -> float:
            probabilities = (p_champion_only + delta, p_champion_only, 1 - 2 * p_champion_only - delta)
            pairs = zip((b, c, n - b - c), probabilities, strict=True)
            return -sum(count * math.log(max(probability, 1e-300)) for count, probability in pairs)

        bounds = (max(0.0, -delta), (1 - delta) / 2)
        p_champion_only = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return (b - c - n * delta) / math.sqrt(n * (2 * p_champion_only + delta - delta * delta))

    inner = [bound for bound in counts.interval() if abs(bound) < 1]
    assert inner
    assert [abs(score(bound)) for bound in inner] == pytest.approx([Z_95] * len(inner), abs=1e-3)


def test_paired_interval_covers_the_true_difference_in_95_percent() -> None:
    draws = np.random.default_rng(3).multinomial(120, [0.10, 0.05, 0.85], size=3000)
    intervals = {(a, b): PairedCounts(120, a, b).interval() for a, b in {(int(a), int(b)) for a, b, _ in draws}}
    covered = np.mean([low <= 0.05 <= high for low, high in (intervals[int(a), int(b)] for a, b, _ in draws)])
    assert 0.94 <= covered <= 0.97


@pytest.mark.parametrize("discordant", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("significance", [0.05, 0.01])
def test_false_alarm_rate_is_at_most_the_significance(discordant: float, significance: float) -> None:
    """Simulate 20,000 pairs of equally good models."""
    num_pairs, num_images = 20_000, 286
    random = np.random.default_rng(int(1000 * discordant))
    draws = random.multinomial(num_images, [discordant / 2, discordant / 2, 1 - discordant], size=num_pairs)
    values, counts = np.unique(draws[:, :2], axis=0, return_counts=True)
    alarms = [PairedCounts(num_images, int(a), int(b)).p_worse <= significance for a, b in values]
    rate = float(np.sum(counts[alarms])) / num_pairs
    assert rate <= significance + 2 * math.sqrt(significance * (1 - significance) / num_pairs)
    assert rate == pytest.approx(mcnemar_power(num_images, discordant, 0.0, significance), abs=0.005)


@pytest.mark.parametrize("counts", [PairedCounts(286, 12, 15), PairedCounts(60, 3, 1), PairedCounts(2300, 80, 90)])
def test_minimum_detectable_difference_has_the_promised_power(counts: PairedCounts) -> None:
    """Simulate 20,000 pairs of models with that difference."""
    difference = counts.minimum_detectable_difference(0.05)
    assert difference is not None
    discordant = max(counts.num_discordant / counts.num_images, difference)
    better, worse = (discordant + difference) / 2, (discordant - difference) / 2
    draws = np.random.default_rng(1).multinomial(counts.num_images, [better, worse, 1 - discordant], size=20_000)
    detected = binom.sf(draws[:, 0] - 1, draws[:, 0] + draws[:, 1], 0.5) <= 0.05
    assert detected.mean() == pytest.approx(POWER, abs=0.01)


def test_power_is_the_sum_over_all_outcomes() -> None:
    n = 14
    discordant = 0.5
    difference = 0.3
    significance = 0.1
    p_candidate, p_champion = (discordant + difference) / 2, (discordant - difference) / 2
    total = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            if PairedCounts(n, a, b).p_better <= significance:
                ways = math.comb(n, a) * math.comb(n - a, b)
                total += ways * p_candidate**a * p_champion**b * (1 - discordant) ** (n - a - b)
    assert mcnemar_power(n, discordant, difference, significance) == pytest.approx(total, abs=1e-8)


def test_too_few_images_cannot_detect_any_difference() -> None:
    assert PairedCounts(4, 1, 1).minimum_detectable_difference(0.05) is None
    assert PairedCounts(5, 0, 0).minimum_detectable_difference(0.05) == pytest.approx(0.8 ** (1 / 5), abs=1e-5)


@pytest.mark.parametrize(("shape", "num_chunks"), [((0, 3), 1), ((1, 3), 1), ((9, 3), 1), ((10, 3), 2), ((101, 3), 12)])
def test_row_chunks_have_similar_sizes_and_cover_all_rows(
    shape: tuple[int, int], num_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.stats.CHUNK_SIZE", 27)
    chunks = row_chunks(shape)
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert [row for chunk in chunks for row in range(shape[0])[chunk]] == list(range(shape[0]))
    assert len(chunks) == num_chunks and max(sizes) - min(sizes) <= 1 and max(sizes) <= 9
