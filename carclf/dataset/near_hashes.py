"""Search for 64-bit hashes that differ in only a few bits, without comparing all pairs."""

import math
from collections.abc import Iterator
from itertools import chain, combinations, product

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]
NUM_BITS = 64
MAX_EQUAL = 8  # equal hashes that are paired with the same other hash
MAX_EQUAL_BLOCKS = 5
SORT_NANOSECONDS = 100.0  # measured: to sort one hash once
COMPARE_NANOSECONDS = 15.0  # measured: to compare one pair with equal keys


def near_pairs(hashes: Hashes, max_hash_distance: int) -> Iterator[tuple[Positions, Positions]]:
    """Yield each pair of positions whose hashes differ in at most ``max_hash_distance`` bits once, as small arrays.

    The hashes must be distinct: pairs of equal hashes need no search, and there could be too many of them.

    The bits are divided into ``max_hash_distance + m`` blocks. By the pigeonhole principle, at least m blocks of such
    a pair are equal. The hashes are sorted by each choice of m blocks, and those with equal keys are compared (Manku
    et al. 2007, "Detecting Near-Duplicates for Web Crawling"; Norouzi et al. 2012). Larger inputs get longer keys, so
    the number of equal keys stays small and the cost grows nearly linearly.
    """
    if len(hashes) < 2:  # noqa: PLR2004 (a pair)
        return
    num_equal = _num_equal_blocks(len(hashes), max_hash_distance)
    masks = _block_masks(max_hash_distance + num_equal)
    for chosen in combinations(range(len(masks)), num_equal):
        is_chosen = np.isin(np.arange(len(masks)), chosen)
        mask = np.bitwise_or.reduce(masks[is_chosen])
        order = np.argsort(hashes & mask)
        for first, second in _near_pairs_with_equal_keys(hashes[order], mask, max_hash_distance):
            # A pair with more than m equal blocks occurs for several choices: yield it only for its first m.
            is_equal = (masks & (hashes[order[first]] ^ hashes[order[second]])[:, None]) == 0
            is_first = ((is_equal & (is_equal.cumsum(1) <= num_equal)) == is_chosen).all(1)
            if is_first.any():
                yield order[first[is_first]], order[second[is_first]]


def near_pairs_between(hashes: Hashes, others: Hashes, max_hash_distance: int) -> Iterator[tuple[int, int]]:
    """Yield the positions of each hash and another hash that differ in at most ``max_hash_distance`` bits.

    Of equal other hashes only the first MAX_EQUAL are paired: a thousand foggy images would be a million pairs.
    """
    distinct = np.union1d(hashes, others)
    positions, other_positions = _positions_by_hash(hashes), _positions_by_hash(others)
    is_hash, is_other = np.isin(distinct, hashes), np.isin(distinct, others)
    equal = np.arange(len(distinct))
    near = near_pairs(distinct, max_hash_distance)
    both_directions = chain.from_iterable(((first, second), (second, first)) for first, second in near)
    for first, second in chain([(equal, equal)], both_directions):
        is_match = is_hash[first] & is_other[second]
        values = zip(distinct[first[is_match]].tolist(), distinct[second[is_match]].tolist(), strict=True)
        for value, other_value in values:
            yield from product(positions[value], other_positions[other_value][:MAX_EQUAL])


def _positions_by_hash(hashes: Hashes) -> dict[int, list[int]]:
    positions: dict[int, list[int]] = {}
    for position, value in enumerate(hashes.tolist()):
        positions.setdefault(value, []).append(position)
    return positions


def _num_equal_blocks(num_hashes: int, max_hash_distance: int) -> int:
    """Return the number of equal blocks that minimizes the time of sorting and comparing random hashes."""

    def nanoseconds(num_equal: int) -> float:
        num_blocks = max_hash_distance + num_equal
        key_bits = NUM_BITS * num_equal / num_blocks
        compare = COMPARE_NANOSECONDS * num_hashes / 2 ** (key_bits + 1)
        return math.comb(num_blocks, num_equal) * (SORT_NANOSECONDS + compare)

    return min(range(1, MAX_EQUAL_BLOCKS + 1), key=nanoseconds)


def _block_masks(num_blocks: int) -> Hashes:
    """Return the mask of each block, every n-th bit: neighboring frequencies are correlated in many images."""
    blocks = [range(block, NUM_BITS, num_blocks) for block in range(num_blocks)]
    return np.array([sum(1 << bit for bit in bits) for bits in blocks], np.uint64)


def _near_pairs_with_equal_keys(
    ordered: Hashes, mask: np.uint64, max_hash_distance: int
) -> Iterator[tuple[Positions, Positions]]:
    """Yield the near pairs within each run of equal keys; no array is longer than the hashes."""
    keys = ordered & mask
    first = np.arange(len(keys))
    for offset in range(1, len(keys)):
        first = first[: np.searchsorted(first, len(keys) - offset)]
        first = first[keys[first] == keys[first + offset]]  # keys are sorted: unequal ones stay so at larger offsets
        if not len(first):
            return
        near = first[np.bitwise_count(ordered[first] ^ ordered[first + offset]) <= max_hash_distance]
        if len(near):
            yield near, near + offset
