"""Copies and near-copies among the images of a dataset: all copies of an image get the same cluster number.

Near-copies are detected in three steps: ``images.hashes`` computes a perceptual hash of each image, ``near_hashes``
searches for pairs of similar hashes, and ``pixel_matching`` compares the pixels of these pairs.
"""

from collections.abc import Callable, Hashable, Iterator
from itertools import islice, pairwise, product
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from carclf.config import Duplicates
from carclf.dataset.near_hashes import Hashes, Positions, near_pairs
from carclf.dataset.pixel_matching import DuplicateMatcher, Pair
from carclf.images.decode import Pixels
from carclf.natural_order import sort_naturally
from carclf.progress import Meter

MAX_DISTINCT_PER_HASH = 8  # visually different images with the same hash that are kept apart
BATCH_SIZE = 1024  # pairs compared at once
MAX_MEMBERS = 50  # of a cluster in the report
CLUSTER_DIGITS = 15  # hexadecimal digits that fit into an int64


def find_clusters(index: pd.DataFrame, load: Callable[[int], Pixels], settings: Duplicates) -> pd.Series:
    """Return the cluster of each row of an index, an int64 that depends only on the images in the cluster.

    Exact copies (equal ``sha256`` or ``pixels_sha256``) are searched among all rows, near-copies (similar ``phash``,
    then similar pixels of ``load(position)``) among the rows without a problem. An image whose horizontal flip
    (``flipped_phash``) is a near-copy of another image is a near-copy too, because training flips images.
    """
    rows = index.reset_index(drop=True)
    copies = _exact_copies(rows)
    usable = rows[rows["problem"] == ""]
    order = usable.sort_values(["phash", "sha256"]).index.to_numpy()  # the order of the rows must not matter
    distinct = order[np.sort(np.unique(copies[order], return_index=True)[1])]
    hashes = rows[["phash", "flipped_phash"]].to_numpy(np.uint64).T.ravel()
    # The flip of row n has the position len(rows) + n. All flat images have the hash 0, and so have their flips.
    flips = distinct + len(rows)
    images = np.concatenate([distinct, flips[hashes[flips] != 0]])
    components = _join_near_copies(
        np.tile(copies, 2), images[np.argsort(hashes[images], kind="stable")], hashes,
        DuplicateMatcher(load, len(rows), settings.max_pixel_difference), settings.max_hash_distance)[: len(rows)]
    first = rows["sha256"].groupby(components).transform("min")
    clusters = [int(sha256[:CLUSTER_DIGITS], 16) for sha256 in first]
    return pd.Series(clusters, index.index, np.int64, name="cluster")


def _exact_copies(rows: pd.DataFrame) -> Positions:
    """Return the component of each row: rows with equal bytes or equal pixels have the same."""
    components = np.arange(len(rows))
    for column in ("sha256", "pixels_sha256"):
        codes = pd.factorize(rows[column])[0]
        first = np.unique(codes, return_index=True)[1][codes]
        has_hash = np.flatnonzero(rows[column] != "")
        components = _merge(components, np.column_stack([has_hash, first[has_hash]]))
    return components


def _merge(components: Positions, pairs: Positions | list[Pair]) -> Positions:
    """Return the component of each row after joining the components of each pair of rows."""
    size = len(components)
    ends = components[np.array(pairs, np.int64).reshape(-1, 2).T]
    graph = coo_array((np.ones(ends.shape[1], np.int8), tuple(ends)), (size, size))
    return np.asarray(connected_components(graph, directed=False)[1][components], np.int64)


def _join_near_copies(
    components: Positions, images: Positions, hashes: Hashes, matcher: DuplicateMatcher, max_hash_distance: int
) -> Positions:
    """Return the component of each row after joining near-copies among the images, which are sorted by their hash.

    A chain of images, each similar to the next, becomes one component. Cutting the chain could put near-copies into
    different subsets of a split.
    """
    distinct_hashes, starts = np.unique(hashes[images], return_index=True)
    groups = np.split(images, starts[1:])
    distinct: list[list[int]] = []
    joined: list[Pair] = []
    num_pairs = sum(len(first) for first, _ in near_pairs(distinct_hashes, max_hash_distance))
    with Meter("near-duplicates") as meter:
        for group in groups:
            others, pairs = _distinct_images(group.tolist(), matcher)
            distinct.append(others)
            joined += pairs
            meter(len(distinct), len(groups) + num_pairs)
        components = _merge(components, joined)
        candidates = (
            (number, pair)
            for number, (first, second) in enumerate(_hash_pairs(distinct_hashes, max_hash_distance), 1)
            for pair in product(distinct[first], distinct[second]))
        while batch := list(islice(candidates, BATCH_SIZE)):
            # Earlier matches may have joined a pair already.
            compared = [pair for _, pair in batch if components[pair[0]] != components[pair[1]]]
            if matching := matcher.matching_pairs(compared):
                components = _merge(components, matching)
            meter(len(groups) + batch[-1][0], len(groups) + num_pairs)
    return components


def _hash_pairs(hashes: Hashes, max_hash_distance: int) -> Iterator[Pair]:
    """Yield the positions of each pair of similar hashes."""
    for ends in near_pairs(hashes, max_hash_distance):
        yield from zip(*(positions.tolist() for positions in ends), strict=True)


def _distinct_images(images: list[int], matcher: DuplicateMatcher) -> tuple[list[int], list[Pair]]:
    """Return the visually different images among images of one hash, and pairs of each with its near-copies.

    Each image is compared only with these few images, not with all others.
    """
    distinct: list[int] = []
    joined: list[Pair] = []
    while images and len(distinct) < MAX_DISTINCT_PER_HASH:
        first, *others = images
        distinct.append(first)
        pairs = matcher.matching_pairs([(first, other) for other in others]) if others else []
        joined += pairs
        copies = {copy for _, copy in pairs}
        images = [other for other in others if other not in copies]
    return distinct, joined


def describe_clusters(index: pd.DataFrame) -> list[dict[str, Any]]:
    """Describe the clusters of several usable images: conflicting labels first, then train and test, then by size.

    ``match`` is "exact" if all members have the same pixels, else "near". With ``has_conflicting_labels``, at least
    one label is wrong. At most MAX_MEMBERS members are listed.
    """
    usable = index[index["problem"] == ""]
    rows = usable[usable["cluster"].duplicated(keep=False)].sort_values(["cluster", "path"], ignore_index=True)
    members, copies = rows[["id", "path", "label"]].to_dict("records"), _exact_copies(rows)
    starts = np.flatnonzero(~rows["cluster"].duplicated()).tolist()
    clusters = [
        {"cluster": int(rows["cluster"][start])} | _describe_cluster(members[start:end], copies[start:end])
        for start, end in pairwise([*starts, len(rows)])]
    return sorted(clusters, key=lambda cluster: (
        not cluster["has_conflicting_labels"], not cluster["in_train_and_test"], -cluster["num_members"],
        cluster["cluster"]))


def _describe_cluster(members: list[dict[Hashable, Any]], copies: Positions) -> dict[str, Any]:
    labels = {member["label"] for member in members}
    return {
        "num_members": len(members), "match": "exact" if (copies == copies[0]).all() else "near",
        "has_conflicting_labels": len(labels - {""}) > 1, "in_train_and_test": "" in labels and len(labels) > 1,
        "labels": sort_naturally(labels - {""}), "members": members[:MAX_MEMBERS],
    }
