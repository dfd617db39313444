"""Hold a stratified share of every class out for validation."""

from pathlib import Path

from carclf.artifacts import Dataset, Figures, Split, build
from carclf.config import Config
from carclf.services.storage import Store

VERSION = 1


def split(dataset: Dataset, config: Config, store: Store, *, salt: str = "") -> tuple[Split, bool]:
    """The usable labelled pictures, each in the subset train or val; equal pictures on one side."""

    def make(folder: Path) -> Figures:
        import pandas as pd

        from carclf.data.splits import stratified

        index = pd.read_parquet(dataset.path(store, "index.parquet"))
        rows = stratified(index, val_fraction=config.split.val_fraction, seed=config.seed)
        class_names = sorted(rows["label"].unique())
        rows = rows.assign(target=rows["label"].map({name: i for i, name in enumerate(class_names)}))
        rows.to_parquet(folder / "split.parquet", index=False)
        counts = rows["subset"].value_counts()
        return {"num_train": int(counts["train"]), "num_val": int(counts["val"]),
                "class_names": " ".join(map(str, class_names))}

    settings = config.split.model_dump() | {"seed": config.seed, "salt": salt}
    return build(Split, make, store=store, version=VERSION, inputs={"dataset": dataset.key}, settings=settings)
