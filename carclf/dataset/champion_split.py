"""Look up images in the champion's split, even if their files were re-encoded or slightly cropped since."""

from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.dataset.near_hashes import Positions, near_pairs_between
from carclf.dataset.pixel_matching import MIN_CONTRAST

# The subsets of a split.
TRAIN = "train"
VAL = "val"
EXCLUDED = "excluded"
HOLDOUT = "holdout"
NO_FOLD = -1
NO_POSITION = np.iinfo(np.int64).max
# Limits for two files of the same image: bits of the perceptual hash, and mean difference of the color signatures in
# standard deviations. Measured on cars10 (benchmarks.near_duplicate_quality): all images that were re-encoded, resized
# or relit are recognized, 99% of those cropped by up to 2% a side, 92% by up to 3%, and no different photographs. Of
# the demo's cars, which are drawn alike, the hash alone confuses 26% with another car, both limits together 0.7%.
MAX_HASH_DISTANCE = 8
MAX_SIGNATURE_DIFFERENCE = 0.2
BATCH_SIZE = 16384  # pairs whose color signatures are compared at once

Signatures = npt.NDArray[np.object_]


def with_split_history(rows: pd.DataFrame, history: pd.DataFrame | None) -> pd.DataFrame:
    """Return a split's rows and those of earlier champions' splits whose images are no longer in the dataset.

    Without the history, an image that was missing from one champion's dataset would later count as new, although the
    champion may have started from the weights of an earlier champion that was trained on the image.
    """
    if history is None:
        return rows
    missing = history.loc[~history["sha256"].isin(rows["sha256"]), list(rows.columns)]
    return pd.concat([rows, missing.assign(fold=NO_FOLD)], ignore_index=True)


def without_excluded_copies(split: pd.DataFrame) -> pd.DataFrame:
    """Return a split's rows without excluded images that no model was trained on, as copies of validation images.

    These are extra data, and all excluded images if the validation images were given: the column ``source`` is val.
    """
    if (split["source"] == "val").any():
        return split[split["subset"] != EXCLUDED]
    return split[(split["source"] != "extra") | (split["subset"] != EXCLUDED)]


def previous_values(rows: pd.DataFrame, previous: pd.DataFrame | None, column: str) -> "pd.Series[Any]":
    """Return each row's value of a column of an earlier split, matched by image; missing for new images.

    An image is recognized by its bytes, else by its pixels, else by a near perceptual hash with a similar color
    signature. Both tables have the columns sha256, pixels_sha256, phash and color_signature.
    """
    values = pd.Series(None, rows.index, object)
    if previous is None:
        return values
    # If copies of an image were in several subsets (possible in a cross-validation), the one for training counts.
    previous = previous.sort_values(column, key=lambda subsets: subsets != TRAIN, kind="stable")
    for content in ("sha256", "pixels_sha256"):
        by_content = previous.drop_duplicates(content).set_index(content)[column]
        values = values.where(values.notna(), rows[content].map(by_content))
    previous = previous[previous["phash"] != 0]  # flat images have only their flatness in common
    new = rows[values.isna() & (rows["phash"] != 0)]
    if not new.empty:
        positions = _similar_positions(new, previous)
        is_similar = positions >= 0
        values[new.index[is_similar]] = previous[column].to_numpy(object)[positions[is_similar]]
    return values


def _similar_positions(new: pd.DataFrame, previous: pd.DataFrame) -> Positions:
    """Return the position of the first earlier image with a near hash and a similar color signature; else -1."""
    first = np.full(len(new), NO_POSITION)
    signatures, previous_signatures = (rows["color_signature"].to_numpy(object) for rows in (new, previous))
    hashes, previous_hashes = (rows["phash"].to_numpy(np.uint64) for rows in (new, previous))
    pairs = near_pairs_between(hashes, previous_hashes, MAX_HASH_DISTANCE)
    while batch := list(islice(pairs, BATCH_SIZE)):
        position, previous_position = np.array(batch).T
        difference = _signature_difference(signatures[position], previous_signatures[previous_position])
        is_similar = difference <= MAX_SIGNATURE_DIFFERENCE
        np.minimum.at(first, position[is_similar], previous_position[is_similar])
    return np.where(first < NO_POSITION, first, -1)


def _signature_difference(first: Signatures, second: Signatures) -> "npt.NDArray[np.float32]":
    """Return the mean absolute difference of each pair; brightness and contrast do not count, colors do."""
    return np.asarray(np.abs(_standardize(first) - _standardize(second)).mean(1), np.float32)


def _standardize(signatures: Signatures) -> "npt.NDArray[np.float32]":
    values = np.frombuffer(b"".join(signatures), np.uint8).reshape(len(signatures), -1).astype(np.float32)
    deviation = np.maximum(values.std(1, keepdims=True), MIN_CONTRAST)
    return np.asarray((values - values.mean(1, keepdims=True)) / deviation, np.float32)
