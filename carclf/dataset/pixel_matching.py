"""Comparison of the pixels of two images, to decide whether they are near-copies of each other."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from carclf.images.decode import Pixels

cv2.setNumThreads(0)  # pairs are compared in parallel

Pair = tuple[int, int]
Floats = npt.NDArray[np.float32]
SIDE = 64
BLUR = (3, 3)  # recompression changes the finest details most
ECC_BLUR = 5
MIN_CONTRAST = 4.0  # gray levels: an image with less contrast counts as flat
STOP_CRITERIA = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-4)
NUM_THREADS = 4  # decoding and comparing release the GIL
NUM_THUMBNAILS = 4096  # in memory, 12 kB each
# Blank and foggy images have nearly the same hash and nothing else in common: thousands of them would be millions of
# pairs. An image that has failed to match this many others is compared only with images with fewer failures.
MAX_FAILURES = 64
MIN_OVERLAP = 0.7  # of the area, after alignment


def thumbnail(pixels: Pixels) -> Pixels:
    """Resize uint8 RGB pixels to 64x64, whatever their aspect ratio."""
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def thumbnail_difference(first: Pixels, second: Pixels) -> float:
    """Return the mean absolute difference of two aligned thumbnails in standard deviations; inf if they do not overlap.

    The second is aligned with the first (ECC: Evangelidis and Psarakis 2008), so small crops and shifts do not count.
    Brightness and contrast do not count either; colors do. Unrelated images differ by about 1.
    """
    matrix = _alignment(first, second)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(cv2.GaussianBlur(second, BLUR, 0), matrix, (SIDE, SIDE), flags=flags)
    overlap = cv2.warpAffine(np.ones((SIDE, SIDE), np.uint8), matrix, (SIDE, SIDE), flags=flags) > 0
    if overlap.mean() < MIN_OVERLAP:
        return float("inf")
    difference = _standardize(cv2.GaussianBlur(first, BLUR, 0)[overlap]) - _standardize(aligned[overlap])
    return float(np.abs(difference).mean())


def _alignment(first: Pixels, second: Pixels) -> Floats:
    """Return the 2x3 matrix that aligns the second image with the first; the identity if the search fails."""
    identity = np.eye(2, 3, dtype=np.float32)
    target, moving = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (first, second))
    try:
        _, matrix = cv2.findTransformECC(
            target, moving, identity.copy(), cv2.MOTION_AFFINE, STOP_CRITERIA, None, ECC_BLUR)
    except cv2.error:  # flat, or too different
        return identity
    return np.asarray(matrix, np.float32) if np.isfinite(matrix).all() else identity


def _standardize(pixels: Pixels) -> Floats:
    values = pixels.astype(np.float32)
    return np.asarray((values - values.mean()) / max(float(values.std()), MIN_CONTRAST), np.float32)


class DuplicateMatcher:
    """Compare images by position, several pairs at once, with a bounded cache of thumbnails.

    Position ``num_images + i`` is the horizontal flip of image i.
    """

    def __init__(self, load: Callable[[int], Pixels], num_images: int, max_pixel_difference: float) -> None:
        self.num_images = num_images
        self.max_pixel_difference = max_pixel_difference
        self._thumbnail = lru_cache(NUM_THUMBNAILS)(lambda position: thumbnail(load(position)))
        self._num_failures: Counter[int] = Counter()

    def matching_pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs that are near-copies.

        Pairs of two images with MAX_FAILURES failures are not compared, and neither are pairs of two flips.
        """
        compared = [
            pair for pair in pairs
            if min(pair) < self.num_images and min(self._num_failures[position] for position in pair) < MAX_FAILURES]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            matches = list(pool.map(self._match, compared))
        for pair, match in zip(compared, matches, strict=True):
            if not match:
                self._num_failures.update(pair)
        return [pair for pair, match in zip(compared, matches, strict=True) if match]

    def _match(self, pair: Pair) -> bool:
        first, second = (self._view(position) for position in pair)
        return thumbnail_difference(first, second) <= self.max_pixel_difference

    def _view(self, position: int) -> Pixels:
        if position < self.num_images:
            return self._thumbnail(position)
        return np.asarray(cv2.flip(self._thumbnail(position - self.num_images), 1), np.uint8)
