"""Accuracy on subsets of the images: by class, size and brightness."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.natural_order import sort_naturally
from carclf.stats import equal_frequency_bins, wilson_interval

MAX_BINS = 4
MIN_BIN_SIZE = 20


def compute_slices(rows: pd.DataFrame, correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return by, name, num_images, num_correct, accuracy and its 95% interval (low, high) of each slice.

    ``rows`` have the column label, and optionally width, height (pixels) and brightness, which are sliced into bins
    with the same number of images. ``correct`` has a value for each row.
    """
    slices = [_slice("class", label, correct[rows["label"] == label]) for label in sort_naturally(rows["label"])]
    if {"width", "height"} <= set(rows):
        slices += _bins("megapixels", rows["width"].to_numpy(float) * rows["height"].to_numpy(float) / 1e6, correct)
    if "brightness" in rows:
        slices += _bins("brightness", rows["brightness"].to_numpy(float), correct)
    return slices


def _bins(by: str, values: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    bins = equal_frequency_bins(values, max(1, min(MAX_BINS, len(values) // MIN_BIN_SIZE)))
    masks = [bins == number for number in range(int(bins.max(initial=-1)) + 1)]
    return [_slice(by, f"{values[mask].min():.3g} to {values[mask].max():.3g}", correct[mask]) for mask in masks]


def _slice(by: str, name: str, correct: npt.NDArray[np.bool_]) -> dict[str, Any]:
    num_correct = int(correct.sum())
    low, high = wilson_interval(num_correct, len(correct))
    return {"by": by, "name": name, "num_images": len(correct), "num_correct": num_correct,
            "accuracy": num_correct / len(correct), "low": low, "high": high}
