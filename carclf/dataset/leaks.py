"""The leak report of a split: images that its subsets share with each other, the champion's split and the test set."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Metrics
from carclf.dataset.champion_split import HOLDOUT, TRAIN, VAL, previous_values
from carclf.dataset.near_hashes import near_pairs_between

# Bits of the perceptual hash. It is larger than the default of duplicates.max_hash_distance and no pixels are compared,
# so most of these matches are different images: they are listed for inspection and not counted.
MAX_HASH_DISTANCE = 10
HASH_MATCHES = "val_train_hash_matches"


def find_leaks(rows: pd.DataFrame, index: pd.DataFrame, previous: pd.DataFrame | None) -> dict[str, Any]:
    """Return the leak report of a split's rows; ``previous`` are the rows of the champion's split.

    - ``clusters_in_train_and_val``, ``groups_in_train_and_val``: in both subsets. They are empty by construction.
    - ``champion_train_in_val``, ``champion_train_in_holdout``: ids of validation images, and of labeled test images,
      that the champion was trained on, perhaps as another file.
    - ``test_copies_in_train``, ``holdout_copies_in_train``: ids of unlabeled and of labeled test images with a copy or
      near-copy in the training subset.
    - ``test_groups_in_train``: ids of all test images whose group is in the training subset.
    - ``val_train_hash_matches``: validation images with the nearest training image of a similar hash (id, train_id,
      hash_distance in bits), nearest first. Most of them are different images.
    """
    train, val, holdout = (rows[rows["subset"] == subset] for subset in (TRAIN, VAL, HOLDOUT))
    test = index[(index["label"] == "") & (index["problem"] == "")]
    groups = set(train["group"]) - {""}
    all_test = pd.concat([test, holdout])

    def trained_on(images: pd.DataFrame) -> list[str]:
        return images.loc[previous_values(images, previous, "subset") == TRAIN, "id"].tolist()

    return {
        "clusters_in_train_and_val": sorted(set(train["cluster"]) & set(val["cluster"])),
        "groups_in_train_and_val": sorted(groups & set(val["group"])),
        "champion_train_in_val": trained_on(val),
        "champion_train_in_holdout": trained_on(holdout),
        "test_copies_in_train": test.loc[test["cluster"].isin(train["cluster"]), "id"].tolist(),
        "holdout_copies_in_train": holdout.loc[holdout["cluster"].isin(train["cluster"]), "id"].tolist(),
        "test_groups_in_train": all_test.loc[all_test["group"].isin(groups), "id"].tolist(),
        HASH_MATCHES: _hash_matches(train, val),
    }


def leak_metrics(leaks: dict[str, Any]) -> Metrics:
    """Return the number of leaks of each kind, without the unverified hash matches."""
    return {f"num_{kind}": len(images) for kind, images in leaks.items() if kind != HASH_MATCHES}


def _hash_matches(train: pd.DataFrame, val: pd.DataFrame) -> list[dict[Hashable, Any]]:
    hashes, train_hashes = (rows["phash"].to_numpy(np.uint64) for rows in (val, train))
    pairs = np.array(list(near_pairs_between(hashes, train_hashes, MAX_HASH_DISTANCE)), np.int64).reshape(-1, 2)
    matches = pd.DataFrame(pairs, columns=["position", "train_position"])
    matches["hash_distance"] = np.bitwise_count(hashes[pairs[:, 0]] ^ train_hashes[pairs[:, 1]])
    nearest = matches.sort_values(["hash_distance", "train_position"]).drop_duplicates("position")
    nearest["id"] = val["id"].to_numpy()[nearest["position"]]
    nearest["train_id"] = train["id"].to_numpy()[nearest["train_position"]]
    return nearest.sort_values(["hash_distance", "id"])[["id", "train_id", "hash_distance"]].to_dict("records")
