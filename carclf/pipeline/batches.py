"""Batches of pictures in an order that the seed decides, read and augmented by Grain's threads or processes."""

import ctypes
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import grain
import numpy as np
import numpy.typing as npt
import pandas as pd
from absl import flags

from carclf.artifacts import fingerprint
from carclf.images.letterbox import letterbox
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.decode_cache import DecodedImages, ImageFiles, cache_decoded

Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]
Size = tuple[int, int]
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Examples:
    """Labelled pictures by position: their names, integer labels, and where their pixels come from."""

    names: Sequence[str]
    labels: npt.NDArray[np.int32]
    pictures: ImageFiles | DecodedImages

    @classmethod
    def from_index(cls, rows: pd.DataFrame, folder: Path, size: Size) -> "Examples":
        """The rows (path, label, problem) of an index, decoded at a scale that covers the size (height, width).

        A picture with a problem, which only the test set keeps, is flat grey.
        """
        whole = zip(rows["path"], rows["problem"] == "", strict=True)
        files = ImageFiles([folder / path if usable else None for path, usable in whole], *size)
        return cls(rows["path"].tolist(), rows["label"].to_numpy(np.int32), files)

    def with_decode_cache(self, archive: str, *, max_bytes: float) -> "Examples":
        """The same with pixels out of this machine's cache where they find room in it; ``archive`` is its content."""
        assert isinstance(self.pictures, ImageFiles)
        key = fingerprint(archive=archive, names=list(self.names))
        return Examples(self.names, self.labels, cache_decoded(self.pictures, key, max_bytes=max_bytes))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LetterboxedSource:
    """Grain's source of the pictures as they are: position to (pixels, label)."""

    examples: Examples
    size: Size

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> tuple[Any, np.int32]:
        return letterbox(self.examples.pictures[position], *self.size), self.examples.labels[position]


@dataclass(frozen=True)
class AugmentedViewSource:
    """Grain's source of one augmented view of each picture, in the examples' order."""

    examples: Examples
    size: Size
    augmenter: Augmenter
    seed: int
    number: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> tuple[Any, np.int32]:
        examples = self.examples
        view = self.augmenter(examples.pictures[position], *self.size, seed=self.seed, epoch=self.number,
                              example=examples.names[position])
        return view, examples.labels[position]


@dataclass(frozen=True)
class TrainingSource:
    """Grain's source of a whole training: the n-th drawn example of all epochs, shuffled anew in each.

    An epoch has whole batches only; which examples it leaves out changes with the shuffling.
    """

    examples: Examples
    augmenter: Augmenter
    sizes: Sequence[Size]  # of each epoch
    batch_size: int
    epochs: int
    seed: int
    epoch_size: int = field(init=False)

    def __post_init__(self) -> None:
        batch_size = min(self.batch_size, len(self.examples))
        object.__setattr__(self, "batch_size", batch_size)
        object.__setattr__(self, "epoch_size", len(self.examples) // batch_size * batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in each epoch."""
        return self.epoch_size // self.batch_size

    def __len__(self) -> int:
        return self.epochs * self.epoch_size

    def __getitem__(self, drawn: int) -> tuple[Any, np.int32]:
        epoch, place = divmod(int(drawn), self.epoch_size)
        position = int(_order(len(self.examples), self.seed, epoch)[place])
        view = self.augmenter(
            self.examples.pictures[position], *self.sizes[epoch], seed=self.seed, epoch=epoch,
            example=self.examples.names[position],
        )
        return view, self.examples.labels[position]


Source = LetterboxedSource | AugmentedViewSource | TrainingSource


@lru_cache(maxsize=4)
def _order(num: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num)


def batches(
    source: Source, batch_size: int, *, start_batch: int = 0, num_workers: int = 0,
    mix: Callable[[int, Batch], Any] | None = None,
) -> Iterator[Any]:
    """(uint8 [batch, height, width, 3], int32 [batch]) from ``start_batch`` on, the last one shorter.

    Their content depends neither on the number of processes (0: threads of this one) nor on where they start.
    """
    found = grain.MapDataset.source(source).batch(batch_size)
    if mix is not None:
        found = found.map_with_index(mix)
    num_threads = 2 if num_workers else min(8, max(2, os.cpu_count() or 2))
    reading = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    ready = found[start_batch:].to_iter_dataset(reading)
    if num_workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, which only absl's own main would parse
        ready = ready.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=partial(_end_with_parent, os.getpid()),
        )
    return iter(ready)


def num_batches(source: Source, batch_size: int) -> int:
    """How many batches there are, the shorter last one included."""
    return math.ceil(len(source) / batch_size)


def _end_with_parent(parent: int, *_: int) -> None:
    """A trainer killed with SIGKILL can end nobody: so the kernel ends its workers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before this was said
        os._exit(1)
