"""Groups and given subsets in splits: no group is divided, and the fractions are met as well as the groups allow."""

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.dataset.leaks import find_leaks
from carclf.dataset.splits import stratified_holdout, stratified_k_fold
from carclf.errors import DataError

FRACTIONS = st.floats(0.1, 0.5)
FRACTION = 0.2


def build_index(labels: list[str], groups: list[str], clusters: list[int], source: str = "train") -> pd.DataFrame:
    """Images whose content is their number."""
    digests = [hashlib.sha256(f"{source}{number}".encode()).hexdigest() for number in range(len(labels))]
    names = [f"{source}-{number}" for number in range(len(labels))]
    return pd.DataFrame({
        "id": names, "path": names, "label": labels, "group": groups, "cluster": clusters, "problem": "",
        "source": source, "sha256": digests, "pixels_sha256": digests, "phash": np.uint64(0), "color_signature": b""})


@st.composite
def grouped_images(draw: st.DrawFn) -> pd.DataFrame:
    """Drivers with images of all classes, images without a group, and near-copies within and across groups."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    num_images = draw(st.integers(80, 250))
    labels = random.integers(0, draw(st.integers(2, 4)), num_images).astype(str)
    groups = random.integers(0, draw(st.integers(12, 30)), num_images).astype(str)
    groups[random.random(num_images) < draw(st.sampled_from([0, 0.3, 0.9]))] = ""
    is_copy = random.random(num_images) < 0.02
    clusters = np.where(is_copy, random.integers(0, 9, num_images), 100 + np.arange(num_images))
    return build_index(labels.tolist(), groups.tolist(), clusters.tolist())


def drivers(num_drivers: int = 26, num_classes: int = 10, num_images: int = 4000) -> pd.DataFrame:
    random = np.random.default_rng(0)
    fractions = random.dirichlet(np.full(num_drivers, 10))
    groups = random.choice(num_drivers, num_images, p=fractions).astype(str).tolist()
    labels = random.integers(0, num_classes, num_images).astype(str).tolist()
    return build_index(labels, groups, list(range(num_images)))


def is_undivided(split: pd.DataFrame, column: str = "subset") -> bool:
    """Return whether no cluster and no group is both in train and in val, or in two folds."""
    used = split[split["subset"] != "excluded"]
    groups = used[used["group"] != ""]
    return bool((used.groupby("cluster")[column].nunique() == 1).all()
                and (groups.groupby("group")[column].nunique() == 1).all())


def unit_sizes(split: pd.DataFrame) -> pd.DataFrame:
    """The largest part that a group or cluster has of each class, as a fraction."""
    units = split.assign(unit=split["group"].where(split["group"] != "", split["cluster"].astype(str)))
    counts = pd.crosstab(units["unit"], units["label"])
    return (counts / counts.sum()).max()


@settings(max_examples=40, deadline=None)
@given(grouped_images(), FRACTIONS, st.integers(0, 9), st.randoms())
def test_a_holdout_divides_no_group_and_depends_on_content_only(index, fraction, seed, random) -> None:
    split = stratified_holdout(index, val_fraction=fraction, seed=seed)
    assert sorted(split["id"]) == sorted(index["id"])
    assert is_undivided(split)
    assert (split.groupby("label")["subset"].nunique() == 2).all()
    order = random.sample(range(len(index)), len(index))
    renamed = index.iloc[order].reset_index(drop=True)
    renamed = renamed.assign(path=[f"{number}" for number in range(len(index))], group=renamed["group"].where(
        renamed["group"] == "", "driver " + renamed["group"]))
    again = stratified_holdout(renamed, val_fraction=fraction, seed=seed)
    assert again.set_index("id")["subset"].to_dict() == split.set_index("id")["subset"].to_dict()


@settings(max_examples=40, deadline=None)
@given(grouped_images(), FRACTIONS, st.integers(0, 9))
def test_a_holdout_with_groups_comes_close_to_the_fraction(index, fraction, seed) -> None:
    """No class deviates by more than the largest group of it, or of the images without copies across groups."""
    index["cluster"] = range(len(index))
    split = stratified_holdout(index, val_fraction=fraction, seed=seed)
    is_val = split["subset"] == "val"
    deviation = (is_val.groupby(split["label"]).mean() - fraction).abs()
    assert (deviation <= unit_sizes(split) + 1 / split.groupby("label").size()).all()
    assert abs(is_val.mean() - fraction) <= unit_sizes(split).max()


@settings(max_examples=30, deadline=None)
@given(grouped_images(), st.integers(2, 5), st.integers(0, 9), st.randoms())
def test_folds_divide_no_group_and_depend_on_content_only(index, num_folds, seed, random) -> None:
    make = partial(stratified_k_fold, num_folds=num_folds, seed=seed)
    folds = make(index, fold=1)
    assert (folds["subset"] == "val").equals(folds["fold"] == 1)
    assert is_undivided(folds, "fold")
    order = random.sample(range(len(index)), len(index))
    pd.testing.assert_frame_equal(make(index.iloc[order], fold=1), folds)
    again = stratified_k_fold(index, num_folds=num_folds, fold=0, seed=seed + 1, previous=folds)
    assert again["fold"].tolist() == folds["fold"].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_drivers_with_all_classes_are_divided_nearly_evenly(seed: int) -> None:
    split = stratified_holdout(drivers(), val_fraction=0.15, seed=seed)
    is_val = split["subset"] == "val"
    assert abs(is_val.mean() - 0.15) < 0.01
    assert (is_val.groupby(split["label"]).mean() - 0.15).abs().max() < 0.03
    folds = stratified_k_fold(drivers(), num_folds=5, fold=0, seed=seed)
    fractions = pd.crosstab(folds["label"], folds["fold"], normalize="index")
    assert (fractions - 0.2).abs().to_numpy().max() < 0.05


def test_another_seed_holds_out_other_drivers() -> None:
    held_out = [frozenset(split.loc[split["subset"] == "val", "group"])
                for seed in range(5) for split in [stratified_holdout(drivers(), val_fraction=0.15, seed=seed)]]
    assert len(set(held_out)) >= 4


@settings(max_examples=15, deadline=None)
@given(grouped_images(), st.integers(0, 9), st.randoms())
def test_images_keep_the_champions_subset_when_groups_grow(index, seed, random) -> None:
    is_old = pd.Series([random.random() < 0.8 for _ in range(len(index))])
    before = stratified_holdout(index[is_old], val_fraction=0.3, seed=0)
    after = stratified_holdout(index, val_fraction=0.3, seed=seed, previous=before)
    assert is_undivided(after)
    both = before.merge(after[["id", "subset"]], on="id", suffixes=("", "_after"))
    assert (both.loc[both["subset"] == "train", "subset_after"] == "train").all()
    assert both.loc[both["subset"] == "val", "subset_after"].isin(["val", "excluded"]).all()
    pd.testing.assert_frame_equal(stratified_holdout(index, val_fraction=0.3, seed=9, previous=after), after)


@pytest.mark.parametrize(
    ("make", "setting"),
    [(partial(stratified_holdout, val_fraction=FRACTION), "data.group_column=none"),
     (partial(stratified_k_fold, num_folds=3, fold=0), "split.num_folds")])
def test_a_class_in_one_group_is_rejected(make: Callable[..., pd.DataFrame], setting: str) -> None:
    labels, groups = ["sedan", "van"] * 10, [str(number // 2) for number in range(20)]
    index = build_index([*labels, "bus", "bus"], [*groups, "depot", "depot"], list(range(22)))
    with pytest.raises(DataError, match="bus") as error:
        make(index, seed=0)
    assert "depot" in str(error.value)
    assert setting in str(error.value)


def test_groups_that_the_champion_was_trained_on_cannot_validate() -> None:
    """The champion was made without groups: it was trained on images of each driver."""
    index = drivers(num_drivers=4, num_classes=2, num_images=200)
    champion = stratified_holdout(index.assign(group=""), val_fraction=FRACTION, seed=0)
    with pytest.raises(DataError, match=r"champion.*data\.group_column=none"):
        stratified_holdout(index, val_fraction=FRACTION, seed=0, previous=champion)


def test_extra_data_of_a_validation_group_are_excluded() -> None:
    index = drivers(num_drivers=10, num_classes=2, num_images=200)
    extra = build_index(["0"] * 10, [str(number) for number in range(10)], list(range(900, 910)), "extra")
    split = stratified_holdout(pd.concat([index, extra], ignore_index=True), val_fraction=FRACTION, seed=0)
    validated = set(split.loc[split["subset"] == "val", "group"])
    extra_rows = split[split["source"] == "extra"]
    assert 0 < len(validated) < 10
    assert (extra_rows["subset"] == "excluded").equals(extra_rows["group"].isin(validated))
    assert is_undivided(split)


def given_index(num_train: int = 60, num_val: int = 10, num_holdout: int = 10) -> pd.DataFrame:
    """Training, given validation and labeled test images of two classes; one training image is a copy of each."""
    sizes = {"train": num_train, "val": num_val, "holdout": num_holdout}
    parts = [build_index([str(number % 2) for number in range(size)], [""] * size,
                         [1000 * part + number for number in range(size)], source)
             for part, (source, size) in enumerate(sizes.items())]
    parts[0].loc[4, "cluster"], parts[0].loc[5, "cluster"] = 1000, 2001
    return pd.concat(parts, ignore_index=True)


def test_given_validation_images_are_the_validation_subset() -> None:
    split = stratified_holdout(given_index(), val_fraction=FRACTION, seed=0).set_index("id")["subset"]
    assert sorted(split.index[split == "val"]) == sorted(f"val-{number}" for number in range(10))
    assert sorted(split.index[split == "excluded"]) == ["train-4", "train-5"]
    assert sorted(split.index[split == "holdout"]) == sorted(f"holdout-{number}" for number in range(10))
    assert (split == "train").sum() == 58


def test_the_next_split_keeps_given_subsets_and_uses_a_former_copy() -> None:
    """Without its validation image, the excluded copy is a new image: no model was trained on it."""
    first = stratified_holdout(given_index(), val_fraction=FRACTION, seed=0)
    pd.testing.assert_frame_equal(stratified_holdout(given_index(), val_fraction=0.4, seed=1, previous=first), first)
    later = given_index().query("id != 'val-0'")
    subsets = stratified_holdout(later, val_fraction=FRACTION, seed=0, previous=first).set_index("id")["subset"]
    assert subsets["train-4"] == "train"


def test_the_champions_validation_images_stay_when_others_are_given() -> None:
    index = given_index()
    champion = stratified_holdout(index[index["source"] == "train"], val_fraction=FRACTION, seed=0)
    split = stratified_holdout(index, val_fraction=FRACTION, seed=0, previous=champion).set_index("id")["subset"]
    validated = champion.loc[champion["subset"] == "val", "id"].tolist()
    assert len(validated) == 12
    assert set(split[validated]) <= {"val", "excluded"}
    assert set(split[[f"val-{number}" for number in range(10)]]) == {"val"}


def test_a_class_without_training_images_is_rejected() -> None:
    index = given_index()
    index.loc[index["id"] == "val-3", "label"] = "van"
    with pytest.raises(DataError, match="van"):
        stratified_holdout(index, val_fraction=FRACTION, seed=0)


def test_a_class_without_given_validation_images_is_rejected() -> None:
    index = given_index()
    index.loc[index["id"] == "train-7", "label"] = "van"
    with pytest.raises(DataError, match=r"van.*data\.val_folder.*data\.subset_column"):
        stratified_holdout(index, val_fraction=FRACTION, seed=0)


@pytest.mark.parametrize(
    "make", [partial(stratified_holdout, val_fraction=FRACTION), partial(stratified_k_fold, num_folds=3, fold=0)])
def test_copies_and_groups_of_labeled_test_images_are_excluded(make: Callable[..., pd.DataFrame]) -> None:
    index = given_index().query("source != 'val'").reset_index(drop=True)
    index.loc[index["id"].isin(["train-1", "train-2", "holdout-7"]), "group"] = "driver"
    split = make(index, seed=0).set_index("id")
    excluded = ["train-1", "train-2", "train-5"]
    assert split.index[split["subset"] == "excluded"].tolist() == excluded
    assert (split.loc[excluded, "fold"] == -1).all()
    others = index[~index["id"].isin([*excluded, *(f"holdout-{number}" for number in range(10))])]
    pd.testing.assert_frame_equal(split.loc[others["id"].sort_values()].reset_index(), make(others, seed=0)[
        ["id", *split.columns]])
    index.loc[index["id"] == "train-5", "label"] = "van"
    with pytest.raises(DataError, match=r"van.*labeled test images"):
        make(index, seed=0)


def test_leaks_count_groups_and_copies_of_labeled_test_images() -> None:
    index = given_index()
    index.loc[index["id"].isin(["train-1", "train-2", "holdout-7"]), "group"] = "driver"
    rows = stratified_holdout(index, val_fraction=FRACTION, seed=0)
    unlabeled = build_index([""] * 2, ["driver", "other"], [7000, 7001], "test")
    rows = rows.assign(subset=rows["subset"].mask(rows["id"].isin(["train-1", "train-2", "train-5"]), "train"))
    leaks = find_leaks(rows, pd.concat([index, unlabeled], ignore_index=True), rows.replace("holdout-3", "holdout-4"))
    assert leaks["groups_in_train_and_val"] == []
    assert leaks["holdout_copies_in_train"] == ["holdout-1"]
    assert leaks["test_groups_in_train"] == ["test-0", "holdout-7"]
    assert leaks["champion_train_in_holdout"] == []
