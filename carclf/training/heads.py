"""The head: from pooled features to logits, fitted to cached features."""

from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf import config
from carclf.progress import Meter
from carclf.training.schedules import warmup_cosine


def build_head(num_features: int, num_classes: int, model: config.Model) -> keras.Model:
    """(batch, features) to logits (batch, classes), float32 also under mixed precision."""
    inputs = keras.Input((num_features,), dtype="float32")
    x = keras.layers.BatchNormalization()(inputs) if model.batch_norm else inputs
    if model.hidden_units:
        x = keras.layers.Dense(model.hidden_units, activation="relu")(x)
        x = keras.layers.BatchNormalization()(x) if model.batch_norm else x
    x = keras.layers.Dropout(model.dropout)(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes, dtype="float32", name="logits")(x), name="head")


def join_backbone_and_head(backbone: keras.Model, head: keras.Model) -> keras.Model:
    """One model from pictures to logits."""
    return keras.Model(backbone.input, head(backbone.output), name="classifier")


class _KeepBest(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Remembers the weights of the epoch with the best validation accuracy, the earlier of equals."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.best, self.best_epoch, self.meter = -1.0, 0, meter

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        metrics = {"epoch": epoch + 1} | {name: float(value) for name, value in logs.items()}
        self.meter(epoch + 1, self.params["epochs"], f"val_accuracy {logs['val_accuracy']:.3f}", metrics)
        if logs["val_accuracy"] > self.best:
            self.best, self.best_epoch, self.weights = logs["val_accuracy"], epoch + 1, self.model.get_weights()


def fit_head(
    head: keras.Model, train: tuple[Any, Any], val: tuple[Any, Any], settings: config.Head
) -> tuple[pd.DataFrame, float, int]:
    """Train on (features [rows, features], labels); leaves the best epoch's weights in the head.

    Returns one row of history per epoch, the best validation accuracy and its epoch, from 1.
    """
    (x, labels), (val_x, val_labels) = train, val
    num_classes, smoothing = head.output_shape[-1], settings.label_smoothing
    num_steps = settings.epochs * -(-len(x) // settings.batch_size)
    trained = keras.Model(head.inputs, head.outputs)  # Keras would save a nested model's loss with it
    trained.compile(
        keras.optimizers.AdamW(
            warmup_cosine(settings.learning_rate, num_steps, 0.1), weight_decay=settings.weight_decay
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        steps_per_execution=32,  # of a millisecond each: calls of their own cost a quarter more, with the same weights
    )
    shares = np.eye(num_classes, dtype=np.float32)
    with Meter("train_head") as meter:
        history = trained.fit(
            x, shares[labels], validation_data=(val_x, shares[val_labels]), epochs=settings.epochs,
            batch_size=settings.batch_size, verbose=0, callbacks=[best := _KeepBest(meter)],
        )
    trained.set_weights(best.weights)
    rows = pd.DataFrame(history.history, index=pd.RangeIndex(1, settings.epochs + 1, name="epoch"))
    num_right = round(float(best.best) * len(val_labels))  # Keras divides in float32: what is compared with it does not
    return rows.reset_index(), num_right / len(val_labels), best.best_epoch
