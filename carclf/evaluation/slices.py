"""Accuracy on parts of the images: by class, by size, by brightness."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.stats import equal_frequency_bins, wilson_interval

MAX_GROUPS, SMALLEST_GROUP = 4, 20


def compute_slices(rows: pd.DataFrame, correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Of each part: by, name, num_images, num_correct, accuracy and its 95% interval, low to high.

    ``rows`` have a label, and where it is known width, height (pixels) and brightness: those in groups of equal size.
    """
    found = [_slice("class", str(label), correct[rows["label"] == label]) for label in sorted(rows["label"].unique())]
    measures = {}
    if {"width", "height"} <= set(rows):
        measures["megapixels"] = rows["width"].to_numpy(float) * rows["height"].to_numpy(float) / 1e6
    if "brightness" in rows:
        measures["brightness"] = rows["brightness"].to_numpy(float)
    return found + [part for by, values in measures.items() for part in _by_measure(by, values, correct)]


def _by_measure(by: str, values: npt.NDArray[Any], correct: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    groups = equal_frequency_bins(values, max(1, min(MAX_GROUPS, len(values) // SMALLEST_GROUP)))
    parts = [groups == number for number in range(int(groups.max(initial=-1)) + 1)]
    return [_slice(by, f"{values[part].min():.3g} to {values[part].max():.3g}", correct[part]) for part in parts]


def _slice(by: str, name: str, correct: npt.NDArray[np.bool_]) -> dict[str, Any]:
    right = int(correct.sum())
    low, high = wilson_interval(right, len(correct))
    return {"by": by, "name": name, "num_images": len(correct), "num_correct": right,
            "accuracy": right / len(correct), "low": low, "high": high}
