"""What the hashes of pictures hold on to, and what they tell apart."""

import cv2
import numpy as np
import pytest

from carclf.images.decode import Pixels
from carclf.images.hashes import perceptual_hash, pixels_sha256


def scene(seed: int, height: int = 240, width: int = 320) -> Pixels:
    """Soft shapes in random places: a picture with the slow changes of a photograph."""
    coarse = np.random.default_rng(seed).integers(30, 220, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def recompressed(pixels: Pixels, quality: int) -> Pixels:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


CHANGES = {
    "recompressed": lambda pixels: recompressed(pixels, 40),
    "half as large": lambda pixels: cv2.resize(pixels, (160, 120), interpolation=cv2.INTER_AREA),
    "brighter": lambda pixels: cv2.convertScaleAbs(pixels, alpha=1.08, beta=8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_has_nearly_the_same_hash(change: str) -> None:
    for seed in range(20):
        pixels = scene(seed)
        assert (perceptual_hash(pixels) ^ perceptual_hash(CHANGES[change](pixels))).bit_count() <= 4


def test_hashes_of_different_pictures_lie_far_apart() -> None:
    found = [perceptual_hash(scene(seed)) for seed in range(60)]
    assert min((one ^ other).bit_count() for i, one in enumerate(found) for other in found[:i]) > 8
    assert all(0 <= one < 2**64 for one in found)


def test_flat_pictures_have_one_hash_whatever_their_noise() -> None:
    noise = np.random.default_rng(0).integers(-1, 2, (100, 120, 3))
    for level in (3, 128, 250):
        flat = np.full((100, 120, 3), level)
        assert perceptual_hash(flat.astype(np.uint8)) == perceptual_hash((flat + noise).astype(np.uint8)) == 0


def test_the_pixels_hash_knows_the_shape_and_every_pixel() -> None:
    pixels = scene(0)
    other = pixels.copy()
    other[-1, -1, -1] ^= 1
    turned = np.ascontiguousarray(pixels.reshape(pixels.shape[1], pixels.shape[0], 3))
    assert len({pixels_sha256(one) for one in (pixels, pixels.copy(), other, turned)}) == 3
    assert pixels_sha256(pixels[:, ::-1]) == pixels_sha256(np.ascontiguousarray(pixels[:, ::-1]))
