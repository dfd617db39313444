"""How much each of several predictors counts in their mean, chosen on pictures that none of them was trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt

MAX_STEPS, SMALLEST_STEP = 10_000, 1e-9
# As if each predictor had explained one picture more: none gets the weight 0 for want of pictures.
PSEUDO_COUNT = 1.0


def mixture_weights(likelihoods: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Weights on the simplex with the largest likelihood of the mixture; ``likelihoods`` (predictors, pictures).

    Each is the probability that a predictor gives to a picture's label. EM for mixture proportions (Dempster, Laird &
    Rubin 1977), whose problem is concave: this is stacking of predictive distributions (Yao et al. 2018,
    arXiv:1704.02030).
    """
    num_predictors, num_images = likelihoods.shape
    weights = np.full(num_predictors, 1 / num_predictors)
    floor = np.maximum(likelihoods, 1e-12)
    for _ in range(MAX_STEPS):
        joint = weights[:, None] * floor
        explained = (joint / joint.sum(0)).sum(1)
        better = (explained + PSEUDO_COUNT) / (num_images + num_predictors * PSEUDO_COUNT)
        moved = np.abs(better - weights).max()
        weights = better
        if moved < SMALLEST_STEP:
            break
    return weights


def log_loss(weights: npt.NDArray[Any], likelihoods: npt.NDArray[Any]) -> float:
    """Mean of -log of the mixture's probability of the labels."""
    return float(-np.log(np.maximum(weights @ likelihoods, 1e-12)).mean())
