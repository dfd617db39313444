"""Models made ready for training, and what a training leaves."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf.data.input_pipeline import Training
from carclf.training.curves import draw_curves


def compile_for(model: keras.Model, optimizer: Any, label_smoothing: float) -> keras.Model:
    """The same layers, compiled: cross-entropy on logits with smoothed label shares, and accuracy.

    The model itself stays uncompiled, since Keras would save a nested model's loss with it.
    """
    trained = keras.Model(model.inputs, model.outputs)
    trained.compile(
        optimizer=optimizer, jit_compile="auto" if keras.backend.backend() == "jax" else False,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return trained


def build_metrics(model: keras.Model, source: Training) -> None:
    """Make the variables of loss and metrics, so that a checkpoint always has the same ones."""
    pixels = np.stack([source[drawn][0] for drawn in range(source.batch_size)])
    shares = np.full((len(pixels), model.output_shape[-1]), 1 / model.output_shape[-1], np.float32)
    model.evaluate(pixels, shares, batch_size=len(pixels), verbose=0)
    model.reset_metrics()


def save(model: keras.Model, history: pd.DataFrame, folder: Path) -> None:
    """Write ``model.keras``, ``history.csv`` and ``curves.png``."""
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)
    if len(history):
        draw_curves(history, folder / "curves.png")
