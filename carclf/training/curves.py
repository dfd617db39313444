"""The course of a training as a picture."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure


def draw_curves(history: pd.DataFrame, path: Path) -> None:
    """Loss and accuracy of training and validation by epoch, side by side, as a PNG."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            axes.plot(history["epoch"], history[column], marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    figure.savefig(path, dpi=100)
