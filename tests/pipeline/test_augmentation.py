"""Views of a training picture: seeded by the example alone, true in shape, and whatever the picture's shape."""

import pickle

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from carclf.config import Augment
from carclf.images.letterbox import letterbox, letterbox_matrix, warp_affine
from carclf.pipeline.augmentation import Augmenter

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


def view(augmenter: Augmenter, **changed: object) -> np.ndarray:
    return augmenter(PIXELS, 48, 64, **({"seed": 0, "epoch": 1, "example": "a.jpg"} | changed))


def test_a_view_depends_on_seed_epoch_and_example_and_on_nothing_else() -> None:
    augmenter = Augmenter(Augment())
    first = view(augmenter)
    view(augmenter, example="b.jpg")  # what came before changes nothing
    np.testing.assert_array_equal(first, view(augmenter))
    np.testing.assert_array_equal(first, view(pickle.loads(pickle.dumps(augmenter))))
    for change in ({"seed": 1}, {"epoch": 2}, {"example": "b.jpg"}):
        assert not np.array_equal(first, view(augmenter, **change))


def test_without_any_change_a_view_is_the_letterboxed_picture() -> None:
    still = Augmenter(Augment(crop_scale=1.0, aspect_jitter=0, flip=False, rotate_degrees=0, color=0))
    smooth = cv2.GaussianBlur(PIXELS, (0, 0), 5)
    found = still(smooth, 48, 64, seed=0, epoch=0, example="x")
    np.testing.assert_array_equal(found, warp_affine(smooth, letterbox_matrix(smooth, 48, 64), 48, 64))
    assert abs(found.astype(int) - letterbox(smooth, 48, 64)).mean() < 2  # another interpolation


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.integers(1, 300))
def test_the_median_view_is_not_stretched_and_every_view_has_the_wanted_shape(seed: int, high: int, wide: int) -> None:
    augmenter, pixels = Augmenter(Augment()), np.full((high, wide, 3), 9, np.uint8)
    random = np.random.default_rng(seed)
    matrices = [augmenter._geometry(pixels, 48, 64, random) for _ in range(41)]
    stretches = [np.hypot(*m[:, 0]) / np.hypot(*m[:, 1]) for m in matrices]
    assert max(stretches) < np.exp(0.16) and min(stretches) > np.exp(-0.16)
    assert abs(np.log(np.median(stretches))) < 0.12
    assert augmenter(pixels, 48, 64, seed=seed, epoch=0, example="x").shape == (48, 64, 3)


def test_the_middle_of_the_picture_stays_in_every_view() -> None:
    marked = np.zeros((100, 180, 3), np.uint8)
    cv2.circle(marked, (90, 50), 12, (255, 255, 255), -1)
    augmenter = Augmenter(Augment(crop_scale=0.5))
    for number in range(200):
        assert augmenter(marked, 96, 128, seed=0, epoch=number, example="x").max() > 150
