"""Stratified splits that depend on the pictures' content alone, never on the order of the rows."""

import hashlib

import pandas as pd

from carclf.errors import DataError


def stratified(index: pd.DataFrame, *, val_fraction: float, seed: int) -> pd.DataFrame:
    """Add ``subset`` (train or val) to usable labelled rows; equal pictures stay on one side.

    Each class's pictures are ranked by a hash of (seed, content) and the first share validates: within one
    group of equal pictures of the wanted share, at least one image on each side. DataError where there are
    not two different pictures.
    """
    usable = index[(index["label"] >= 0) & (index["problem"] == "")]
    rank = usable["sha256"].map(lambda content: hashlib.sha256(f"{seed}:{content}".encode()).hexdigest())
    ordered = usable.assign(rank=rank).sort_values(["rank", "id"])
    # A picture filed under two classes would stand on both sides: the first class decides for all its copies.
    owner = ordered.groupby("sha256")["label"].transform("min")
    position = ordered.groupby(owner)["sha256"].transform(lambda contents: pd.factorize(contents)[0])
    num_contents = ordered.groupby(owner)["sha256"].transform("nunique")
    if alone := sorted(ordered.loc[num_contents < 2, "label"].unique()):
        raise DataError(f"Class '{alone[0]}' has one picture only, copies not counted: it cannot stand on both sides "
                        "of the split. Add pictures.")
    num_val = (num_contents * val_fraction).round().clip(1, num_contents - 1)
    subset = (position < num_val).map({True: "val", False: "train"})
    return ordered.assign(subset=subset).drop(columns="rank").sort_values("path").reset_index(drop=True)
