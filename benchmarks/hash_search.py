"""Search for near pairs among up to a million generated hashes: recall of planted pairs, and time.

Compared in the same run, at a smaller size: the comparison of all pairs, and faiss if it is installed
(``pip install faiss-cpu``).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from carclf.dataset.near_hashes import Hashes, Positions, near_pairs

MAX_HASH_DISTANCE = 8
PLANTED_FRACTION = 0.05
FAMILY_SIZE = 100
FAMILY_FLIP_PROBABILITY = 0.25
SIZES = (125_000, 250_000, 500_000, 1_000_000)
QUICK_SIZES = (125_000, 1_000_000)

Pairs = Iterable[tuple[Positions, Positions]]
Search = Callable[[Hashes], Pairs]


def random_hashes(random: np.random.Generator, num: int) -> Hashes:
    """Return hashes of random bits."""
    return random.integers(0, 2**64, num, np.uint64)


def hash_families(random: np.random.Generator, num: int) -> Hashes:
    """Return hashes like those of similar images: families of 100 with a quarter of their bits flipped."""
    flips = np.zeros(num, np.uint64)
    for bit in range(64):
        flips |= (random.random(num) < FAMILY_FLIP_PROBABILITY).astype(np.uint64) << np.uint64(bit)
    num_families = num // FAMILY_SIZE
    return random_hashes(random, num_families)[np.arange(num) % num_families] ^ flips


def plant(hashes: Hashes, random: np.random.Generator) -> Hashes:
    """Replace the last hashes with copies of the first ones that have one to eight bits flipped."""
    num = int(len(hashes) * PLANTED_FRACTION)
    near = hashes[:num].copy()
    for turn in range(MAX_HASH_DISTANCE):
        bit = np.uint64(1) << random.integers(0, 64, num, np.uint64)
        near = np.where(random.random(num) < 1 / (turn + 1), near ^ bit, near)
    return np.concatenate([hashes[:-num], near])


def planted_pairs(hashes: Hashes) -> set[tuple[int, int]]:
    """Return the positions of each original and its planted copy, if they differ."""
    num = int(len(hashes) * PLANTED_FRACTION)
    positions = np.flatnonzero(hashes[:num] != hashes[-num:])
    return set(zip(positions.tolist(), (positions + len(hashes) - num).tolist(), strict=True))


def carclf_search(hashes: Hashes) -> Pairs:
    """Search with carclf, which requires distinct hashes."""
    distinct, positions = np.unique(hashes, return_index=True)
    return ((positions[first], positions[second]) for first, second in near_pairs(distinct, MAX_HASH_DISTANCE))


def all_pairs(hashes: Hashes) -> Pairs:
    """Compare each hash with all that follow it."""
    for position in range(len(hashes) - 1):
        distances = np.bitwise_count(hashes[position + 1 :] ^ hashes[position])
        near = np.flatnonzero(distances <= MAX_HASH_DISTANCE)
        yield np.full(len(near), position), near + position + 1


def faiss_search(hashes: Hashes) -> Pairs:
    """Search with faiss's multi-index hashing: four tables of 16 bits, probing buckets up to two bits away."""
    import faiss

    faiss.omp_set_num_threads(2)
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 2  # exact by the pigeonhole principle: 4 * (2 + 1) > 8
    rows = hashes.view(np.uint8).reshape(-1, 8)
    index.add(rows)
    limits, _, neighbors = index.range_search(rows, MAX_HASH_DISTANCE + 1)  # the radius is exclusive
    first = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    yield first[first < neighbors], neighbors[first < neighbors]


def searches() -> dict[str, Search]:
    """Return the searches to compare, without faiss if it is not installed."""
    available: dict[str, Search] = {"carclf": carclf_search, "all pairs": all_pairs}
    try:
        import faiss  # noqa: F401
    except ImportError:
        print("faiss is not installed, skipping it")
    else:
        available["faiss"] = faiss_search
    return available


def measure(name: str, search: Search, hashes: Hashes) -> dict[str, float]:
    """Print and return wall and processor seconds, the number of pairs, and the recall of the planted pairs."""
    wall, cpu = time.perf_counter(), time.process_time()
    pairs = [np.sort(np.column_stack(pair), axis=1) for pair in search(hashes)]
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    positions = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    planted = planted_pairs(hashes)
    recall = len(planted & set(map(tuple, positions.tolist()))) / len(planted)
    print(f"{name:<20}{len(hashes):>9} hashes{seconds:>9.2f} s{cpu_seconds:>9.2f} s CPU{len(positions):>9} pairs"
          f"{recall:>8.4f} recall", flush=True)
    return {"hashes": len(hashes), "seconds": seconds, "cpu_seconds": cpu_seconds, "recall": recall}


def main() -> None:
    """Measure carclf at each size and on families, then all searches at a small size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, no families, a smaller comparison")
    quick = parser.parse_args().quick
    random = np.random.default_rng(0)
    sizes = QUICK_SIZES if quick else SIZES
    table = pd.DataFrame([
        measure("carclf", carclf_search, plant(random_hashes(random, size), random)) for size in sizes])
    if not quick:
        measure("carclf, families", carclf_search, plant(hash_families(random, sizes[-1]), random))
    small = plant(random_hashes(random, 10_000 if quick else 50_000), random)
    seconds = {name: measure(name, search, small)["seconds"] for name, search in searches().items()}
    exponent = np.polyfit(np.log(table["hashes"]), np.log(table["cpu_seconds"]), 1)[0]
    print(json.dumps({
        "million_seconds": round(table["seconds"].iloc[-1], 1),
        "million_cpu_seconds": round(table["cpu_seconds"].iloc[-1], 1),
        "exponent": round(float(exponent), 2),
        "recall": float(table["recall"].min()),
        **{f"vs_{name.replace(' ', '_')}": round(value / seconds["carclf"], 1)
           for name, value in seconds.items() if name != "carclf"},
    }))


if __name__ == "__main__":
    main()
