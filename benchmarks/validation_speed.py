"""Speed of validation's pass beside pure decoding by as many threads, and its peak memory at 15k and 240k pictures."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.generated_images import write_images
from carclf.config import Duplicates, Validation
from carclf.dataset import indexing
from carclf.dataset.checks import find_problems, read_context
from carclf.dataset.duplicates import find_clusters
from carclf.dataset.inspection import decode_reduced, make_pixel_loader
from carclf.images.decode import EncodedImage

NUM_CLASSES = 10
CONFIG = Validation(min_images_per_class=2)


def link(sources: list[Path], folder: Path, num: int) -> Path:
    """A competition's folder of ``num`` pictures, a fifth of them for the test: links to the sources in turn."""
    num_test = num // 5
    for number in range(num):
        # a source keeps its class, else every picture would stand under another label too
        source = number % len(sources)
        top = "test_upload" if number < num_test else f"train/{source % NUM_CLASSES}"
        target = folder / top / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(sources[source], target)
    sample = pd.DataFrame({"Id": [f"{number}.jpg" for number in range(num_test)], "Category": 0})
    sample.to_csv(folder / "sample-submission.csv", index=False)
    return folder


def write_rows(folder: Path) -> int:
    """The pass alone, which streams its rows to a file."""
    return indexing.write_index(folder, folder / "index.parquet", CONFIG)


def check_rows(folder: Path) -> None:
    """What follows: the search for copies, and all checks."""
    index = pd.read_parquet(folder / "index.parquet")
    index["cluster"] = find_clusters(index, make_pixel_loader(folder, index["path"].to_list()), Duplicates())
    findings = find_problems(index, read_context(folder, CONFIG)[0])
    assert not findings.errors, findings.errors


def validated(folder: Path) -> int:
    """Both, as the stage does."""
    num = write_rows(folder)
    check_rows(folder)
    return num


def decode_alone(folder: Path) -> int:
    """Reading and decoding at the pass's own reduced scale, by as many threads, in as large pieces."""
    paths = [folder / place.path for place in indexing.list_images(folder)]
    pieces = [paths[start : start + indexing.CHUNK] for start in range(0, len(paths), indexing.CHUNK)]

    def one(piece: list[Path]) -> int:
        return sum(decode_reduced(EncodedImage(path.read_bytes())).shape[2] == 3 for path in piece)

    with ThreadPoolExecutor(indexing.NUM_THREADS) as pool:
        return sum(pool.map(one, pieces))


def rates(work: Callable[[Path], int], folder: Path) -> tuple[float, float]:
    """Pictures in a second of the clock, and in a second of the processors: other work disturbs the second less."""
    clock, processors = time.perf_counter(), time.process_time()
    num = work(folder)
    return num / (time.perf_counter() - clock), num / (time.process_time() - processors)


def peaks(folder: Path) -> list[int]:
    """MB at most of a process of its own: after the pass alone, and after all."""
    command = [sys.executable, "-m", "benchmarks.validation_speed", "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_peaks(folder: Path) -> None:
    """What the process that ``peaks`` starts does."""
    found = []
    for work in (write_rows, check_rows):
        work(folder)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(json.dumps(found))


def main() -> None:
    """Measure speed in turns, then memory, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=Path, help="a folder of JPEGs to use instead of generated ones")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    if options.folder:
        print_peaks(options.folder)
        return
    num, rounds, sizes = (512, 5, (1_000, 16_000)) if options.quick else (2_000, 5, (15_000, 240_000))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "sources").mkdir()
        if not options.pictures:
            write_images(work / "sources", 256)
        sources = sorted((options.pictures or work / "sources").rglob("*.jpg"))
        folder = link(sources, work / "speed", num)
        ways = {"decoding alone": decode_alone, "validation": validated}
        found = {title: np.array([(0.0, 0.0)] * rounds) for title in ways}
        for turn in range(rounds):
            for title, way in ways.items():
                found[title][turn] = rates(way, folder)
        for title, turns in found.items():
            print(f"{title:<24}{np.median(turns, 0)[0]:8.0f} img/s, {np.median(turns, 0)[1]:8.0f} by processor time")
        memory = {size: peaks(link(sources, work / str(size), size)) for size in sizes}
    for size, (after_pass, after_all) in memory.items():
        print(f"{size:>8} pictures {after_pass:14} MB in the pass, {after_all} MB with the checks of the whole")
    vs_decode, vs_decode_cpu = np.median(found["validation"] / found["decoding alone"], 0).round(2).tolist()
    print(json.dumps({
        "vs_decode": vs_decode, "vs_decode_cpu": vs_decode_cpu, "rss_mb": max(max(both) for both in memory.values()),
        "rss_mb_of_pass": {str(size): both[0] for size, both in memory.items()},
        "rss_mb_of_all": {str(size): both[1] for size, both in memory.items()},
    }))


if __name__ == "__main__":
    main()
