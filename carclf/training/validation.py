"""Loss and accuracy on the validation pictures, with the moving average of the weights in the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from scipy.special import softmax

from carclf.pipeline.batches import LetterboxedSource, batches, num_batches
from carclf.training.feed import BatchSequence, BatchStream, without_autotune


@contextmanager
def ema_weights(model: keras.Model) -> Iterator[None]:
    """The moving average of the weights in the model, for the time of the block."""
    optimizer = model.optimizer
    if not optimizer.use_ema or not int(keras.ops.convert_to_numpy(optimizer.iterations)):
        yield
        return
    variables = model.trainable_variables
    own = [keras.ops.convert_to_numpy(variable) for variable in variables]
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        # A copy: the jitted predict of JAX gives its variables' memory away, and the average must outlive it.
        variable.assign(keras.ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, array in zip(variables, own, strict=True):
            variable.assign(array)


def validate(model: keras.Model, source: LetterboxedSource, batch_size: int) -> tuple[float, float]:
    """Cross-entropy and accuracy on plain pictures."""
    stream = BatchStream(lambda number: _filled(batches(source, batch_size, start_batch=number), batch_size))
    feed = BatchSequence(stream, 0, num_batches(source, batch_size))
    labels = source.examples.labels
    with stream.own_errors():
        probabilities = softmax(model.predict(without_autotune(feed), verbose=0)[: len(labels)].astype(float), 1)
    stream.close()
    likelihood = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean()), float((probabilities.argmax(1) == labels).mean())


def _filled(found: Iterator[Any], batch_size: int) -> Iterator[Any]:
    """The batches, the last one filled up with its own pictures: several devices can only share a whole one."""
    for pixels, labels in found:
        order = np.resize(np.arange(len(labels)), batch_size)
        yield pixels[order], labels[order]
