"""Train a new head on the frozen backbone's features."""

from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Features, Figures, Model, Split, build
from carclf.config import Config
from carclf.progress import Meter
from carclf.services.storage import Store
from carclf.training.warm_start import champions_backbone, champions_weights
from carclf.training.weights import weights_identity

VERSION = 3
SHARD_ROWS = 2000  # pictures whose features are saved together: what a kill can lose, and what workers can share


def train_head(
    archive: Archive, split: Split, config: Config, store: Store, *, salt: str = ""
) -> tuple[Model, bool]:
    """Backbone and new head as one model, the head fitted to cached features of several views."""
    inputs = {"archive": archive.key, "split": split.key}
    settings: dict[str, Any] = {
        "model": config.model.model_dump(), "augment": config.augment.model_dump(), "head": config.head.model_dump(),
        "seed": config.seed, "salt": salt,
    }
    given = config.model.weights
    settings["model"]["weights"] = (champions_weights(store, inputs, settings) if given == "champion"
                                    else weights_identity(given))

    def make(folder: Path) -> Figures:
        return _fit(folder, archive, split, config, store, settings)

    return build(Model, make, store=store, version=VERSION, settings=settings, inputs=inputs)


def _fit(folder: Path, archive: Archive, split: Split, config: Config, store: Store, settings: Any) -> Figures:
    import numpy as np
    import pandas as pd

    from carclf.training.backbones import build_backbone
    from carclf.training.compiling import save
    from carclf.training.determinism import make_repeatable
    from carclf.training.head_search import choose
    from carclf.training.heads import build_head, fit_head, join
    from carclf.training.precision import computing_in

    make_repeatable(config.seed)
    rows = pd.read_parquet(split.path(store, "split.parquet")).assign(label=lambda rows: rows["target"])
    train, val = rows[rows["subset"] == "train"], rows[rows["subset"] == "val"]
    size = (config.model.image_height, config.model.image_width)
    network = config.model
    backbone = (champions_backbone(store, size) if network.weights == "champion"
                else build_backbone(network.backbone, network.weights, *size))
    with computing_in(config.model.precision, backbone) as precision, Meter("features") as meter:
        shards = _Shards(backbone, archive, split, config, store, settings | {"precision": precision}, meter)
        views = [shards.features(train, "train", view) for view in range(config.head.num_views)]
        val_features = shards.features(val, "val", 0)
    own, labels = config.head, train["target"].to_numpy()
    num_features, num_classes = val_features.shape[1], int(rows["target"].max()) + 1

    def fresh() -> Any:
        make_repeatable(config.seed)  # the head is the same whether the features were there or not
        return build_head(num_features, num_classes, config.model)

    if own.num_trials > 1:
        own, tried = choose(fresh, views, labels, train["sha256"].to_numpy(), own, config.seed)
        tried.to_csv(folder / "trials.csv", index=False)
    head = fresh()
    history, accuracy, best_epoch = fit_head(
        head, (np.concatenate(views), np.tile(labels, len(views))), (val_features, val["target"].to_numpy()), own
    )
    save(join(backbone, head), history, folder)
    return {"val_accuracy": accuracy, "best_epoch": best_epoch, "learning_rate": own.learning_rate,
            "weight_decay": own.weight_decay, "num_classes": num_classes, "num_features": int(num_features),
            "image_height": size[0], "image_width": size[1]}


class _Shards:
    """Features out of the store, or computed and put there, some thousand pictures at a time."""

    def __init__(
        self, backbone: Any, archive: Archive, split: Split, config: Config, store: Store, settings: Any, meter: Meter
    ) -> None:
        self.backbone, self.archive, self.split = backbone, archive, split
        self.config, self.store, self.settings, self.meter = config, store, settings, meter

    def features(self, rows: Any, subset: str, view: int) -> Any:
        """(rows, features) float32 of one view of the rows of a subset."""
        import numpy as np

        starts = range(0, len(rows), SHARD_ROWS)
        return np.concatenate([self._shard(rows[start : start + SHARD_ROWS], subset, view, start) for start in starts])

    def _shard(self, rows: Any, subset: str, view: int, start: int) -> Any:
        import numpy as np

        from carclf.data.images import unpack
        from carclf.data.input_pipeline import Examples
        from carclf.training.features import extract

        def make(folder: Path) -> Figures:
            size = (self.config.model.image_height, self.config.model.image_width)
            examples = Examples.of(rows, unpack(self.archive, self.store), size)
            np.save(folder / "features.npy", extract(self.backbone, examples, self.config, view, self.meter))
            return {"num_rows": len(rows), "view": view}

        model, augment = self.settings["model"], self.settings["augment"]
        own = {key: model[key] for key in ("backbone", "weights", "image_height", "image_width")}
        settings = own | {
            "augment": augment if view else None, "seed": self.settings["seed"] if view else None,
            "precision": self.settings["precision"], "salt": self.settings["salt"],
            "subset": subset, "view": view, "start": start, "num": len(rows),
        }
        shard, _ = build(Features, make, store=self.store, version=VERSION, settings=settings,
                         inputs={"archive": self.archive.key, "split": self.split.key})
        return np.load(shard.path(self.store, "features.npy"))
