"""Save a trained model with its history and with reference logits that verify the saved file."""

from pathlib import Path

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from carclf.pipeline.batches import Examples, LetterboxedSource, Size, batches

NUM_REFERENCE_IMAGES = 64
BATCH_SIZE = 16  # not a setting: logits are compared with logits from batches of the same size


def save_model(model: keras.Model, history: pd.DataFrame, folder: Path) -> None:
    """Write ``model.keras``, ``history.csv`` and, unless the history is empty, ``curves.png`` of loss and accuracy."""
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)
    if history.empty:
        return
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            if column in history:  # a refitted model has no validation
                axes.plot(history["epoch"], history[column], marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    figure.savefig(folder / "curves.png", dpi=100)


def write_reference_logits(model: keras.Model, val: pd.DataFrame, images: Path, size: Size, folder: Path) -> None:
    """Write ``reference_logits.parquet``: id, sha256 and float32 logits of some validation images.

    A process that loads the saved model must compute the same logits. Call this outside of ``compute_precision``, in
    the precision in which the saved model computes.
    """
    rows = select_reference_images(val)
    source = LetterboxedSource(Examples.from_index(rows, images, size), size)
    # Call the model: a compiled predict function keeps the precision that it was compiled in.
    outputs = [keras.ops.convert_to_numpy(model(pixels, training=False)) for pixels, _ in batches(source, BATCH_SIZE)]
    logits = np.concatenate(outputs).astype(np.float32)
    table = rows[["id", "sha256"]].reset_index(drop=True).join(pd.DataFrame(logits).add_prefix("logit"))
    table.to_parquet(folder / "reference_logits.parquet", index=False)


def select_reference_images(val: pd.DataFrame) -> pd.DataFrame:
    """Return up to NUM_REFERENCE_IMAGES rows, alternating between classes, in the order of their content's hash."""
    ordered = val.sort_values(["sha256", "path"])
    turns = ordered.assign(turn=ordered.groupby("label").cumcount()).sort_values(["turn", "label"], kind="stable")
    return turns.head(NUM_REFERENCE_IMAGES).drop(columns="turn")
