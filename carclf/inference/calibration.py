"""How far probabilities are what they say: temperature, expected calibration error, reliability."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from carclf.stats import FloatArray, equal_frequency_bins, wilson_interval

Labels = npt.NDArray[np.int64]
SMALLEST = 1e-12  # a probability of 0, which a softmax in floating point can give, is taken for this one
LOWEST, HIGHEST = 0.05, 20.0  # of a temperature
MAX_BINS, SMALLEST_BIN = 15, 10


def apply_temperature(probabilities: FloatArray, temperature: float) -> FloatArray:
    """Probabilities (rows, classes) at another temperature: softmax(log p / T), for one look softmax(logits / T).

    Temperature 1 changes nothing, a higher one makes them less sure; the order of a row's classes stays.
    """
    scaled = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    shares = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def negative_log_likelihood(labels: Labels, probabilities: FloatArray) -> float:
    """Mean of -log p of the labels (rows,), positions of columns of the probabilities (rows, classes)."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST)).mean())


def fit_temperature(labels: Labels, probabilities: FloatArray) -> float:
    """The temperature with the smallest likelihood loss (Guo et al. 2017, arXiv:1706.04599); 1 where none is better.

    Where every answer is right, that would be the lowest there is. So each label counts n+1 of n+2, as in Platt 1999:
    one more image's worth of doubt, shared by the other classes.
    """
    num_images, num_classes = probabilities.shape
    if not num_images or num_classes < 2:
        return 1.0
    doubt = 1 / (num_images + 2)
    shares = np.full((num_images, num_classes), doubt / (num_classes - 1))
    shares[np.arange(num_images), labels] = 1 - doubt

    def loss(log_temperature: float) -> float:
        return float(-(shares * np.log(np.maximum(apply_temperature(probabilities, np.exp(log_temperature)), SMALLEST))).sum())

    found = float(np.exp(minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded").x))
    before = negative_log_likelihood(labels, probabilities)
    return found if negative_log_likelihood(labels, apply_temperature(probabilities, found)) < before else 1.0


def reliability_bins(confidence: FloatArray, correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Bins of equal size, the least sure first: mean confidence, accuracy with its 95% interval, num_images.

    As many bins as leave accuracy rising with confidence (Roelofs et al. 2022, arXiv:2012.08668): more of them would
    show chance. At most MAX_BINS of at least SMALLEST_BIN images.
    """
    found = _table(confidence, correct, 1)
    for num in range(2, min(MAX_BINS, len(confidence) // SMALLEST_BIN) + 1):
        finer = _table(confidence, correct, num)
        accuracies = [row["accuracy"] for row in finer]
        if accuracies != sorted(accuracies):
            break
        found = finer
    return found


def expected_calibration_error(table: list[dict[str, Any]]) -> float:
    """Expected calibration error of a reliability table: the mean gap of confidence and accuracy, by images."""
    gaps = [abs(row["confidence"] - row["accuracy"]) * row["num_images"] for row in table]
    return float(sum(gaps) / max(1, sum(row["num_images"] for row in table)))


def _table(confidence: FloatArray, correct: npt.NDArray[np.bool_], num_bins: int) -> list[dict[str, Any]]:
    bins = equal_frequency_bins(confidence, num_bins)
    rows = []
    for position in range(int(bins.max()) + 1) if len(bins) else ():
        inside = bins == position
        num, right = int(inside.sum()), int(correct[inside].sum())
        low, high = wilson_interval(right, num)
        rows.append({"confidence": float(confidence[inside].mean()), "accuracy": right / num, "low": low, "high": high,
                     "num_images": num})
    return rows
