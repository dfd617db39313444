"""Recognition of images of an earlier split, by content or by perceptual hash and color signature."""

import hashlib
from collections.abc import Iterable

import cv2
import numpy as np
import pandas as pd
import pytest

from carclf.dataset.champion_split import previous_values, with_split_history
from carclf.demo.rendering import car_image
from carclf.images.decode import Pixels, decode
from carclf.images.hashes import color_signature, perceptual_hash, pixels_sha256


def jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def split_rows(files: Iterable[bytes], subsets: Iterable[str] | None = None) -> pd.DataFrame:
    """Rows of a split with the files' positions as ``name``; all in train by default."""
    rows = []
    for data in files:
        pixels = decode(data)
        rows.append({"sha256": hashlib.sha256(data).hexdigest(), "pixels_sha256": pixels_sha256(pixels),
                     "phash": perceptual_hash(pixels), "color_signature": color_signature(pixels)})
    table = pd.DataFrame(rows).astype({"phash": np.uint64}).assign(name=range(len(rows)), fold=0)
    return table.assign(subset="train" if subsets is None else list(subsets))


def cars(num: int, seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [car_image(number % 10, random) for number in range(num)]


def test_new_images_with_the_hash_of_an_earlier_one_are_new() -> None:
    previous, new = split_rows(cars(150, 0)), split_rows(cars(150, 1))
    without_colors = previous.assign(color_signature=bytes(192)), new.assign(color_signature=bytes(192))
    assert previous_values(without_colors[1], without_colors[0], "name").notna().sum() >= 5
    assert previous_values(new, previous, "name").isna().all()


def half_size(pixels: Pixels) -> bytes:
    return jpeg(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 40)


@pytest.mark.parametrize(
    ("change", "min_recognized"),
    [(lambda pixels: jpeg(pixels, 30), 60), (half_size, 60), (lambda pixels: jpeg(pixels[2:-1, 1:-3]), 57)],
    ids=["recompressed", "half size", "cropped"],
)
def test_changed_copies_of_sixty_images_are_recognized(change, min_recognized: int) -> None:
    files, positions = cars(60, 0), np.arange(60)
    copies = [change(decode(data)) for data in files]
    names = previous_values(split_rows(copies), split_rows(files), "name")
    assert (names == positions).sum() >= min_recognized
    assert not (names.notna() & (names != positions)).any()


@pytest.mark.parametrize("subsets", [["val", "train"], ["train", "val"]])
def test_an_image_that_was_in_train_and_val_was_trained_on(subsets: list[str]) -> None:
    first, second = cars(2, 3)
    previous = split_rows([first, jpeg(decode(first), 80)], subsets)
    new = split_rows([jpeg(decode(first), 50), second])
    assert previous_values(new, previous, "subset").dropna().to_dict() == {0: "train"}
    same_bytes = split_rows([first, first], subsets)
    assert previous_values(split_rows([first]), same_bytes, "subset").tolist() == ["train"]
    same_pixels = same_bytes.assign(sha256=["a", "b"])
    assert previous_values(split_rows([first]), same_pixels, "subset").tolist() == ["train"]


def test_a_nearer_hash_with_other_colors_does_not_hide_a_copy() -> None:
    copy = split_rows(cars(1, 0))
    original = copy.assign(sha256="a", pixels_sha256="a", phash=copy["phash"] ^ np.uint64(0b111), name=1)
    other = original.assign(
        sha256="b", pixels_sha256="b", phash=copy["phash"], color_signature=[bytes(range(192))], name=2)
    assert previous_values(copy, pd.concat([other, original], ignore_index=True), "name").tolist() == [1]


def test_without_a_champion_there_is_no_history() -> None:
    rows = split_rows(cars(2, 0))
    assert with_split_history(rows, None) is rows
    assert previous_values(rows, None, "subset").isna().all()


def test_the_history_keeps_images_that_are_no_longer_in_the_dataset() -> None:
    rows, earlier = split_rows(cars(3, 7)), split_rows(cars(1, 0))
    history = with_split_history(rows, pd.concat([earlier, rows[:1]]))
    assert history["sha256"].tolist() == [*rows["sha256"], *earlier["sha256"]]
    assert history["fold"].tolist() == [0, 0, 0, -1]


def test_flat_images_are_not_recognized_by_their_hash() -> None:
    previous, new = (split_rows(cars(1, seed)).assign(phash=np.uint64(0), color_signature=[bytes(192)])
                     for seed in (0, 1))
    assert previous_values(new, previous, "subset").isna().all()


def test_thousands_of_images_with_one_hash_are_not_all_compared() -> None:
    foggy = split_rows(cars(1, 0)).iloc[[0] * 3000].reset_index(drop=True)
    signatures = [bytes([number % 200, 255] * 96) for number in range(3000)]
    new, previous = (
        foggy.assign(sha256=[f"{prefix}{number}" for number in range(3000)], pixels_sha256=prefix,
                     color_signature=signatures) for prefix in "ab")
    assert previous_values(new, previous, "subset").notna().all()
