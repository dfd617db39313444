"""Batches of pictures for Keras: decoded and augmented by threads, in an order that the seed decides."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf.data.augmentation import Augmenter
from carclf.data.images import Pixels, Undecodable, decode, letterbox


class Pictures(keras.utils.PyDataset):  # type: ignore[misc]  # keras is untyped
    """Batches ``(uint8 [batch, height, width, 3], int32 [batch])`` of the rows of an index.

    With an augmenter the rows are shuffled anew each epoch, by (seed, epoch); without one they keep their order.
    """

    def __init__(
        self, rows: pd.DataFrame, folder: Path, size: tuple[int, int], *, batch_size: int,
        augmenter: Augmenter | None = None, seed: int = 0, num_workers: int = 2,
    ) -> None:
        super().__init__(workers=num_workers, max_queue_size=4 * num_workers)
        self.paths, self.labels = rows["path"].to_numpy(), rows["label"].to_numpy(np.int32)
        self.folder, self.size, self.batch_size = folder, size, batch_size
        self.augmenter, self.seed = augmenter, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Fix the order and the augmentation's draws for this epoch."""
        self.epoch = epoch
        self.order = np.arange(len(self.paths))
        if self.augmenter is not None:
            np.random.default_rng((self.seed, epoch)).shuffle(self.order)

    def on_epoch_end(self) -> None:
        self.start_epoch(self.epoch + 1)

    def __len__(self) -> int:
        return math.ceil(len(self.paths) / self.batch_size)

    def __getitem__(self, batch: int) -> tuple[Any, Any]:
        rows = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
        return np.stack([self.picture(self.paths[row]) for row in rows]), self.labels[rows]

    def picture(self, path: str) -> Pixels:
        """One view of a picture; a flat grey one where a test picture cannot be decoded."""
        height, width = self.size
        try:
            pixels = decode((self.folder / path).read_bytes(), min_height=height, min_width=width)
        except Undecodable:
            return np.full((height, width, 3), 128, np.uint8)
        if self.augmenter is None:
            return letterbox(pixels, height, width)
        return self.augmenter(pixels, seed=self.seed, epoch=self.epoch, example=path)
