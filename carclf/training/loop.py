"""Fitting with the best weights kept, progress in lines, and a stop where the loss is no number."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf.errors import QualityError
from carclf.progress import Meter


class KeepBest(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Remembers the weights of the epoch with the best validation accuracy, the earlier of equals."""

    def __init__(self, patience: int | None = None, start: float = -1.0) -> None:
        super().__init__()
        self.patience, self.best, self.best_epoch, self.weights = patience, start, -1, None

    def on_train_begin(self, logs: Any = None) -> None:
        self.weights = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs["val_accuracy"] > self.best:
            self.best, self.best_epoch, self.weights = logs["val_accuracy"], epoch, self.model.get_weights()
        elif self.patience is not None and epoch - self.best_epoch >= self.patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self.model.set_weights(self.weights)


class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Reports steps to a meter and stops at a loss that is not a number."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter, self.done = meter, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.done += 1
        if not np.isfinite(logs["loss"]):
            raise QualityError(
                "The training loss is not a number. Lower the learning rate or use bfloat16 instead of float16."
            )
        total = self.params["epochs"] * self.params["steps"]
        self.meter(self.done, total, f"loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.3f}")


def fit(
    model: keras.Model, train: Any, val: Any, *, epochs: int, meter: Meter, callbacks: list[Any],
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Train and return one row per epoch: epoch, loss, accuracy, val_loss, val_accuracy, learning_rate."""
    x, y = train if isinstance(train, tuple) else (train, None)
    with meter:
        history = model.fit(
            x, y, validation_data=val, epochs=epochs, batch_size=batch_size, verbose=0,
            shuffle=isinstance(train, tuple), callbacks=[Watch(meter), *callbacks],
        )
    return pd.DataFrame(history.history).rename_axis("epoch").reset_index()


def compiled(model: keras.Model, optimizer: Any, label_smoothing: float, num_classes: int) -> keras.Model:
    """The same layers, compiled: cross-entropy on logits with smoothed integer labels, and accuracy.

    The model itself stays uncompiled, since Keras would save a nested model's loss with it.
    """

    def loss(labels: Any, logits: Any) -> Any:
        targets = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32"), num_classes)
        targets = targets * (1 - label_smoothing) + label_smoothing / num_classes
        return keras.losses.categorical_crossentropy(targets, logits, from_logits=True)

    trained = keras.Model(model.inputs, model.outputs)
    trained.compile(optimizer=optimizer, loss=loss,
                    metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
    return trained


def save(model: keras.Model, history: pd.DataFrame, folder: Path) -> None:
    """Write ``model.keras`` and ``history.csv``."""
    model.save(folder / "model.keras")
    history.to_csv(folder / "history.csv", index=False)
