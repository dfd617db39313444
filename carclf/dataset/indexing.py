"""The index of a dataset, ``index.parquet``: one row for each image file, written in one pass over all files."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from carclf.config import Validation
from carclf.dataset.archives import read_ignored_files
from carclf.dataset.inspection import Row, inspect_image
from carclf.dataset.inspector import Inspector
from carclf.dataset.layout import PATH_PATTERNS, SOURCE_BY_FOLDER
from carclf.errors import DataError

NUM_THREADS = max(2, len(os.sched_getaffinity(0)))  # each with a process that inspects its images
CHUNK_SIZE = 32  # images of one task
ROWS_PER_GROUP = 4096  # rows in memory before they are written
MAX_IGNORED = 5  # names in an error

# The columns that one pass over the files can fill. The stage ``validate`` adds two more:
# - cluster (int64): equal for copies and near-copies of the same image; derived from the smallest sha256 of them
# - warning (string): messages of the image's warnings, joined by "; "
SCHEMA = pa.schema([
    # File name; for extra data the path. The stage ``validate`` writes the ids of test images as the sample submission
    # does, and uses the path for training images that share their name.
    ("id", pa.string()),
    ("path", pa.string()),  # relative to the extracted archive
    ("label", pa.int64()),  # class number of the competition, after label fixes; -1 for test images and bad paths
    ("width", pa.int32()),  # pixels, with EXIF orientation applied; 0 if the file cannot be decoded
    ("height", pa.int32()),  # as width
    ("sha256", pa.string()),  # hexadecimal digits, of the file's bytes
    ("pixels_sha256", pa.string()),  # hexadecimal digits, of the pixels at the reduced scale; "" if not decoded
    ("phash", pa.uint64()),  # 64-bit perceptual hash; 0 if flat or not decoded
    ("color_signature", pa.binary()),  # 8x8 RGB pixels, 192 bytes; empty if not decoded
    ("brightness", pa.float32()),  # mean gray value, 0 to 255
    ("contrast", pa.float32()),  # standard deviation of the gray values, 0 to 127.5
    ("sharpness", pa.float32()),  # root mean square of the Laplacian, divided by the contrast
    ("format", pa.string()),  # Pillow's name, such as JPEG or PNG; "" if the file cannot be decoded
    ("mode", pa.string()),  # Pillow's color mode, such as RGB, L, CMYK or I;16; "" if the file cannot be decoded
    ("is_transparent", pa.bool_()),  # has an alpha channel or a transparent color
    ("has_exif_orientation", pa.bool_()),  # the EXIF data rotate or flip the image
    ("decode_warning", pa.string()),  # the strict decoder's message about a damaged JPEG; "" if there is none
    ("source", pa.string()),  # train, test or extra
    ("problem_kind", pa.string()),  # why the image is unusable, a key of findings.SEVERITY_BY_KIND; "" if usable
    ("problem", pa.string()),  # message that explains problem_kind; "" if usable
])


class ImagePath(NamedTuple):
    """The path of an image relative to the folder, and the columns of SCHEMA that follow from it."""

    id: str
    path: str
    label: int
    source: str
    is_well_formed: bool


def write_index(
    folder: Path, target: Path, config: Validation, progress: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Inspect every image, write its row to the Parquet file, and return the number of images.

    ``progress`` is called with the number of images done and their total. Raises DataError if there are no images.
    """
    total = sum(1 for _ in list_images(folder))
    if not total:
        ignored = ", ".join(read_ignored_files(folder)[:MAX_IGNORED]) or "nothing else"
        raise DataError(f"The archive has no images under train/ or test_upload/, only {ignored}. Archives inside "
                        "it must be zip or tar files. Is this the right competition?")
    rows = _inspect_all(folder, config)
    with pq.ParquetWriter(target, SCHEMA) as writer:
        for done in range(0, total, ROWS_PER_GROUP):
            group = []
            for row in islice(rows, ROWS_PER_GROUP):
                group.append(row)
                progress(done + len(group), total)
            writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))
    return total


def _inspect_all(folder: Path, config: Validation) -> Iterator[Row]:
    """Yield the rows in the order of the paths; threads read only a few chunks of images ahead."""
    inspectors = SimpleQueue[Inspector]()

    def inspect_chunk(chunk: list[ImagePath]) -> list[Row]:
        inspector = inspectors.get()
        try:
            return [_inspect(folder, image, inspector) for image in chunk]
        finally:
            inspectors.put(inspector)

    pending: deque[Future[list[Row]]] = deque()
    images = list_images(folder)
    with ExitStack() as stack:
        for _ in range(NUM_THREADS):
            inspectors.put(stack.enter_context(closing(Inspector(partial(inspect_image, config=config)))))
        pool = stack.enter_context(ThreadPoolExecutor(NUM_THREADS))
        while chunk := list(islice(images, CHUNK_SIZE)):
            pending.append(pool.submit(inspect_chunk, chunk))
            if len(pending) > 2 * NUM_THREADS:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _inspect(folder: Path, image: ImagePath, inspector: Inspector) -> Row:
    row = inspector(folder / image.path)
    if image.source == "test" and row["problem_kind"] == "too_small":  # each test image needs a prediction
        row |= {"problem_kind": "", "problem": ""}
    if not image.is_well_formed and not row["problem"]:
        row |= {"problem_kind": "unknown_class", "problem": "its folder is not a class number"}
    return row | {"id": image.id, "path": image.path, "label": image.label, "source": image.source}


def list_images(folder: Path) -> Iterator[ImagePath]:
    """Yield every file under train/, test_upload/ and extra/, sorted; only one folder's names are in memory."""
    for top, source in SOURCE_BY_FOLDER.items():
        for path in _list_files(folder / top, top):
            yield _parse_path(path, source)


def _list_files(folder: Path, relative: str) -> Iterator[str]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in names:
        if is_folder:
            yield from _list_files(folder / name, f"{relative}/{name}")
        else:
            yield f"{relative}/{name}"


def _parse_path(path: str, source: str) -> ImagePath:
    image_id = path if source == "extra" else path.rpartition("/")[2]
    match = PATH_PATTERNS[path.partition("/")[0]].fullmatch(path)
    return ImagePath(image_id, path, int(match[1]) if match and match[1] else -1, source, bool(match))
