"""Assignment of images to subsets: which images are used for training and which for validation.

Each usable labeled image is in one subset, the column ``subset`` of ``split.parquet``:

- ``val``: validation. The given validation images (source ``val``) if the data have some. Otherwise about
  ``val_fraction`` of each class, drawn in the order of a hash of seed and content, so neither file names nor the order
  of the rows matter. Extra data are never used for validation.
- ``train``: training. All other images, and extra data.
- ``excluded``: used for neither, because a copy of the image, or an image of its group, is in another subset.
- ``holdout``: labeled test images (source ``holdout``), which are only used to measure champions.

Images keep the subset of the champion's split. The champion's training images are never used for validation: the
accuracy on them would be too high, both of the champion and of models that start from its weights. The champion's
validation images are never used for training, so that it can be compared with candidates on the same images. New images
fill up the validation subset of their class to ``val_fraction``. Given validation images are always validated on.

A unit is never divided between training and validation. It consists of the copies and near-copies of an image (its
cluster) and, if the images have groups, of all clusters and groups that are connected with each other. Extra data in
the unit of a validation image are excluded, so that they do not change what the accuracy is measured on. So are the
training images in the unit of a given validation image, and all images in the unit of a labeled test image.

``split.parquet`` has the columns of the index (see ``carclf.dataset.indexing``) and

- ``subset`` (string): train, val, excluded or holdout.
- ``fold`` (int64): 0-based fold of a cross-validation, in which the image is used for validation; -1 for a holdout,
  for labeled test images, and for images that are excluded because of them.
- ``class_index`` (int64): 0-based position of the label in the split's ``class_names``; -1 if it is not one of them.

``split_history.parquet`` has the same columns. It also contains images that are no longer in the dataset but were in
the splits of earlier champions, with fold -1.
"""

import hashlib
from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array, csr_array, hstack
from scipy.sparse.csgraph import connected_components

from carclf.dataset.champion_split import (
    EXCLUDED,
    HOLDOUT,
    NO_FOLD,
    TRAIN,
    VAL,
    previous_values,
    without_excluded_copies,
)
from carclf.errors import DataError
from carclf.formatting import format_count
from carclf.natural_order import sort_naturally

MIN_UNITS = 2  # per class: one for train, one for val
MAX_GROUPS = 3  # in a message
MIN_IMPROVEMENT = 1e-9  # of the sum of squared deviations from val_fraction
Mask: TypeAlias = "pd.Series[bool]"


def stratified_holdout(
    index: pd.DataFrame, *, val_fraction: float, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the usable labeled rows with ``subset``; about ``val_fraction`` of each class is in val.

    ``previous`` are the rows of the champion's split. The fraction refers to the images without extra data. It is met
    exactly if the class has enough new images without copies and groups, and each class has at least one image in
    train and val. If a unit contains an image that the champion was trained on, its new images go to train and its
    former validation images are excluded from then on. If the index has given validation images, they are used instead
    of ``val_fraction``. Raise DataError if a class has no image for one of the subsets.
    """
    rows = _usable_rows(index, seed)
    is_extra = rows["source"] == "extra"
    is_given = rows["source"] == "val"
    earlier = _previous_subsets(rows, is_extra, previous)
    # An image was excluded because a copy of it is in train; extra data, because a copy is in val.
    was_trained_on = (earlier == TRAIN) | ((earlier == EXCLUDED) & ~is_extra)
    validates_given = _in_unit_of(is_given, rows)
    must_train = _in_unit_of(was_trained_on, rows) & ~validates_given
    is_excluded = (earlier.isin([VAL, EXCLUDED]) & (must_train | is_extra)) | validates_given
    is_excluded &= ~is_given
    must_validate = _in_unit_of((earlier == VAL) & ~is_extra & ~must_train, rows) | validates_given
    fixed = pd.Series("", rows.index).mask(must_train, TRAIN).mask(must_validate, VAL)
    units = _unit_rows(rows[~is_excluded & ~is_extra], fixed)
    validation_units = _given_units(units) if is_given.any() else _draw_units(units, val_fraction)
    subset = _subsets(rows["unit"].isin(validation_units), is_extra).mask(is_excluded, EXCLUDED)
    if is_given.any():
        _require_given(rows["label"], subset)
    return _with_holdout(rows.assign(subset=subset, fold=NO_FOLD), index)


def stratified_k_fold(
    index: pd.DataFrame, *, num_folds: int, fold: int, seed: int, previous: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the usable labeled rows with ``fold``, of about equal size in each class, and ``subset``: val in ``fold``.

    An image keeps its fold if the champion's split has as many folds. Unless this is the champion's fold, val contains
    images that the champion was trained on: only a holdout can avoid that. Extra data have the fold of their unit
    and are excluded in that fold. Raises DataError if a class has fewer units than folds.
    """
    rows = _usable_rows(index, seed)
    is_extra = rows["source"] == "extra"
    has_same_folds = previous is not None and previous["fold"].max() + 1 == num_folds
    earlier = previous_values(rows, previous if has_same_folds else None, "fold")
    earlier = earlier.mask(lambda folds: folds == NO_FOLD)
    units = _unit_rows(rows[~is_extra], earlier)
    for label, members in units.groupby("label"):
        if len(members) < num_folds:
            raise DataError(f"Class '{label}' has {_count(members)}: too few for {num_folds} "
                            f"folds. Add images of this class or lower split.num_folds{_no_groups(members)}.")
    # Extra data keep their fold if the other images of their unit are gone.
    folds = rows["unit"].map(_assign_folds(units, num_folds))
    folds = folds.fillna(pd.to_numeric(earlier)).fillna(NO_FOLD).astype(int)
    return _with_holdout(rows.assign(subset=_subsets(folds == fold, is_extra), fold=folds), index)


def _usable_rows(index: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the rows for training and validation with ``unit`` and ``rank``: those outside the units of a holdout.

    The rank is a hash of seed and content that decides the order of drawing. Raise DataError if a class has no row.
    """
    labeled = _labeled_rows(index)
    labeled = labeled.assign(unit=units_of(labeled))
    is_holdout = labeled["source"] == HOLDOUT
    usable = labeled[~_in_unit_of(is_holdout, labeled)]
    if missing := sort_naturally(set(labeled.loc[~is_holdout, "label"]) - set(usable["label"])):
        raise DataError(f"Class '{missing[0]}' has no image for training: all of them are copies of labeled test "
                        "images, or images of their groups. Add images of this class, or remove those test images"
                        f"{_no_groups(labeled[labeled['label'] == missing[0]])}.")
    rank = usable["sha256"].map(lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).hexdigest())
    return usable.assign(rank=rank)


def _labeled_rows(index: pd.DataFrame) -> pd.DataFrame:
    return index[(index["label"] != "") & (index["problem"] == "")].reset_index(drop=True)


def units_of(rows: pd.DataFrame) -> "pd.Series[int]":
    """Return the number of each row's unit: its cluster or, if there are groups, a component of clusters and groups."""
    has_group = np.asarray(rows.get("group", "") != "")
    if not has_group.any():
        return rows["cluster"]
    clusters, names = pd.factorize(rows["cluster"])
    groups = pd.factorize(rows["group"])[0] + len(names)
    size = int(groups.max()) + 1
    edges = coo_array((np.ones(has_group.sum()), (clusters[has_group], groups[has_group])), (size, size))
    components = connected_components(edges, directed=False)[1]
    return pd.Series(components[clusters], rows.index)


def _in_unit_of(mask: Mask, rows: pd.DataFrame) -> Mask:
    """Return for each row whether its unit has a row of the mask."""
    return mask.groupby(rows["unit"]).transform("any")


def _previous_subsets(rows: pd.DataFrame, is_extra: Mask, previous: pd.DataFrame | None) -> "pd.Series[Any]":
    """Return each row's subset in the champion's split, missing for new images.

    Images that were excluded as copies of a validation image do not exclude that image.
    """
    competition = None if previous is None else without_excluded_copies(previous)
    subsets: pd.Series[Any] = previous_values(rows[~is_extra], competition, "subset")
    subsets = pd.concat([subsets, previous_values(rows[is_extra], previous, "subset")])
    return subsets.reindex(rows.index)


def _subsets(is_validation: Mask, is_extra: Mask) -> "pd.Series[Any]":
    return pd.Series(TRAIN, is_extra.index).mask(is_validation, VAL).mask(is_validation & is_extra, EXCLUDED)


def _with_holdout(rows: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """Return the sorted rows, the labeled test images as holdout, and the other images of their units as excluded."""
    others = _labeled_rows(index).drop(rows.index)
    others = others.assign(subset=np.where(others["source"] == HOLDOUT, HOLDOUT, EXCLUDED), fold=NO_FOLD)
    rows = rows.drop(columns=["rank", "unit"])
    rows = pd.concat([rows, others]) if len(others) else rows
    return rows.sort_values(["path", "id"]).reset_index(drop=True)


def _unit_rows(rows: pd.DataFrame, fixed: "pd.Series[Any]") -> pd.DataFrame:
    """Return the units in the order of drawing: label, size, rank, group, and the fixed subset or fold.

    A unit with a group has a row for each of its labels; "group" is one of its groups. A cluster without a group counts
    for the smallest of its labels.
    """
    rows = rows.assign(fixed=fixed[rows.index]).sort_values("sha256")
    units = rows.groupby("unit")
    group = units["group"].transform("max")
    label = rows["label"].where(group != "", units["label"].transform("min"))
    rows = rows.assign(label=label, group=group, rank=units["rank"].transform("min"),
                       fixed=units["fixed"].transform("first"))
    table = rows.groupby(["unit", "label"]).agg(
        size=("id", "size"), rank=("rank", "first"), group=("group", "first"), fixed=("fixed", "first"))
    return table.reset_index("label").sort_values(["rank", "label"])


def _given_units(units: pd.DataFrame) -> set[int]:
    """Return the units of the given validation images and of the champion's; each class must have a training image."""
    chosen = set(units.index[units["fixed"] == VAL])
    for label, members in units.groupby("label"):
        if members.index.isin(chosen).all():
            raise DataError(f"Class '{label}' has no image for training: all of them are given validation images, or "
                            f"their copies. Add training images of this class{_no_groups(members)}.")
    return chosen


def _require_given(labels: "pd.Series[Any]", subset: "pd.Series[Any]") -> None:
    """Raise DataError if a class has no given validation image."""
    if problem := describe_missing_classes(set(labels), set(labels[subset == VAL])):
        raise DataError(problem)


def describe_missing_classes(labels: Collection[str], given: Collection[str]) -> str:
    """Return the message about the first class that the given validation images lack; "" if they have all classes."""
    missing = sort_naturally(set(labels) - set(given))
    return (f"Class '{missing[0]}' has no image among the given validation images. Add some to the validation images, "
            "or set data.val_folder to a folder, or data.subset_column to a column, with images of each class. If a "
            "column gives the subsets, data.subset_column=none ignores it.") if missing else ""


def _draw_units(units: pd.DataFrame, val_fraction: float) -> set[int]:
    """Return the validation units: the fixed ones, and new ones that fill the subset up in each class."""
    chosen: set[int] = set()
    if (units["group"] != "").any():
        chosen = _draw_jointly(units, val_fraction)
    else:
        for _, members in units.groupby("label"):
            chosen |= _draw_class(members, val_fraction)
    for label, members in units.groupby("label"):
        _require_both_subsets(label, members, members.index.isin(chosen))
    return chosen


def _require_both_subsets(label: Any, members: pd.DataFrame, is_validation: npt.NDArray[np.bool_]) -> None:
    """Raise DataError if a class, given by its units, has no image in one of the subsets."""
    if len(members) < MIN_UNITS and members["group"].any():
        raise DataError(f"All images of the class '{label}' are in the group '{members['group'].iloc[0]}' or copies of "
                        "its images, but training and validation each need one. Add images of other groups, or set "
                        "data.group_column=none.")
    if len(members) < MIN_UNITS:
        raise DataError(f"Class '{label}' has only one image, not counting copies and extra data, but it needs one for "
                        "training and one for validation. Add images of this class.")
    if (members["fixed"] == TRAIN).all():
        raise DataError(f"Class '{label}' has no image for validation: the champion was trained on all of them"
                        f"{', or on images of their groups' if members['group'].any() else ''}. Add images"
                        f"{_no_groups(members)}.")
    if is_validation.all() or not is_validation.any():
        subset = "training" if is_validation.all() else "validation"
        raise DataError(f"Class '{label}' has no image for {subset}. Add images of this class, change "
                        f"split.val_fraction{_no_groups(members)}.")


def _count(members: pd.DataFrame) -> str:
    nouns = ("group of images", "groups of images") if members["group"].any() else ("image", "images")
    return f"{format_count(len(members), *nouns)}, not counting copies and extra data"


def _no_groups(members: pd.DataFrame) -> str:
    """Return the advice to ignore the groups of a class, if it has some."""
    groups = members["group"][members["group"] != ""]
    return f", or set data.group_column=none (its groups: {', '.join(groups.head(MAX_GROUPS))})" if len(groups) else ""


def _draw_class(units: pd.DataFrame, val_fraction: float) -> set[int]:
    """Return the validation units of one class: the fixed ones, and new ones that fill the subset up."""
    num_images = int(units["size"].sum())
    is_fixed = units["fixed"] == VAL
    num_missing = min(max(round(num_images * val_fraction), 1), num_images - 1) - int(units["size"][is_fixed].sum())
    new = units[units["fixed"] == ""]
    chosen = {*units.index[is_fixed], *new.index[_fill(new["size"].tolist(), num_missing)]}
    if not chosen and len(new):  # each new unit has more images than are missing
        chosen.add(new["size"].idxmin())
    return chosen


def _count_matrix(units: pd.DataFrame) -> "tuple[pd.Index[Any], csr_array]":
    """Return the distinct units in the order of drawing, and their images in each class, shape (units, classes)."""
    positions, names = pd.factorize(units.index)
    labels = pd.factorize(units["label"], sort=True)[0]
    return names, csr_array((units["size"].to_numpy(float), (positions, labels)))


def _draw_jointly(units: pd.DataFrame, val_fraction: float) -> set[int]:
    """Return the validation units where a unit may have images of several classes.

    Start with units in the order of drawing until the fraction of all images is reached. Then move the unit to the
    other subset that improves the draw most, until none does. A draw is better if fewer classes are missing from a
    subset, or else if the sum of the squared deviations from ``val_fraction``, of each class and of all images, is
    lower.
    """
    names, counts = _count_matrix(units)
    counts = hstack([counts, counts.sum(1)[:, None]], "csr")
    total = counts.sum(0)
    weighted = counts.multiply(1 / total**2).tocsr()  # the squared deviations of fractions, not of numbers of images
    targets = np.clip(np.round(total * val_fraction), 1, np.maximum(total - 1, 1))
    present = (counts > 0).astype(float)
    fixed = units["fixed"][~units.index.duplicated()].to_numpy()
    is_new = fixed == ""
    in_val = fixed == VAL
    sizes = np.where(is_new, counts[:, [-1]].toarray()[:, 0], 0)
    in_val |= is_new & (np.cumsum(sizes) <= targets[-1] - in_val @ counts[:, [-1]])
    squares = weighted.multiply(counts).sum(1)
    while is_new.any():
        excess, num_val = in_val @ counts - targets, in_val @ present
        num_train = present.sum(0) - num_val
        change = np.where(in_val, -1, 1) * 2 * (weighted @ excess) + squares
        to_val, to_train = (num_train == 1.0) * 1.0 - (num_val == 0), (num_val == 1.0) * 1.0 - (num_train == 0)
        change += len(total) * np.where(in_val, present @ to_train, present @ to_val)
        best = int(np.argmin(np.where(is_new, change, np.inf)))
        if change[best] > -MIN_IMPROVEMENT:
            break
        in_val[best] = not in_val[best]
    return set(names[in_val])


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


def _assign_folds(units: pd.DataFrame, num_folds: int) -> dict[Any, int]:
    """Return the fold of each unit: its earlier fold, else that with the fewest images of its classes.

    Large units are assigned first. Of several classes, the one with fewer images weighs more.
    """
    names, counts = _count_matrix(units)
    weights = 1 / counts.sum(0) ** 2
    fixed = units["fixed"][~units.index.duplicated()]
    folds = fixed[fixed.notna()].astype(int).to_dict()
    in_folds = np.zeros((num_folds, len(weights)))
    is_fixed = fixed.notna().to_numpy()
    np.add.at(in_folds, fixed[is_fixed].to_numpy(int), counts[is_fixed].toarray())
    sizes = np.where(is_fixed, -1, counts.sum(1))
    for unit in np.argsort(-sizes, kind="stable")[: len(names) - is_fixed.sum()]:
        classes = counts.indices[counts.indptr[unit]:counts.indptr[unit + 1]]
        images = counts.data[counts.indptr[unit]:counts.indptr[unit + 1]]
        scores = in_folds[:, classes] @ (weights[classes] * images)
        # Classes put their extra image into different folds.
        fold = min(range(num_folds), key=lambda fold: (scores[fold], (fold - classes[0]) % num_folds))
        folds[names[unit]] = fold
        in_folds[fold, classes] += images
    return folds
