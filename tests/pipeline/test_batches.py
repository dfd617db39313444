"""Batches: whole, in the seed's order, the same from wherever they start and by however many processes."""

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest

from carclf.config import Augment
from carclf.errors import DataError
from carclf.pipeline.augmentation import Augmenter
from carclf.pipeline.batches import Examples, LetterboxedSource, TrainingSource, batches, num_batches
from carclf.pipeline.decode_cache import DecodedImages, ImageFiles
from carclf.pipeline.mixing import BatchMixer

NUM = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(NUM):
        cv2.imwrite(str(folder / f"{number}.png"), random.integers(0, 256, (60 + number, 80, 3), np.uint8))
    return folder


@pytest.fixture()
def examples(folder: Path) -> Examples:
    rows = pd.DataFrame({"path": [f"{n}.png" for n in range(NUM)], "label": range(NUM), "problem": ""})
    return Examples.from_index(rows, folder, (48, 64))


def training(examples: Examples, batch_size: int = 5) -> TrainingSource:
    return TrainingSource(examples, Augmenter(Augment()), [(48, 64)] * 2 + [(64, 96)], batch_size, 3, seed=1)


def collected(*arguments: object, **options: object) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array(pixels), np.array(labels)) for pixels, labels in batches(*arguments, **options)]


def assert_equal(one: list, other: list) -> None:
    assert len(one) == len(other)
    for (pixels, labels), (more_pixels, more_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(pixels, more_pixels)
        np.testing.assert_array_equal(labels, more_labels)


def test_plain_pictures_come_once_each_in_their_order_with_a_shorter_last_batch(examples: Examples) -> None:
    found = collected(LetterboxedSource(examples, (48, 64)), 5)
    assert [len(labels) for _, labels in found] == [5, 5, 5, 5, 3] and num_batches(LetterboxedSource(examples, (48, 64)), 5) == 5
    assert np.concatenate([labels for _, labels in found]).tolist() == list(range(NUM))


def test_each_epoch_has_whole_batches_of_different_examples_in_another_order(examples: Examples) -> None:
    source = training(examples)
    found = collected(source, 5)
    assert source.steps_per_epoch == 4 and len(found) == 12
    assert {pixels.shape for pixels, _ in found[:8]} == {(5, 48, 64, 3)} and found[8][0].shape == (5, 64, 96, 3)
    epochs = [np.concatenate([labels for _, labels in found[e * 4 : e * 4 + 4]]).tolist() for e in range(3)]
    assert all(len(set(epoch)) == 20 for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("start", "num_workers"), [(0, 2), (7, 0), (7, 3)])
def test_neither_processes_nor_the_place_to_start_change_a_batch(
    examples: Examples, start: int, num_workers: int
) -> None:
    mix = BatchMixer(NUM, 0, mixup=0.5, cutmix=0.5)
    whole = collected(training(examples), 5, mix=mix)
    part = collected(training(examples), 5, start_batch=start, num_workers=num_workers, mix=mix)
    assert_equal(whole[start:], part)


def test_fewer_examples_than_a_batch_make_a_smaller_batch(examples: Examples) -> None:
    source = training(examples, batch_size=64)
    assert (source.batch_size, source.steps_per_epoch) == (NUM, 1)


def test_the_cache_gives_the_files_pixels_and_is_made_once(examples: Examples, folder: Path) -> None:
    cached = examples.with_decode_cache("k", max_bytes=1e9)
    assert isinstance(cached.pictures, DecodedImages)
    for position in range(NUM):
        np.testing.assert_array_equal(cached.pictures[position], examples.pictures[position])
        assert max(np.array(cached.pictures[position].shape) - (48, 64, 3)) <= 0  # no more than the frame needs
    written = (cached.pictures.folder / "pixels.bin").stat().st_mtime_ns
    assert examples.with_decode_cache("k", max_bytes=1e9).pictures.folder.joinpath("pixels.bin").stat().st_mtime_ns == written


def test_all_caches_together_stay_within_the_bound_and_the_oldest_goes_first(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path))
    bound = NUM * 48 * 64 * 3 * 2.5  # two fit
    found = [examples.with_decode_cache(name, max_bytes=bound).pictures.folder for name in ("a", "b")]
    examples.with_decode_cache("a", max_bytes=bound)  # used again
    third = examples.with_decode_cache("c", max_bytes=bound).pictures.folder
    assert [folder.exists() for folder in (*found, third)] == [True, False, True]


def zeroed(folder: Path) -> None:
    (folder / "pixels.bin").write_bytes(bytes((folder / "pixels.bin").stat().st_size))  # as a lost power may leave it


def cut(folder: Path) -> None:
    (folder / "pixels.bin").write_bytes((folder / "pixels.bin").read_bytes()[:-1000])


def without_shapes(folder: Path) -> None:
    (folder / "shapes.npy").unlink()


def with_other_shapes(folder: Path) -> None:
    np.save(folder / "shapes.npy", np.ones((NUM, 2), np.int64))


@pytest.mark.parametrize("spoil", [zeroed, cut, without_shapes, with_other_shapes])
def test_a_damaged_cache_is_made_anew(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path))
    spoil(examples.with_decode_cache("k", max_bytes=1e9).pictures.folder)
    found = examples.with_decode_cache("k", max_bytes=1e9).pictures
    assert isinstance(found, DecodedImages)
    for position in range(NUM):
        np.testing.assert_array_equal(found[position], examples.pictures[position])


def test_a_cache_that_is_in_use_stays_and_the_next_one_has_no_room(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path))
    bound = NUM * 48 * 64 * 3 * 1.5  # one fits
    first = examples.with_decode_cache("a", max_bytes=bound).pictures
    assert isinstance(examples.with_decode_cache("b", max_bytes=bound).pictures, ImageFiles)
    folder = first.folder
    assert folder.exists()
    del first
    assert isinstance(examples.with_decode_cache("b", max_bytes=bound).pictures, DecodedImages) and not folder.exists()


def test_what_another_process_is_writing_stays_and_what_a_killed_one_left_goes(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_CACHE", str(tmp_path))
    bound = NUM * 48 * 64 * 3 * 1.5
    partial = tmp_path / "decoded" / ".partial-other"
    partial.mkdir(parents=True)
    with (partial / "pixels.bin").open("wb") as writing:
        writing.write(bytes(NUM * 48 * 64 * 3))
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert isinstance(examples.with_decode_cache("a", max_bytes=bound).pictures, ImageFiles) and partial.exists()
    assert isinstance(examples.with_decode_cache("a", max_bytes=bound).pictures, DecodedImages) and not partial.exists()


def test_pictures_that_do_not_fit_the_cache_are_read_from_their_files(examples: Examples) -> None:
    assert isinstance(examples.with_decode_cache("k", max_bytes=1000).pictures, ImageFiles)


def test_a_picture_that_broke_after_validation_is_an_error_and_one_known_to_be_broken_is_grey(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"broken")
    rows = pd.DataFrame({"path": ["a.jpg"], "label": [0], "problem": ["cannot be decoded"]})
    assert (Examples.from_index(rows, tmp_path, (8, 8)).pictures[0] == 128).all()
    with pytest.raises(DataError, match="was whole when it was validated"):
        Examples.from_index(rows.assign(problem=""), tmp_path, (8, 8)).pictures[0]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_labels_are_the_shares_of_the_mixed_pictures(kind: str) -> None:
    pixels = np.repeat(np.arange(8, dtype=np.uint8)[:, None, None, None] * 30, 32, 1).repeat(32, 2).repeat(3, 3)
    mixed, shares = BatchMixer(8, 0, **{kind: 1.0})(3, (pixels, np.arange(8)))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), shares @ (np.arange(8) * 30), atol=1.01)


def test_mixing_nothing_leaves_the_pictures_alone() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    same, shares = BatchMixer(2, 0)(0, (pixels, np.array([1, 0])))
    assert same is pixels and shares.tolist() == [[0, 1], [1, 0]]


SMALL_DISK = """
import os, sys
from pathlib import Path
os.environ["CARCLF_CACHE"] = sys.argv[2]
from carclf.pipeline.decode_cache import Files, decode_once
files = Files(sorted(Path(sys.argv[1]).glob("*.png")) * 20, 48, 64)
found = decode_once(files, "k", max_bytes=1e9)
print(found is files, [path.name for path in (Path(sys.argv[2]) / "decoded").iterdir()])
"""


def test_where_the_disk_has_no_room_for_the_cache_pictures_are_read_from_their_files(
    folder: Path, tmp_path: Path, run_on_small_disk: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    small = tmp_path / "small"
    done = run_on_small_disk(small, 1, [sys.executable, "-c", SMALL_DISK, str(folder), str(small)])
    assert done.stdout == "True []\n", done.stderr
    assert "The disk has no room to keep the decoded pictures" in done.stderr


def test_twenty_epochs_need_no_more_memory_than_five(examples: Examples) -> None:
    size, process, used = (240, 320), psutil.Process(), []
    source = TrainingSource(examples, Augmenter(Augment()), [size] * 20, 5, 20, seed=1)
    for number, _ in enumerate(batches(source, 5)):
        if number % source.steps_per_epoch == 0:
            used.append(process.memory_info().rss)
    assert len(used) == 20 and used[-1] - used[4] < 20e6  # all pictures of fifteen epochs are 69 MB
