"""The search for near hashes against the comparison of all pairs."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.dataset.near_hashes import near_pairs, nearest_hashes


def some_hashes(seed: int, num: int, num_flips: int, spread: int) -> npt.NDArray[np.uint64]:
    """Distinct hashes, many of them some bits away from another; ``spread``: how many bits vary at all."""
    random = np.random.default_rng(seed)
    found = random.integers(0, 2**spread, num, np.uint64, endpoint=False) if spread < 64 else random.integers(
        0, 2**64, num, np.uint64)
    near = found.copy()
    for _ in range(num_flips):
        near ^= np.uint64(1) << random.integers(0, 64, num, np.uint64)
    return random.permutation(np.unique(np.concatenate([found, near])))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 300), st.integers(0, 12), st.sampled_from([8, 20, 64]), st.integers(0, 12))
def test_each_near_pair_is_found_once_and_no_other(seed, num, num_flips, spread, max_hash_distance) -> None:
    hashes = some_hashes(seed, num, num_flips, spread)
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    wanted = [tuple(pair) for pair in np.argwhere(np.triu(distances <= max_hash_distance, 1)).tolist()]
    found = [tuple(sorted(pair)) for pairs in near_pairs(hashes, max_hash_distance)
             for pair in zip(*(ends.tolist() for ends in pairs), strict=True)]
    assert sorted(found) == wanted


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(2, 200), st.integers(0, 6), st.sampled_from([8, 64]), st.integers(0, 10))
def test_the_nearest_is_the_first_of_the_nearest_others_within_the_distance(
    seed, num, num_flips, spread, max_hash_distance
) -> None:
    both = np.random.default_rng(seed).choice(some_hashes(seed, num, num_flips, spread), 2 * num)  # some twice
    hashes, others = both[:num], both[num:]
    distances = np.bitwise_count(hashes[:, None] ^ others).astype(int)
    places, bits = nearest_hashes(hashes, others, max_hash_distance)
    near = distances.min(1) <= max_hash_distance
    np.testing.assert_array_equal(places, np.where(near, distances.argmin(1), -1))
    np.testing.assert_array_equal(bits, np.where(near, distances.min(1), -1))


def test_no_hashes_have_no_nearest() -> None:
    none, some = np.array([], np.uint64), np.array([5], np.uint64)
    assert [nearest_hashes(*ends, 6)[0].tolist() for ends in ((none, some), (some, none), (none, none))] == [[], [-1], []]


def test_more_hashes_get_longer_keys_and_find_the_same() -> None:
    hashes = some_hashes(0, 150_000, 4, 64)[:200_000]
    found = np.concatenate([np.column_stack(pair) for pair in near_pairs(hashes, 4)])
    planted = np.bitwise_count(hashes[found[:, 0]] ^ hashes[found[:, 1]])
    assert planted.max() <= 4 and 60_000 < len(found) < 100_000
