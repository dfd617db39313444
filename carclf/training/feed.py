"""Batches handed to Keras by their number, and how long training waited for them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from carclf.errors import CarclfError, ServiceError


class BatchStream:
    """Batches by their number: read on where the next one is asked for, opened anew where another is."""

    def __init__(self, open_at: Callable[[int], Iterator[Any]]) -> None:
        self.open_at, self.next, self.wait_seconds = open_at, -1, 0.0
        self.ready: dict[int, float] = {}  # when the batches came that no step has taken yet
        self.iterator: Iterator[Any] = iter(())
        self.recent: dict[int, Any] = {}
        self.lock = threading.Lock()
        self.error: CarclfError | None = None

    def get(self, number: int) -> Any:
        """The batch of that number."""
        with self.lock:
            # The first batches are looked at for their shapes, by untuned or by Keras, then asked for again.
            if number not in self.recent:
                if number != self.next:
                    self._close()
                    self.iterator, self.next = self.open_at(number), number
                try:
                    batch = next(self.iterator)
                except CarclfError as error:
                    self.error = error
                    raise
                except RuntimeError as error:  # as Grain tells that one of its processes is gone
                    if "terminated unexpectedly" not in str(error):
                        raise
                    self.error = ServiceError("A process that reads pictures was killed. If memory ran out, lower "
                                              "fine_tune.num_workers. Run the stage again: it goes on from its last "
                                              "checkpoint.")
                    raise self.error from error
                self.next += 1
                self.ready[number] = time.monotonic()
                self.recent = {n: kept for n, kept in self.recent.items() if n == number - 1} | {number: batch}
            return self.recent[number]

    def taken(self, number: int, since: float) -> None:
        """A step has used that batch, and could have from ``since`` on: ``wait_seconds`` grows if it came later.

        Keras reads ahead in a thread of its own, so the time that reading takes is not what training waits.
        """
        self.wait_seconds += max(0.0, self.ready.pop(number, since) - since)

    @contextmanager
    def own_errors(self) -> Iterator[None]:
        """Raise what ended the stream instead of what Keras made of it."""
        try:
            yield
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise

    def close(self) -> None:
        """End the workers that read ahead."""
        with self.lock:
            self.recent, self.ready, self.next = {}, {}, -1
            self._close()

    def _close(self) -> None:
        if hasattr(self.iterator, "close"):
            self.iterator.close()
        self.iterator = iter(())


class BatchSequence(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """``num`` batches of a stream from ``begin`` on, for Keras, which must not shuffle them: the stream is shuffled."""

    def __init__(self, stream: BatchStream, begin: int, num: int) -> None:
        super().__init__(workers=1)
        self.stream, self.begin, self.num, self.asked = stream, begin, num, 0

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, position: int) -> Any:
        if position > self.asked:  # the stream would be opened anew for each batch
            raise ValueError("Batches come in their order only: fit with shuffle=False")
        self.asked = max(self.asked, position + 1)
        return self.stream.get(self.begin + position)


def without_autotune(feed: BatchSequence) -> Any:
    """The feed as fit and predict are to get it: on TensorFlow a pipeline of the same batches without tf.data's tuner.

    With it, which Keras gives no way to leave out, the end of one fit in two took up to a minute: CancellationManager
    wakes the tuner's thread before it says that it is cancelled, so the thread may sleep on (TensorFlow 2.21).
    """
    if keras.backend.backend() != "tensorflow":
        return feed
    import tensorflow as tf

    shapes = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), feed[0])
    found = tf.data.Dataset.from_generator(lambda: map(feed.__getitem__, range(len(feed))), output_signature=shapes)
    options = tf.data.Options()
    options.autotune.enabled = False
    return found.apply(tf.data.experimental.assert_cardinality(len(feed))).prefetch(2).with_options(options)


class DataWaitCallback(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    """Adds to the stream's ``wait_seconds`` what each step of one ``fit`` waits for its batch."""

    def __init__(self, feed: BatchSequence) -> None:
        super().__init__()
        self.feed, self.since = feed, time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch:  # the first is waited for from before fit, where its shape is looked at
            self.since = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.feed.stream.taken(self.feed.begin + batch, self.since)
