"""The cache of decoded images: its content, its limit, and caches that are damaged or in use."""

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from carclf.errors import DataError
from carclf.pipeline.batches import Examples
from carclf.pipeline.decode_cache import DecodedImages, ImageFiles

CACHE_BYTES = 23 * 48 * 64 * 3  # of the fixture's examples


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for each test."""
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path))
    return tmp_path / "decoded"


def cached(examples: Examples, content: str, max_bytes: float = 1e9) -> ImageFiles | DecodedImages:
    return examples.with_decode_cache(content, max_bytes=max_bytes).images


def test_the_cache_has_the_pixels_of_the_files(examples: Examples) -> None:
    images = cached(examples, "k")
    assert isinstance(images, DecodedImages)
    for position in range(len(examples)):
        np.testing.assert_array_equal(images[position], examples.images[position])
        assert max(np.array(images[position].shape) - (48, 64, 3)) <= 0


def test_the_cache_is_written_once(examples: Examples) -> None:
    path = cached(examples, "k").folder / "pixels.bin"
    written = path.stat().st_mtime_ns
    assert cached(examples, "k").folder / "pixels.bin" == path
    assert path.stat().st_mtime_ns == written


def test_the_least_recently_used_cache_is_removed_first(examples: Examples) -> None:
    limit = CACHE_BYTES * 2.5  # enough for two caches
    folders = [cached(examples, name, limit).folder for name in ("a", "b")]
    cached(examples, "a", limit)  # used again
    folders.append(cached(examples, "c", limit).folder)
    assert [folder.exists() for folder in folders] == [True, False, True]


def overwrite_with_zeros(folder: Path) -> None:
    """Damage the file as a power failure may."""
    (folder / "pixels.bin").write_bytes(bytes((folder / "pixels.bin").stat().st_size))


def truncate(folder: Path) -> None:
    (folder / "pixels.bin").write_bytes((folder / "pixels.bin").read_bytes()[:-1000])


def remove_shapes(folder: Path) -> None:
    (folder / "shapes.npy").unlink()


def change_shapes(folder: Path) -> None:
    np.save(folder / "shapes.npy", np.ones((23, 2), np.int64))


@pytest.mark.parametrize("damage", [overwrite_with_zeros, truncate, remove_shapes, change_shapes])
def test_a_damaged_cache_is_rebuilt(examples: Examples, damage: Callable[[Path], None]) -> None:
    damage(cached(examples, "k").folder)
    images = cached(examples, "k")
    assert isinstance(images, DecodedImages)
    for position in range(len(examples)):
        np.testing.assert_array_equal(images[position], examples.images[position])


def test_a_cache_in_use_is_not_removed(examples: Examples) -> None:
    limit = CACHE_BYTES * 1.5  # enough for one cache
    first = cached(examples, "a", limit)
    assert isinstance(cached(examples, "b", limit), ImageFiles)
    folder = first.folder
    assert folder.exists()
    del first
    assert isinstance(cached(examples, "b", limit), DecodedImages)
    assert not folder.exists()


def test_a_cache_being_written_is_kept_until_its_process_ends(examples: Examples, cache: Path) -> None:
    limit = CACHE_BYTES * 1.5
    partial = cache / ".partial-other"
    partial.mkdir(parents=True)
    with (partial / "pixels.bin").open("wb") as file:
        file.write(bytes(CACHE_BYTES))
        fcntl.flock(file, fcntl.LOCK_EX)
        assert isinstance(cached(examples, "a", limit), ImageFiles)
        assert partial.exists()
    assert isinstance(cached(examples, "a", limit), DecodedImages)
    assert not partial.exists()


def test_images_beyond_the_cache_limit_are_decoded_from_their_files(examples: Examples, cache: Path) -> None:
    assert isinstance(cached(examples, "k", 1000), ImageFiles)
    assert not cache.exists()


def test_a_file_damaged_after_validation_raises_data_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"broken")
    rows = pd.DataFrame({"path": ["a.jpg"], "problem": [""]})
    with pytest.raises(DataError, match=r"a\.jpg"):
        Examples.from_index(rows, tmp_path, (8, 8)).images[0]


def test_an_unusable_image_is_gray(tmp_path: Path) -> None:
    rows = pd.DataFrame({"path": ["a.jpg"], "problem": ["cannot be decoded"]})
    assert (Examples.from_index(rows, tmp_path, (8, 8)).images[0] == 128).all()


SMALL_DISK = """
import os, sys
from pathlib import Path
os.environ["CARCLF_CACHE"] = sys.argv[2]
from carclf.pipeline.decode_cache import ImageFiles, cache_decoded
files = ImageFiles(sorted(Path(sys.argv[1]).glob("*.png")) * 20, 48, 64)
images = cache_decoded(files, "k", max_bytes=1e9)
print(images is files, [path.name for path in (Path(sys.argv[2]) / "decoded").iterdir()])
"""


def test_on_a_full_disk_images_are_decoded_from_their_files(
    image_folder: Path, tmp_path: Path, run_on_small_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    small = tmp_path / "small"
    process = run_on_small_disk(small, 1, [sys.executable, "-c", SMALL_DISK, str(image_folder), str(small)])
    assert process.stdout == "True []\n", process.stderr
    assert "decode_cache: disk full" in process.stderr
