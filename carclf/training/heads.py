"""The head: from pooled features to logits, fitted to cached features."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.config import Head, Model
from carclf.progress import Meter
from carclf.training.schedules import warmup_cosine

WARMUP_FRACTION = 0.1
STEPS_PER_EXECUTION = 32  # a step takes about a millisecond; separate calls cost 25% more time for the same weights
LabeledFeatures = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]  # (rows, features) and (rows,)


def build_head(num_features: int, num_classes: int, settings: Model) -> keras.Model:
    """Return the network from (batch, features) to logits, (batch, classes), which are always float32."""
    inputs = keras.Input((num_features,), dtype="float32")
    x = keras.layers.BatchNormalization()(inputs) if settings.batch_norm else inputs
    if settings.hidden_units:
        x = keras.layers.Dense(settings.hidden_units, activation="relu")(x)
        x = keras.layers.BatchNormalization()(x) if settings.batch_norm else x
    x = keras.layers.Dropout(settings.dropout)(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, dtype="float32", name="logits")(x), name="head")


def join_backbone_and_head(backbone: keras.Model, head: keras.Model) -> keras.Model:
    """Return one model from images to logits."""
    return keras.Model(backbone.input, head(backbone.output), name="classifier")


class _KeepBest(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Keep the weights of the epoch with the best validation accuracy; in a tie, the earliest."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter
        self.best_accuracy = -1.0
        self.best_epoch = 0
        self.best_weights: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        metrics = {"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()}
        self.meter(epoch + 1, self.params["epochs"], f"val_accuracy {logs['val_accuracy']:.3f}", metrics)
        if logs["val_accuracy"] > self.best_accuracy:
            self.best_accuracy = logs["val_accuracy"]
            self.best_epoch = epoch + 1
            self.best_weights = self.model.get_weights()


def fit_head(
    head: keras.Model, train: LabeledFeatures, val: LabeledFeatures, settings: Head
) -> tuple[pd.DataFrame, float, int]:
    """Fit the head to features and labels, and leave the weights of the best epoch in it.

    Returns the history with one row per epoch, the best validation accuracy, and its epoch, from 1.
    """
    (x, labels), (val_x, val_labels) = train, val
    num_steps = settings.epochs * -(-len(x) // settings.batch_size)
    schedule = warmup_cosine(settings.learning_rate, num_steps, WARMUP_FRACTION)
    trained = keras.Model(head.inputs, head.outputs)  # Keras would save the loss of a nested model with it
    trained.compile(
        keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")], steps_per_execution=STEPS_PER_EXECUTION,
    )
    one_hot = np.eye(head.output_shape[-1], dtype=np.float32)
    with Meter("train_head") as meter:
        keep_best = _KeepBest(meter)
        history = trained.fit(
            x, one_hot[labels], validation_data=(val_x, one_hot[val_labels]), epochs=settings.epochs,
            batch_size=settings.batch_size, verbose=0, callbacks=[keep_best],
        )
    trained.set_weights(keep_best.best_weights)
    rows = pd.DataFrame(history.history, index=pd.RangeIndex(1, settings.epochs + 1, name="epoch"))
    # Keras divides in float32; fine-tuning compares its accuracies, in float64, with this one.
    num_correct = round(float(keep_best.best_accuracy) * len(val_labels))
    return rows.reset_index(), num_correct / len(val_labels), keep_best.best_epoch
