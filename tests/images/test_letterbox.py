"""Letterboxing of images to the network's input size."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carclf.images.letterbox import letterbox, warp_affine


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.integers(1, 40))
def test_letterbox_has_the_requested_shape(height: int, width: int, to_height: int, to_width: int) -> None:
    result = letterbox(np.full((height, width, 3), 7, np.uint8), to_height, to_width)
    assert result.shape == (to_height, to_width, 3)
    assert (result == 7).all()


def test_letterbox_keeps_the_whole_image() -> None:
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[:, :10] = 255
    wide[:, -10:] = 255
    result = letterbox(wide, 100, 100)
    assert result[50, 2, 0] == 255
    assert result[50, 97, 0] == 255
    assert cv2.mean(result[50:51, 45:55])[0] == 0


def test_a_warp_that_shrinks_averages_fine_detail() -> None:
    lines = np.zeros((100, 200, 3), np.uint8)
    lines[:, ::2] = 255
    for scale in (0.6, 0.4, 0.3, 0.1):
        view = warp_affine(lines, np.array([[scale, 0, 0], [0, scale, 0]]), round(100 * scale), round(200 * scale))
        assert abs(view[1:-1, 1:-1].astype(int) - 128).max() < 35, scale  # without averaging 127


@pytest.mark.parametrize(("scale", "limit"), [(0.9, 0), (0.5, 1.5), (0.3, 1.5)])
def test_averaging_moves_no_pixel(scale: float, limit: float) -> None:
    ramp = np.repeat(np.tile(np.arange(200, dtype=np.uint8), (100, 1))[:, :, None], 3, 2)
    matrix = np.array([[scale, 0, 3.3], [0, scale, 2.7]])
    plain = cv2.warpAffine(ramp, matrix, (40, 20), borderValue=cv2.mean(ramp)[:3])
    difference = abs(warp_affine(ramp, matrix, 20, 40).astype(int) - plain)
    assert difference[4:, 5:].max() <= limit
