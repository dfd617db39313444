"""Validation and public score: the interval of their difference, and when it warns."""

import numpy as np
import pytest

from carclf.stats import accuracy_gap_warning, newcombe_interval, wilson_interval


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [  # Newcombe 1998, table II, method 10
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.0582, 0.8062)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 20), (-0.1611, 0.2775)),
        ((10, 10), (0, 10), (0.6075, 1.0)),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(first, second, expected) -> None:
    shares = [(k / n, *wilson_interval(k, n)) for k, n in (first, second)]
    assert newcombe_interval(*shares) == pytest.approx(expected, abs=5e-5)


def test_two_samples_of_one_accuracy_are_warned_of_in_about_five_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    val, test = rng.binomial(1500, 0.95, 4000), rng.binomial(6675, 0.95, 4000)
    warned = [bool(accuracy_gap_warning((k / 1500, *wilson_interval(k, 1500)), n / 6675, 6675)) for k, n in zip(val, test, strict=True)]
    assert 0.035 < np.mean(warned) < 0.065


def test_the_warning_names_both_figures_and_where_to_look() -> None:
    validation = (0.98, *wilson_interval(1470, 1500))
    assert accuracy_gap_warning(validation, 0.978, 6675) == ""
    assert accuracy_gap_warning(validation, 0.93, 6675) == (
        "validation accuracy 0.9800 and public score 0.9300 differ by +0.0500 (95%: +0.0397 to +0.0587), more than "
        "chance explains: look for leakage from training to validation, or drift between the training and the test "
        "pictures"
    )
    assert "the test pictures are easier" in accuracy_gap_warning((0.9, *wilson_interval(1350, 1500)), 0.98, 6675)
