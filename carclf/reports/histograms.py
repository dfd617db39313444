"""Histograms of image statistics, training against test images (with or without labels), as numbers for a template."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

NUM_BINS = 24
QUANTILES = (0.005, 0.995)  # beyond them values are clipped: an outlier would squash all others into one bar
TITLES = {
    "width": "Width, px", "height": "Height, px", "aspect": "Width / height", "brightness": "Brightness",
    "contrast": "Contrast", "sharpness": "Sharpness",
}


@dataclass(frozen=True)
class Histogram:
    """Bars of training and test images between ``low`` and ``high``; the highest bar is 1."""

    title: str
    low: float
    high: float
    median: float
    train: list[float]
    test: list[float]


def histograms(index: pd.DataFrame) -> list[Histogram]:
    """Return a histogram of each statistic that the index has, of the usable images."""
    usable = index[index["problem"] == ""]
    if usable.empty:
        return []
    usable = usable.assign(aspect=usable["width"] / usable["height"].clip(1))
    is_train = ~usable["source"].isin(["test", "holdout"]).to_numpy()
    return [
        _histogram(title, usable[name].to_numpy(float), is_train) for name, title in TITLES.items() if name in usable
    ]


def _histogram(title: str, values: npt.NDArray[np.float64], is_train: npt.NDArray[np.bool_]) -> Histogram:
    low, high = np.quantile(values, QUANTILES)
    edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
    clipped = np.clip(values, edges[0], edges[-1])
    train, test = (np.histogram(clipped[mask], edges)[0] / max(1, mask.sum()) for mask in (is_train, ~is_train))
    top = max(train.max(), test.max()) or 1.0
    return Histogram(
        title=title, low=float(edges[0]), high=float(edges[-1]), median=float(np.median(values)),
        train=(train / top).round(4).tolist(), test=(test / top).round(4).tolist(),
    )
