"""Calibration of probabilities: temperature scaling, expected calibration error, and reliability tables."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from carclf.stats import (
    NUM_FOLDS,
    FloatArray,
    cross_fitting_folds,
    equal_frequency_bins,
    row_chunks,
    wilson_interval,
)

Labels = npt.NDArray[np.int64]
MIN_PROBABILITY = 1e-12  # replaces 0, to which a softmax in floating point can round
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
MAX_BINS = 15
MIN_BIN_SIZE = 10


def apply_temperature(probabilities: FloatArray, temperature: float | FloatArray) -> FloatArray:
    """Return probabilities (rows, classes) at another temperature: softmax(log p / T), which is softmax(logits / T).

    The temperature is one number, or one for each row. Temperature 1 changes nothing, a higher one lowers the
    confidence; the order of the classes in a row is unchanged.
    """
    temperatures = np.broadcast_to(temperature, len(probabilities))[:, None]
    calibrated = np.empty_like(probabilities, float)
    for rows in row_chunks(probabilities.shape):
        scaled = np.log(np.maximum(probabilities[rows], MIN_PROBABILITY)) / temperatures[rows]
        calibrated[rows] = softmax(scaled, 1)
    return calibrated


def negative_log_likelihood(labels: Labels, probabilities: FloatArray) -> float:
    """Return the mean of -log p of the labels (rows,), which are columns of the probabilities (rows, classes)."""
    return _mean_loss(probabilities[np.arange(len(labels)), labels])


def _mean_loss(likelihoods: FloatArray) -> float:
    return float(-np.log(np.maximum(likelihoods, MIN_PROBABILITY)).mean())


def fit_temperature(labels: Labels, probabilities: FloatArray) -> float:
    """Return the temperature with the smallest negative log-likelihood, or 1 if none is better than 1.

    Rows with the label -1 are left out. Guo et al. 2017, arXiv:1706.04599. If all predictions are correct, the
    likelihood alone would choose the lowest temperature allowed. So the target probability of each label is
    (n + 1) / (n + 2), as in Platt 1999, and the other classes share the rest.
    """
    images = np.flatnonzero(labels >= 0)
    num_images, num_classes = len(images), probabilities.shape[1]
    if not num_images or num_classes <= 1:
        return 1.0
    chunks = row_chunks((num_images, num_classes))
    doubt = 1 / (num_images + 2)
    # One sum over all terms: a sum of the sums of chunks could have other last digits.
    terms = np.empty((num_images, num_classes))

    def loss(log_temperature: float) -> float:
        for chunk in chunks:
            rows = images[chunk]
            targets = np.full((len(rows), num_classes), doubt / (num_classes - 1))
            targets[np.arange(len(rows)), labels[rows]] = 1 - doubt
            scaled = apply_temperature(probabilities[rows], np.exp(log_temperature))
            np.multiply(targets, np.log(np.maximum(scaled, MIN_PROBABILITY)), out=terms[chunk])
        return float(-terms.sum())

    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    temperature = float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
    calibrated = [apply_temperature(probabilities[rows], temperature)[np.arange(len(rows)), labels[rows]]
                  for rows in (images[chunk] for chunk in chunks)]
    is_better = _mean_loss(np.concatenate(calibrated)) < _mean_loss(probabilities[images, labels[images]])
    return temperature if is_better else 1.0


def cross_fitted_temperatures(labels: Labels, probabilities: FloatArray, units: Labels) -> FloatArray:
    """Return a temperature for each row (rows,), fitted to the rows of other folds, so that no row calibrates itself.

    Rows with the same unit are in the same fold. A row with the label -1 has no column and fits nothing.
    """
    folds = cross_fitting_folds(units)
    temperatures = np.ones(len(labels))
    for fold in range(NUM_FOLDS):
        temperatures[folds == fold] = fit_temperature(np.where(folds == fold, -1, labels), probabilities)
    return temperatures


def reliability_bins(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return bins of equal size by rising confidence: mean confidence, accuracy, its 95% interval, num_images.

    Bins are added while the accuracy rises with the confidence (Roelofs et al. 2022, arXiv:2012.08668), because more
    bins would show noise. There are at most MAX_BINS, with at least MIN_BIN_SIZE images each.
    """
    bins = _bin_table(confidence, correct, 1)
    for num_bins in range(2, min(MAX_BINS, len(confidence) // MIN_BIN_SIZE) + 1):
        finer = _bin_table(confidence, correct, num_bins)
        accuracies = [row["accuracy"] for row in finer]
        if accuracies != sorted(accuracies):
            break
        bins = finer
    return bins


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """Return the mean gap between confidence and accuracy of reliability bins, weighted by images."""
    gaps = [abs(row["confidence"] - row["accuracy"]) * row["num_images"] for row in bins]
    return float(sum(gaps) / max(1, sum(row["num_images"] for row in bins)))


def _bin_table(confidence: FloatArray, correct: npt.NDArray[np.bool_], num_bins: int) -> list[dict[str, Any]]:
    positions = equal_frequency_bins(confidence, num_bins)
    rows = []
    for position in np.unique(positions):
        inside = positions == position
        num_images, num_correct = int(inside.sum()), int(correct[inside].sum())
        low, high = wilson_interval(num_correct, num_images)
        rows.append({"confidence": float(confidence[inside].mean()), "accuracy": num_correct / num_images,
                     "low": low, "high": high, "num_images": num_images})
    return rows
