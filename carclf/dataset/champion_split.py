"""What an earlier split says of the pictures of a new one."""

from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.dataset.matching import MIN_CONTRAST
from carclf.dataset.near_hashes import NO_POSITION, Hashes, Positions, near_pairs_between, nearest_hashes

TRAIN, VAL, EXCLUDED = "train", "val", "excluded"
# Bits of the perceptual hash, and mean difference of the looks in standard deviations, of a picture that was saved
# again or a little cropped. Measured on cars10 (benchmarks.near_duplicate_quality): of copies saved again, resized or lit all are
# known, of those cropped by up to 2% a side 99%, by up to 3% 92%; of different photographs none. Of the demo's
# cars, which are drawn alike, the hash alone takes 26% for others, the look 0.7%.
NEAR_BITS, LOOKS_ALIKE = 8, 0.2
UNSEEN_BITS = 6  # without a look, as in older splits, hashes are believed that are nearer
BATCH = 16384  # pairs whose looks are compared at once
NO_FOLD = -1


def with_split_history(rows: pd.DataFrame, memory: pd.DataFrame | None) -> pd.DataFrame:
    """A split's rows and, of what champions before it knew, the pictures that it has no more.

    Without them a picture that is away for one champion would come back as new: it may have trained the one before,
    from which the present weights may go on.
    """
    if memory is None or not set(rows.columns) - {"color_signature"} <= set(memory.columns):  # from before perceptual hashes
        return rows
    if "color_signature" in rows and "color_signature" not in memory:
        memory = memory.assign(color_signature=b"")
    away = memory.loc[~memory["sha256"].isin(rows["sha256"]), list(rows.columns)]
    return pd.concat([rows, away.assign(fold=NO_FOLD)], ignore_index=True)


def previous_values(rows: pd.DataFrame, previous: pd.DataFrame | None, column: str) -> "pd.Series[Any]":
    """What the earlier split says in a column of each row's picture; missing where the picture is new.

    A picture is known by its bytes, else by its pixels, else by nearly the same perceptual hash and the same look.
    """
    found = pd.Series(None, rows.index, object)
    if previous is None:
        return found
    # where copies were on both sides of a split without clusters, training (before val) is what counts
    trains_first = previous.sort_values(column, key=lambda values: values != TRAIN, kind="stable")
    for content in ("sha256", "pixels_sha256"):
        if content in previous and content in rows:
            by_content = trains_first.drop_duplicates(content).set_index(content)[column]
            found = found.where(found.notna(), rows[content].map(by_content))
    if "phash" in previous and "phash" in rows:
        earlier = trains_first[trains_first["phash"] != 0]  # flat pictures have nothing else in common
        for match in (_alike, _near):
            new = rows[found.isna() & (rows["phash"] != 0)]
            places = match(new, earlier)
            found[new.index[places >= 0]] = earlier[column].to_numpy(object)[places[places >= 0]]
    return found


def _near(new: pd.DataFrame, earlier: pd.DataFrame) -> Positions:
    """The position of the earlier picture with the nearest hash, among those without a look; -1 for none."""
    unseen = np.flatnonzero(_looks(earlier) == b"")
    places, _ = nearest_hashes(_hashes(new), _hashes(earlier)[unseen], UNSEEN_BITS)
    return np.where(places >= 0, unseen[places] if len(unseen) else -1, -1)


def _alike(new: pd.DataFrame, earlier: pd.DataFrame) -> Positions:
    """The position of the first earlier picture with nearly the same hash and the same look; -1 for none."""
    best = np.full(len(new), NO_POSITION)
    looks, others = _looks(new), _looks(earlier)
    pairs = near_pairs_between(_hashes(new), _hashes(earlier), NEAR_BITS)
    seen = ((own, other) for own, other in pairs if looks[own] and others[other])
    while batch := list(islice(seen, BATCH)):
        one, other = np.array(batch).T
        alike = _difference(looks[one], others[other]) <= LOOKS_ALIKE
        np.minimum.at(best, one[alike], other[alike])
    return np.where(best < NO_POSITION, best, -1)


def _hashes(rows: pd.DataFrame) -> Hashes:
    return rows["phash"].to_numpy(np.uint64)


def _looks(rows: pd.DataFrame) -> "npt.NDArray[np.object_]":
    return rows["color_signature"].to_numpy(object) if "color_signature" in rows else np.full(len(rows), b"", object)


def _difference(*looks: "npt.NDArray[np.object_]") -> "npt.NDArray[np.float32]":
    """Mean absolute difference of pairs of looks; brightness and contrast do not count, colours do."""
    one, other = (np.frombuffer(b"".join(some), np.uint8).reshape(len(some), -1).astype(np.float32) for some in looks)
    one, other = ((some - some.mean(1, keepdims=True)) / np.maximum(some.std(1, keepdims=True), MIN_CONTRAST)
                  for some in (one, other))
    return np.asarray(np.abs(one - other).mean(1), np.float32)
