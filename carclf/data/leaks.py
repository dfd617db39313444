"""What a split lets through between training, validation and test: the leak report."""

from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Figures
from carclf.data.near_hashes import near_pairs
from carclf.data.splits import TRAIN, VAL

LOOSE_DISTANCE = 10  # bits of the perceptual hash: two more than near-copies have, and no pixel is looked at
NONE = np.iinfo(np.int64).max


def find_leaks(rows: pd.DataFrame, index: pd.DataFrame, previous: pd.DataFrame | None) -> dict[str, Any]:
    """The report on a split's rows of an index; ``previous``: the rows of the champion's split.

    ``clusters_on_both_sides`` is 0 by construction. ``val_near_train``: validation pictures whose hash resembles a
    training picture's, nearest first; most are different pictures. ``champion_train_in_val``: what trained the
    champion and validates now. ``test_copies_in_train``: test pictures with a copy or near-copy in training.
    """
    train, val = rows[rows["subset"] == TRAIN], rows[rows["subset"] == VAL]
    test = index[(index["label"] < 0) & (index["problem"] == "")]
    trained = set() if previous is None else set(previous.loc[previous["subset"] == TRAIN, "sha256"])
    return {
        "clusters_on_both_sides": sorted(set(train["cluster"]) & set(val["cluster"])),
        "champion_train_in_val": val.loc[val["sha256"].isin(trained), "id"].tolist(),
        "test_copies_in_train": test.loc[test["cluster"].isin(train["cluster"]), "id"].tolist(),
        "val_near_train": _near(train, val),
    }


def leak_figures(leaks: dict[str, Any]) -> Figures:
    """The number of each kind of leak."""
    return {f"num_{kind}": len(found) for kind, found in leaks.items()}


def _near(train: pd.DataFrame, val: pd.DataFrame) -> list[dict[str, Any]]:
    """For each validation picture with a near hash in training: id, the nearest training picture's id, distance."""
    firsts = train.drop_duplicates("phash")
    hashes = np.union1d(train["phash"].to_numpy(np.uint64), val["phash"].to_numpy(np.uint64))
    trains, validates = np.isin(hashes, train["phash"]), np.isin(hashes, val["phash"])
    # Distance and place of the nearest in one number, so that the least of them is the nearest.
    nearest = np.where(trains & validates, np.arange(len(hashes)), NONE)
    for pair in near_pairs(hashes, LOOSE_DISTANCE):
        for own, other in (pair, pair[::-1]):
            across = validates[own] & trains[other]
            bits = np.bitwise_count(hashes[own] ^ hashes[other]).astype(np.int64)
            np.minimum.at(nearest, own[across], (bits << 32 | other)[across])
    found = nearest[np.searchsorted(hashes, val["phash"].to_numpy(np.uint64))]
    near, found = val[found < NONE], found[found < NONE]
    train_ids = dict(zip(firsts["phash"].tolist(), firsts["id"], strict=True))
    rows = zip((found >> 32).tolist(), near["id"], hashes[found & 0xFFFFFFFF].tolist(), strict=True)
    return [{"id": name, "train_id": train_ids[phash], "distance": distance} for distance, name, phash in sorted(rows)]
