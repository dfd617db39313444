"""Loss and accuracy on the validation images, with the moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from scipy.special import softmax

from carclf.pipeline.batches import LetterboxedSource, batches, num_batches
from carclf.training.feed import BatchSequence, BatchStream, without_autotune

MIN_PROBABILITY = 1e-12  # keeps the loss of a confident error finite


@contextmanager
def ema_weights(model: keras.Model) -> Iterator[None]:
    """Replace the model's weights by their moving average within the block."""
    optimizer = model.optimizer
    if not optimizer.use_ema or not int(keras.ops.convert_to_numpy(optimizer.iterations)):
        yield
        return
    variables = model.trainable_variables
    weights = [keras.ops.convert_to_numpy(variable) for variable in variables]
    for variable, average in zip(variables, optimizer.moving_averages, strict=True):
        # Assign a copy: the jitted predict of JAX donates its variables' memory, and the average must survive it.
        variable.assign(keras.ops.convert_to_numpy(average))
    try:
        yield
    finally:
        for variable, array in zip(variables, weights, strict=True):
            variable.assign(array)


def validate(model: keras.Model, source: LetterboxedSource, batch_size: int) -> tuple[float, float]:
    """Return the cross-entropy and the accuracy on unaugmented images."""
    stream = BatchStream(lambda number: _padded(batches(source, batch_size, start_batch=number), batch_size))
    sequence = BatchSequence(stream, 0, num_batches(source, batch_size))
    labels = source.examples.labels
    with stream.reraise_source_error():
        logits = model.predict(without_autotune(sequence), verbose=0)
    stream.close()
    probabilities = softmax(logits[: len(labels)].astype(float), 1)
    likelihood = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(likelihood, MIN_PROBABILITY)).mean())
    return loss, float((probabilities.argmax(1) == labels).mean())


def _padded(stream: Iterator[Any], batch_size: int) -> Iterator[Any]:
    """Fill the last batch up with its own images: several devices can only divide a whole batch."""
    for pixels, labels in stream:
        order = np.resize(np.arange(len(labels)), batch_size)
        yield pixels[order], labels[order]
