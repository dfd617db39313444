"""Compile a classifier for training, with every variable and random seed in a known state."""

from typing import Any

import keras
import numpy as np

from carclf.pipeline.batches import TrainingSource


def make_deterministic(seed: int) -> None:
    """Seed Python, NumPy and the backend, and restrict TensorFlow to deterministic kernels."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def compile_classifier(model: keras.Model, optimizer: Any, label_smoothing: float) -> keras.Model:
    """Return a model of the same layers, compiled with cross-entropy on logits and accuracy.

    The given model stays uncompiled, because Keras would save the loss of a nested model with it.
    """
    trained = keras.Model(model.input, model.outputs)
    trained.compile(
        optimizer=optimizer, jit_compile="auto" if keras.backend.backend() == "jax" else False,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return trained


def build_metric_variables(model: keras.Model, source: TrainingSource) -> None:
    """Create the variables of loss and metrics, so that every checkpoint has the same variables."""
    pixels = np.stack([source[position][0] for position in range(source.batch_size)])
    num_classes = model.output_shape[-1]
    targets = np.full((len(pixels), num_classes), 1 / num_classes, np.float32)
    model.evaluate(pixels, targets, batch_size=len(pixels), verbose=0)
    model.reset_metrics()
