"""The leak report of a split: images that its subsets share with each other, the champion's split and the test set."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Metrics
from carclf.dataset.champion_split import TRAIN, VAL, previous_values
from carclf.dataset.near_hashes import near_pairs_between

# Bits of the perceptual hash. It is larger than the default of duplicates.max_hash_distance and no pixels are compared,
# so most of these matches are different images: they are listed for inspection and not counted.
MAX_HASH_DISTANCE = 10
HASH_MATCHES = "val_train_hash_matches"


def find_leaks(rows: pd.DataFrame, index: pd.DataFrame, previous: pd.DataFrame | None) -> dict[str, Any]:
    """Return the leak report of a split's rows; ``previous`` are the rows of the champion's split.

    - ``clusters_in_train_and_val``: clusters in both subsets. It is empty by construction.
    - ``champion_train_in_val``: ids of validation images that the champion was trained on, perhaps as another file.
    - ``test_copies_in_train``: ids of test images with a copy or near-copy in the training subset.
    - ``val_train_hash_matches``: validation images with the nearest training image of a similar hash (id, train_id,
      hash_distance in bits), nearest first. Most of them are different images.
    """
    train, val = rows[rows["subset"] == TRAIN], rows[rows["subset"] == VAL]
    test = index[(index["label"] == "") & (index["problem"] == "")]
    return {
        "clusters_in_train_and_val": sorted(set(train["cluster"]) & set(val["cluster"])),
        "champion_train_in_val": val.loc[previous_values(val, previous, "subset") == TRAIN, "id"].tolist(),
        "test_copies_in_train": test.loc[test["cluster"].isin(train["cluster"]), "id"].tolist(),
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
