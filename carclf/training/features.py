"""The frozen backbone's pooled features of several views of each picture, computed once."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from carclf.config import Config
from carclf.data.augmentation import Augmenter
from carclf.data.input_pipeline import Examples, Plain, View, batches, num_batches
from carclf.progress import Meter

BATCH_SIZE = 32  # no setting: it would have to be in the features' key


def extract(
    backbone: keras.Model, examples: Examples, config: Config, view: int, meter: Meter
) -> npt.NDArray[np.float32]:
    """Features (rows, features) of one view of each picture: view 0 is plain, the others are augmented."""
    size = config.model.size
    source: Plain | View = Plain(examples, size)
    if view:
        source = View(examples, size, Augmenter(config.augment), config.seed, view)
    found: list[Any] = []
    for pixels, _ in batches(source, BATCH_SIZE):
        found.append(backbone.predict_on_batch(pixels))
        meter(len(found), num_batches(source, BATCH_SIZE), f"view {view}")
    return np.concatenate(found).astype(np.float32)
