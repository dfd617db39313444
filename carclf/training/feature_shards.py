"""Features of images, loaded from the store or computed and saved there in shards.

Several machines that run the same command at once share the work: each processes the shards in a random order and
computes only those that are not in the store yet.
"""

import os
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.artifacts import Archive, Features, Metrics, Provenance, Split, StageContext, build
from carclf.config import Config
from carclf.dataset.archives import extract_images
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import AugmentedViewSource, Examples, LetterboxedSource, batches, num_batches
from carclf.progress import Meter, log

VERSION = 3
SHARD_ROWS = 2000  # images whose features are saved together, and lost if the process is killed
BATCH_SIZE = 32  # not a setting: it would have to be part of the features' key
NETWORK_SETTINGS = ("backbone", "weights", "image_height", "image_width", "deterministic")  # of model, in the key
SubsetFeatures = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Shard:
    """Some consecutive rows of a subset, in one view. ``start`` is the position of the first row in the subset."""

    rows: pd.DataFrame
    subset: str
    view: int
    start: int


@dataclass(frozen=True)
class FeatureShards:
    """Features of one backbone. ``settings`` are those of train_head, with the actual precision."""

    backbone: keras.Model
    settings: Mapping[str, Any]
    context: StageContext
    meter: Meter

    def load(
        self, archive: Archive, split: Split, subsets: Mapping[str, tuple[pd.DataFrame, int]]
    ) -> tuple[SubsetFeatures, float]:
        """Return the features (views, rows, features) of each subset, given as its rows and the number of views.

        Also returns the total compute time in seconds, including shards computed by other processes.
        """
        shards = [
            Shard(rows[start : start + SHARD_ROWS], subset, view, start)
            for subset, (rows, num_views) in subsets.items()
            for view in range(num_views)
            for start in range(0, len(rows), SHARD_ROWS)
        ]
        # The order affects only which process computes which shard.
        random.Random(f"{socket.gethostname()} {os.getpid()}").shuffle(shards)
        built = [self._build(archive, split, shard) for shard in shards]
        num_computed = sum(not reused for _, reused in built)
        log.info("features: computed=%d shards=%d", num_computed, len(shards))
        width = self.backbone.output_shape[-1]
        features = {
            subset: np.empty((num_views, len(rows), width), np.float32)
            for subset, (rows, num_views) in subsets.items()
        }
        for shard, (artifact, _) in zip(shards, built, strict=True):
            target = features[shard.subset][shard.view, shard.start : shard.start + len(shard.rows)]
            target[:] = artifact.array(self.context.store, "features.npy")
        return features, sum(artifact.seconds for artifact, _ in built)

    def _build(self, archive: Archive, split: Split, shard: Shard) -> tuple[Features, bool]:
        config, store = self.context.config, self.context.store

        def make(folder: Path) -> Metrics:
            size = config.model.image_size
            decode_size = Augmenter(config.augment).decode_size(size) if shard.view else size
            examples = Examples.from_index(shard.rows, extract_images(archive, store), decode_size)
            np.save(folder / "features.npy", extract_features(self.backbone, examples, config, shard.view, self.meter))
            return {"num_rows": len(shard.rows), "view": shard.view}

        model = self.settings["model"]
        # The seed determines the augmented views, and the weights of a random start.
        seeded = shard.view > 0 or model["weights"] == "none"
        settings = {
            **{name: model[name] for name in NETWORK_SETTINGS},
            "augment": self.settings["augment"] if shard.view else None,
            "seed": self.settings["seed"] if seeded else None, "precision": self.settings["precision"],
            "salt": self.settings["salt"], "subset": shard.subset, "view": shard.view, "start": shard.start,
            "num": len(shard.rows),
        }
        inputs = {"archive": archive.key, "split": split.key}
        return build(Features, make, Provenance(VERSION, inputs, settings), store)


def extract_features(
    backbone: keras.Model, examples: Examples, config: Config, view: int, meter: Meter
) -> npt.NDArray[np.float32]:
    """Return features (rows, features) of one view of each image: view 0 is the plain one, the others are augmented."""
    size = config.model.image_size
    source: LetterboxedSource | AugmentedViewSource = LetterboxedSource(examples, size)
    if view:
        source = AugmentedViewSource(examples, size, Augmenter(config.augment), config.seed, view)
    features: list[npt.NDArray[np.float32]] = []
    for pixels, _ in batches(source, BATCH_SIZE):
        features.append(backbone.predict_on_batch(pixels))
        meter(len(features), num_batches(source, BATCH_SIZE), f"view {view}")
    return np.concatenate(features).astype(np.float32)
