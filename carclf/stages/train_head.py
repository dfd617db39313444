"""Train a new head on the frozen backbone's features, once the data have been audited by them."""

import time
from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Metrics, Model, Provenance, Split, StageContext, build
from carclf.audit.auditor import Auditor
from carclf.config import Config
from carclf.training.run_features import RunFeatures
from carclf.training.warm_start import champion_warm_start
from carclf.training.weights import weights_identity

VERSION = 4


def train_head(
    archive: Archive, split: Split, context: StageContext
) -> tuple[Model, bool]:
    """Backbone and new head as one model, the head fitted to cached features of several views.

    The metrics tell what the audit of the data found too: they are no part of the model, but this run's.
    """
    config, store, salt = context.config, context.store, context.salt
    inputs = {"archive": archive.key, "split": split.key}
    settings: dict[str, Any] = {
        "model": config.model.model_dump(), "augment": config.augment.model_dump(), "head": config.head.model_dump(),
        "seed": config.seed, "salt": salt,
    }
    beginning = None
    if config.model.weights == "champion":
        beginning = champion_warm_start(store, inputs, settings, config, VERSION)
    settings["model"]["weights"] = beginning.identity if beginning else weights_identity(config.model.weights)
    own = beginning.model if beginning else None
    features = RunFeatures(archive, split, config, store, settings, own)
    found: Metrics = {}
    audited_before = True
    if config.audit.enabled:
        weights = settings["model"]["weights"]
        found, audited_before = Auditor(archive, split, context, weights, features.plain).metrics()

    def make(folder: Path) -> Metrics:
        return _fit(folder, features, config)

    model, reused = build(Model, make, Provenance(VERSION, inputs, settings), store)
    return model.model_copy(update={"metrics": model.metrics | found}), reused and audited_before


def _fit(folder: Path, features: RunFeatures, config: Config) -> Metrics:
    from carclf.dataset.archives import extract_images
    from carclf.training.compile import save_model
    from carclf.training.heads import join_backbone_and_head
    from carclf.training.probe import write_reference_logits

    train, val = features.subsets["train"], features.subsets["val"]
    saved = _seconds_saved(features)
    own_val = (features.loaded["val"][0], val["target"].to_numpy())
    head, history, metrics = _fit_head(folder, features.loaded["train"], train, own_val, config)
    model = join_backbone_and_head(features.backbone, head)
    write_reference_logits(model, val, extract_images(features.archive, features.store), features.size, folder)
    save_model(model, history, folder)
    return metrics | {"image_height": features.size[0], "image_width": features.size[1], "seconds_saved": saved,
                      "class_names": features.split.metrics["class_names"]}


def _seconds_saved(features: RunFeatures) -> float:
    """What it would have taken longer to compute the features here than to load those that others left."""
    _ = features.backbone  # which is needed in any case
    started = time.monotonic()
    _ = features.loaded
    return round(max(0.0, features.seconds - (time.monotonic() - started)), 2)


def _fit_head(
    folder: Path, views: Any, train: Any, val: tuple[Any, Any], config: Config
) -> tuple[Any, Any, Metrics]:
    """The fitted head, its history and its metrics; with several trials, ``trials.csv`` in the folder."""
    import numpy as np

    from carclf.training.compile import make_deterministic
    from carclf.training.head_search import search_settings
    from carclf.training.heads import build_head, fit_head

    own, labels = config.head, train["target"].to_numpy()
    num_features, num_classes = int(views.shape[2]), int(labels.max()) + 1

    def fresh() -> Any:
        make_deterministic(config.seed)  # the head is the same whether the features were there or not
        return build_head(num_features, num_classes, config.model)

    if own.num_trials > 1:
        own, tried = search_settings(fresh, views, labels, train["cluster"].to_numpy(), own, config.seed)
        tried.to_csv(folder / "trials.csv", index=False)
    head = fresh()
    all_views = views.reshape(-1, num_features), np.tile(labels, len(views))
    history, accuracy, best_epoch = fit_head(head, all_views, val, own)
    return head, history, {
        "val_accuracy": accuracy, "best_epoch": best_epoch, "learning_rate": own.learning_rate,
        "weight_decay": own.weight_decay, "num_classes": num_classes, "num_features": num_features,
    }
