"""Hold out a fraction of each class, or one fold, for validation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Dataset, Metrics, Provenance, Split, StageContext, build
from carclf.config import Config
from carclf.errors import ConfigError
from carclf.natural_order import sort_naturally
from carclf.progress import log

if TYPE_CHECKING:
    import pandas as pd

VERSION = 6
SUBSETS = ("train", "val", "excluded", "holdout")


def split(dataset: Dataset, champion: Split | None, context: StageContext) -> tuple[Split, bool]:
    """Return the split of the dataset, and whether it was reused. Copies of an image are in the same subset.

    Images of the champion's split keep their subset. If the champion's split was made from this dataset with these
    settings, that split is returned, so that a run on unchanged data reuses everything. Raise ConfigError if
    ``gate.min_recall_by_class`` names a class that is not in the data.
    """
    result, reused = _split(dataset, champion, context)
    context.config.gate.require_classes(result.class_names)
    return result, reused


def _split(dataset: Dataset, champion: Split | None, context: StageContext) -> tuple[Split, bool]:
    settings = _settings(context)
    if champion is not None:
        key = Provenance(VERSION, champion.inputs, settings).key(Split)
        if champion.input("dataset") == dataset.key and champion.key == key:
            return champion, True
    provenance = _provenance(dataset, champion.key if champion else "", context)
    return build(Split, lambda folder: _write_split(folder, dataset, champion, context), provenance, context.store)


def rebuild_split(key: str, dataset: Dataset, context: StageContext) -> None:
    """Build the split with this key again: from the split of the champion at that time, not of today's champion."""
    for champion in ("", *Split.list_keys(context.store)):
        if _provenance(dataset, champion, context).key(Split) == key:
            _split(dataset, Split.require(context.store, champion) if champion else None, context)


def _provenance(dataset: Dataset, champion_key: str, context: StageContext) -> Provenance:
    inputs = {"dataset": dataset.key} | ({"champion": champion_key} if champion_key else {})
    return Provenance(VERSION, inputs, _settings(context))


def _settings(context: StageContext) -> dict[str, Any]:
    return context.config.split.model_dump() | {"seed": _seed(context.config), "salt": context.salt}


def _write_split(folder: Path, dataset: Dataset, champion: Split | None, context: StageContext) -> Metrics:
    from carclf.dataset.champion_split import with_split_history
    from carclf.dataset.leaks import find_leaks, leak_metrics

    index = dataset.index(context.store)
    history = champion.history(context.store) if champion else None
    rows = _assign_subsets(index, history, context.config)
    class_names = sort_naturally(rows.loc[rows["subset"] != "holdout", "label"])
    positions = {name: position for position, name in enumerate(class_names)}
    rows = rows.assign(class_index=rows["label"].map(positions).fillna(-1).astype("int64"))
    rows.to_parquet(folder / "split.parquet", index=False)
    with_split_history(rows, history).to_parquet(folder / "split_history.parquet", index=False)
    leaks = find_leaks(rows, index, history)
    (folder / "leaks.json").write_text(json.dumps(leaks, indent=1))
    if leaked := leaks["champion_train_in_val"]:
        log.warning("split: num_champion_train_in_val=%d: the champion was trained on these validation images, as is "
                    "usual in a cross-validation. Its accuracy on them is too high, and so is that of a model that "
                    "starts from it.", len(leaked))
    counts = {f"num_{subset}": int((rows["subset"] == subset).sum()) for subset in SUBSETS}
    counts["num_groups"] = int(rows.loc[rows["group"] != "", "group"].nunique())
    metric = dataset.metrics.get("metric", "accuracy")
    return counts | leak_metrics(leaks) | {"class_names": class_names, "metric": metric}


def _seed(config: Config) -> int:
    return config.seed if config.split.seed is None else config.split.seed


def _assign_subsets(index: "pd.DataFrame", history: "pd.DataFrame | None", config: Config) -> "pd.DataFrame":
    from carclf.dataset.splits import stratified_holdout, stratified_k_fold

    settings, seed = config.split, _seed(config)
    if num_given := int((index["source"] == "val").sum()):
        if settings.num_folds:
            raise ConfigError(f"split.num_folds={settings.num_folds} cannot be used: the data have {num_given} given "
                              "validation images. Set split.num_folds=0.")
        log.info("split: num_given_val=%d: the validation images are given, split.val_fraction=%s is not used",
                 num_given, settings.val_fraction)
    if settings.num_folds:
        return stratified_k_fold(index, num_folds=settings.num_folds, fold=settings.fold, seed=seed, previous=history)
    return stratified_holdout(index, val_fraction=settings.val_fraction, seed=seed, previous=history)
