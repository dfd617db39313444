"""Whether two pictures are copies of each other, by their pixels."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from carclf.images.decode import Pixels

cv2.setNumThreads(0)  # the pairs are the parallelism

Pair = tuple[int, int]
Floats = npt.NDArray[np.float32]
SIDE = 64
BLUR = (3, 3)  # what recompressing changes most is the finest detail
MIN_CONTRAST = 4.0  # grey levels: a picture with less contrast counts as flat
STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 20, 1e-4)
NUM_THREADS = 4  # decoding and comparing release the GIL
NUM_THUMBNAILS = 4096  # kept in memory, 12 kB each
# Blank and foggy pictures have nearly the same hash and nothing else in common: thousands of them would be
# millions of pairs. So many others are as like as any, and the rest is not looked at.
MOST_FAILURES = 64
LEAST_OVERLAP = 0.7  # of the area; less in common is no copy


def thumbnail(pixels: Pixels) -> Pixels:
    """A uint8 RGB picture as a 64x64 one, whatever its aspect ratio."""
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def thumbnail_difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference of two thumbnails, laid over each other, in standard deviations.

    Brightness and contrast do not count; a small crop or shift does not, since the second is first moved onto the
    first (ECC: Evangelidis and Psarakis 2008). Colours do. Unrelated pictures differ by about 1.
    """
    warp = _onto(one, other)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(cv2.GaussianBlur(other, BLUR, 0), warp, (SIDE, SIDE), flags=flags)
    common = cv2.warpAffine(np.ones((SIDE, SIDE), np.uint8), warp, (SIDE, SIDE), flags=flags) > 0
    if common.mean() < LEAST_OVERLAP:
        return float("inf")
    return float(np.abs(_standard(cv2.GaussianBlur(one, BLUR, 0)[common]) - _standard(moved[common])).mean())


def _onto(one: Pixels, other: Pixels) -> Floats:
    """The affine matrix of the second picture's move onto the first; no move where none can be found."""
    still = np.eye(2, 3, dtype=np.float32)
    target, moving = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other))
    try:
        _, warp = cv2.findTransformECC(target, moving, still.copy(), cv2.MOTION_AFFINE, STEPS, None, 5)
    except cv2.error:  # flat, or too different
        return still
    return np.asarray(warp, np.float32) if np.isfinite(warp).all() else still


def _standard(pixels: Pixels) -> Floats:
    values = pixels.astype(np.float32)
    return np.asarray((values - values.mean()) / max(float(values.std()), MIN_CONTRAST), np.float32)


class DuplicateMatcher:
    """Compares pictures of a dataset by position, several pairs at once, with a bounded memory for thumbnails."""

    def __init__(self, load: Callable[[int], Pixels], max_pixel_difference: float) -> None:
        self.max_pixel_difference = max_pixel_difference
        self._thumbnail = lru_cache(NUM_THUMBNAILS)(lambda position: thumbnail(load(position)))
        self._failures: Counter[int] = Counter()

    def __call__(self, pairs: Sequence[Pair]) -> list[bool]:
        """Whether each pair matches; False without a look where both have failed to match many others already."""
        worth = [pair for pair in pairs if min(self._failures[position] for position in pair) < MOST_FAILURES]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = dict(zip(worth, pool.map(self._match, worth), strict=True))
        for pair, match in found.items():
            if not match:
                self._failures.update(pair)
        return [found.get(pair, False) for pair in pairs]

    def _match(self, pair: Pair) -> bool:
        return thumbnail_difference(*map(self._thumbnail, pair)) <= self.max_pixel_difference
