"""Histograms of training and test pictures as numbers that a template draws."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

NUM_BINS = 24
SHOWN = {"width": "Width, px", "height": "Height, px", "aspect": "Width / height", "brightness": "Brightness",
         "contrast": "Contrast", "sharpness": "Sharpness"}


@dataclass(frozen=True)
class Histogram:
    """Bars of 0..1 of the training pictures and of the test pictures, from ``low`` to ``high``."""

    title: str
    low: float
    high: float
    median: float
    train: list[float]
    test: list[float]


def histograms(index: pd.DataFrame) -> list[Histogram]:
    """One of each measure that the index has, over the usable pictures."""
    usable = index[index["problem"] == ""]
    usable = usable.assign(aspect=usable["width"] / usable["height"].clip(1))
    shown = {name: title for name, title in SHOWN.items() if name in usable}
    return [_histogram(title, usable[name].to_numpy(float), usable["label"].to_numpy() >= 0)
            for name, title in shown.items()] if len(usable) else []


def _histogram(title: str, values: npt.NDArray[np.float64], train: npt.NDArray[np.bool_]) -> Histogram:
    # the outermost half per cent stands in the outer bars: one odd picture would press all others into one bar
    low, high = np.quantile(values, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)
    inside = np.clip(values, edges[0], edges[-1])
    shares = [np.histogram(inside[part], edges)[0] / max(1, part.sum()) for part in (train, ~train)]
    top = max(share.max() for share in shares) or 1.0
    return Histogram(title, float(edges[0]), float(edges[-1]), float(np.median(values)),
                     *([round(float(bar), 4) for bar in share / top] for share in shares))
