"""Letterboxing of images to the network's input size."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from carclf.images.letterbox import letterbox


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
