"""That the pass over the pictures holds few of them in memory: those in flight, and one large one."""

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
from carclf.dataset.indexing import CHUNK, NUM_THREADS, write_index
from carclf.dataset.inspection import inspect_image
from carclf.images.decode import EncodedImage, large_image_lock, strict_decode_error

HEIGHT, WIDTH = 60, 80


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_pictures_are_read_no_further_ahead_than_a_few_chunks(tmp_path: Path) -> None:
    in_flight = (2 * NUM_THREADS + 1) * CHUNK
    paths = [tmp_path / "train/0" / f"{number:05}.jpg" for number in range(2 * in_flight)]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_bytes(b"no picture")

    def first_row(done: int, total: int) -> None:
        if done == 1:
            time.sleep(0.5)  # whoever reads ahead has time for it
            for path in paths[in_flight:]:
                path.write_bytes(b"")

    write_index(tmp_path, tmp_path / "index.parquet", Validation(), first_row)
    kinds = pd.read_parquet(tmp_path / "index.parquet")["problem_kind"]
    assert kinds.tolist() == ["undecodable"] * in_flight + ["empty"] * in_flight


def waits(work: Callable[[], object]) -> bool:
    """Whether the work, in a thread, waits while this one has a large picture in hand; it ends when that is done."""
    thread = Thread(target=work, daemon=True)
    with large_image_lock(10**12):
        thread.start()
        thread.join(0.5)
        waited = thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()
    return waited


@pytest.mark.parametrize("is_large", [True, False])
def test_pictures_of_many_pixels_are_decoded_one_at_a_time(is_large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carclf.images.decode.LARGE", HEIGHT * WIDTH - is_large)
    picture = EncodedImage(jpeg())
    for work in (picture.decode, lambda: picture.shrink(30, 40), lambda: strict_decode_error(picture)):
        assert waits(work) == is_large


@pytest.mark.parametrize("is_large", [True, False])
def test_files_of_many_bytes_are_read_one_at_a_time(
    is_large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carclf.images.decode.LARGE", 2 * HEIGHT * WIDTH)
    data = jpeg()
    (tmp_path / "a.jpg").write_bytes(data + bytes(is_large * 2 * HEIGHT * WIDTH))
    assert len(data) < 2 * HEIGHT * WIDTH
    assert waits(lambda: inspect_image(tmp_path / "a.jpg", Validation())) == is_large
