"""Throughput of validation compared with decoding alone, and its peak memory at 15,000 and 240,000 images."""

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
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.generated_images import write_images
from carclf.config import Duplicates, Validation
from carclf.dataset import indexing
from carclf.dataset.checks import find_problems
from carclf.dataset.detection.result import Layout, SubmissionFormat
from carclf.dataset.duplicates import find_clusters
from carclf.dataset.image_checks import CheckContext
from carclf.dataset.inspection import decode_reduced, make_pixel_loader
from carclf.images.decode import EncodedImage
from carclf.natural_order import sort_naturally

NUM_CLASSES = 10
NUM_SOURCES = 256
TEST_FRACTION = 0.2
CONFIG = Validation(min_images_per_class=2)
CHANNELS = 3


@dataclass(frozen=True)
class Scale:
    """Number of images for the throughput, repetitions, and numbers of images for the memory."""

    num_images: int
    rounds: int
    memory_sizes: tuple[int, ...]


FULL = Scale(2_000, 5, (15_000, 240_000))
QUICK = Scale(512, 5, (1_000, 16_000))


def link_competition(sources: list[Path], folder: Path, num: int) -> Path:
    """Create a competition folder of ``num`` images that are links to the sources in turn."""
    num_test = int(num * TEST_FRACTION)
    for number in range(num):
        # Each source keeps its class, otherwise all images would have copies with conflicting labels.
        source = number % len(sources)
        top = "test_upload" if number < num_test else f"train/{source % NUM_CLASSES}"
        target = folder / top / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(sources[source], target)
    return folder


def read_layout(folder: Path) -> Layout:
    """Return the layout of a folder from ``link_competition``."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.jpg"))
    images = pd.DataFrame({
        "id": [path.name for path in paths], "path": [path.as_posix() for path in paths],
        "label": [path.parts[1] if path.parts[0] == "train" else "" for path in paths],
        "source": ["train" if path.parts[0] == "train" else "test" for path in paths], "group": "",
    }, dtype="str")
    class_names = sort_naturally(images["label"][images["label"] != ""])
    form = SubmissionFormat("sample-submission.csv", "Id", ("Category",), "label", {name: name for name in class_names})
    test_ids = tuple(images["id"][images["source"] == "test"])
    return Layout(images, tuple(class_names), "accuracy", form, (), test_ids)


def write_index(folder: Path) -> int:
    """Write the inspection, the pass over all files; return the number of images."""
    paths = read_layout(folder).images["path"].to_list()
    indexing.write_inspection(folder, paths, folder / "index.parquet", CONFIG)
    return len(paths)


def check_index(folder: Path) -> None:
    """Search for copies and run all checks."""
    layout = read_layout(folder)
    index = indexing.join_layout(pd.read_parquet(folder / "index.parquet"), layout.images)
    index["cluster"] = find_clusters(index, make_pixel_loader(folder, index["path"].to_list()), Duplicates())
    findings = find_problems(index, CheckContext(layout, CONFIG))
    assert not findings.errors, findings.errors


def validate(folder: Path) -> int:
    """Write and check the index, as the stage does; return the number of images."""
    num = write_index(folder)
    check_index(folder)
    return num


def decode_only(folder: Path) -> int:
    """Decode all images at the reduced scale with as many threads and as large chunks; return their number."""
    paths = [folder / path for path in read_layout(folder).images["path"]]
    chunks = [paths[start : start + indexing.CHUNK_SIZE] for start in range(0, len(paths), indexing.CHUNK_SIZE)]

    def decode_chunk(chunk: list[Path]) -> int:
        return sum(decode_reduced(EncodedImage(path.read_bytes())).shape[2] == CHANNELS for path in chunk)

    with ThreadPoolExecutor(indexing.NUM_THREADS) as pool:
        return sum(pool.map(decode_chunk, chunks))


def throughput(work: Callable[[Path], int], folder: Path) -> tuple[float, float]:
    """Return images per second of wall time and of processor time; other load affects the second less."""
    wall, cpu = time.perf_counter(), time.process_time()
    num = work(folder)
    return num / (time.perf_counter() - wall), num / (time.process_time() - cpu)


def peak_memory(folder: Path) -> list[int]:
    """Return the peak memory in MB of another process after writing the index and after checking it."""
    command = [sys.executable, "-m", "benchmarks.validation_speed", "--folder", str(folder)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def print_peak_memory(folder: Path) -> None:
    """Run in the process that ``peak_memory`` starts."""
    peaks = []
    for work in (write_index, check_index):
        work(folder)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(json.dumps(peaks))


def measure(work: Path, images: Path | None, scale: Scale) -> None:
    """Print the median throughput of interleaved rounds, then the peak memory at each size."""
    if images is None:
        images = work / "sources"
        images.mkdir()
        write_images(images, NUM_SOURCES)
    sources = sorted(images.rglob("*.jpg"))
    folder = link_competition(sources, work / "speed", scale.num_images)
    rounds = np.array([[throughput(method, folder) for method in (decode_only, validate)]
                       for _ in range(scale.rounds)])
    for name, (wall, cpu) in zip(("decoding alone", "validation"), np.median(rounds, 0), strict=True):
        print(f"{name:<24}{wall:8.0f} images/s, {cpu:8.0f} images per CPU second")
    memory = {size: peak_memory(link_competition(sources, work / str(size), size)) for size in scale.memory_sizes}
    for size, (index_mb, all_mb) in memory.items():
        print(f"{size:>8} images: {index_mb} MB for the index, {all_mb} MB with all checks")
    vs_decode, vs_decode_cpu = np.median(rounds[:, 1] / rounds[:, 0], 0).round(2).tolist()
    print(json.dumps({
        "vs_decode": vs_decode, "vs_decode_cpu": vs_decode_cpu, "peak_mb": max(max(both) for both in memory.values()),
        "index_peak_mb": {str(size): both[0] for size, both in memory.items()},
        "validation_peak_mb": {str(size): both[1] for size, both in memory.items()},
    }))


def main() -> None:
    """Parse the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, help="a folder of JPEGs to use instead of generated ones")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    if options.folder:
        print_peak_memory(options.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options.images, QUICK if options.quick else FULL)


if __name__ == "__main__":
    main()
