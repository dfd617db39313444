"""Models made ready for training, and what a training leaves."""


from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from carclf.pipeline.batches import TrainingSource


def compile_classifier(model: keras.Model, optimizer: Any, label_smoothing: float) -> keras.Model:
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


def build_metric_variables(model: keras.Model, source: TrainingSource) -> None:
    """Make the variables of loss and metrics, so that a checkpoint always has the same ones."""
    pixels = np.stack([source[drawn][0] for drawn in range(source.batch_size)])
    shares = np.full((len(pixels), model.output_shape[-1]), 1 / model.output_shape[-1], np.float32)
    model.evaluate(pixels, shares, batch_size=len(pixels), verbose=0)
    model.reset_metrics()


def save_model(model: keras.Model, history: pd.DataFrame, folder: Path) -> None:
    """Write ``model.keras``, ``history.csv`` and ``curves.png``."""
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)
    if len(history):
        draw_curves(history, folder / "curves.png")

def draw_curves(history: pd.DataFrame, path: Path) -> None:
    """Loss and accuracy of training and validation by epoch, side by side, as a PNG."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            axes.plot(history["epoch"], history[column], marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend()
    figure.savefig(path, dpi=100)

def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and the backend; let TensorFlow take only deterministic kernels."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
