"""Train a new head on the frozen backbone's features, after auditing the data with the same features."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Archive, Metrics, Model, Provenance, Split, StageContext, build
from carclf.audit.auditor import Auditor
from carclf.champion import champion_model, require_common_classes
from carclf.config import Config
from carclf.dataset.archives import extract_images
from carclf.training.run_features import RunFeatures
from carclf.training.warm_start import champion_warm_start, weights_license
from carclf.training.weights import StartingWeights, starting_weights

if TYPE_CHECKING:
    import keras
    import pandas as pd

VERSION = 8


def train_head(archive: Archive, split: Split, context: StageContext) -> tuple[Model, bool]:
    """Return one model of the backbone and a new head, which is fitted to cached features of several views.

    The audit's metrics are added to the returned model for the run; the stored artifact does not contain them. Raise
    ConfigError if the champion was trained on other classes and ``gate.champion_rule`` requires a comparison with it.
    """
    config = context.config
    if config.gate.champion_rule != "off" and (champion := champion_model(context.store)):
        require_common_classes(champion, split, context.store)
    settings: dict[str, Any] = {
        "model": config.model.model_dump(), "augment": config.augment.model_dump(), "head": config.head.model_dump(),
        "seed": config.seed, "salt": context.salt,
    }
    inputs = {"archive": archive.key, "split": split.key}
    start: Model | StartingWeights
    if config.model.weights == "champion":
        warm_start = champion_warm_start(Provenance(VERSION, inputs, settings), context)
        start, identity = warm_start.model, warm_start.identity
    else:
        start = starting_weights(config.model.weights)
        identity = start.identity
    settings["model"]["weights"] = identity
    features = RunFeatures(archive, split, context, settings, start)
    audit_metrics: Metrics = {}
    audit_reused = True
    if config.audit.enabled:
        auditor = Auditor(archive, split, context, identity, features.plain_features)
        audit_metrics, audit_reused = auditor.metrics()
    provenance = Provenance(VERSION, inputs, settings)
    model, reused = build(Model, lambda folder: _write_model(folder, features, config), provenance, context.store)
    return model.model_copy(update={"metrics": model.metrics | audit_metrics}), reused and audit_reused


def _write_model(folder: Path, features: RunFeatures, config: Config) -> Metrics:
    from carclf.training.heads import join_backbone_and_head
    from carclf.training.saving import save_model, write_reference_logits

    seconds_saved = _load_features(features)
    head, history, metrics = _fit_head(folder, features, config)
    model = join_backbone_and_head(features.backbone, head)
    images = extract_images(features.archive, features.context.store)
    write_reference_logits(model, features.rows["val"], images, config.model.image_size, folder)
    save_model(model, history, folder)
    height, width = config.model.image_size
    return metrics | {"image_height": height, "image_width": width, "seconds_saved": seconds_saved,
                      "class_names": features.split.class_names} | _license(features)


def _license(features: RunFeatures) -> Metrics:
    """Return the license of the weights that the backbone starts from, if they are from a file."""
    start = features.start
    name = weights_license(start, features.context.store) if isinstance(start, Model) else start.license
    return {"weights_license": name} if name else {}


def _load_features(features: RunFeatures) -> float:
    """Load the features; return the seconds saved compared with computing all of them here."""
    _ = features.backbone  # needed in any case, so its time does not count
    started = time.monotonic()
    computing_seconds = features.seconds  # loads the features
    return round(max(0.0, computing_seconds - (time.monotonic() - started)), 2)


def _fit_head(folder: Path, features: RunFeatures, config: Config) -> "tuple[keras.Model, pd.DataFrame, Metrics]":
    """Return the fitted head, its history and its metrics. With several trials, write ``trials.csv``."""
    import numpy as np

    from carclf.dataset.splits import units_of
    from carclf.training.compile import make_deterministic
    from carclf.training.head_search import HeadData, search_settings
    from carclf.training.heads import build_head, fit_head
    from carclf.training.validation import Objective

    train, views = features.rows["train"], features.by_subset["train"]
    labels = train["class_index"].to_numpy()
    num_features, num_classes = int(views.shape[2]), int(labels.max()) + 1

    def new_head() -> "keras.Model":
        # Seed again: the head is the same whether the features were computed here or loaded.
        make_deterministic(config.seed, kernels=config.model.deterministic)
        return build_head(num_features, num_classes, config.model)

    settings, objective = config.head, Objective.from_split(features.split)
    if settings.num_trials > 1:
        data = HeadData(views, labels, units_of(train).to_numpy())
        settings, trials = search_settings(new_head, data, settings, config.seed, objective)
        trials.to_csv(folder / "trials.csv", index=False)
    head = new_head()
    val = features.by_subset["val"][0], features.rows["val"]["class_index"].to_numpy()
    all_views = views.reshape(-1, num_features), np.tile(labels, len(views))
    fitted = fit_head(head, all_views, val, settings, objective)
    return head, fitted.history, {
        **fitted.validation.to_metrics(), "metric": objective.metric.name, "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay, "num_classes": num_classes, "num_features": num_features,
    }
