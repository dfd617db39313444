"""The one pass over all pictures: streamed in their order, by threads, into a table on disk."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from carclf.config import Validation
from carclf.dataset.inspection import Row, inspect_image
from carclf.errors import DataError

NUM_THREADS = max(2, len(os.sched_getaffinity(0)))  # decoding releases the interpreter's lock
CHUNK = 32  # pictures of one task
ROWS_PER_GROUP = 4096  # rows in memory before they go to disk

TOPS = {"train": "train", "test_upload": "test", "extra": "extra"}
TEXT = ("id", "path", "sha256", "pixels_sha256", "format", "source", "problem_kind", "problem")
SCHEMA = pa.schema([
    ("id", pa.string()), ("path", pa.string()), ("label", pa.int64()), ("width", pa.int32()), ("height", pa.int32()),
    ("sha256", pa.string()), ("pixels_sha256", pa.string()), ("phash", pa.uint64()), ("color_signature", pa.binary()),
    ("brightness", pa.float32()),
    ("contrast", pa.float32()), ("sharpness", pa.float32()), ("format", pa.string()), ("source", pa.string()),
    ("problem_kind", pa.string()), ("problem", pa.string()),
])


class ImagePath(NamedTuple):
    """Where a picture lies (relative to the folder) and what that says of it; the label is -1 where nothing."""

    id: str
    path: str
    label: int
    source: str
    well: bool  # whether the path has the form that it should have


def write_index(
    folder: Path, target: Path, config: Validation, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Inspect every picture and write its row of SCHEMA to the Parquet file; return how many there are."""
    total = sum(1 for _ in list_images(folder))
    if not total:
        raise DataError(f"No pictures under train/ or test_upload/ in {folder}. Is this the right competition?")
    rows = _inspected(folder, config)
    with pq.ParquetWriter(target, SCHEMA) as writer:
        for done in range(0, total, ROWS_PER_GROUP):
            group = []
            for row in islice(rows, ROWS_PER_GROUP):
                group.append(row)
                progress(done + len(group), total)
            writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))
    return total


def _inspected(folder: Path, config: Validation) -> Iterator[Row]:
    """The rows in the places' order; only a few chunks of pictures are in flight."""

    def one(chunk: list[ImagePath]) -> list[Row]:
        return [_row(folder, place, config) for place in chunk]

    waiting: deque[Future[list[Row]]] = deque()
    remaining = list_images(folder)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        while chunk := list(islice(remaining, CHUNK)):
            waiting.append(pool.submit(one, chunk))
            if len(waiting) > 2 * NUM_THREADS:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _row(folder: Path, place: ImagePath, config: Validation) -> Row:
    row = inspect_image(folder / place.path, config)
    if not place.well and not row["problem"]:
        row |= {"problem_kind": "unknown_class", "problem": "its folder is no class number"}
    return row | {"id": place.id, "path": place.path, "label": place.label, "source": place.source}


def list_images(folder: Path) -> Iterator[ImagePath]:
    """Every file under the three top folders, sorted; memory for one folder's names at a time."""
    for top, source in TOPS.items():
        for path in _files(folder / top, top):
            yield _place(path, source)


def _files(folder: Path, relative: str) -> Iterator[str]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in names:
        if is_folder:
            yield from _files(folder / name, f"{relative}/{name}")
        else:
            yield f"{relative}/{name}"


# The form of a path with its class; a test picture may lie anywhere under its folder.
FORMS = {"train": re.compile(r"train/([0-9]{1,9})/[^/]+"), "extra": re.compile(r"extra/[0-9]+/([0-9]{1,9})/[^/]+")}


def _place(path: str, source: str) -> ImagePath:
    name = path if source == "extra" else path.rpartition("/")[2]
    if source == "test":
        return ImagePath(name, path, -1, source, True)
    found = FORMS[source].fullmatch(path)
    return ImagePath(name, path, int(found[1]) if found else -1, source, bool(found))
