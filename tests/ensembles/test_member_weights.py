import numpy as np
from scipy.optimize import minimize

from carclf.ensembles.member_weights import PSEUDO_COUNT, log_loss, mixture_weights


def planted_likelihoods(weights: list[float], num: int, seed: int) -> np.ndarray:
    """Return likelihoods of labels that were drawn from a mixture of models, shape (models, images)."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(10, 0.3), (len(weights), num))
    mixture = np.tensordot(np.array(weights), probabilities, 1)
    labels = np.array([random.choice(10, p=row / row.sum()) for row in mixture])
    return probabilities[:, np.arange(num), labels]


def test_weights_of_a_planted_mixture_are_recovered() -> None:
    weights = mixture_weights(planted_likelihoods([0.6, 0.3, 0.1], 20_000, seed=0))
    np.testing.assert_allclose(weights, [0.6, 0.3, 0.1], atol=0.015)
    assert abs(weights.sum() - 1) < 1e-9


def test_weights_equal_those_of_a_general_optimizer() -> None:
    likelihoods = planted_likelihoods([0.7, 0.2, 0.1], 300, seed=1)

    def loss(weights: np.ndarray) -> float:
        return -float(np.log(weights @ likelihoods).sum() + PSEUDO_COUNT * np.log(weights).sum())

    best = minimize(loss, np.full(3, 1 / 3), bounds=[(1e-6, 1)] * 3,
                    constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1}, options={"ftol": 1e-12})
    np.testing.assert_allclose(mixture_weights(likelihoods), best.x, atol=1e-3)


def test_useless_models_get_little_weight_and_equal_models_equal_weights() -> None:
    useful = planted_likelihoods([1.0], 500, seed=2)
    likelihoods = np.concatenate([useful, useful * 1e-6])
    weights = mixture_weights(likelihoods)
    assert weights[0] > 0.99
    assert weights[1] > 0
    assert log_loss(weights, likelihoods) < log_loss(np.array([0.5, 0.5]), likelihoods)
    np.testing.assert_allclose(mixture_weights(np.concatenate([useful, useful])), [0.5, 0.5], atol=1e-6)
