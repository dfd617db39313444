"""Splits under additions, removals, another order and an earlier split, by properties."""

import hashlib
from collections.abc import Callable, Iterable
from functools import partial

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.dataset.splits import stratified_holdout, stratified_k_fold
from carclf.errors import DataError

Images = dict[str, tuple[int, int]]  # name to (label, cluster); the name is the content
FRACTIONS = st.floats(0.1, 0.5)


def index(images: Images) -> pd.DataFrame:
    return pd.DataFrame(
        [{"id": name, "path": f"train/{label}/{name}", "label": label, "problem": "", "cluster": cluster,
          "source": "extra" if "extra" in name else "train", "sha256": hashlib.sha256(name.encode()).hexdigest()}
         for name, (label, cluster) in images.items()],
    )


@st.composite
def some_images(draw: st.DrawFn, fewest: int = 6, prefix: str = "") -> Images:
    """Classes of single pictures, and some clusters of up to six in one class or in two."""
    num_classes = draw(st.integers(2, 4))
    images: Images = {}
    for label in range(num_classes):
        for number in range(draw(st.integers(fewest, 40))):
            images[f"{prefix}{label}-{number}"] = (label, len(images))
    for group, size in enumerate(draw(st.lists(st.integers(2, 6), max_size=5))):
        label, other = draw(st.integers(0, num_classes - 1)), draw(st.integers(0, num_classes - 1))
        for number in range(size):
            images[f"{prefix}g{group}-{number}"] = (label if number else other, 1000 + group)
    return images


def owners(split: pd.DataFrame) -> pd.Series:
    return split.groupby("cluster")["label"].transform("min")


def best_share(sizes: Iterable[int], wanted: int) -> int:
    """The largest sum of some of the sizes that is not above the wanted one."""
    sums = {0}
    for size in sizes:
        sums |= {one + size for one in sums}
    return max(one for one in sums if one <= wanted)


def shuffled(images: Images, random) -> Images:
    items = list(images.items())
    random.shuffle(items)
    return dict(items)


def sides(split: pd.DataFrame) -> dict[str, str]:
    return dict(zip(split["id"], split["subset"], strict=True))


@settings(max_examples=30, deadline=None)
@given(some_images(), FRACTIONS, st.integers(0, 9), st.randoms())
def test_a_split_is_disjoint_exhaustive_grouped_stratified_and_knows_no_order(images, fraction, seed, random) -> None:
    split = stratified_holdout(index(images), val_fraction=fraction, seed=seed)
    assert sorted(split["id"]) == sorted(images) and set(split["subset"]) == {"train", "val"}
    assert (split.groupby("cluster")["subset"].nunique() == 1).all()
    for _, members in split.groupby(owners(split)):
        wanted = min(max(round(len(members) * fraction), 1), len(members) - 1)
        assert (members["subset"] == "val").sum() == best_share(members.groupby("cluster").size(), wanted)
    again = stratified_holdout(index(shuffled(images, random)), val_fraction=fraction, seed=seed)
    pd.testing.assert_frame_equal(again, split)


@settings(max_examples=25, deadline=None)
@given(some_images(fewest=8), st.integers(2, 5), st.integers(0, 9), st.randoms())
def test_folds_are_disjoint_exhaustive_grouped_equal_and_know_no_order(images, num_folds, seed, random) -> None:
    make = partial(stratified_k_fold, num_folds=num_folds, seed=seed)
    splits = [make(index(images), fold=fold) for fold in range(num_folds)]
    validates = pd.concat(split.loc[split["subset"] == "val", "id"] for split in splits)
    assert sorted(validates) == sorted(images)
    for fold, split in enumerate(splits):
        pd.testing.assert_series_equal(split["fold"], splits[0]["fold"])
        assert (split["fold"] == fold).equals(split["subset"] == "val")
    assert (splits[0].groupby("cluster")["fold"].nunique() == 1).all()
    for _, members in splits[0].groupby(owners(splits[0])):
        counts = members["fold"].value_counts().reindex(range(num_folds), fill_value=0)
        singles = members["fold"][~members["cluster"].duplicated(keep=False)].nunique()
        assert counts.max() - counts.min() <= (1 if singles == num_folds else 6)
    pd.testing.assert_frame_equal(make(index(shuffled(images, random)), fold=0), splits[0])


def changed(images: Images, more: Images, random) -> Images:
    """Without some of the images, with more, some of which are near-copies of the old ones; each class gets some."""
    kept = {name: one for name, one in images.items() if random.random() < 0.9}
    clusters = [cluster for _, cluster in images.values()]
    added = {name: (label, random.choice(clusters) if random.random() < 0.2 else 5000 + cluster)
             for name, (label, cluster) in more.items()}
    labels = {label for label, _ in kept.values()}
    added |= {f"other{label}-{number}": (label, 9000 + 10 * label + number) for label in labels for number in (0, 1)}
    return shuffled(kept | added, random)


@settings(max_examples=30, deadline=None)
@given(some_images(fewest=12), some_images(fewest=12, prefix="new"), FRACTIONS, st.randoms())
def test_what_the_champion_knows_stays_on_its_side_when_data_come_and_go(images, more, fraction, random) -> None:
    before = stratified_holdout(index(images), val_fraction=fraction, seed=0)
    rows = index(changed(images, more, random))
    after = stratified_holdout(rows, val_fraction=fraction, seed=random.randint(0, 99), previous=before)
    old, new = sides(before), sides(after)
    assert sorted(new) == sorted(rows["id"])
    assert {name: side for name, side in new.items() if name in old} == {name: old[name] for name in new if name in old}
    assert (after.groupby("cluster")["subset"].nunique() == 1).all()
    trained = {after.set_index("id")["cluster"].get(name) for name, side in old.items() if side == "train"}
    assert not trained & set(after.loc[after["subset"] == "val", "cluster"])
    for _, members in after.groupby(owners(after)):
        wanted = min(max(round(len(members) * fraction), 1), len(members) - 1)
        free = members[~members["cluster"].isin(set(after.loc[after["id"].isin(old), "cluster"]))]
        filled = (free["subset"] == "val").sum()
        room = wanted - (members["subset"] == "val").sum() + filled  # what the known clusters leave
        assert filled == (best_share(free.groupby("cluster").size(), room) if room >= 0 else 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), FRACTIONS, st.integers(0, 99))
def test_no_other_choice_of_clusters_would_come_closer_to_the_wanted_share(sizes, fraction, seed) -> None:
    rows = index({f"{cluster}-{number}": (0, cluster) for cluster, size in enumerate(sizes) for number in range(size)})
    wanted = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
    found = (stratified_holdout(rows, val_fraction=fraction, seed=seed)["subset"] == "val").sum()
    assert found == (best_share(sizes, wanted) or min(sizes))


def test_two_clusters_that_fill_the_share_are_taken_for_a_larger_one_that_does_not() -> None:
    rows = index({f"{number}": (0, cluster) for number, cluster in enumerate([0] * 4 + [1] * 3 + [2] * 3)})
    for seed in range(6):
        assert (stratified_holdout(rows, val_fraction=0.6, seed=seed)["subset"] == "val").sum() == 6


def test_thousands_of_pairs_and_an_odd_share_take_no_long_time() -> None:
    rows = index({f"{number}": (number // 8000, number // 2) for number in range(16_000)})
    assert (stratified_holdout(rows, val_fraction=0.250125, seed=0)["subset"] == "val").sum() == 4000


@settings(max_examples=15, deadline=None)
@given(some_images(fewest=12), some_images(fewest=12, prefix="new"), st.randoms())
def test_a_picture_stays_in_its_fold_when_data_come_and_go(images, more, random) -> None:
    before = stratified_k_fold(index(images), num_folds=4, fold=0, seed=0)
    rows = index(shuffled(images | {name: (label, 5000 + cluster) for name, (label, cluster) in more.items()}, random))
    after = stratified_k_fold(rows, num_folds=4, fold=2, seed=5, previous=before)
    assert after.set_index("id")["fold"][before["id"]].tolist() == before["fold"].tolist()
    for _, members in after.groupby(owners(after)):
        counts = members["fold"].value_counts().reindex(range(4), fill_value=0)
        assert counts.max() - counts.min() <= 6  # the largest cluster


@settings(max_examples=15, deadline=None)
@given(some_images(), FRACTIONS, st.integers(0, 99), st.integers(0, 99))
def test_another_seed_changes_nothing_that_the_champion_knows(images, fraction, seed, other) -> None:
    first = stratified_holdout(index(images), val_fraction=fraction, seed=seed)
    again = stratified_holdout(index(images), val_fraction=fraction, seed=other, previous=first)
    pd.testing.assert_frame_equal(again, first)


def many(prefix: str = "", num: int = 20) -> Images:
    return {f"{prefix}{label}-{number}": (label, label * 1000 + number + 100_000 * bool(prefix))
            for label in range(2) for number in range(num)}


def test_a_validation_picture_whose_copy_trained_is_left_out_for_good() -> None:
    before = stratified_holdout(index(many()), val_fraction=0.3, seed=0)
    train, val = (before.loc[(before["subset"] == side) & (before["label"] == 0)].iloc[0] for side in ("train", "val"))
    joined = many() | {val["id"]: (0, train["cluster"]), "new": (0, train["cluster"])}
    after = stratified_holdout(index(joined), val_fraction=0.3, seed=0, previous=before)
    assert [sides(after)[name] for name in (train["id"], val["id"], "new")] == ["train", "excluded", "train"]
    without = {name: one for name, one in joined.items() if name != train["id"]}
    later = stratified_holdout(index(without), val_fraction=0.3, seed=0, previous=after)
    assert [sides(later)[name] for name in (val["id"], "new")] == ["excluded", "train"]


def test_equal_pixels_are_known_by_another_files_name_and_bytes() -> None:
    first = index(many()).assign(pixels_sha256=lambda rows: rows["sha256"] + "pixels")
    before = stratified_holdout(first, val_fraction=0.3, seed=0)
    saved_again = first.assign(sha256=first["sha256"].str[::-1], cluster=first["cluster"] + 7)
    assert sides(stratified_holdout(saved_again, val_fraction=0.3, seed=9, previous=before)) == sides(before)


def test_unusable_and_test_pictures_are_left_out_and_extra_ones_are_not() -> None:
    rows = index(many(num=10)).assign(source="extra")
    rows.loc[0, "problem"], rows.loc[1, "label"] = "broken", -1
    assert len(stratified_holdout(rows, val_fraction=0.2, seed=0)) == len(stratified_k_fold(rows, num_folds=2, fold=0, seed=0)) == 18


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(stratified_holdout, val_fraction=0.5), "Class '1' has one picture only"),
        (partial(stratified_k_fold, num_folds=3, fold=0), "Class '1' has 1 pictures, copies not counted: too few for 3 folds"),
    ],
)
def test_a_class_of_copies_alone_is_refused(make: Callable[..., pd.DataFrame], message: str) -> None:
    rows = index({"a": (0, 1), "b": (0, 2), "e": (0, 5), "c": (1, 3), "d": (1, 3)})
    with pytest.raises(DataError, match=message):
        make(rows, seed=0)


def test_a_class_of_which_the_champion_knows_every_picture_from_training_is_refused() -> None:
    before = stratified_holdout(index(many()), val_fraction=0.3, seed=0)
    kept = [name for name, side in sides(before).items() if side == "train" or name.startswith("0")]
    with pytest.raises(DataError, match="Class '1' has no picture that may validate: the champion was trained on all"):
        stratified_holdout(index({name: many()[name] for name in kept}), val_fraction=0.3, seed=0, previous=before)


def test_a_class_of_large_clusters_puts_one_of_them_on_each_side() -> None:
    rows = index({f"{label}-{number}": (label, label * 10 + number // 10) for label in (0, 1) for number in range(30)})
    assert stratified_holdout(rows, val_fraction=0.1, seed=0)["subset"].value_counts().to_dict() == {"train": 40, "val": 20}


@settings(max_examples=15, deadline=None)
@given(some_images(), some_images(prefix="extra-"), FRACTIONS, st.booleans())
def test_extra_data_train_or_are_left_out_and_change_no_side_of_the_competitions(own, extra, fraction, copied) -> None:
    labels = {label for label, _ in own.values()}
    # some of the extra data are copies of the competition's pictures, or all of them are strangers to them
    moved = {name: (label, cluster if copied else cluster + 10_000)
             for name, (label, cluster) in extra.items() if label in labels}
    alone = stratified_holdout(index(own), val_fraction=fraction, seed=0)
    split = stratified_holdout(index(own | moved), val_fraction=fraction, seed=0)
    validates = set(alone.loc[alone["subset"] == "val", "cluster"])
    wanted = {name: "excluded" if cluster in validates else "train" for name, (_, cluster) in moved.items()}
    assert sides(split) == sides(alone) | wanted
    again = stratified_holdout(index(own | moved), val_fraction=fraction, seed=1, previous=split)
    pd.testing.assert_frame_equal(again, split)
    folds = stratified_k_fold(index(own | moved), num_folds=2, fold=1, seed=0)
    own_folds = stratified_k_fold(index(own), num_folds=2, fold=1, seed=0)
    validates = set(own_folds.loc[own_folds["subset"] == "val", "cluster"])
    wanted = {name: "excluded" if cluster in validates else "train" for name, (_, cluster) in moved.items()}
    assert sides(folds) == sides(own_folds) | wanted


def test_extra_copies_of_a_validation_picture_stay_left_out_when_it_goes_away_and_when_it_is_back() -> None:
    before = stratified_holdout(index(many()), val_fraction=0.3, seed=0)
    val = before.loc[before["subset"] == "val"].iloc[0]
    copies = {f"extra-{number}": (val["label"], val["cluster"]) for number in range(5)}
    after = stratified_holdout(index(many() | copies), val_fraction=0.3, seed=0, previous=before)
    assert sides(after) == sides(before) | dict.fromkeys(copies, "excluded")
    without = {name: one for name, one in (many() | copies).items() if name != val["id"]}
    later = stratified_holdout(index(without), val_fraction=0.3, seed=0, previous=after)
    assert {name: sides(later)[name] for name in copies} == dict.fromkeys(copies, "excluded")
    back = stratified_holdout(index(many() | copies), val_fraction=0.3, seed=0, previous=after)
    pd.testing.assert_frame_equal(back, after)


def test_an_extra_picture_of_the_very_bytes_of_a_validation_picture_does_not_take_its_side() -> None:
    rows = index(many())
    before = stratified_holdout(rows, val_fraction=0.3, seed=0)
    val = before.loc[before["subset"] == "val"].iloc[[0]].drop(columns=["subset", "fold"])
    both = pd.concat([rows, val.assign(id="extra", path="extra/0/0/a.jpg", source="extra")], ignore_index=True)
    after = stratified_holdout(both, val_fraction=0.3, seed=0, previous=before)
    assert sides(after) == sides(before) | {"extra": "excluded"}
    pd.testing.assert_frame_equal(stratified_holdout(both, val_fraction=0.3, seed=0, previous=after), after)


def test_an_extra_picture_that_trained_keeps_a_new_copy_of_it_from_validating() -> None:
    before = stratified_holdout(index(many() | {"extra": (0, 7777)}), val_fraction=0.3, seed=0)
    rows = index(many() | {"extra": (0, 7777), "new": (0, 7777)})
    assert sides(stratified_holdout(rows, val_fraction=0.3, seed=0, previous=before))["new"] == "train"
