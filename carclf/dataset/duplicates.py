"""Pictures that are copies, or nearly copies, of each other: one cluster number for all of them."""

from collections.abc import Callable, Iterator
from itertools import islice, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from carclf.config import Duplicates
from carclf.dataset.matching import DuplicateMatcher, Pair
from carclf.dataset.near_hashes import Hashes, near_pairs
from carclf.images.decode import Pixels

Positions = npt.NDArray[np.int64]
MOST_LOOKS = 8  # really different pictures of one hash that are told apart
BATCH = 1024  # pairs that are compared at once
NUM_LISTED = 50  # members of a cluster that are described


def find_clusters(index: pd.DataFrame, load: Callable[[int], Pixels], settings: Duplicates) -> pd.Series:
    """The cluster of each row of an index, an int64 that only the cluster's content decides.

    Copies by bytes (``sha256``) or pixels (``pixels_sha256``) are found among all rows, near-copies (``phash``, then
    the pixels of ``load(position)``) among those without a problem.
    """
    rows = index.reset_index(drop=True)
    copies = _copies(rows)
    usable = rows.index[rows["problem"] == ""]
    order = rows.loc[usable].sort_values(["phash", "sha256"]).index.to_numpy()  # not the order of the rows
    pictures = order[np.sort(np.unique(copies[order], return_index=True)[1])]
    merged = np.arange(len(rows))
    for members in _near_groups(rows["phash"].to_numpy(np.uint64), pictures, load, settings):
        merged[copies[members]] = copies[members].min()
    first = rows["sha256"].groupby(merged[copies]).transform("min")
    return pd.Series([int(content[:15], 16) for content in first], index.index, np.int64, name="cluster")


def _copies(rows: pd.DataFrame) -> Positions:
    """The number of each row's group of equal bytes or equal pixels."""
    firsts = []
    for column in ("sha256", "pixels_sha256"):
        codes = pd.factorize(rows[column])[0]
        first = np.unique(codes, return_index=True)[1][codes]
        firsts.append(np.where(rows[column] == "", np.arange(len(rows)), first))
    ends = (np.tile(np.arange(len(rows)), 2), np.concatenate(firsts))
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), (len(rows), len(rows)))
    return np.asarray(connected_components(graph, directed=False)[1])


def _near_groups(
    hashes: Hashes, pictures: Positions, load: Callable[[int], Pixels], settings: Duplicates
) -> Iterator[Positions]:
    """Groups among the pictures, which are positions in the order of their hashes, that are near-copies."""
    matcher, joined = DuplicateMatcher(load, settings.max_pixel_difference), DisjointSet()
    distinct, starts, counts = np.unique(hashes[pictures], return_index=True, return_counts=True)
    looks = {int(place): _looks(pictures[starts[place] : starts[place] + counts[place]].tolist(), matcher, joined)
             for place in np.flatnonzero(counts > 1)}

    def candidates() -> Iterator[Pair]:
        for first, second in near_pairs(distinct, settings.max_hash_distance):
            for places in zip(first.tolist(), second.tolist(), strict=True):
                yield from product(*(looks.get(place, [int(pictures[starts[place]])]) for place in places))

    _join(candidates(), matcher, joined)
    # A chain is not cut: its neighbours were found alike by their pixels, and would stand on both sides of a split.
    for group in joined.subsets():
        yield np.array(sorted(group))


def _looks(pictures: list[int], matcher: DuplicateMatcher, joined: DisjointSet) -> list[int]:
    """One picture of each look among those of one hash, the others joined to theirs: a star, not all pairs."""
    found: list[int] = []
    while pictures and len(found) < MOST_LOOKS:
        first, *others = pictures
        found.append(first)
        pairs = [(first, other) for other in others]
        matches = matcher(pairs)
        _merge(joined, [pair for pair, match in zip(pairs, matches, strict=True) if match])
        pictures = [other for other, match in zip(others, matches, strict=True) if not match]
    return found


def _join(candidates: Iterator[Pair], matcher: DuplicateMatcher, joined: DisjointSet) -> None:
    """Compare the pairs that no earlier pair has joined."""
    while batch := list(islice(candidates, BATCH)):
        open_pairs = [(one, other) for one, other in batch
                      if not (one in joined and other in joined and joined.connected(one, other))]
        _merge(joined, [pair for pair, match in zip(open_pairs, matcher(open_pairs), strict=True) if match])


def _merge(joined: DisjointSet, pairs: list[Pair]) -> None:
    for one, other in pairs:
        joined.add(one)
        joined.add(other)
        joined.merge(one, other)


def describe_clusters(index: pd.DataFrame) -> list[dict[str, Any]]:
    """The clusters of several usable pictures: of several classes first, then those with test pictures, then by size.

    ``kind`` is exact where all have the same pixels. ``has_conflicting_labels``: one of the labels is wrong for sure.
    """
    usable = index[index["problem"] == ""]
    several = usable[usable["cluster"].duplicated(keep=False)].sort_values(["cluster", "path"], ignore_index=True)
    members = several[["id", "path", "label"]].to_dict("records")
    numbers, copies = several["cluster"].tolist(), _copies(several)
    ends = [*np.flatnonzero(~several["cluster"].duplicated()).tolist(), len(several)]
    found = []
    for start, end in pairwise(ends):
        labels = {one["label"] for one in members[start:end]}
        found.append({
            "cluster": numbers[start], "num_members": end - start,
            "kind": "exact" if (copies[start:end] == copies[start]).all() else "near",
            "has_conflicting_labels": len(labels - {-1}) > 1, "in_train_and_test": -1 in labels and len(labels) > 1,
            "labels": sorted(labels - {-1}), "members": members[start : min(end, start + NUM_LISTED)],
        })
    return sorted(found, key=lambda one: (not one["has_conflicting_labels"], not one["in_train_and_test"], -one["num_members"],
                                          one["cluster"]))
