"""Hashes of an image: of its exact pixels, of its coarse structure, and of its coarse colors."""

import hashlib

import cv2
import numpy as np

from carclf.images.decode import Pixels

cv2.setNumThreads(0)  # images are processed in parallel

SIDE = 32
COLOR_SIGNATURE_SIDE = 8
NUM_BITS = 64
# The lowest frequencies in zigzag order, without the very first, which is the mean brightness.
FREQUENCIES = sorted(np.ndindex(SIDE, SIDE), key=lambda frequency: (sum(frequency), frequency))[1 : NUM_BITS + 1]
ROWS, COLUMNS = np.array(FREQUENCIES).T
# The coefficients of a flat image are rounding and JPEG noise. A coefficient below this counts as zero.
MIN_COEFFICIENT = 2.0


def pixels_sha256(pixels: Pixels) -> str:
    """Return the SHA-256 of shape and pixels as hexadecimal digits, whatever the file format was."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def perceptual_hash(pixels: Pixels) -> int:
    """Return a 64-bit hash of uint8 RGB pixels; resizing, recompression and lighting change few of its bits.

    The bits compare the lowest frequencies of the cosine transform of a 32x32 grayscale image with their median
    (pHash: Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"); 0 for a flat image.
    """
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    coefficients = cv2.dct(small)[ROWS, COLUMNS]
    low, high = np.sort(coefficients)[NUM_BITS // 2 - 1 :][:2]  # np.median takes longer than everything else here
    bits = coefficients > max(float(low + high) / 2, MIN_COEFFICIENT)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def color_signature(pixels: Pixels) -> bytes:
    """Return uint8 RGB pixels reduced to 8x8, as 192 bytes; it distinguishes images with similar perceptual hashes."""
    size = (COLOR_SIGNATURE_SIDE, COLOR_SIGNATURE_SIDE)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)).tobytes()
