"""What an earlier split knows of new pictures: by content, and by hash and look where they were saved again."""

import hashlib
from collections.abc import Iterable

import cv2
import numpy as np
import pandas as pd

from carclf.dataset.champion_split import previous_values, with_split_history
from carclf.demo.rendering import car_image
from carclf.images.decode import Pixels, decode
from carclf.images.hashes import color_signature, perceptual_hash, pixels_sha256


def jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def rows_of(files: Iterable[bytes], subsets: Iterable[str] | None = None) -> pd.DataFrame:
    """Rows of a split, named by their numbers; they train unless it is said otherwise."""
    rows = []
    for data in files:
        pixels = decode(data)
        rows.append({"sha256": hashlib.sha256(data).hexdigest(), "pixels_sha256": pixels_sha256(pixels),
                     "phash": perceptual_hash(pixels), "color_signature": color_signature(pixels)})
    found = pd.DataFrame(rows).astype({"phash": np.uint64}).assign(name=range(len(rows)))
    return found.assign(subset="train" if subsets is None else list(subsets))


def cars(num: int, seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [car_image(number % 10, random) for number in range(num)]


def test_new_cars_that_are_drawn_like_earlier_ones_are_new() -> None:
    earlier, new = rows_of(cars(150, 0)), rows_of(cars(150, 1))
    by_hash = previous_values(new.drop(columns="color_signature"), earlier.drop(columns="color_signature"), "name")
    assert by_hash.notna().sum() >= 5  # which is why it does not suffice
    assert previous_values(new, earlier, "name").isna().all()


def test_cars_that_were_saved_again_smaller_or_a_little_cropped_are_known_as_themselves() -> None:
    files = cars(60, 0)
    pixels = [decode(data) for data in files]
    half = [jpeg(cv2.resize(one, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 40) for one in pixels]
    crops = [jpeg(one[2:-1, 1:-3]) for one in pixels]
    names = np.arange(60)
    for copies, least in ([jpeg(one, 30) for one in pixels], 60), (half, 60), (crops, 57):
        found = previous_values(rows_of(copies), rows_of(files), "name")
        assert (found == names).sum() >= least and not (found.notna() & (found != names)).any()


def test_where_a_picture_both_trained_and_validated_the_training_counts() -> None:
    first, second = cars(2, 3)
    again = jpeg(decode(first), 50)
    for subsets in (["val", "train"], ["train", "val"]):
        earlier = rows_of([first, jpeg(decode(first), 80)], subsets)
        assert previous_values(rows_of([again, second]), earlier, "subset").dropna().to_dict() == {0: "train"}
        same = rows_of([first, first], subsets)
        assert previous_values(rows_of([first]), same, "subset").tolist() == ["train"]
        pixels = same.assign(sha256=["a", "b"])
        assert previous_values(rows_of([first]), pixels, "subset").tolist() == ["train"]


def test_a_picture_of_nearly_the_same_hash_that_looks_otherwise_hides_no_copy_behind_it() -> None:
    copy = rows_of(cars(1, 0))
    original = copy.assign(sha256="a", pixels_sha256="a", phash=copy["phash"] ^ np.uint64(0b111), name=1)
    other = original.assign(sha256="b", pixels_sha256="b", phash=copy["phash"], color_signature=[bytes(range(192))], name=2)
    assert previous_values(copy, pd.concat([other, original], ignore_index=True), "name").tolist() == [1]


def test_pictures_of_a_split_without_looks_are_known_by_a_nearer_hash() -> None:
    old = rows_of(cars(1, 0)).drop(columns="color_signature")
    for bits, expected in ((0b111111, [0]), (0b1111111, [])):
        new = rows_of(cars(1, 0)).assign(sha256="a", pixels_sha256="a", phash=old["phash"] ^ np.uint64(bits))
        assert previous_values(new, old, "name").dropna().tolist() == expected
        later = with_split_history(rows_of(cars(3, 7)), old)  # the next split remembers it without a look
        assert previous_values(new, later, "name").dropna().tolist() == expected and len(later) == 4


def test_a_memory_from_before_perceptual_hashes_is_not_mixed_with_rows_that_have_them() -> None:
    rows = rows_of(cars(2, 0))
    assert with_split_history(rows, rows_of(cars(2, 1))[["sha256", "subset"]]) is rows and with_split_history(rows, None) is rows


def test_thousands_of_pictures_of_one_hash_are_not_compared_each_with_each() -> None:
    foggy = rows_of(cars(1, 0)).iloc[[0] * 3000].reset_index(drop=True)
    new, earlier = (foggy.assign(sha256=[f"{side}{number}" for number in range(3000)], pixels_sha256=side,
                                 color_signature=[bytes([number % 200, 255] * 96) for number in range(3000)]) for side in "ab")
    assert previous_values(new, earlier, "subset").notna().all()
