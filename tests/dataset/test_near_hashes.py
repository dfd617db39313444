"""The search for near hashes, compared with a comparison of all pairs."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.dataset.near_hashes import near_pairs, near_pairs_between


def random_hashes(seed: int, num: int, num_flips: int, num_bits: int) -> npt.NDArray[np.uint64]:
    """Distinct hashes, many of them a few bits apart from another one; only ``num_bits`` bits vary."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**num_bits - 1, num, np.uint64, endpoint=True)
    near = hashes.copy()
    for _ in range(num_flips):
        near ^= np.uint64(1) << random.integers(0, 64, num, np.uint64)
    return random.permutation(np.unique(np.concatenate([hashes, near])))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 300), st.integers(0, 12), st.sampled_from([8, 20, 64]), st.integers(0, 12))
def test_each_near_pair_is_yielded_once_and_no_other(seed, num, num_flips, num_bits, max_hash_distance) -> None:
    hashes = random_hashes(seed, num, num_flips, num_bits)
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = [tuple(pair) for pair in np.argwhere(np.triu(distances <= max_hash_distance, 1)).tolist()]
    actual = [tuple(sorted(pair)) for pairs in near_pairs(hashes, max_hash_distance)
              for pair in zip(*(ends.tolist() for ends in pairs), strict=True)]
    assert sorted(actual) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 200), st.integers(0, 6), st.sampled_from([8, 64]), st.integers(0, 10))
def test_each_near_pair_between_two_arrays_is_yielded(seed, num, num_flips, num_bits, max_hash_distance) -> None:
    random = np.random.default_rng(seed)
    both = random.choice(random_hashes(seed, num, num_flips, num_bits), 2 * num)  # some occur several times
    hashes, others = both[:num], both[num:]
    first = [not (others[:position] == other).sum() >= 8 for position, other in enumerate(others)]
    is_near = np.bitwise_count(hashes[:, None] ^ others) <= max_hash_distance
    expected = [tuple(pair) for pair in np.argwhere(is_near & np.array(first)).tolist()]
    assert sorted(near_pairs_between(hashes, others, max_hash_distance)) == expected


def test_empty_arrays_have_no_near_pairs() -> None:
    none, some = np.array([], np.uint64), np.array([5], np.uint64)
    for hashes, others in ((none, some), (some, none), (none, none)):
        assert list(near_pairs_between(hashes, others, 6)) == []


def test_many_hashes_are_searched_with_longer_keys() -> None:
    hashes = random_hashes(0, 150_000, 4, 64)[:200_000]
    pairs = np.concatenate([np.column_stack(pair) for pair in near_pairs(hashes, 4)])
    distances = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]])
    assert distances.max() <= 4
    assert 60_000 < len(pairs) < 100_000
