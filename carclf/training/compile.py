"""Compile a classifier for training, with every variable and random seed in a known state."""

from typing import Any

import keras
import numpy as np

from carclf.pipeline.batches import TrainingSource

CROSS_ENTROPY = "cross_entropy"  # the metric that is comparable with the validation loss


def make_deterministic(seed: int, *, kernels: bool = True) -> None:
    """Seed Python, NumPy and the backend; with ``kernels``, restrict TensorFlow to deterministic kernels.

    TensorFlow keeps this restriction until the process ends. JAX has no such switch: see docs/training.md.
    """
    keras.utils.set_random_seed(seed)
    if kernels and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def compile_classifier(
    model: keras.Model, optimizer: Any, label_smoothing: float, *, xla: bool = False
) -> keras.Model:
    """Return a model of the same layers, compiled with cross-entropy on logits and accuracy.

    The metric CROSS_ENTROPY has no label smoothing, as the validation loss. The labels of mixed batches stay soft.
    ``xla`` is for TensorFlow; JAX always uses XLA. The given model stays uncompiled, because Keras would save the loss
    of a nested model with it.
    """
    trained = keras.Model(model.inputs[0], model.outputs[0])
    trained.compile(
        optimizer=optimizer, jit_compile="auto" if keras.backend.backend() == "jax" else xla,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy"),
                 keras.metrics.CategoricalCrossentropy(name=CROSS_ENTROPY, from_logits=True)],
    )
    return trained


def build_metric_variables(model: keras.Model, source: TrainingSource) -> None:
    """Create the variables of loss and metrics, so that every checkpoint has the same variables."""
    pixels = np.stack([source[position][0] for position in range(source.batch_size)])
    num_classes = model.output_shape[-1]
    targets = np.full((len(pixels), num_classes), 1 / num_classes, np.float32)
    model.evaluate(pixels, targets, batch_size=len(pixels), verbose=0)
    model.reset_metrics()
