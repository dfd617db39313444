"""Train a new head on the frozen backbone's features."""

from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Features, Figures, Model, Split, build, file_sha256
from carclf.config import Config
from carclf.progress import Meter
from carclf.services.storage import Store

VERSION = 1


def train_head(
    archive: Archive, split: Split, config: Config, store: Store, *, salt: str = ""
) -> tuple[Model, bool]:
    """Backbone and new head as one model, the head fitted to cached features of several views."""
    inputs = {"archive": archive.key, "split": split.key}
    network = config.model.model_dump() | {"weights": _weights_identity(config.model.weights)}
    settings = {"model": network, "augment": config.augment.model_dump(), "head": config.head.model_dump(),
                "seed": config.seed, "salt": salt}

    def make(folder: Path) -> Figures:
        return _fit(folder, archive, split, config, store, settings)

    return build(Model, make, store=store, version=VERSION, inputs=inputs, settings=settings)


def _weights_identity(weights: str) -> str:
    """Weights in a file are known by their content, so that a moved file changes no key."""
    if weights in ("imagenet", "none"):
        return weights
    if "://" in weights:
        return weights
    path = Path(weights).expanduser()
    return f"sha256:{file_sha256(path)}" if path.is_file() else weights


def _fit(folder: Path, archive: Archive, split: Split, config: Config, store: Store, settings: Any) -> Figures:
    import keras
    import numpy as np
    import pandas as pd

    from carclf.training import loop
    from carclf.training.backbones import build_backbone
    from carclf.training.determinism import make_repeatable
    from carclf.training.heads import build_head, join
    from carclf.training.schedules import warmup_cosine

    make_repeatable(config.seed)
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    train, val = rows[rows["subset"] == "train"], rows[rows["subset"] == "val"]
    size = (config.model.image_height, config.model.image_width)
    backbone = build_backbone(config.model.backbone, config.model.weights, *size)
    features, _ = _features(backbone, archive, split, train, val, config, store, settings)
    with np.load(features.path(store, "features.npz")) as arrays:
        views, val_features = arrays["train"], arrays["val"]
    num_classes = int(rows["target"].max()) + 1
    x = views.reshape(-1, views.shape[-1])
    y = np.tile(train["target"].to_numpy(), len(views))
    head = build_head(x.shape[1], num_classes, config.model)
    num_steps = config.head.epochs * -(-len(x) // config.head.batch_size)
    optimizer = keras.optimizers.AdamW(
        warmup_cosine(config.head.learning_rate, num_steps, 0.1), weight_decay=config.head.weight_decay
    )
    trained = loop.compiled(head, optimizer, config.head.label_smoothing, num_classes)
    best = loop.KeepBest()
    history = loop.fit(
        trained, (x, y), (val_features, val["target"].to_numpy()), epochs=config.head.epochs,
        batch_size=config.head.batch_size, meter=Meter("train_head"), callbacks=[best],
    )
    loop.save(join(backbone, head), history, folder)
    return {"val_accuracy": float(best.best), "best_epoch": best.best_epoch + 1, "num_classes": num_classes,
            "num_features": int(x.shape[1])}


def _features(
    backbone: Any, archive: Archive, split: Split, train: Any, val: Any, config: Config, store: Store, settings: Any
) -> tuple[Features, bool]:
    def make(folder: Path) -> Figures:
        import numpy as np

        from carclf.data.images import unpack
        from carclf.training.features import extract

        images = unpack(archive, store)
        plain = config.model_copy(update={"head": config.head.model_copy(update={"num_views": 1})})
        with Meter("features") as meter:
            views = extract(backbone, train, images, config, meter)
        with Meter("features of val") as meter:
            val_features = extract(backbone, val, images, plain, meter)[0]
        np.savez(folder / "features.npz", train=views, val=val_features)
        return {"num_views": len(views), "num_rows": views.shape[1] + len(val_features)}

    own = {key: settings[key] for key in ("augment", "seed", "salt")}
    own["model"] = {key: settings["model"][key] for key in ("backbone", "weights", "image_height", "image_width")}
    own["num_views"] = config.head.num_views
    inputs = {"archive": archive.key, "split": split.key}
    return build(Features, make, store=store, version=VERSION, inputs=inputs, settings=own)
