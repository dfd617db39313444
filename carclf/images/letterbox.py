"""Letterboxing: fit a whole image into the network's input size without changing its aspect ratio."""

import cv2
import numpy as np
import numpy.typing as npt

from carclf.images.decode import Pixels

Matrix = npt.NDArray[np.float64]


def letterbox_matrix(pixels: Pixels, height: int, width: int) -> Matrix:
    """Return the 2x3 affine matrix that scales the image to fit (height, width) and centers it."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    left = (width - pixels.shape[1] * scale) / 2
    top = (height - pixels.shape[0] * scale) / 2
    return np.array([[scale, 0, left], [0, scale, top]])


def warp_affine(pixels: Pixels, matrix: Matrix, height: int, width: int) -> Pixels:
    """Apply a 2x3 affine matrix; return uint8 (height, width, 3) on a background of the image's mean color."""
    background = cv2.mean(pixels)[:3]
    view: Pixels = cv2.warpAffine(
        pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=background
    )
    return view


def letterbox(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize to fit (height, width), keeping the aspect ratio, on a background of the image's mean color."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.array(cv2.mean(pixels)[:3]).round()
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = resized
    return canvas
