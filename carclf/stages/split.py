"""Hold a share of every class, or a fold, out for validation."""

import json
from pathlib import Path
from typing import Any

from carclf.artifacts import Dataset, Metrics, Provenance, Split, StageContext, build
from carclf.config import Config
from carclf.progress import log
from carclf.services.storage import Store

VERSION = 4


def split(
    dataset: Dataset, champion: Split | None, context: StageContext
) -> tuple[Split, bool]:
    """The usable labelled pictures, each in the subset train, val or excluded; copies on one side.

    What stands on a side of the champion's split stays there. If that split was made of this dataset with these
    settings, it is the answer itself: a run on unchanged data reuses everything also after it won.
    """
    config, store, salt = context.config, context.store, context.salt
    settings = config.split.model_dump() | {"seed": _seed(config), "salt": salt}
    if (champion is not None and champion.inputs["dataset"] == dataset.key
            and champion.key == Provenance(VERSION, champion.inputs, settings).key(Split)):
        return champion, True

    def make(folder: Path) -> Metrics:
        return _write(folder, dataset, champion, config, store)

    inputs = {"dataset": dataset.key} | ({"champion": champion.key} if champion else {})
    return build(Split, make, Provenance(VERSION, inputs, settings), store)


def _write(folder: Path, dataset: Dataset, champion: Split | None, config: Config, store: Store) -> Metrics:
    import pandas as pd

    from carclf.dataset.champion_split import with_split_history
    from carclf.dataset.leaks import find_leaks, leak_metrics

    index = pd.read_parquet(dataset.path(store, "index.parquet"))
    memory = _memory(champion, store)
    rows = _assigned(index, memory, config)
    class_names = sorted(rows["label"].unique())
    rows = rows.assign(class_index=rows["label"].map({name: i for i, name in enumerate(class_names)}))
    rows.to_parquet(folder / "split.parquet", index=False)
    with_split_history(rows, memory).to_parquet(folder / "split_history.parquet", index=False)
    leaks = find_leaks(rows, index, memory)
    (folder / "leaks.json").write_text(json.dumps(leaks, indent=1))
    if leaked := leaks["champion_train_in_val"]:
        log.warning("split: %d of the validation pictures trained the champion, as in a cross-validation they do: its "
                    "accuracy on them, and that of a model that goes on from it, says little", len(leaked))
    counts = {f"num_{subset}": int((rows["subset"] == subset).sum()) for subset in ("train", "val", "excluded")}
    return counts | leak_metrics(leaks) | {"class_names": [int(name) for name in class_names]}


def _memory(champion: Split | None, store: Store) -> Any:
    """What the champion and those before it knew; of a split from before there was such a memory, its rows."""
    import pandas as pd

    if champion is None:
        return None
    name = "split_history.parquet" if "split_history.parquet" in champion.files else "split.parquet"
    return pd.read_parquet(champion.path(store, name))


def _seed(config: Config) -> int:
    return config.seed if config.split.seed is None else config.split.seed


def _assigned(index: Any, previous: Any, config: Config) -> Any:
    from carclf.dataset.splits import stratified_holdout, stratified_k_fold

    own = config.split
    if own.num_folds:
        return stratified_k_fold(index, num_folds=own.num_folds, fold=own.fold, seed=_seed(config), previous=previous)
    return stratified_holdout(index, val_fraction=own.val_fraction, seed=_seed(config), previous=previous)
