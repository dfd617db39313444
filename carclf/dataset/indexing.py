"""The index of a dataset, ``index.parquet``: one row per image, with its meaning (the layout) and its measurements.

In addition to the columns of ``join_layout``, the stage ``validate`` adds

- ``cluster`` (int64): equal for copies and near-copies of the same image; derived from the smallest sha256 of them
- ``warning`` (string): messages of the image's warnings, joined by "; "
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from carclf.config import Validation
from carclf.dataset.inspection import Row, inspect_image
from carclf.dataset.inspector import Inspector

NUM_THREADS = max(2, len(os.sched_getaffinity(0)))  # each with a process that inspects its images
CHUNK_SIZE = 32  # images of one task
ROWS_PER_GROUP = 4096  # rows in memory before they are written

# The columns of an inspection, which one pass over the files fills. ``cluster`` is added to them.
SCHEMA = pa.schema([
    ("path", pa.string()),  # relative to the extracted archive
    ("width", pa.int32()),  # pixels, with EXIF orientation applied; 0 if the file cannot be decoded
    ("height", pa.int32()),  # as width
    ("sha256", pa.string()),  # hexadecimal digits, of the file's bytes
    ("pixels_sha256", pa.string()),  # hexadecimal digits, of the pixels at the reduced scale; "" if not decoded
    ("phash", pa.uint64()),  # 64-bit perceptual hash; 0 if flat or not decoded
    ("flipped_phash", pa.uint64()),  # as phash, of the horizontal flip
    ("color_signature", pa.binary()),  # 8x8 RGB pixels, 192 bytes; empty if not decoded
    ("brightness", pa.float32()),  # mean gray value, 0 to 255
    ("contrast", pa.float32()),  # standard deviation of the gray values, 0 to 127.5
    ("sharpness", pa.float32()),  # root mean square of the Laplacian, divided by the contrast
    ("format", pa.string()),  # Pillow's name, such as JPEG or PNG; "" if the file cannot be decoded
    ("mode", pa.string()),  # Pillow's color mode, such as RGB, L, CMYK or I;16; "" if the file cannot be decoded
    ("is_transparent", pa.bool_()),  # has an alpha channel or a transparent color
    ("has_exif_orientation", pa.bool_()),  # the EXIF data rotate or flip the image
    ("decode_warning", pa.string()),  # the strict decoder's message about a damaged JPEG; "" if there is none
    ("problem_kind", pa.string()),  # why the image is unusable, a key of findings.SEVERITY_BY_KIND; "" if usable
    ("problem", pa.string()),  # message that explains problem_kind; "" if usable
])


def write_inspection(
    folder: Path, paths: Sequence[str], target: Path, config: Validation,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Inspect the images at the paths and write their rows, in this order, to the Parquet file.

    ``progress`` is called with the number of images done and their total.
    """
    rows = _inspect_all(folder, paths, config)
    with pq.ParquetWriter(target, SCHEMA) as writer:
        for done in range(0, len(paths), ROWS_PER_GROUP):
            group = []
            for row in islice(rows, ROWS_PER_GROUP):
                group.append(row)
                progress(done + len(group), len(paths))
            writer.write_batch(pa.RecordBatch.from_pylist(group, SCHEMA))


def _inspect_all(folder: Path, paths: Sequence[str], config: Validation) -> Iterator[Row]:
    """Yield the rows in the order of the paths; threads read only a few chunks of images ahead."""
    inspectors = SimpleQueue[Inspector]()

    def inspect_chunk(chunk: Sequence[str]) -> list[Row]:
        inspector = inspectors.get()
        try:
            return [inspector(folder / path) | {"path": path} for path in chunk]
        finally:
            inspectors.put(inspector)

    pending: deque[Future[list[Row]]] = deque()
    with ExitStack() as stack:
        for _ in range(NUM_THREADS):
            inspectors.put(stack.enter_context(closing(Inspector(partial(inspect_image, config=config)))))
        pool = stack.enter_context(ThreadPoolExecutor(NUM_THREADS))
        for start in range(0, len(paths), CHUNK_SIZE):
            pending.append(pool.submit(inspect_chunk, paths[start : start + CHUNK_SIZE]))
            if len(pending) > 2 * NUM_THREADS:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def join_layout(inspection: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Return the index: the rows of a layout with the columns of an inspection.

    The columns ``id``, ``path``, ``label``, ``source`` and ``group`` are documented in detection/result.py. Small test
    images are usable, because each test image needs a prediction.
    """
    index = images.merge(inspection, on="path", validate="one_to_one")
    is_usable = (index["source"] == "test") & (index["problem_kind"] == "too_small")
    return index.assign(**{name: index[name].mask(is_usable, "") for name in ("problem_kind", "problem")})
