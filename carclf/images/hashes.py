"""Short numbers for a picture: of its pixels exactly, and of what it looks like."""

import hashlib

import cv2
import numpy as np

from carclf.images.decode import Pixels

cv2.setNumThreads(0)  # the pictures are the parallelism

SIDE = 32
LOOK_SIDE = 8
NUM_BITS = 64
# The lowest frequencies in zigzag order; without the first, which is the brightness.
FREQUENCIES = sorted(np.ndindex(SIDE, SIDE), key=lambda place: (sum(place), place))[1 : NUM_BITS + 1]
ROWS, COLUMNS = np.array(FREQUENCIES).T
# A coefficient of a flat picture is rounding and JPEG noise: below this it counts as nothing.
SMALLEST = 2.0


def pixels_sha256(pixels: Pixels) -> str:
    """The SHA-256 of a picture's shape and pixels: equal also where the files' bytes differ."""
    found = hashlib.sha256(repr(pixels.shape).encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits of a uint8 RGB picture that few changes of size, quality or brightness turn; 0 for a flat one.

    The signs of the lowest frequencies of a 32x32 grey picture's cosine transform, against their median
    (pHash: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions").
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[ROWS, COLUMNS]
    low, high = np.sort(lowest)[NUM_BITS // 2 - 1 :][:2]  # np.median takes longer than all the rest
    bits = lowest > max(float(low + high) / 2, SMALLEST)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def color_signature(pixels: Pixels) -> bytes:
    """A uint8 RGB picture as one of 8x8 pixels: it tells apart what has nearly the same perceptual hash."""
    return np.asarray(cv2.resize(pixels, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA)).tobytes()
