"""The head: from pooled features to logits, fitted to cached features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.config import Head, Model
from carclf.progress import Meter
from carclf.training.compile import CROSS_ENTROPY
from carclf.training.schedules import warmup_cosine
from carclf.training.validation import Objective, Validation

WARMUP_FRACTION = 0.1
STEPS_PER_EXECUTION = 32  # a step takes about a millisecond; separate calls cost 25% more time for the same weights
VALIDATION_BATCH_SIZE = 1024
ACCURACY = Objective()
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


@dataclass(frozen=True)
class FittedHead:
    """The history with one row per epoch, and the validation of the last one, whose weights the head has.

    The columns ``loss`` and ``val_loss`` are both the cross-entropy without label smoothing.
    """

    history: pd.DataFrame
    validation: Validation


class _Validate(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Validate each epoch."""

    def __init__(self, val: LabeledFeatures, objective: Objective, meter: Meter) -> None:
        super().__init__()
        self.val = val
        self.objective = objective
        self.meter = meter
        self.validation: Validation | None = None
        self.history: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        features, labels = self.val
        logits = self.model.predict(features, batch_size=VALIDATION_BATCH_SIZE, verbose=0)
        validation = self.objective.measure(logits, labels)
        trained = {name: float(value) for name, value in logs.items()}
        trained["loss"] = trained.pop(CROSS_ENTROPY)
        row = {"epoch": epoch + 1, **trained, "val_loss": validation.loss} | validation.to_metrics()
        self.history.append(row)
        self.meter(epoch + 1, self.params["epochs"], self.objective.format(validation), row)
        self.validation = validation


def _smoothed_cross_entropy(labels: Any, logits: Any, label_smoothing: float) -> Any:
    """Return the loss of each row of a batch. One-hot labels of all rows would need rows x classes x 4 bytes."""
    one_hot = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32"), logits.shape[-1])
    return keras.losses.categorical_crossentropy(one_hot, logits, from_logits=True, label_smoothing=label_smoothing)


def fit_head(
    head: keras.Model, train: LabeledFeatures, val: LabeledFeatures, settings: Head, objective: Objective = ACCURACY
) -> FittedHead:
    """Fit the head to features and labels until the learning rate is 0.

    The validation is only measured: no epoch is selected by it.
    """
    with Meter("train_head") as meter:
        validate = _Validate(val, objective, meter)
        fit_to_end(head, train, settings, [validate])
    assert validate.validation is not None  # Head.epochs is at least 1
    return FittedHead(pd.DataFrame(validate.history), validate.validation)


def fit_to_end(
    head: keras.Model, train: LabeledFeatures, settings: Head, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> None:
    """Fit the head to features and labels without validation, and leave the weights of the last step in it."""
    x, labels = train
    num_steps = settings.epochs * -(-len(x) // settings.batch_size)
    schedule = warmup_cosine(settings.learning_rate, num_steps, WARMUP_FRACTION)
    trained = keras.Model(head.inputs, head.outputs)  # Keras would save the loss of a nested model with it
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(
        [variable for variable in trained.trainable_variables if len(variable.shape) <= 1])  # biases and scales
    trained.compile(
        optimizer, partial(_smoothed_cross_entropy, label_smoothing=settings.label_smoothing),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                 keras.metrics.SparseCategoricalCrossentropy(name=CROSS_ENTROPY, from_logits=True)],
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    trained.fit(
        x, labels, epochs=settings.epochs, batch_size=settings.batch_size, verbose=0, callbacks=list(callbacks))
