"""Hashes: changes of an image that they ignore, and images that they distinguish."""

import cv2
import numpy as np
import pytest

from carclf.images.decode import Pixels
from carclf.images.hashes import perceptual_hash, pixels_sha256


def scene(seed: int, height: int = 240, width: int = 320) -> Pixels:
    """Random soft shapes: an image with the low frequencies of a photograph."""
    coarse = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def recompress(pixels: Pixels, quality: int) -> Pixels:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


CHANGES = {
    "recompressed": lambda pixels: recompress(pixels, 40),
    "half as large": lambda pixels: cv2.resize(pixels, (160, 120), interpolation=cv2.INTER_AREA),
    "brighter": lambda pixels: cv2.convertScaleAbs(pixels, alpha=1.08, beta=8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_has_a_near_perceptual_hash(change: str) -> None:
    for seed in range(20):
        pixels = scene(seed)
        assert (perceptual_hash(pixels) ^ perceptual_hash(CHANGES[change](pixels))).bit_count() <= 4


def test_perceptual_hashes_of_different_images_are_far_apart() -> None:
    hashes = [perceptual_hash(scene(seed)) for seed in range(60)]
    assert min((value ^ other).bit_count() for i, value in enumerate(hashes) for other in hashes[:i]) > 8
    assert all(0 <= value < 2**64 for value in hashes)


@pytest.mark.parametrize("level", [3, 128, 250])
def test_flat_images_have_the_perceptual_hash_zero(level: int) -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (100, 120, 3))
    flat = np.full((100, 120, 3), level)
    assert perceptual_hash(flat.astype(np.uint8)) == perceptual_hash((flat + noise).astype(np.uint8)) == 0


def test_pixels_sha256_depends_on_shape_and_each_pixel() -> None:
    pixels = scene(0)
    other = pixels.copy()
    other[-1, -1, -1] ^= 1
    reshaped = np.ascontiguousarray(pixels.reshape(pixels.shape[1], pixels.shape[0], 3))
    assert len({pixels_sha256(image) for image in (pixels, pixels.copy(), other, reshaped)}) == 3
    assert pixels_sha256(pixels[:, ::-1]) == pixels_sha256(np.ascontiguousarray(pixels[:, ::-1]))
