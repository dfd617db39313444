"""Train a new head on the frozen backbone's features."""

from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Figures, Model, Split, build
from carclf.config import Config
from carclf.progress import Meter
from carclf.services.storage import Store
from carclf.training.warm_start import champions_backbone, champions_weights
from carclf.training.weights import weights_identity

VERSION = 3


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
    import pandas as pd

    from carclf.training.backbones import build_backbone
    from carclf.training.compiling import save
    from carclf.training.determinism import make_repeatable
    from carclf.training.feature_shards import Shards
    from carclf.training.heads import join
    from carclf.training.precision import computing_in

    make_repeatable(config.seed)
    rows = pd.read_parquet(split.path(store, "split.parquet")).assign(label=lambda rows: rows["target"])
    train, val = rows[rows["subset"] == "train"], rows[rows["subset"] == "val"]
    network = config.model
    size = (network.image_height, network.image_width)
    backbone = (champions_backbone(store, size) if network.weights == "champion"
                else build_backbone(network.backbone, network.weights, *size))
    with computing_in(network.precision, backbone) as precision, Meter("features") as meter:
        shards = Shards(backbone, archive, split, config, store, settings | {"precision": precision}, meter)
        wanted = [(train, "train", view) for view in range(config.head.num_views)]
        *views, val_features = shards.load([*wanted, (val, "val", 0)])
    head, history, figures = _fit_head(folder, views, train, (val_features, val["target"].to_numpy()), config)
    save(join(backbone, head), history, folder)
    return figures | {"image_height": size[0], "image_width": size[1]}


def _fit_head(
    folder: Path, views: list[Any], train: Any, val: tuple[Any, Any], config: Config
) -> tuple[Any, Any, Figures]:
    """The fitted head, its history and its figures; with several trials, ``trials.csv`` in the folder."""
    import numpy as np

    from carclf.training.determinism import make_repeatable
    from carclf.training.head_search import choose
    from carclf.training.heads import build_head, fit_head

    own, labels = config.head, train["target"].to_numpy()
    num_features, num_classes = int(views[0].shape[1]), int(labels.max()) + 1

    def fresh() -> Any:
        make_repeatable(config.seed)  # the head is the same whether the features were there or not
        return build_head(num_features, num_classes, config.model)

    if own.num_trials > 1:
        own, tried = choose(fresh, views, labels, train["sha256"].to_numpy(), own, config.seed)
        tried.to_csv(folder / "trials.csv", index=False)
    head = fresh()
    history, accuracy, best_epoch = fit_head(head, (np.concatenate(views), np.tile(labels, len(views))), val, own)
    return head, history, {
        "val_accuracy": accuracy, "best_epoch": best_epoch, "learning_rate": own.learning_rate,
        "weight_decay": own.weight_decay, "num_classes": num_classes, "num_features": num_features,
    }
