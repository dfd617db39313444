"""What a split lets through between training, validation and test: the leak report."""

from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Metrics
from carclf.dataset.champion_split import TRAIN, VAL, previous_values
from carclf.dataset.near_hashes import nearest_hashes

# Bits of the perceptual hash, whatever duplicates.max_hash_distance is; no pixel is looked at.
LOOSE_DISTANCE = 10
UNVERIFIED = "val_train_hash_matches"


def find_leaks(rows: pd.DataFrame, index: pd.DataFrame, previous: pd.DataFrame | None) -> dict[str, Any]:
    """The report on a split's rows of an index; ``previous``: the rows of the champion's split.

    ``clusters_in_train_and_val`` is empty by construction. ``val_train_hash_matches``: validation pictures whose hash
    resembles a training picture's, nearest first; most are different pictures. ``champion_train_in_val``: what trained
    the champion, perhaps saved again since, and validates now. ``test_copies_in_train``: test pictures with a copy or
    near-copy in training.
    """
    train, val = rows[rows["subset"] == TRAIN], rows[rows["subset"] == VAL]
    test = index[(index["label"] < 0) & (index["problem"] == "")]
    return {
        "clusters_in_train_and_val": sorted(set(train["cluster"]) & set(val["cluster"])),
        "champion_train_in_val": val.loc[previous_values(val, previous, "subset") == TRAIN, "id"].tolist(),
        "test_copies_in_train": test.loc[test["cluster"].isin(train["cluster"]), "id"].tolist(),
        UNVERIFIED: _near(train, val),
    }


def leak_metrics(leaks: dict[str, Any]) -> Metrics:
    """The number of each kind of leak; not of what is unverified, which looks like an alarm and is none."""
    return {f"num_{kind}": len(found) for kind, found in leaks.items() if kind != UNVERIFIED}


def _near(train: pd.DataFrame, val: pd.DataFrame) -> list[dict[str, Any]]:
    """For each validation picture with a near hash in training: id, the nearest training picture's id, distance."""
    places, bits = nearest_hashes(val["phash"].to_numpy(np.uint64), train["phash"].to_numpy(np.uint64), LOOSE_DISTANCE)
    near = places >= 0
    rows = zip(bits[near].tolist(), val["id"][near], train["id"].iloc[places[near]], strict=True)
    return [{"id": name, "train_id": other, "distance": distance} for distance, name, other in sorted(rows)]
