"""Near pairs among up to a million generated hashes: how many of the planted ones are found, and in what time.

Peers in the same run, at a size that they can do: the comparison of all pairs, and faiss (``pip install faiss-cpu``
beside this environment) where it can be imported.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.dataset.near_hashes import near_pairs

MAX_DISTANCE, PLANTED_SHARE = 8, 0.05
Hashes = npt.NDArray[np.uint64]
Pairs = Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


def spread_evenly(random: np.random.Generator, num: int) -> Hashes:
    """Hashes of random bits."""
    return random.integers(0, 2**64, num, np.uint64)


def in_families(random: np.random.Generator, num: int) -> Hashes:
    """Hashes as of pictures that look alike: a hundred around each centre, a quarter of their bits turned."""
    turned = np.zeros(num, np.uint64)
    for bit in range(64):
        turned |= (random.random(num) < 0.25).astype(np.uint64) << np.uint64(bit)
    return random.integers(0, 2**64, num // 100, np.uint64)[np.arange(num) % (num // 100)] ^ turned


def plant(hashes: Hashes, random: np.random.Generator) -> Hashes:
    """The hashes without repetition, the last ones replaced by others with one to eight bits turned: a pair each."""
    num = int(len(hashes) * PLANTED_SHARE)
    near = hashes[:num].copy()
    for turn in range(MAX_DISTANCE):
        bit = np.uint64(1) << random.integers(0, 64, num, np.uint64)
        near = np.where(random.random(num) < 1 / (turn + 1), near ^ bit, near)
    return np.concatenate([hashes[:-num], near])


def planted_pairs(hashes: Hashes) -> set[tuple[int, int]]:
    """The positions of each original and its changed copy, as far as they differ."""
    num = int(len(hashes) * PLANTED_SHARE)
    places = np.arange(num)
    differ = hashes[:num] != hashes[-num:]
    return set(zip(places[differ].tolist(), (places + len(hashes) - num)[differ].tolist(), strict=True))


def search(find: Callable[[Hashes], Pairs], hashes: Hashes) -> dict[str, float]:
    """Seconds (by the clock, and of this process on all cores), pairs found, and the share of the planted ones."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = [np.sort(np.column_stack(pair), axis=1) for pair in find(hashes)]
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    pairs = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
    wanted = planted_pairs(hashes)
    share = len(wanted & set(map(tuple, pairs.tolist()))) / len(wanted)
    return {"hashes": len(hashes), "seconds": seconds, "cpu_seconds": cpu_seconds, "pairs": len(pairs),
            "planted_found": share}


def ours(hashes: Hashes) -> Pairs:
    """Carclf's search; it wants distinct hashes."""
    distinct, places = np.unique(hashes, return_index=True)
    return ((places[one], places[other]) for one, other in near_pairs(distinct, MAX_DISTANCE))


def all_pairs(hashes: Hashes) -> Pairs:
    """Each hash against all that follow it."""
    for place in range(len(hashes) - 1):
        near = np.flatnonzero(np.bitwise_count(hashes[place + 1 :] ^ hashes[place]) <= MAX_DISTANCE)
        yield np.full(len(near), place), near + place + 1


def by_faiss(hashes: Hashes) -> Pairs:
    """Faiss's multi-index hashing: four tables of 16 bits, and the buckets two bits away."""
    import faiss

    faiss.omp_set_num_threads(2)
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 2  # 4 * (2 + 1) > 8: by the pigeonhole principle exact
    rows = hashes.view(np.uint8).reshape(-1, 8)
    index.add(rows)
    limits, _, found = index.range_search(rows, MAX_DISTANCE + 1)  # it wants less than the radius
    first = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    yield first[first < found], found[first < found]


def peers() -> list[tuple[str, Callable[[Hashes], Pairs]]]:
    """What finds the same pairs otherwise, as far as it is here; ours first."""
    found = [("ours", ours), ("all pairs", all_pairs)]
    try:
        import faiss  # noqa: F401
        return [*found, ("faiss", by_faiss)]
    except ImportError:
        print("faiss is not installed: not compared")
        return found


def measure(name: str, find: Callable[[Hashes], Pairs], hashes: Hashes) -> dict[str, float]:
    """One line of the table, printed."""
    row = search(find, hashes)
    print(f"{name:<20}{row['hashes']:>9}{row['seconds']:>9.2f} s{row['cpu_seconds']:>9.2f} s of processors"
          f"{row['pairs']:>9} pairs{row['planted_found']:>8.4f} of the planted ones", flush=True)
    return row


def main() -> None:
    """Each size, then hashes in families, then the peers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two sizes, no families, smaller peers")
    quick = parser.parse_args().quick
    random = np.random.default_rng(0)
    sizes = [125_000, 1_000_000] if quick else [125_000, 250_000, 500_000, 1_000_000]
    table = pd.DataFrame([measure("ours", ours, plant(spread_evenly(random, size), random)) for size in sizes])
    if not quick:
        measure("ours, in families", ours, plant(in_families(random, sizes[-1]), random))
    small = plant(spread_evenly(random, 10_000 if quick else 50_000), random)
    seconds = {name: measure(name, find, small)["seconds"] for name, find in peers()}
    print(json.dumps({
        "million_seconds": round(table["seconds"].iloc[-1], 1),
        "million_cpu_seconds": round(table["cpu_seconds"].iloc[-1], 1),
        "exponent": round(float(np.polyfit(np.log(table["hashes"]), np.log(table["cpu_seconds"]), 1)[0]), 2),
        "planted_found": float(table["planted_found"].min()),
        **{f"vs_{name.replace(' ', '_')}": round(seconds[name] / seconds["ours"], 1)
           for name in seconds if name != "ours"},
    }))


if __name__ == "__main__":
    main()
