"""The pooled features of a run's pictures, and the backbone that sees them, got when they are first asked for."""

from functools import cached_property
from typing import Any

from carclf.artifacts import Archive, Model, Split
from carclf.config import Config
from carclf.progress import Meter
from carclf.services.storage import Store
from carclf.training.warm_start import load_backbone


class RunFeatures:
    """Features of every view of the training pictures and of the plain view of all: nothing is computed twice.

    The training framework is imported only where something is asked for.
    """

    def __init__(
        self, archive: Archive, split: Split, config: Config, store: Store, settings: dict[str, Any],
        beginning: Model | None,
    ) -> None:
        self.beginning = beginning  # the model whose backbone is taken, where the weights are not the named ones
        self.archive, self.split, self.config, self.store, self.settings = archive, split, config, store, settings
        self.size = config.model.image_size
        self.seconds = 0.0  # what it took to compute those of this run's pictures, whoever did

    @cached_property
    def backbone(self) -> Any:
        """The frozen network; the same one each time, also where it begins at random."""
        from carclf.training.backbones import build_backbone
        from carclf.training.compile import make_deterministic

        make_deterministic(self.config.seed)
        network = self.config.model
        if self.beginning is not None:
            return load_backbone(self.beginning, self.store, self.size)
        return build_backbone(network.backbone, network.weights, *self.size)

    @cached_property
    def subsets(self) -> dict[str, Any]:
        """The split's rows by subset."""
        return _subsets(self.split, self.store)

    @cached_property
    def loaded(self) -> dict[str, Any]:
        """(views, rows, features) by subset; all at once, so that several workers can share the work."""
        features, self.seconds = self._load(self.archive, self.split, self.subsets, self.config.head.num_views)
        return features

    def plain(self, archive: Archive, split: Split) -> tuple[Any, Any]:
        """Every usable labelled picture's row and the features of its plain view; also of another run's pictures."""
        if (archive.key, split.key) == (self.archive.key, self.split.key):
            return _joined(self.subsets, self.loaded)
        subsets = _subsets(split, self.store)
        return _joined(subsets, self._load(archive, split, subsets, 1)[0])

    def _load(
        self, archive: Archive, split: Split, subsets: dict[str, Any], num_views: int
    ) -> tuple[dict[str, Any], float]:
        from carclf.training.feature_shards import FeatureShards
        from carclf.training.precision import compute_precision

        with compute_precision(self.config.model.precision, self.backbone) as precision, Meter("features") as meter:
            settings = self.settings | {"precision": precision}
            shards = FeatureShards(self.backbone, archive, split, self.config, self.store, settings, meter)
            features = shards.load({subset: (rows, num_views if subset == "train" else 1)
                                    for subset, rows in subsets.items()})
            return features, shards.seconds


def _subsets(split: Split, store: Store) -> dict[str, Any]:
    import pandas as pd

    rows = pd.read_parquet(split.path(store, "split.parquet"))
    return {subset: rows[rows["subset"] == subset] for subset in ("train", "val", "excluded")
            if subset in set(rows["subset"])}


def _joined(subsets: dict[str, Any], features: dict[str, Any]) -> tuple[Any, Any]:
    import numpy as np
    import pandas as pd

    return pd.concat(subsets.values(), ignore_index=True), np.concatenate([features[name][0] for name in subsets])
