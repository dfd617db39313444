"""The backbone of a run and the features of the run's images, computed when they are first used."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Archive, Model, Split, StageContext
from carclf.progress import Meter
from carclf.training.warm_start import load_backbone
from carclf.training.weights import StartingWeights

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd

    from carclf.training.feature_shards import SubsetFeatures

FEATURE_SUBSETS = ("train", "val", "excluded")


@dataclass
class RunFeatures:
    """Features of every view of the images of ``augmented`` subsets, and of the plain view of all other images.

    ``settings`` are those of train_head. ``start`` is what the backbone starts from: weights, or a model's backbone.
    Nothing is computed twice, and the training framework is only imported when a property is used.
    """

    archive: Archive
    split: Split
    context: StageContext
    settings: Mapping[str, Any]
    start: Model | StartingWeights
    augmented: tuple[str, ...] = ("train",)

    @cached_property
    def backbone(self) -> "keras.Model":
        """The frozen network; the same one every time, even with a random start."""
        from carclf.training.backbones import build_backbone
        from carclf.training.compile import make_deterministic

        model = self.context.config.model
        make_deterministic(self.context.config.seed, kernels=model.deterministic)
        if isinstance(self.start, Model):
            return load_backbone(self.start, self.context.store, model.image_size)
        return build_backbone(model.backbone, self.start, *model.image_size)

    @cached_property
    def rows(self) -> "dict[str, pd.DataFrame]":
        """The split's rows by subset."""
        return self._rows_by_subset(self.split)

    @property
    def by_subset(self) -> "SubsetFeatures":
        """Features (views, rows, features) by subset, loaded together so that several workers can share the work."""
        return self._loaded[0]

    @property
    def seconds(self) -> float:
        """Total compute time in seconds, including shards computed by other processes."""
        return self._loaded[1]

    def plain_features(self, archive: Archive, split: Split) -> "tuple[pd.DataFrame, np.ndarray[Any, Any]]":
        """Return the rows of all usable labeled images of any split, and the features of their plain views."""
        import numpy as np
        import pandas as pd

        if (archive.key, split.key) == (self.archive.key, self.split.key):
            rows, features = self.rows, self.by_subset
        else:
            rows = self._rows_by_subset(split)
            features, _ = self._load(archive, split, rows, 1)
        plain = np.concatenate([features[subset][0] for subset in rows])
        return pd.concat(rows.values(), ignore_index=True), plain

    @cached_property
    def _loaded(self) -> "tuple[SubsetFeatures, float]":
        return self._load(self.archive, self.split, self.rows, self.context.config.head.num_views)

    def _rows_by_subset(self, split: Split) -> "dict[str, pd.DataFrame]":
        rows = split.rows(self.context.store)
        present = set(rows["subset"])
        return {subset: rows[rows["subset"] == subset] for subset in FEATURE_SUBSETS if subset in present}

    def _load(
        self, archive: Archive, split: Split, rows: "dict[str, pd.DataFrame]", num_views: int
    ) -> "tuple[SubsetFeatures, float]":
        from carclf.training.feature_shards import FeatureShards
        from carclf.training.precision import compute_precision

        setting = self.context.config.model.precision
        with compute_precision(setting, self.backbone) as precision, Meter("features") as meter:
            shards = FeatureShards(self.backbone, {**self.settings, "precision": precision}, self.context, meter)
            subsets = {name: (table, num_views if name in self.augmented else 1) for name, table in rows.items()}
            return shards.load(archive, split, subsets)
