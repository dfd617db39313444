"""Batches of images in a seeded order, read and augmented by Grain's threads or processes."""

import ctypes
import math
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import grain
import numpy as np
import numpy.typing as npt
import pandas as pd
from absl import flags

from carclf.artifacts import fingerprint
from carclf.images.decode import Pixels
from carclf.images.letterbox import letterbox
from carclf.os_errors import require_shared_memory
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.decode_cache import DecodedImages, ImageFiles, cache_decoded

Labels = npt.NDArray[Any]  # int32 positions of classes (images), or float32 probabilities (images, classes)
Batch = tuple[npt.NDArray[np.uint8], Labels]
Example = tuple[Pixels, Any]
Size = tuple[int, int]  # height and width in pixels
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@dataclass(frozen=True)
class Examples:
    """Labeled images by position: their names, their labels, and the source of their pixels."""

    names: Sequence[str]
    labels: Labels
    images: ImageFiles | DecodedImages

    @classmethod
    def from_index(cls, rows: pd.DataFrame, folder: Path, size: Size) -> "Examples":
        """Return the examples of an index's rows (path, problem), decoded to cover the size (height, width).

        Their labels are the column ``class_index``, or -1 if the rows do not have it, as for test images. Unusable
        images become flat gray. Only the test set contains them, because each test image needs a prediction.
        """
        usable = zip(rows["path"], rows["problem"] == "", strict=True)
        files = ImageFiles([folder / path if is_usable else None for path, is_usable in usable], *size)
        labels = rows["class_index"].to_numpy(np.int32) if "class_index" in rows else np.full(len(rows), -1, np.int32)
        return cls(rows["path"].tolist(), labels, files)

    def with_decode_cache(self, archive_content: str, *, max_bytes: float) -> "Examples":
        """Return the same examples, decoded once into this machine's cache if they fit into ``max_bytes``.

        ``archive_content`` is the hash of the archive that the files come from.
        """
        assert isinstance(self.images, ImageFiles)
        key = fingerprint(archive=archive_content, names=list(self.names))
        return Examples(self.names, self.labels, cache_decoded(self.images, key, max_bytes=max_bytes))

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LetterboxedSource:
    """Grain source of the images without augmentation: position to (pixels, label)."""

    examples: Examples
    size: Size

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> Example:
        return letterbox(self.examples.images[position], *self.size), self.examples.labels[position]


@dataclass(frozen=True)
class AugmentedViewSource:
    """Grain source of one augmented view of each image, in the order of the examples."""

    examples: Examples
    size: Size
    augmenter: Augmenter
    seed: int
    view_index: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> Example:
        examples, name = self.examples, self.examples.names[position]
        view = self.augmenter(
            examples.images[position], self.size, seed=self.seed, epoch=self.view_index, example=name)
        return view, examples.labels[position]


@dataclass(frozen=True)
class TrainingSource:
    """Grain source of a whole training: the examples of all epochs, reshuffled in each epoch.

    ``sizes`` has one size for each epoch. ``batch_size`` is at most the number of examples. An epoch consists of
    whole batches, of ``max_steps`` if that is not 0; shuffling changes which examples are left over.
    """

    examples: Examples
    augmenter: Augmenter
    sizes: Sequence[Size]
    batch_size: int
    epochs: int
    seed: int
    max_steps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", min(self.batch_size, len(self.examples)))

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in each epoch."""
        num_batches = len(self.examples) // self.batch_size
        return min(num_batches, self.max_steps or num_batches)

    @property
    def epoch_size(self) -> int:
        """Number of examples in each epoch."""
        return self.steps_per_epoch * self.batch_size

    def __len__(self) -> int:
        return self.epochs * self.epoch_size

    def __getitem__(self, drawn: int) -> Example:
        epoch, position_in_epoch = divmod(int(drawn), self.epoch_size)
        position = int(_epoch_order(len(self.examples), self.seed, epoch)[position_in_epoch])
        view = self.augmenter(
            self.examples.images[position], self.sizes[epoch], seed=self.seed, epoch=epoch,
            example=self.examples.names[position])
        return view, self.examples.labels[position]


Source = LetterboxedSource | AugmentedViewSource | TrainingSource


@lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def batches(
    source: Source, batch_size: int, *, start_batch: int = 0, num_workers: int = 0,
    mix: Callable[[int, Batch], Any] | None = None,
) -> Iterator[Any]:
    """Yield (uint8 [batch, height, width, 3], labels) from ``start_batch`` on; the last batch may be shorter.

    The content depends neither on the number of worker processes (0: threads of this process) nor on the start.
    ``mix`` is applied to each batch with its number.
    """
    dataset = grain.MapDataset.source(source).batch(batch_size)
    if mix is not None:
        dataset = dataset.map_with_index(mix)
    num_threads = 2 if num_workers else min(8, max(2, os.cpu_count() or 2))
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    loader = dataset[start_batch:].to_iter_dataset(options)
    if num_workers:
        require_shared_memory()
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads absl's flags, which only absl's own main would parse
        loader = loader.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=partial(_exit_with_parent, os.getpid()),
        )
    return iter(loader)


def num_batches(source: Source, batch_size: int) -> int:
    """Return the number of batches, including a shorter last one."""
    return math.ceil(len(source) / batch_size)


def _exit_with_parent(parent: int, *_: int) -> None:
    """Let the kernel kill this worker when its parent dies: a parent killed with SIGKILL cannot stop its workers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before prctl was called
        os._exit(1)
