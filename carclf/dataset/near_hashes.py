"""Which of many 64-bit hashes differ in a few bits only, without comparing all pairs."""

import math
from collections.abc import Iterator
from itertools import chain, combinations, product

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
NUM_BITS = 64
NO_POSITION = np.iinfo(np.int64).max
MOST_EQUAL = 8  # of equal hashes that are paired with another one
# Measured in nanoseconds: to sort one hash once, and to look at one pair of a bucket.
SORTING, LOOKING = 100.0, 15.0


def near_pairs(hashes: Hashes, max_hash_distance: int) -> Iterator[tuple[Positions, Positions]]:
    """Yield each pair of positions whose hashes differ in at most ``max_hash_distance`` bits, once, in small arrays.

    The hashes must be distinct: equal ones are no search, and all their pairs would be too many.
    Of ``max_hash_distance + m`` blocks of bits at least m are equal in such a pair (pigeonhole principle), so it is
    found among the neighbours in one of the orders by m blocks (Manku et al. 2007, "Detecting Near-Duplicates for
    Web Crawling"; Norouzi et al. 2012). More hashes are given longer keys: a bucket stays small, and the cost
    grows nearly as their number does.
    """
    if len(hashes) < 2:
        return
    num_equal = _num_equal(len(hashes), max_hash_distance)
    masks = _masks(max_hash_distance + num_equal)
    for chosen in combinations(range(len(masks)), num_equal):
        pattern = np.isin(np.arange(len(masks)), chosen)
        mask = np.bitwise_or.reduce(masks[pattern])
        order = np.argsort(hashes & mask)
        for first, second in _neighbours(hashes[order], mask, max_hash_distance):
            # A pair may share more blocks than m: only the order by its first m is the one that tells it.
            equal = (masks & (hashes[order[first]] ^ hashes[order[second]])[:, None]) == 0
            own = ((equal & (equal.cumsum(1) <= num_equal)) == pattern).all(1)
            if own.any():
                yield order[first[own]], order[second[own]]


def nearest_hashes(hashes: Hashes, others: Hashes, max_hash_distance: int) -> tuple[Positions, Positions]:
    """For each hash the position of the nearest of the others, the first of equally near ones, and its distance.

    Both are -1 where none lies within ``max_hash_distance`` bits.
    """
    distinct = np.union1d(hashes, others)
    wanted, place = np.isin(distinct, hashes), np.full(len(distinct), NO_POSITION)
    names, firsts = np.unique(others, return_index=True)
    place[np.searchsorted(distinct, names)] = firsts
    # Distance and place in one number, so that the least of them is the nearest.
    best = np.where(wanted, place, NO_POSITION)
    for pair in near_pairs(distinct, max_hash_distance):
        for own, other in (pair, pair[::-1]):
            across = wanted[own] & (place[other] < NO_POSITION)
            bits = np.bitwise_count(distinct[own] ^ distinct[other]).astype(np.int64)
            np.minimum.at(best, own[across], (bits << 32 | place[other])[across])
    found = best[np.searchsorted(distinct, hashes)]
    return np.where(found < NO_POSITION, found & 0xFFFFFFFF, -1), np.where(found < NO_POSITION, found >> 32, -1)


def near_pairs_between(hashes: Hashes, others: Hashes, max_hash_distance: int) -> Iterator[tuple[int, int]]:
    """Yield each pair of a hash's position and another's that differ in at most ``max_hash_distance`` bits.

    Of equal others the first ones stand for all: a thousand foggy pictures would be a million pairs.
    """
    distinct = np.union1d(hashes, others)
    mine, theirs = _positions(hashes), _positions(others)
    is_mine, is_theirs = np.isin(distinct, hashes), np.isin(distinct, others)
    same = np.arange(len(distinct))
    for first, second in chain([(same, same)], near_pairs(distinct, max_hash_distance)):
        for one, other in ((first, second), (second, first))[: 1 if first is second else 2]:
            across = is_mine[one] & is_theirs[other]
            for own, near in zip(distinct[one[across]].tolist(), distinct[other[across]].tolist(), strict=True):
                yield from product(mine[own], theirs[near][:MOST_EQUAL])


def _positions(hashes: Hashes) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, value in enumerate(hashes.tolist()):
        found.setdefault(value, []).append(place)
    return found


def _num_equal(num: int, max_hash_distance: int) -> int:
    """The number of equal blocks for which sorting and looking together cost least on hashes of random bits."""
    def cost(num_equal: int) -> float:
        bits = NUM_BITS * num_equal / (max_hash_distance + num_equal)
        return math.comb(max_hash_distance + num_equal, num_equal) * (SORTING + LOOKING * num / 2 ** (bits + 1))

    return min(range(1, 6), key=cost)


def _masks(num_blocks: int) -> Hashes:
    """Each block's bits: every n-th one, since neighbours among the frequencies are alike in many pictures."""
    places = [range(block, NUM_BITS, num_blocks) for block in range(num_blocks)]
    return np.array([sum(1 << bit for bit in bits) for bits in places], np.uint64)


def _neighbours(ordered: Hashes, mask: np.uint64, max_hash_distance: int) -> Iterator[tuple[Positions, Positions]]:
    """Near pairs within each run of equal keys; no array is longer than the hashes."""
    keys = ordered & mask
    first = np.arange(len(keys))
    for offset in range(1, len(keys)):
        first = first[: np.searchsorted(first, len(keys) - offset)]
        first = first[keys[first] == keys[first + offset]]  # keys are in order: who differs here differs further on
        if not len(first):
            return
        near = first[np.bitwise_count(ordered[first] ^ ordered[first + offset]) <= max_hash_distance]
        if len(near):
            yield near, near + offset
