"""Batches handed to Keras by their number, and how long it waited for them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from carclf.errors import CarclfError


class Stream:
    """Batches by their number: read on where the next one is asked for, opened anew where another is."""

    def __init__(self, open_at: Callable[[int], Iterator[Any]]) -> None:
        self.open_at, self.next, self.wait_seconds = open_at, -1, 0.0
        self.iterator: Iterator[Any] = iter(())
        self.recent: dict[int, Any] = {}
        self.lock = threading.Lock()
        self.error: CarclfError | None = None

    def get(self, number: int) -> Any:
        """The batch of that number; ``wait_seconds`` grows by the time that it was not there."""
        with self.lock:
            # Keras looks at the first two batches for their shapes, then asks for them again.
            if number not in self.recent:
                if number != self.next:
                    self._close()
                    self.iterator, self.next = self.open_at(number), number
                started = time.monotonic()
                try:
                    batch = next(self.iterator)
                except CarclfError as error:
                    self.error = error
                    raise
                self.wait_seconds += time.monotonic() - started
                self.next += 1
                self.recent = {n: kept for n, kept in self.recent.items() if n == number - 1} | {number: batch}
            return self.recent[number]


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
            self.recent, self.next = {}, -1
            self._close()

    def _close(self) -> None:
        if hasattr(self.iterator, "close"):
            self.iterator.close()
        self.iterator = iter(())


class Feed(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """``num`` batches of a stream from ``begin`` on, for Keras."""

    def __init__(self, stream: Stream, begin: int, num: int) -> None:
        super().__init__(workers=1)
        self.stream, self.begin, self.num = stream, begin, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, position: int) -> Any:
        return self.stream.get(self.begin + position)
