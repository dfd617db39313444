"""The pass over all images holds few of them in memory: those read ahead, and one large image."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from carclf.config import Validation
from carclf.dataset.indexing import CHUNK_SIZE, NUM_THREADS, SCHEMA, join_layout, write_inspection
from carclf.dataset.inspection import inspect_image
from carclf.images.decode import EncodedImage, large_image_lock, strict_decode_error

HEIGHT, WIDTH = 60, 80


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_an_inspection_of_no_images_is_empty(tmp_path: Path) -> None:
    write_inspection(tmp_path, [], tmp_path / "index.parquet", Validation())
    assert list(pd.read_parquet(tmp_path / "index.parquet")) == SCHEMA.names


def test_an_index_has_the_layout_and_small_test_images_are_usable() -> None:
    inspection = pd.DataFrame({
        "path": ["c", "a", "b"], "width": [3, 1, 2], "problem_kind": ["empty", "too_small", "too_small"],
        "problem": ["no bytes", "1 pixel", "1 pixel"]})
    images = pd.DataFrame({"id": ["i", "j", "k"], "path": ["a", "b", "c"], "label": ["2", "", ""],
                           "source": ["train", "test", "test"], "group": ["", "", "p"]})
    index = join_layout(inspection, images)
    assert index[list(images)].equals(images)
    assert index["width"].tolist() == [1, 2, 3]
    assert index["problem_kind"].tolist() == ["too_small", "", "empty"]
    assert index["problem"].tolist() == ["1 pixel", "", "no bytes"]


def test_the_index_describes_the_file_and_its_format(tmp_path: Path) -> None:
    path = tmp_path / "train/3/a.jpg"
    path.parent.mkdir(parents=True)
    image = Image.open(io.BytesIO(jpeg())).convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, "JPEG", exif=exif)
    write_inspection(tmp_path, ["train/3/a.jpg"], tmp_path / "index.parquet", Validation())
    index = pd.read_parquet(tmp_path / "index.parquet")
    assert list(index) == SCHEMA.names
    expected = {
        "path": "train/3/a.jpg", "width": HEIGHT, "height": WIDTH, "format": "JPEG", "mode": "L",
        "is_transparent": False, "has_exif_orientation": True, "decode_warning": "",
        "problem": "", "problem_kind": ""}
    assert index.loc[0, list(expected)].to_dict() == expected


def test_a_jpeg_that_only_pillow_decodes_has_a_decode_warning(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data := jpeg())
    assert inspect_image(tmp_path / "a.jpg", Validation())["decode_warning"] == ""
    middle = len(data) * 3 // 4
    (tmp_path / "a.jpg").write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    row = inspect_image(tmp_path / "a.jpg", Validation())
    assert row["problem"] == ""
    assert row["decode_warning"]


def test_images_are_read_only_a_few_chunks_ahead(tmp_path: Path) -> None:
    """Files beyond the chunks in progress are emptied after the first row; their rows show when they were read."""
    num_ahead = (2 * NUM_THREADS + 1) * CHUNK_SIZE
    paths = [tmp_path / "train/0" / f"{number:05}.jpg" for number in range(2 * num_ahead)]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_bytes(b"no image")

    def empty_later_files(done: int, total: int) -> None:
        if done == 1:
            time.sleep(0.5)  # time for threads that read too far ahead
            for path in paths[num_ahead:]:
                path.write_bytes(b"")

    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    write_inspection(tmp_path, names, tmp_path / "index.parquet", Validation(), empty_later_files)
    kinds = pd.read_parquet(tmp_path / "index.parquet")["problem_kind"]
    assert kinds.tolist() == ["undecodable"] * num_ahead + ["empty"] * num_ahead


def waits_for_large_image(work: Callable[[], object], *, expected: bool) -> bool:
    """Return True if the work waits in a thread while this thread holds the large-image lock, and ends afterwards.

    Work that is not expected to wait has a minute to end.
    """
    thread = Thread(target=work, daemon=True)
    with large_image_lock(10**12):
        thread.start()
        thread.join(0.5 if expected else 60)
        waited = thread.is_alive()
    thread.join(120)
    assert not thread.is_alive()
    return waited


@pytest.mark.parametrize("is_large", [True, False])
def test_images_with_many_pixels_are_decoded_one_at_a_time(is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carclf.images.decode.LARGE", HEIGHT * WIDTH - is_large)
    image = EncodedImage(jpeg())
    for work in (image.decode, lambda: image.draft(30, 40), lambda: strict_decode_error(image)):
        assert waits_for_large_image(work, expected=is_large) == is_large


@pytest.mark.parametrize(("num_extra_bytes", "limit", "is_large"), [
    (0, HEIGHT * WIDTH - 1, True), (2 * HEIGHT * WIDTH, 2 * HEIGHT * WIDTH, True), (0, 2 * HEIGHT * WIDTH, False),
], ids=["many pixels", "many bytes", "small"])
def test_large_images_are_inspected_one_at_a_time(
    num_extra_bytes: int, limit: int, is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.images.decode.LARGE", limit)
    (tmp_path / "train/0").mkdir(parents=True)
    (tmp_path / "train/0/a.jpg").write_bytes(jpeg() + bytes(num_extra_bytes))
    assert len(jpeg()) < 2 * HEIGHT * WIDTH

    def write() -> None:
        write_inspection(tmp_path, ["train/0/a.jpg"], tmp_path / "index.parquet", Validation())

    assert waits_for_large_image(write, expected=is_large) == is_large
    assert pd.read_parquet(tmp_path / "index.parquet")["problem"].tolist() == [""]
