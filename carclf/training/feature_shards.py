"""Features out of the store, or computed and put there, some thousand pictures at a time.

The same command on several machines at once shares the work: each looks for a shard in the store before it makes it,
and each goes through them in an order of its own.
"""


import os
import random
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.artifacts import Archive, Features, Metrics, Provenance, Split, build
from carclf.config import Config
from carclf.dataset.archives import extract_images
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import AugmentedViewSource, Examples, LetterboxedSource, batches, num_batches
from carclf.progress import Meter, log
from carclf.services.storage import Store

VERSION = 2
SHARD_ROWS = 2000  # pictures whose features are saved together: what a kill can lose
Part = tuple[pd.DataFrame, int]  # the rows of a subset and how many views of them


class FeatureShards:
    """The features of one split's pictures, as one backbone sees them."""

    def __init__(
        self, backbone: keras.Model, archive: Archive, split: Split, config: Config, store: Store,
        settings: dict[str, Any], meter: Meter,
    ) -> None:
        self.backbone, self.archive, self.split = backbone, archive, split
        self.config, self.store, self.settings, self.meter = config, store, settings, meter
        self.seconds = 0.0  # what it took to compute what was loaded, whoever did

    def load(self, parts: Mapping[str, Part]) -> dict[str, npt.NDArray[np.float32]]:
        """(views, rows, features) of each subset."""
        shards = [(rows[start : start + SHARD_ROWS], subset, view, start) for subset, (rows, num_views) in parts.items()
                  for view in range(num_views) for start in range(0, len(rows), SHARD_ROWS)]
        order = list(range(len(shards)))
        random.Random(f"{socket.gethostname()} {os.getpid()}").shuffle(order)  # decides nothing but who makes what
        made = [self._make(*shards[position]) for position in order]
        self.seconds = sum(shard.seconds for shard, _ in made)
        log.info("features: %d of %d shards made here", sum(not reused for _, reused in made), len(shards))
        width = self.backbone.output_shape[-1]
        found = {subset: np.empty((num_views, len(rows), width), np.float32)
                 for subset, (rows, num_views) in parts.items()}
        for position, (shard, _) in zip(order, made, strict=True):
            rows, subset, view, start = shards[position]
            found[subset][view, start : start + len(rows)] = np.load(shard.path(self.store, "features.npy"))
        return found

    def _make(self, rows: pd.DataFrame, subset: str, view: int, start: int) -> tuple[Features, bool]:
        def make(folder: Path) -> Metrics:
            size = self.config.model.image_size
            examples = Examples.from_index(rows, extract_images(self.archive, self.store), size)
            np.save(folder / "features.npy", extract_features(self.backbone, examples, self.config, view, self.meter))
            return {"num_rows": len(rows), "view": view}

        model, augment = self.settings["model"], self.settings["augment"]
        own = {key: model[key] for key in ("backbone", "weights", "image_height", "image_width")}
        settings = own | {
            # the seed draws the views, and the weights where there are none
            "augment": augment if view else None,
            "seed": self.settings["seed"] if view or model["weights"] == "none" else None,
            "precision": self.settings["precision"], "salt": self.settings["salt"],
            "subset": subset, "view": view, "start": start, "num": len(rows),
        }
        return build(Features, make, Provenance(VERSION, {"archive": self.archive.key, "split": self.split.key}, settings), self.store)

BATCH_SIZE = 32  # no setting: it would have to be in the features' key


def extract_features(
    backbone: keras.Model, examples: Examples, config: Config, view: int, meter: Meter
) -> npt.NDArray[np.float32]:
    """Features (rows, features) of one view of each picture: view 0 is plain, the others are augmented."""
    size = config.model.image_size
    source: LetterboxedSource | AugmentedViewSource = LetterboxedSource(examples, size)
    if view:
        source = AugmentedViewSource(examples, size, Augmenter(config.augment), config.seed, view)
    found: list[Any] = []
    for pixels, _ in batches(source, BATCH_SIZE):
        found.append(backbone.predict_on_batch(pixels))
        meter(len(found), num_batches(source, BATCH_SIZE), f"view {view}")
    return np.concatenate(found).astype(np.float32)
