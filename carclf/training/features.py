"""The frozen backbone's pooled features of several views of each picture, computed once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from carclf.config import Config
from carclf.data.augmentation import Augmenter
from carclf.data.input_pipeline import Pictures

Progress = Callable[[int, int], None]


def extract(backbone: keras.Model, rows: pd.DataFrame, folder: Path, config: Config, progress: Progress) -> Any:
    """Features (views, rows, features) float32: view 0 is the plain picture, the others are augmented."""
    size = (config.model.image_height, config.model.image_width)
    augmenter = Augmenter(config.augment, *size)
    num_views, views = config.head.num_views, []
    for view in range(num_views):
        pictures = Pictures(
            rows, folder, size, batch_size=config.fine_tune.batch_size, seed=config.seed,
            augmenter=augmenter if view else None, num_workers=config.fine_tune.num_workers,
        )
        pictures.start_epoch(view)
        inverse = np.argsort(pictures.order)
        counter = _Count(view * len(pictures), num_views * len(pictures), progress)
        # predict() would see Keras' own end-of-epoch shuffling; the order is fixed before it.
        views.append(backbone.predict(pictures, verbose=0, callbacks=[counter])[inverse])
    return np.stack(views)


class _Count(keras.callbacks.Callback):  # type: ignore[misc]  # keras is untyped
    def __init__(self, start: int, total: int, progress: Progress) -> None:
        super().__init__()
        self.start, self.total, self.report = start, total, progress

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.report(self.start + batch + 1, self.total)
