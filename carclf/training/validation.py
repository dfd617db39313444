"""Loss, accuracy and metric on the validation images, with the moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from carclf.artifacts import Split
from carclf.metrics import METRICS, Metric
from carclf.pipeline.batches import LetterboxedSource, batches, num_batches
from carclf.training.feed import BatchSequence, BatchStream, without_autotune

MIN_PROBABILITY = 1e-12  # keeps the loss of a confident error finite


@dataclass(frozen=True)
class Validation:
    """The cross-entropy, the accuracy, and the value of the metric; NaN if the logits are not finite."""

    loss: float
    accuracy: float
    metric: float

    def to_metrics(self) -> dict[str, float]:
        """Return ``val_accuracy`` and ``val_metric``."""
        return {"val_accuracy": self.accuracy, "val_metric": self.metric}


@dataclass(frozen=True)
class Objective:
    """The metric that models are measured by, and the names of the classes, on which it may depend."""

    metric: Metric = METRICS["accuracy"]
    class_names: tuple[str, ...] = ()

    @classmethod
    def from_split(cls, split: Split) -> Self:
        """Return the objective of a split."""
        return cls(METRICS[split.metric_name], tuple(split.class_names))

    def measure(self, logits: npt.NDArray[Any], labels: npt.NDArray[np.integer]) -> Validation:
        """Measure logits, (images, classes), by the labels, which are positions of classes."""
        if not np.isfinite(logits).all():
            return Validation(np.nan, np.nan, np.nan)
        probabilities = softmax(logits.astype(float), 1)
        likelihood = probabilities[np.arange(len(labels)), labels]
        loss = float(-np.log(np.maximum(likelihood, MIN_PROBABILITY)).mean())
        accuracy = float((probabilities.argmax(1) == labels).mean())
        return Validation(loss, accuracy, self.metric.compute(labels, probabilities, self.class_names))

    def is_better(self, new: Validation, best: Validation) -> bool:
        """True if the new value of the metric is better; any number is better than NaN.

        In a tie the lower loss is better: a few images may be ranked perfectly (ROC AUC) long before the probabilities
        are useful. In a tie of accuracy, neither is better.
        """
        if new.metric == best.metric and not self.metric.is_accuracy:
            return new.loss < best.loss
        return self.metric.is_better(new.metric, best.metric) or bool(np.isnan(best.metric) > np.isnan(new.metric))

    def format(self, validation: Validation) -> str:
        """Return the values for a log line, with the metric under its name unless it is accuracy."""
        text = f"val_loss={validation.loss:.4f} val_accuracy={validation.accuracy:.4f}"
        name = self.metric.name
        return text if name == "accuracy" else f"{text} val_{name}={validation.metric:.4f}"


@contextmanager
def ema_weights(model: keras.Model) -> Iterator[None]:
    """Replace the model's weights by their moving average within the block; its other weights may change there."""
    optimizer = model.optimizer
    if not optimizer.use_ema or not int(keras.ops.convert_to_numpy(optimizer.iterations)):
        yield
        return
    variables = model.weights
    weights = [keras.ops.convert_to_numpy(variable) for variable in variables]
    for variable, average in zip(model.trainable_variables, optimizer.moving_averages, strict=True):
        # Assign a copy: the jitted predict of JAX donates its variables' memory, and the average must survive it.
        variable.assign(keras.ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, array in zip(variables, weights, strict=True):
            variable.assign(array)


def validate(model: keras.Model, source: LetterboxedSource, batch_size: int, objective: Objective) -> Validation:
    """Measure the model on unaugmented images."""
    stream = BatchStream(lambda number: padded(batches(source, batch_size, start_batch=number), batch_size))
    sequence = BatchSequence(stream, 0, num_batches(source, batch_size))
    labels = source.examples.labels
    with stream.reraise_source_error():
        logits = model.predict(without_autotune(sequence), verbose=0)
    stream.close()
    return objective.measure(logits[: len(labels)], labels)


def padded(stream: Iterator[Any], batch_size: int) -> Iterator[Any]:
    """Yield the batches, the last one filled up with its own images.

    Several devices can only divide a whole batch, and TensorFlow would compile each size of a batch.
    """
    for pixels, labels in stream:
        order = np.resize(np.arange(len(labels)), batch_size)
        yield pixels[order], labels[order]
