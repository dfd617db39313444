"""Feed numbered batches to Keras, and measure how long training waits for them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from carclf.errors import CarclfError, ServiceError


class BatchStream:
    """Numbered batches, read sequentially; the source is reopened if the requested batch is not the next one.

    ``wait_seconds`` is the total time for which training steps waited for their batches.
    """

    def __init__(self, open_from: Callable[[int], Iterator[Any]]) -> None:
        self.open_from = open_from
        self.wait_seconds = 0.0
        self.arrivals: dict[int, float] = {}  # arrival times of batches that no step has used yet
        self._iterator: Iterator[Any] = iter(())
        self._next = -1
        self._recent: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._error: CarclfError | None = None

    def get(self, number: int) -> Any:
        """Return the batch with this number."""
        with self._lock:
            # without_autotune and Keras read the first batches for their shapes, then request them again.
            if number not in self._recent:
                if number != self._next:
                    self._close()
                    self._iterator, self._next = self.open_from(number), number
                batch = self._read()
                self._next += 1
                self.arrivals[number] = time.monotonic()
                self._recent = {n: kept for n, kept in self._recent.items() if n == number - 1} | {number: batch}
            return self._recent[number]

    def _read(self) -> Any:
        try:
            return next(self._iterator)
        except CarclfError as error:
            self._error = error
            raise
        except RuntimeError as error:  # Grain's message when one of its processes was killed
            if "terminated unexpectedly" not in str(error):
                raise
            self._error = ServiceError("A process that reads images was killed. If memory ran out, lower "
                                       "fine_tune.num_workers. Run the stage again: it resumes from its last "
                                       "checkpoint.")
            raise self._error from error

    def record_wait(self, number: int, since: float) -> None:
        """Add the time from ``since``, when a step was ready for this batch, to the batch's arrival.

        Keras reads ahead in a thread, so the time that reading takes is not the time that training waits.
        """
        self.wait_seconds += max(0.0, self.arrivals.pop(number, since) - since)

    @contextmanager
    def reraise_source_error(self) -> Iterator[None]:
        """Raise the error that ended the stream instead of the resulting error from Keras."""
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise

    def close(self) -> None:
        """Stop the workers that read ahead."""
        with self._lock:
            self._recent = {}
            self.arrivals = {}
            self._next = -1
            self._close()

    def _close(self) -> None:
        if hasattr(self._iterator, "close"):
            self._iterator.close()
        self._iterator = iter(())


class BatchSequence(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """``num_batches`` batches of a stream, from number ``start`` on. Keras must not shuffle them; the stream does."""

    def __init__(self, stream: BatchStream, start: int, num_batches: int) -> None:
        super().__init__(workers=1)
        self.stream = stream
        self.start = start
        self.next_position = 0
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, position: int) -> Any:
        if position > self.next_position:  # skipping ahead would reopen the stream for each batch
            raise ValueError("Batches can only be read in order. Call fit with shuffle=False.")
        self.next_position = max(self.next_position, position + 1)
        return self.stream.get(self.start + position)


def without_autotune(sequence: BatchSequence) -> Any:
    """Return the sequence for ``fit`` and ``predict``: on TensorFlow, as a tf.data pipeline without its tuner.

    Keras offers no way to disable the tuner. With it, every second ``fit`` needed up to a minute to end:
    CancellationManager wakes the tuner's thread before it sets the cancelled flag, so the thread may go back to sleep
    (TensorFlow 2.21).
    """
    if keras.backend.backend() != "tensorflow":
        return sequence
    import tensorflow as tf

    signature = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), sequence[0])
    dataset = tf.data.Dataset.from_generator(
        lambda: map(sequence.__getitem__, range(len(sequence))), output_signature=signature
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(sequence)))
    return dataset.prefetch(2).with_options(options)


class DataWaitCallback(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Add the time that each step of one ``fit`` waits for its batch to the stream's ``wait_seconds``."""

    def __init__(self, sequence: BatchSequence) -> None:
        super().__init__()
        self.sequence = sequence
        self.since = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start to wait. The wait for the first batch starts before ``fit``, when its shape is read."""
        if batch:
            self.since = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record the wait for this step's batch."""
        self.sequence.stream.record_wait(self.sequence.start + batch, self.since)
