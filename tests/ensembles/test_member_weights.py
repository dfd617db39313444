"""Weights of a mixture: a planted one is found again, and nothing on the simplex is better."""

import numpy as np
from scipy.optimize import minimize

from carclf.ensembles.member_weights import PSEUDO_COUNT, log_loss, mixture_weights


def planted(weights: list[float], num: int, seed: int) -> np.ndarray:
    """What predictors give to labels that were drawn from their mixture: (predictors, pictures)."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(10, 0.3), (len(weights), num))
    mixed = np.tensordot(np.array(weights), shares, 1)
    labels = np.array([random.choice(10, p=row / row.sum()) for row in mixed])
    return shares[:, np.arange(num), labels]


def test_the_weights_of_a_planted_mixture_are_found_again() -> None:
    found = mixture_weights(planted([0.6, 0.3, 0.1], 20_000, seed=0))
    np.testing.assert_allclose(found, [0.6, 0.3, 0.1], atol=0.015)
    assert abs(found.sum() - 1) < 1e-9


def test_no_other_weights_on_the_simplex_explain_the_labels_better() -> None:
    told = planted([0.7, 0.2, 0.1], 300, seed=1)

    def loss(weights: np.ndarray) -> float:
        return -float(np.log(weights @ told).sum() + PSEUDO_COUNT * np.log(weights).sum())

    best = minimize(loss, np.full(3, 1 / 3), bounds=[(1e-6, 1)] * 3,
                    constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1}, options={"ftol": 1e-12})
    np.testing.assert_allclose(mixture_weights(told), best.x, atol=1e-3)


def test_a_useless_predictor_counts_little_and_equal_ones_count_alike() -> None:
    useful = planted([1.0], 500, seed=2)
    found = mixture_weights(np.concatenate([useful, useful * 1e-6]))
    assert found[0] > 0.99 and found[1] > 0
    np.testing.assert_allclose(mixture_weights(np.concatenate([useful, useful])), [0.5, 0.5], atol=1e-6)
    assert log_loss(found, np.concatenate([useful, useful * 1e-6])) < log_loss(np.array([0.5, 0.5]),
                                                                             np.concatenate([useful, useful * 1e-6]))
