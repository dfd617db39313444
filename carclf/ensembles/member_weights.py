"""Choose the weights of the recipes in an ensemble by EM. ``build.py`` decides on which images."""

from typing import Any

import numpy as np
import numpy.typing as npt

MIN_IMAGES = 30  # images that no recipe was trained on; with fewer, all recipes have the same weight
MAX_STEPS = 10_000
TOLERANCE = 1e-9
MIN_LIKELIHOOD = 1e-12
# Counts as one more image that each model explains, so that no weight is 0 for lack of images.
PSEUDO_COUNT = 1.0


def mixture_weights(likelihoods: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the models' weights, which sum to 1, that maximize the likelihood of the mixture.

    This is the EM algorithm for mixture proportions (Dempster, Laird & Rubin 1977), a concave problem, and stacking
    of predictive distributions (Yao et al. 2018, arXiv:1704.02030). ``likelihoods``, shape (models, images), are the
    probabilities that the models give to the labels of images that none of them was trained on.
    """
    num_models, num_images = likelihoods.shape
    likelihoods = np.maximum(likelihoods, MIN_LIKELIHOOD)
    weights = np.full(num_models, 1 / num_models)
    for _ in range(MAX_STEPS):
        joint = weights[:, None] * likelihoods
        responsibilities = (joint / joint.sum(0)).sum(1)
        previous = weights
        weights = (responsibilities + PSEUDO_COUNT) / (num_images + num_models * PSEUDO_COUNT)
        if np.abs(weights - previous).max() < TOLERANCE:
            break
    return weights


def group_weights(likelihoods: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the weights of recipes: ``mixture_weights``, or equal ones with fewer than ``MIN_IMAGES`` images."""
    num_groups, num_images = likelihoods.shape
    return mixture_weights(likelihoods) if num_images >= MIN_IMAGES else np.full(num_groups, 1 / num_groups)


def log_loss(weights: npt.NDArray[Any], likelihoods: npt.NDArray[Any]) -> float:
    """Return the mean negative log probability of the labels under the mixture."""
    return float(-np.log(np.maximum(weights @ likelihoods, MIN_LIKELIHOOD)).mean())
