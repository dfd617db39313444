"""Without groups, the splits are those that earlier versions of carclf made: existing stores keep their assignments."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from carclf.dataset.splits import stratified_holdout, stratified_k_fold

NUM_IMAGES = 600
# SHA-256 of subsets and folds, computed with the code before it had groups.
FROZEN = {
    "holdout": ["04d21dc8eb5b2543", "0901456ae1863b26"],
    "large holdout": ["9ec95b056262a5d9", "fdbae37f7ab40332"],
    "holdout after a champion": ["4fb2e28be8fe841e", "c3fcdea402c91fd5"],
    "folds": ["aea140dd123e99a2", "de0adba4ccba03ff"],
    "folds after a champion": ["446b0083bc2173be", "0fb2038a19bb07f2"],
    "holdout after folds": ["1050ce86c3667bd9", "6d15a169204e347f"],
}


def build_index(seed: int) -> pd.DataFrame:
    """Images of seven classes with clusters in one class and in two, extra data, unusable and unlabeled images."""
    random = np.random.default_rng(seed)
    numbers = np.arange(NUM_IMAGES)
    labels = random.choice(7, NUM_IMAGES, p=[0.3, 0.25, 0.2, 0.1, 0.05, 0.05, 0.05])
    copies = random.random(NUM_IMAGES) < 0.3
    clusters = np.where(copies, random.integers(0, 60, NUM_IMAGES) * 10 + labels, 1000 + numbers)
    clusters = np.where(random.random(NUM_IMAGES) < 0.02, random.integers(0, 600, NUM_IMAGES), clusters)
    sources = np.where(random.random(NUM_IMAGES) < 0.1, "extra", "train")
    digests = [hashlib.sha256(f"{seed % 10} {number}".encode()).hexdigest() for number in numbers]
    return pd.DataFrame({
        "id": numbers.astype(str), "path": [f"{source}/{number}.jpg" for number, source in enumerate(sources)],
        "label": [str(label) for label in labels], "source": sources, "cluster": clusters, "group": "",
        "problem": np.where(random.random(NUM_IMAGES) < 0.03, "broken", ""),
        "sha256": digests, "pixels_sha256": digests, "phash": np.uint64(0), "color_signature": b"",
    })


def splits(index: pd.DataFrame, previous: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Holdouts and folds of an index, from scratch and with a champion's split of other images."""
    champion = stratified_holdout(previous, val_fraction=0.2, seed=3)
    champion_folds = stratified_k_fold(previous, num_folds=4, fold=1, seed=3)
    return {
        "holdout": stratified_holdout(index, val_fraction=0.15, seed=0),
        "large holdout": stratified_holdout(index, val_fraction=0.37, seed=1),
        "holdout after a champion": stratified_holdout(index, val_fraction=0.25, seed=2, previous=champion),
        "folds": stratified_k_fold(index, num_folds=5, fold=2, seed=0),
        "folds after a champion": stratified_k_fold(index, num_folds=4, fold=0, seed=4, previous=champion_folds),
        "holdout after folds": stratified_holdout(index, val_fraction=0.25, seed=2, previous=champion_folds),
    }


def digest(split: pd.DataFrame) -> str:
    rows = split[["id", "subset", "fold"]].sort_values("id").to_numpy().tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", FROZEN)
def test_splits_without_groups_never_change(name: str) -> None:
    # The images 0 to 449 of the second index have the same content as those of the first, and other clusters.
    index = build_index(1)
    index.loc[450:, ["sha256", "pixels_sha256"]] += "new"
    assert [digest(splits(data, build_index(11))[name]) for data in (index, build_index(21))] == FROZEN[name]
