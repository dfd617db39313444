"""Properties of splits when images are added, removed or reordered, with and without a champion's split."""

import hashlib
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.dataset.splits import stratified_holdout, stratified_k_fold
from carclf.errors import DataError

Images = dict[str, tuple[str, int]]  # name to (label, cluster)
FRACTIONS = st.floats(0.1, 0.5)


def build_index(images: Images) -> pd.DataFrame:
    """An index of images whose content is their name; those with "extra" in their name are extra data."""
    index = pd.DataFrame(
        [{"id": name, "path": f"train/{label}/{name}", "label": label, "problem": "", "cluster": cluster,
          "source": "extra" if "extra" in name else "train", "sha256": hashlib.sha256(name.encode()).hexdigest()}
         for name, (label, cluster) in images.items()])
    return index.assign(group="", pixels_sha256=index["sha256"], phash=np.uint64(0), color_signature=b"")


@st.composite
def random_images(draw: st.DrawFn, min_per_class: int = 6, prefix: str = "") -> Images:
    """Classes of images without copies, and some clusters of up to six images in one class or in two."""
    num_classes = draw(st.integers(2, 4))
    images: Images = {}
    for label in map(str, range(num_classes)):
        for number in range(draw(st.integers(min_per_class, 40))):
            images[f"{prefix}{label}-{number}"] = (label, len(images))
    for group, size in enumerate(draw(st.lists(st.integers(2, 6), max_size=5))):
        label, other = str(draw(st.integers(0, num_classes - 1))), str(draw(st.integers(0, num_classes - 1)))
        for number in range(size):
            images[f"{prefix}g{group}-{number}"] = (label if number else other, 1000 + group)
    return images


def twenty_per_class(num: int = 20) -> Images:
    return {f"{label}-{number}": (str(label), label * 1000 + number) for label in range(2) for number in range(num)}


def cluster_labels(split: pd.DataFrame) -> pd.Series:
    return split.groupby("cluster")["label"].transform("min")


def largest_sum(sizes: Iterable[int], limit: int) -> int:
    """The largest sum of some of the sizes that does not exceed the limit."""
    sums = {0}
    for size in sizes:
        sums |= {total + size for total in sums}
    return max(total for total in sums if total <= limit)


def shuffle(images: Images, random) -> Images:
    items = list(images.items())
    random.shuffle(items)
    return dict(items)


def remove(images: Images, name: str) -> Images:
    return {other: image for other, image in images.items() if other != name}


def subsets_by_id(split: pd.DataFrame) -> dict[str, str]:
    return dict(zip(split["id"], split["subset"], strict=True))


def num_val(split: pd.DataFrame) -> int:
    return int((split["subset"] == "val").sum())


def expected_val(num_images: int, fraction: float) -> int:
    return min(max(round(num_images * fraction), 1), num_images - 1)


@settings(max_examples=30, deadline=None)
@given(random_images(), FRACTIONS, st.integers(0, 9), st.randoms())
def test_a_holdout_is_complete_grouped_and_stratified(images, fraction, seed, random) -> None:
    split = stratified_holdout(build_index(images), val_fraction=fraction, seed=seed)
    assert sorted(split["id"]) == sorted(images)
    assert set(split["subset"]) == {"train", "val"}
    assert (split.groupby("cluster")["subset"].nunique() == 1).all()
    for _, members in split.groupby(cluster_labels(split)):
        limit = expected_val(len(members), fraction)
        assert num_val(members) == largest_sum(members.groupby("cluster").size(), limit)
    reordered = stratified_holdout(build_index(shuffle(images, random)), val_fraction=fraction, seed=seed)
    pd.testing.assert_frame_equal(reordered, split)


@settings(max_examples=15, deadline=None)
@given(random_images(min_per_class=8), st.integers(2, 5), st.integers(0, 9), st.randoms())
def test_folds_are_complete_grouped_and_of_equal_size(images, num_folds, seed, random) -> None:
    make = partial(stratified_k_fold, num_folds=num_folds, seed=seed)
    splits = [make(build_index(images), fold=fold) for fold in range(num_folds)]
    validation = pd.concat(split.loc[split["subset"] == "val", "id"] for split in splits)
    assert sorted(validation) == sorted(images)
    for fold, split in enumerate(splits):
        pd.testing.assert_series_equal(split["fold"], splits[0]["fold"])
        assert (split["fold"] == fold).equals(split["subset"] == "val")
    assert (splits[0].groupby("cluster")["fold"].nunique() == 1).all()
    for _, members in splits[0].groupby(cluster_labels(splits[0])):
        counts = members["fold"].value_counts().reindex(range(num_folds), fill_value=0)
        num_folds_with_singles = members["fold"][~members["cluster"].duplicated(keep=False)].nunique()
        assert counts.max() - counts.min() <= (1 if num_folds_with_singles == num_folds else 6)
    pd.testing.assert_frame_equal(make(build_index(shuffle(images, random)), fold=0), splits[0])


def change(images: Images, more: Images, random) -> Images:
    """Remove some images and add others, some of them near-copies of the old ones; each class gets new images."""
    kept = {name: image for name, image in images.items() if random.random() < 0.9}
    clusters = [cluster for _, cluster in images.values()]
    added = {name: (label, random.choice(clusters) if random.random() < 0.2 else 5000 + cluster)
             for name, (label, cluster) in more.items()}
    labels = {label for label, _ in kept.values()}
    added |= {f"other{label}-{number}": (label, 9000 + 10 * int(label) + number)
              for label in labels for number in (0, 1)}
    return shuffle(kept | added, random)


@settings(max_examples=30, deadline=None)
@given(random_images(min_per_class=12), random_images(min_per_class=12, prefix="new"), FRACTIONS, st.randoms())
def test_images_keep_the_champions_subset_when_the_data_change(images, more, fraction, random) -> None:
    """New images fill up the validation subset of each class as far as the champion's images leave room."""
    before = stratified_holdout(build_index(images), val_fraction=fraction, seed=0)
    rows = build_index(change(images, more, random))
    after = stratified_holdout(rows, val_fraction=fraction, seed=random.randint(0, 99), previous=before)
    old, new = subsets_by_id(before), subsets_by_id(after)
    assert sorted(new) == sorted(rows["id"])
    assert {name: subset for name, subset in new.items() if name in old} == {
        name: old[name] for name in new if name in old}
    assert (after.groupby("cluster")["subset"].nunique() == 1).all()
    trained_on = {name for name, subset in old.items() if subset == "train"}
    trained_clusters = set(after.loc[after["id"].isin(trained_on), "cluster"])
    assert not trained_clusters & set(after.loc[after["subset"] == "val", "cluster"])
    for _, members in after.groupby(cluster_labels(after)):
        free = members[~members["cluster"].isin(set(after.loc[after["id"].isin(old), "cluster"]))]
        room = expected_val(len(members), fraction) - num_val(members) + num_val(free)
        assert num_val(free) == (largest_sum(free.groupby("cluster").size(), room) if room >= 0 else 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), FRACTIONS, st.integers(0, 99))
def test_the_chosen_clusters_come_closest_to_the_fraction(sizes, fraction, seed) -> None:
    rows = build_index(
        {f"{cluster}-{number}": ("0", cluster) for cluster, size in enumerate(sizes) for number in range(size)})
    limit = expected_val(len(rows), fraction)
    split = stratified_holdout(rows, val_fraction=fraction, seed=seed)
    assert num_val(split) == (largest_sum(sizes, limit) or min(sizes))


@pytest.mark.parametrize("seed", range(6))
def test_two_clusters_that_meet_the_fraction_replace_a_larger_one(seed: int) -> None:
    rows = build_index({f"{number}": ("0", cluster) for number, cluster in enumerate([0] * 4 + [1] * 3 + [2] * 3)})
    assert num_val(stratified_holdout(rows, val_fraction=0.6, seed=seed)) == 6


def test_the_fraction_is_met_exactly_with_thousands_of_clusters() -> None:
    """The search for the largest sum must not try all sets of clusters."""
    rows = build_index({f"{number}": (str(number // 8000), number // 2) for number in range(16_000)})
    assert num_val(stratified_holdout(rows, val_fraction=0.250125, seed=0)) == 4000


@settings(max_examples=15, deadline=None)
@given(random_images(min_per_class=12), random_images(min_per_class=12, prefix="new"), st.randoms())
def test_an_image_keeps_its_fold_when_the_data_change(images, more, random) -> None:
    before = stratified_k_fold(build_index(images), num_folds=4, fold=0, seed=0)
    added = {name: (label, 5000 + cluster) for name, (label, cluster) in more.items()}
    rows = build_index(shuffle(images | added, random))
    after = stratified_k_fold(rows, num_folds=4, fold=2, seed=5, previous=before)
    assert after.set_index("id")["fold"][before["id"]].tolist() == before["fold"].tolist()
    for _, members in after.groupby(cluster_labels(after)):
        counts = members["fold"].value_counts().reindex(range(4), fill_value=0)
        assert counts.max() - counts.min() <= 6  # the size of the largest cluster


@settings(max_examples=15, deadline=None)
@given(random_images(), FRACTIONS, st.integers(0, 99), st.integers(0, 99))
def test_another_seed_does_not_move_the_champions_images(images, fraction, seed, other_seed) -> None:
    first = stratified_holdout(build_index(images), val_fraction=fraction, seed=seed)
    again = stratified_holdout(build_index(images), val_fraction=fraction, seed=other_seed, previous=first)
    pd.testing.assert_frame_equal(again, first)


def test_a_validation_image_with_a_copy_in_train_stays_excluded() -> None:
    images = twenty_per_class()
    before = stratified_holdout(build_index(images), val_fraction=0.3, seed=0)
    of_class = before[before["label"] == "0"]
    train, val = (of_class[of_class["subset"] == subset].iloc[0] for subset in ("train", "val"))
    joined = images | {val["id"]: ("0", train["cluster"]), "new": ("0", train["cluster"])}
    after = stratified_holdout(build_index(joined), val_fraction=0.3, seed=0, previous=before)
    subsets = subsets_by_id(after)
    assert [subsets[name] for name in (train["id"], val["id"], "new")] == ["train", "excluded", "train"]
    later = stratified_holdout(
        build_index(remove(joined, train["id"])), val_fraction=0.3, seed=0, previous=after)
    assert [subsets_by_id(later)[name] for name in (val["id"], "new")] == ["excluded", "train"]


def test_a_reencoded_image_with_equal_pixels_keeps_its_subset() -> None:
    first = build_index(twenty_per_class())
    before = stratified_holdout(first, val_fraction=0.3, seed=0)
    reencoded = first.assign(sha256=first["sha256"].str[::-1], cluster=first["cluster"] + 7)
    after = stratified_holdout(reencoded, val_fraction=0.3, seed=9, previous=before)
    assert subsets_by_id(after) == subsets_by_id(before)


@pytest.mark.parametrize("make", [
    partial(stratified_holdout, val_fraction=0.2), partial(stratified_k_fold, num_folds=2, fold=0)])
def test_unusable_and_test_images_are_in_no_subset(make: Callable[..., pd.DataFrame]) -> None:
    rows = build_index(twenty_per_class(num=10))
    rows.loc[0, "problem"] = "broken"
    rows.loc[1, "label"] = ""
    assert len(make(rows, seed=0)) == 18


@pytest.mark.parametrize(
    ("make", "message"),
    [(partial(stratified_holdout, val_fraction=0.5), "Class '1' has only one image"),
     (partial(stratified_k_fold, num_folds=3, fold=0), r"Class '1' has 1 image.*split\.num_folds")],
)
def test_a_class_of_copies_of_one_image_is_rejected(make: Callable[..., pd.DataFrame], message: str) -> None:
    rows = build_index({"a": ("0", 1), "b": ("0", 2), "e": ("0", 5), "c": ("1", 3), "d": ("1", 3)})
    with pytest.raises(DataError, match=message):
        make(rows, seed=0)


def test_a_class_with_only_champion_training_images_is_rejected() -> None:
    images = twenty_per_class()
    before = stratified_holdout(build_index(images), val_fraction=0.3, seed=0)
    kept = {name: images[name] for name, subset in subsets_by_id(before).items()
            if subset == "train" or name.startswith("0")}
    with pytest.raises(DataError, match=r"Class '1' .*validation.*champion"):
        stratified_holdout(build_index(kept), val_fraction=0.3, seed=0, previous=before)


def test_a_class_of_large_clusters_has_one_of_them_in_val() -> None:
    rows = build_index(
        {f"{label}-{number}": (str(label), label * 10 + number // 10) for label in (0, 1) for number in range(30)})
    split = stratified_holdout(rows, val_fraction=0.1, seed=0)
    assert split["subset"].value_counts().to_dict() == {"train": 40, "val": 20}


@settings(max_examples=15, deadline=None)
@given(random_images(), random_images(prefix="extra-"), FRACTIONS, st.booleans())
def test_extra_data_do_not_move_the_competitions_images(images, extra, fraction, are_copies) -> None:
    """Extra data go to train, or are excluded if their cluster is in val."""
    labels = {label for label, _ in images.values()}
    extra = {name: (label, cluster if are_copies else cluster + 10_000)
             for name, (label, cluster) in extra.items() if label in labels}

    def expected(alone: pd.DataFrame) -> dict[str, str]:
        val_clusters = set(alone.loc[alone["subset"] == "val", "cluster"])
        subsets = {name: "excluded" if cluster in val_clusters else "train" for name, (_, cluster) in extra.items()}
        return subsets_by_id(alone) | subsets

    alone = stratified_holdout(build_index(images), val_fraction=fraction, seed=0)
    split = stratified_holdout(build_index(images | extra), val_fraction=fraction, seed=0)
    assert subsets_by_id(split) == expected(alone)
    again = stratified_holdout(build_index(images | extra), val_fraction=fraction, seed=1, previous=split)
    pd.testing.assert_frame_equal(again, split)
    folds_alone = stratified_k_fold(build_index(images), num_folds=2, fold=1, seed=0)
    folds = stratified_k_fold(build_index(images | extra), num_folds=2, fold=1, seed=0)
    assert subsets_by_id(folds) == expected(folds_alone)


def test_extra_copies_of_a_validation_image_stay_excluded() -> None:
    """They are excluded while the validation image is missing from the dataset, and after it returns."""
    images = twenty_per_class()
    before = stratified_holdout(build_index(images), val_fraction=0.3, seed=0)
    val = before.loc[before["subset"] == "val"].iloc[0]
    copies = {f"extra-{number}": (val["label"], val["cluster"]) for number in range(5)}
    after = stratified_holdout(build_index(images | copies), val_fraction=0.3, seed=0, previous=before)
    assert subsets_by_id(after) == subsets_by_id(before) | dict.fromkeys(copies, "excluded")
    without = build_index(remove(images | copies, val["id"]))
    later = subsets_by_id(stratified_holdout(without, val_fraction=0.3, seed=0, previous=after))
    assert {name: later[name] for name in copies} == dict.fromkeys(copies, "excluded")
    returned = stratified_holdout(build_index(images | copies), val_fraction=0.3, seed=0, previous=after)
    pd.testing.assert_frame_equal(returned, after)


def test_an_extra_image_with_the_bytes_of_a_validation_image_is_excluded() -> None:
    rows = build_index(twenty_per_class())
    before = stratified_holdout(rows, val_fraction=0.3, seed=0)
    val = before.loc[before["subset"] == "val"].iloc[[0]].drop(columns=["subset", "fold"])
    both = pd.concat([rows, val.assign(id="extra", path="extra/0/0/a.jpg", source="extra")], ignore_index=True)
    after = stratified_holdout(both, val_fraction=0.3, seed=0, previous=before)
    assert subsets_by_id(after) == subsets_by_id(before) | {"extra": "excluded"}
    pd.testing.assert_frame_equal(stratified_holdout(both, val_fraction=0.3, seed=0, previous=after), after)


def test_a_new_copy_of_an_extra_training_image_goes_to_train() -> None:
    images = twenty_per_class() | {"extra": ("0", 7777)}
    before = stratified_holdout(build_index(images), val_fraction=0.3, seed=0)
    rows = build_index(images | {"new": ("0", 7777)})
    assert subsets_by_id(stratified_holdout(rows, val_fraction=0.3, seed=0, previous=before))["new"] == "train"
