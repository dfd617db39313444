"""Stratified splits of the pictures' content that stay put: by hash, never by the order of the rows.

The assignment made earlier (``previous``: the rows of the champion's split) is an input: what it put on a side stays
there, and new pictures fill up each class. Pictures of one cluster stand on one side. Extra data train, or are left
out where their cluster validates: they shall not change what the accuracy is measured on.
"""

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from carclf.dataset.champion_split import EXCLUDED, NO_FOLD, TRAIN, VAL, previous_values
from carclf.errors import DataError


def stratified_holdout(
    index: pd.DataFrame, *, val_fraction: float, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Add ``subset`` (train, val, excluded) to usable labelled rows: in each class the wanted share validates.

    The share, of the competition's own pictures, is met exactly where there are new pictures without copies enough,
    and at least one picture stands on each side. A cluster with any picture that trained earlier trains. Where it
    joins one that validated earlier, that one is left out from then on: it never trains, and nothing stands on the
    other side of its copy. DataError where a class cannot stand on both sides.
    """
    rows = _usable(index, seed)
    extra = rows["source"] == "extra"
    earlier = _earlier(rows, extra, previous)
    trained = (earlier == TRAIN) | ((earlier == EXCLUDED) & ~extra)  # or is a copy of what trained
    tainted = trained.groupby(rows["cluster"]).transform("any")
    excluded = earlier.isin([VAL, EXCLUDED]) & (tainted | extra)
    validates = ((earlier == VAL) & ~extra & ~tainted).groupby(rows["cluster"]).transform("any")
    side = pd.Series("", rows.index).mask(tainted, TRAIN).mask(validates, VAL)
    groups = _groups(rows[~excluded & ~extra], side)
    chosen: set[int] = set()
    for label, members in groups.groupby("label"):
        chosen |= _validating(members, val_fraction, label)
    return _finished(rows.assign(subset=_subset(rows["cluster"].isin(chosen), extra, excluded), fold=NO_FOLD))


def stratified_k_fold(
    index: pd.DataFrame, *, num_folds: int, fold: int, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Add ``fold`` to usable labelled rows, of equal size in each class, and ``subset``: val in that fold alone.

    A picture stays in the fold of an earlier split into as many folds. What trained the champion does validate
    here, in another fold than the champion's: only a holdout can promise otherwise. Extra data of a cluster that
    stands in a fold are left out where that fold validates.
    """
    rows = _usable(index, seed)
    extra = rows["source"] == "extra"
    same = previous is not None and "fold" in previous and previous["fold"].max() + 1 == num_folds
    earlier = previous_values(rows, previous if same else None, "fold").mask(lambda folds: folds == NO_FOLD)
    folds: dict[Any, int] = {}
    for label, members in _groups(rows[~extra], earlier).groupby("label"):
        folds |= _spread(members, num_folds, label)
    # extra data that outlive their cluster's other pictures stay in its fold
    found = rows["cluster"].map(folds).fillna(pd.to_numeric(earlier)).fillna(NO_FOLD).astype(int)
    return _finished(rows.assign(subset=_subset(found == fold, extra), fold=found))


def _usable(index: pd.DataFrame, seed: int) -> pd.DataFrame:
    usable = index[(index["label"] >= 0) & (index["problem"] == "")]
    rank = usable["sha256"].map(lambda content: hashlib.sha256(f"{seed}:{content}".encode()).hexdigest())
    return usable.assign(rank=rank).reset_index(drop=True)


def _earlier(rows: pd.DataFrame, extra: "pd.Series[bool]", previous: pd.DataFrame | None) -> "pd.Series[Any]":
    """Each row's subset in the earlier split, missing where it is new.

    That extra data were left out beside a validation picture says nothing of the competition's own pictures.
    """
    own = previous
    if previous is not None and "source" in previous:
        own = previous[(previous["source"] != "extra") | (previous["subset"] != EXCLUDED)]
    found = previous_values(rows[~extra], own, "subset")
    return pd.concat([found, previous_values(rows[extra], previous, "subset")]).reindex(rows.index) if extra.any() else found


def _subset(
    validates: "pd.Series[bool]", extra: "pd.Series[bool]", excluded: "pd.Series[bool] | bool" = False
) -> "pd.Series[Any]":
    return pd.Series(TRAIN, validates.index).mask(validates, VAL).mask(validates & extra | excluded, EXCLUDED)


def _finished(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns="rank").sort_values(["path", "id"]).reset_index(drop=True)


def _groups(rows: pd.DataFrame, side: "pd.Series[Any]") -> pd.DataFrame:
    """One row for each cluster, in the order of their hashes: label, number of images, and the known side."""
    # A cluster filed under two classes counts for the first of them.
    own = rows.assign(side=side[rows.index]).sort_values("sha256").groupby("cluster")
    return own.agg(label=("label", "min"), size=("label", "size"), rank=("rank", "min"),
                   side=("side", "first")).sort_values("rank")


def _validating(groups: pd.DataFrame, val_fraction: float, label: Any) -> set[int]:
    """The clusters of one class that validate: the known ones, and new ones that fill the room."""
    if len(groups) < 2:
        raise DataError(f"Class '{label}' has one picture only, copies and extra data not counted: it cannot stand on "
                        "both sides of the split. Add pictures.")
    num_images = int(groups["size"].sum())
    room = min(max(round(num_images * val_fraction), 1), num_images - 1)
    chosen = set(groups.index[groups["side"] == VAL])
    room -= int(groups.loc[groups["side"] == VAL, "size"].sum())
    new = groups[groups["side"] == ""]
    chosen.update(new.index[_filling(new["size"].tolist(), room)])
    if not chosen and len(new):  # no cluster is as small as the share
        chosen.add(new["size"].idxmin())
    if len(chosen) in (0, len(groups)):
        side = "validate: the champion was trained on all of them" if not chosen else "train: all of them validate"
        raise DataError(f"Class '{label}' has no picture that may {side}. Add pictures to it.")
    return chosen


def _filling(sizes: list[int], room: int) -> list[int]:
    """Positions of sizes, the first that find room, or where that leaves some of it, those that fill it best."""
    found, left = [], room
    for place, size in enumerate(sizes):
        if size <= left:
            found.append(place)
            left -= size
    return _best_filling(sizes, room) if left > 0 else found


def _best_filling(sizes: list[int], room: int) -> list[int]:
    """Positions of sizes of which the sum is the largest up to the room (subset sum by dynamic programming)."""
    last = np.full(room + 1, -1)  # for each sum the last size in it, by position; -1: no subset has that sum
    last[0] = len(sizes)
    for place, size in enumerate(sizes):
        if size <= room and last[room] < 0:
            last[size:][(last[size:] < 0) & (last[: room + 1 - size] >= 0)] = place
    found, total = [], int(np.flatnonzero(last >= 0)[-1])
    while total:
        found.append(int(last[total]))
        total -= sizes[found[-1]]
    return found


def _spread(groups: pd.DataFrame, num_folds: int, label: Any) -> dict[Any, int]:
    """The fold of each cluster of one class: the known one, else the fold with the fewest images, large ones first."""
    if len(groups) < num_folds:
        raise DataError(f"Class '{label}' has {len(groups)} pictures, copies not counted: too few for {num_folds} "
                        "folds. Add pictures or lower split.num_folds.")
    known = groups[groups["side"].notna()]
    found = known["side"].astype(int).to_dict()
    counts = known.groupby(found)["size"].sum().reindex(range(num_folds), fill_value=0).tolist()
    new = groups[groups["side"].isna()]
    first = int(str(label)) if str(label).isdigit() else 0  # not each class's odd image in the same fold
    for cluster, size in new.sort_values("size", ascending=False, kind="stable")["size"].items():
        smallest = min(range(num_folds), key=lambda fold: (counts[fold], (fold - first) % num_folds))
        found[cluster] = smallest
        counts[smallest] += size
    return found
