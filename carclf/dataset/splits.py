"""Assignment of images to subsets: which images are used for training and which for validation.

Each usable labeled image is in one subset, the column ``subset`` of ``split.parquet``:

- ``val``: validation. Only images of the competition itself, about ``val_fraction`` of each class. They are drawn in
  the order of a hash of seed and content, so neither file names nor the order of the rows matter.
- ``train``: training. All other images of the competition, and extra data.
- ``excluded``: used for neither, because a copy of the image is in another subset.

Images keep the subset of the champion's split. The champion's training images are never used for validation: the
accuracy on them would be too high, both of the champion and of models that start from its weights. The champion's
validation images are never used for training, so that it can be compared with candidates on the same images. New images
fill up the validation subset of their class to ``val_fraction``.

The copies and near-copies of an image (its cluster) are never divided between training and validation. Extra data in
the cluster of a validation image are excluded, so that they do not change what the accuracy is measured on.

``split.parquet`` has the columns of the index (see ``carclf.dataset.indexing``) and

- ``subset`` (string): train, val or excluded.
- ``fold`` (int64): 0-based fold of a cross-validation, in which the image is used for validation; -1 for a holdout.
- ``class_index`` (int64): 0-based position of the label in the split's ``class_names``.

``split_history.parquet`` has the same columns. It also contains images that are no longer in the dataset but were in
the splits of earlier champions, with fold -1.
"""

import hashlib
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from carclf.dataset.champion_split import EXCLUDED, NO_FOLD, TRAIN, VAL, previous_values, without_excluded_extra_data
from carclf.errors import DataError

MIN_CLUSTERS = 2  # per class: one for train, one for val
Mask: TypeAlias = "pd.Series[bool]"


def stratified_holdout(
    index: pd.DataFrame, *, val_fraction: float, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the usable labeled rows with ``subset``; about ``val_fraction`` of each class is in val.

    ``previous`` are the rows of the champion's split. The fraction refers to the competition's own images. It is met
    exactly if the class has enough new images without copies, and each class has at least one image in train and val.
    If a cluster contains an image that the champion was trained on, its new images go to train and its former
    validation images are excluded from then on. Raises DataError if a class has no image for one of the subsets.
    """
    rows = _usable_rows(index, seed)
    is_extra = rows["source"] == "extra"
    earlier = _previous_subsets(rows, is_extra, previous)
    # An image was excluded because a copy of it is in train; extra data, because a copy is in val.
    was_trained_on = (earlier == TRAIN) | ((earlier == EXCLUDED) & ~is_extra)
    must_train = was_trained_on.groupby(rows["cluster"]).transform("any")
    is_excluded = earlier.isin([VAL, EXCLUDED]) & (must_train | is_extra)
    must_validate = ((earlier == VAL) & ~is_extra & ~must_train).groupby(rows["cluster"]).transform("any")
    fixed = pd.Series("", rows.index).mask(must_train, TRAIN).mask(must_validate, VAL)
    clusters = _cluster_rows(rows[~is_excluded & ~is_extra], fixed)
    validation_clusters: set[int] = set()
    for label, members in clusters.groupby("label"):
        validation_clusters |= _choose_validation_clusters(members, val_fraction, label)
    subset = _subsets(rows["cluster"].isin(validation_clusters), is_extra).mask(is_excluded, EXCLUDED)
    return _sorted_rows(rows.assign(subset=subset, fold=NO_FOLD))


def stratified_k_fold(
    index: pd.DataFrame, *, num_folds: int, fold: int, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the usable labeled rows with ``fold``, of equal size in each class, and ``subset``: val in ``fold``.

    An image keeps its fold if the champion's split has as many folds. Unless this is the champion's fold, val contains
    images that the champion was trained on: only a holdout can avoid that. Extra data have the fold of their cluster
    and are excluded in that fold. Raises DataError if a class has fewer clusters than folds.
    """
    rows = _usable_rows(index, seed)
    is_extra = rows["source"] == "extra"
    has_same_folds = previous is not None and previous["fold"].max() + 1 == num_folds
    earlier = previous_values(rows, previous if has_same_folds else None, "fold")
    earlier = earlier.mask(lambda folds: folds == NO_FOLD)
    fold_by_cluster: dict[Any, int] = {}
    for first, (label, members) in enumerate(_cluster_rows(rows[~is_extra], earlier).groupby("label")):
        _require_clusters(members, num_folds, label)
        fold_by_cluster |= _assign_folds(members, num_folds, first % num_folds)
    # Extra data keep their fold if the other images of their cluster are gone.
    folds = rows["cluster"].map(fold_by_cluster).fillna(pd.to_numeric(earlier)).fillna(NO_FOLD).astype(int)
    return _sorted_rows(rows.assign(subset=_subsets(folds == fold, is_extra), fold=folds))


def _usable_rows(index: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the usable labeled rows with ``rank``, a hash of seed and content that decides the order of drawing."""
    usable = index[(index["label"] != "") & (index["problem"] == "")]
    rank = usable["sha256"].map(lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).hexdigest())
    return usable.assign(rank=rank).reset_index(drop=True)


def _previous_subsets(rows: pd.DataFrame, is_extra: Mask, previous: pd.DataFrame | None) -> "pd.Series[Any]":
    """Return each row's subset in the champion's split, missing for new images.

    Extra data that were excluded as copies of a validation image do not exclude that image.
    """
    competition = None if previous is None else without_excluded_extra_data(previous)
    subsets: pd.Series[Any] = previous_values(rows[~is_extra], competition, "subset")
    subsets = pd.concat([subsets, previous_values(rows[is_extra], previous, "subset")])
    return subsets.reindex(rows.index)


def _subsets(is_validation: Mask, is_extra: Mask) -> "pd.Series[Any]":
    return pd.Series(TRAIN, is_extra.index).mask(is_validation, VAL).mask(is_validation & is_extra, EXCLUDED)


def _sorted_rows(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns="rank").sort_values(["path", "id"]).reset_index(drop=True)


def _cluster_rows(rows: pd.DataFrame, fixed: "pd.Series[Any]") -> pd.DataFrame:
    """Return one row for each cluster in the order of drawing: label, size, rank, and its fixed subset or fold.

    A cluster with several labels counts for the smallest.
    """
    clusters = rows.assign(fixed=fixed[rows.index]).sort_values("sha256").groupby("cluster")
    columns = clusters.agg(
        label=("label", "min"), size=("label", "size"), rank=("rank", "min"), fixed=("fixed", "first"))
    return columns.sort_values("rank")


def _choose_validation_clusters(clusters: pd.DataFrame, val_fraction: float, label: Any) -> set[int]:
    """Return the validation clusters of one class: the fixed ones, and new ones that fill the subset up."""
    if len(clusters) < MIN_CLUSTERS:
        raise DataError(f"Class '{label}' has only one image, not counting copies and extra data, but it needs one for "
                        "training and one for validation. Add images of this class.")
    num_images = int(clusters["size"].sum())
    is_fixed = clusters["fixed"] == VAL
    num_missing = min(max(round(num_images * val_fraction), 1), num_images - 1) - int(clusters["size"][is_fixed].sum())
    new = clusters[clusters["fixed"] == ""]
    chosen = {*clusters.index[is_fixed], *new.index[_fill(new["size"].tolist(), num_missing)]}
    if not chosen and len(new):  # each new cluster has more images than are missing
        chosen.add(new["size"].idxmin())
    if not chosen:
        raise DataError(f"Class '{label}' has no image for validation: the champion was trained on all of them. "
                        "Add images.")
    if len(chosen) == len(clusters):
        raise DataError(f"Class '{label}' has no image for training: all of them are used for validation. Add images.")
    return chosen


def _fill(sizes: list[int], total: int) -> list[int]:
    """Return positions of sizes with a sum of at most ``total``.

    Sizes are taken in order if that reaches the total exactly; otherwise those with the largest possible sum.
    """
    positions, left = [], total
    for position, size in enumerate(sizes):
        if size <= left:
            positions.append(position)
            left -= size
    return _largest_sum(sizes, total) if left > 0 else positions


def _largest_sum(sizes: list[int], total: int) -> list[int]:
    """Return positions of the sizes with the largest sum up to the total (subset sum by dynamic programming)."""
    last = np.full(total + 1, -1)  # for each sum, the position of the last size in it; -1: no sizes have that sum
    last[0] = len(sizes)
    for position, size in enumerate(sizes):
        if size <= total and last[total] < 0:
            last[size:][(last[size:] < 0) & (last[: total + 1 - size] >= 0)] = position
    positions, left = [], int(np.flatnonzero(last >= 0)[-1])
    while left:
        positions.append(int(last[left]))
        left -= sizes[positions[-1]]
    return positions


def _require_clusters(clusters: pd.DataFrame, num_folds: int, label: Any) -> None:
    if len(clusters) < num_folds:
        raise DataError(f"Class '{label}' has {len(clusters)} images, not counting copies and extra data: too few for "
                        f"{num_folds} folds. Add images of this class or lower split.num_folds.")


def _assign_folds(clusters: pd.DataFrame, num_folds: int, first: int) -> dict[Any, int]:
    """Return the fold of each cluster of one class: its earlier fold, else the smallest one, large clusters first.

    Of equally small folds, ``first`` or the next one after it is used: it differs between classes, so that they put
    their extra image into different folds.
    """
    assigned = clusters[clusters["fixed"].notna()]
    folds = assigned["fixed"].astype(int).to_dict()
    counts = assigned.groupby(folds)["size"].sum().reindex(range(num_folds), fill_value=0).tolist()
    new = clusters[clusters["fixed"].isna()]
    for cluster, size in new.sort_values("size", ascending=False, kind="stable")["size"].items():
        smallest = min(range(num_folds), key=lambda fold: (counts[fold], (fold - first) % num_folds))
        folds[cluster] = smallest
        counts[smallest] += size
    return folds
