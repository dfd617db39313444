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


def resize_to_fit(pixels: Pixels, height: int, width: int, *, enlarge: bool = False) -> Pixels:
    """Resize RGB or gray pixels to fit (height, width), keeping the aspect ratio; enlarge them only if requested."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    if scale >= 1 and not enlarge:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.uint8)


def letterbox(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize to fit (height, width), keeping the aspect ratio, on a background of the image's mean color."""
    resized = resize_to_fit(pixels, height, width, enlarge=True)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.array(cv2.mean(pixels)[:3]).round()
    top, left = (height - resized.shape[0]) // 2, (width - resized.shape[1]) // 2
    canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return canvas
