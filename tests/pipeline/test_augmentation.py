"""Augmented views: seeded by the example, of the requested shape, and not distorted."""

import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.config import Augment
from carclf.images.letterbox import letterbox, letterbox_matrix, warp_affine
from carclf.pipeline.augmentation import Augmenter

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
SIZE = (48, 64)


def augment(augmenter: Augmenter, **changed: object) -> np.ndarray:
    return augmenter(PIXELS, SIZE, **({"seed": 0, "epoch": 1, "example": "a.jpg"} | changed))


def test_a_view_depends_only_on_seed_epoch_and_example() -> None:
    augmenter = Augmenter(Augment())
    first = augment(augmenter)
    augment(augmenter, example="b.jpg")  # earlier calls change nothing
    np.testing.assert_array_equal(first, augment(augmenter))
    np.testing.assert_array_equal(first, augment(pickle.loads(pickle.dumps(augmenter))))
    for change in ({"seed": 1}, {"epoch": 2}, {"example": "b.jpg"}):
        assert not np.array_equal(first, augment(augmenter, **change))


def test_without_augmentation_a_view_is_the_letterboxed_image() -> None:
    augmenter = Augmenter(Augment(crop_scale=1.0, aspect_jitter=0, flip=False, rotate_degrees=0, color=0))
    smooth = cv2.GaussianBlur(PIXELS, (0, 0), 5)
    view = augmenter(smooth, SIZE, seed=0, epoch=0, example="x")
    np.testing.assert_array_equal(view, warp_affine(smooth, letterbox_matrix(smooth, *SIZE), *SIZE))
    assert abs(view.astype(int) - letterbox(smooth, *SIZE)).mean() < 2  # the interpolation differs


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 300))
def test_views_keep_the_aspect_ratio_on_average(seed: int, height: int, width: int) -> None:
    augmenter, pixels = Augmenter(Augment()), np.full((height, width, 3), 9, np.uint8)
    random = np.random.default_rng(seed)
    matrices = [augmenter.random_matrix(pixels, SIZE, random) for _ in range(41)]
    stretches = [np.hypot(*matrix[:, 0]) / np.hypot(*matrix[:, 1]) for matrix in matrices]
    assert max(stretches) < np.exp(0.16)
    assert min(stretches) > np.exp(-0.16)
    assert abs(np.log(np.median(stretches))) < 0.12
    assert augmenter(pixels, SIZE, seed=seed, epoch=0, example="x").shape == (*SIZE, 3)


def test_images_are_decoded_so_that_the_smallest_crop_is_sharp() -> None:
    assert Augmenter(Augment(crop_scale=0.25)).decode_size((48, 64)) == (96, 128)
    assert Augmenter(Augment(crop_scale=1, half_crop=0.1)).decode_size((48, 64)) == (48, 128)


UNCHANGED = {"crop_scale": 1.0, "aspect_jitter": 0, "flip": False, "rotate_degrees": 0, "color": 0}


def test_a_half_crop_is_the_left_or_the_right_half() -> None:
    halves = np.zeros((60, 91, 3), np.uint8)
    halves[:, 46:] = 200
    augmenter = Augmenter(Augment(**UNCHANGED, half_crop=0.5))
    views = [augmenter(halves, SIZE, seed=0, epoch=epoch, example="x") for epoch in range(200)]
    means = [float(view.mean()) for view in views]
    assert [sum(mean < 5 for mean in means), sum(mean > 190 for mean in means)] == pytest.approx([50, 50], abs=20)
    np.testing.assert_array_equal(
        next(view for view in views if view.mean() < 5), letterbox(halves[:, :46], *SIZE))


def test_erasing_replaces_one_rectangle_by_noise() -> None:
    view = augment(Augmenter(Augment()))
    erased = augment(Augmenter(Augment(erasing=1.0)))
    rows, columns = (np.flatnonzero((view != erased).any(axes)) for axes in ((1, 2), (0, 2)))
    area = np.ptp(rows) * np.ptp(columns)
    assert 0.01 < area / (SIZE[0] * SIZE[1]) < 0.35
    assert (view == erased).all(2).sum() >= SIZE[0] * SIZE[1] - (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_trivial_augmentation_applies_each_color_operation() -> None:
    pixels = cv2.GaussianBlur(PIXELS, (0, 0), 5)
    plain = Augmenter(Augment(**UNCHANGED))
    augmenter = Augmenter(Augment(**UNCHANGED, trivial=True))
    views = [augmenter(pixels, SIZE, seed=0, epoch=epoch, example="x") for epoch in range(90)]
    view = plain(pixels, SIZE, seed=0, epoch=0, example="x")
    num_unchanged = sum(np.array_equal(view, other) for other in views)
    assert 2 <= num_unchanged <= 30  # NoOp, and solarizing above the brightest pixel
    assert len({other.tobytes() for other in views}) > 30
    again = pickle.loads(pickle.dumps(augmenter))
    for epoch in (89, 3):
        np.testing.assert_array_equal(again(pixels, SIZE, seed=0, epoch=epoch, example="x"), views[epoch])


def test_the_center_of_the_image_is_in_each_view() -> None:
    marked = np.zeros((100, 180, 3), np.uint8)
    cv2.circle(marked, (90, 50), 12, (255, 255, 255), -1)
    augmenter = Augmenter(Augment(crop_scale=0.5))
    for epoch in range(200):
        assert augmenter(marked, (96, 128), seed=0, epoch=epoch, example="x").max() > 150
