"""What an earlier split says of the pictures of a new one."""

from typing import Any

import numpy as np
import pandas as pd

from carclf.data.near_hashes import nearest

TRAIN, VAL, LEFT_OUT = "train", "val", "left_out"
# Bits of the perceptual hash in which a picture that was saved again differs at most. Measured on cars10: of 8,000
# copies (JPEG qualities 20 to 95, sizes 0.5 to 1.5) 66% differ in none, 96% in 2, 99.7% in 4 and all in 6; of 2.8
# million pairs of its pictures the two within 7 bits are near-copies, and 9 of different ones lie within 8. A wrong
# match costs little: a new picture's side is not free, or a validation picture of its cluster is left out.
SAVED_AGAIN = 6
NO_FOLD = -1


def remembered(rows: pd.DataFrame, memory: pd.DataFrame | None) -> pd.DataFrame:
    """A split's rows and, of what champions before it knew, the pictures that it has no more.

    Without them a picture that is away for one champion would come back as new: it may have trained the one before,
    from which the present weights may go on.
    """
    if memory is None or not set(rows.columns) <= set(memory.columns):  # of a split from before perceptual hashes
        return rows
    away = memory.loc[~memory["sha256"].isin(rows["sha256"]), list(rows.columns)]
    return pd.concat([rows, away.assign(fold=NO_FOLD)], ignore_index=True)


def known(rows: pd.DataFrame, previous: pd.DataFrame | None, column: str) -> "pd.Series[Any]":
    """What the earlier split says in a column of each row's picture; missing where the picture is new.

    A picture is known by its bytes, else by its pixels, else by a perceptual hash that is nearly the same.
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
        new = rows[found.isna() & (rows["phash"] != 0)]  # flat pictures have nothing else in common
        earlier = trains_first[trains_first["phash"] != 0]
        places, _ = nearest(new["phash"].to_numpy(np.uint64), earlier["phash"].to_numpy(np.uint64), SAVED_AGAIN)
        found[new.index[places >= 0]] = earlier[column].to_numpy(object)[places[places >= 0]]
    return found
