"""Random augmentation of training images, seeded by (seed, epoch, example)."""

import os
import threading
import zlib
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from carclf.config import Augment
from carclf.images.decode import Pixels
from carclf.images.letterbox import Matrix, letterbox_matrix, warp_affine

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise importing it checks the network for a newer release
cv2.setNumThreads(0)  # the pipeline's workers run in parallel

FLIP_PROBABILITY = 0.5
RIGHT_PROBABILITY = 0.5
COLOR_PROBABILITY = 0.8
MAX_SATURATION_CHANGE = 1.0
# Ranges of the wide search space of TrivialAugment (Müller & Hutter 2021, arXiv:2103.10158).
ENHANCEMENT = (0.01, 1.99)  # factors; 1 keeps the image
POSTERIZED_BITS = (2, 7)  # 8 would keep the image
MAX_SHARPENING = 0.99 / 13  # Pillow's factor 1.99: its smoothing kernel has the sum 13


class Augmenter:
    """Turn a decoded image into an augmented view: half of it, one affine warp, then albumentations' transforms."""

    def __init__(self, config: Augment) -> None:
        self.config = config

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}  # each process and thread creates its own transforms

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    def decode_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width to which images are decoded for views of the size.

        The smallest crop then has as many pixels as the view, if the image has them.
        """
        height, width = (round(side * self.config.crop_scale**-0.5) for side in size)
        return height, 2 * width if self.config.half_crop else width

    def _transform(self) -> Any:
        """Return this thread's transform: albumentations' transforms are seeded and not thread-safe."""
        if not hasattr(self._local, "transform"):
            import albumentations as a

            transforms: list[Any] = []
            if self.config.trivial:
                transforms = [a.OneOf(_trivial_transforms(), p=1)]
            elif strength := self.config.color:
                spread = min(2 * strength, MAX_SATURATION_CHANGE)
                transforms = [
                    a.RandomBrightnessContrast(strength, strength, p=COLOR_PROBABILITY),
                    # RandomBrightnessContrast is three times faster than ColorJitter at brightness and contrast
                    a.ColorJitter(0, 0, (1 - spread, 1 + spread), 0, p=COLOR_PROBABILITY),
                ]
            if self.config.erasing:  # Zhong et al. 2017, arXiv:1708.04896: noise is better than a color
                transforms.append(a.Erasing(fill="random", p=self.config.erasing))
            self._local.transform = a.Compose(transforms) if transforms else None
        return self._local.transform

    def __call__(self, pixels: Pixels, size: tuple[int, int], *, seed: int, epoch: int, example: str) -> Pixels:
        """Return one view of uint8 RGB pixels, of shape (*size, 3) for ``size`` (height, width).

        The view depends only on the pixels and on (seed, epoch, example): the number of workers changes nothing.
        """
        example_seed = zlib.crc32(f"{seed}:{epoch}:{example}".encode())
        random = np.random.default_rng(example_seed)
        if self.config.half_crop and random.random() < self.config.half_crop:
            pixels = _random_half(pixels, random)
        view = warp_affine(pixels, self.random_matrix(pixels, size, random), *size)
        if (transform := self._transform()) is not None:
            transform.set_random_seed(example_seed)
            view = transform(image=view)["image"]
        return view

    def random_matrix(self, pixels: Pixels, size: tuple[int, int], random: np.random.Generator) -> Matrix:
        """Return a random 2x3 matrix from image to view: letterbox, zoom, stretch, flip, rotation and shift."""
        config = self.config
        zoom = random.uniform(config.crop_scale, 1.0) ** -0.5
        stretch = np.exp(random.uniform(-config.aspect_jitter, config.aspect_jitter)) ** 0.5
        angle = np.deg2rad(random.uniform(-config.rotate_degrees, config.rotate_degrees))
        flip = -1.0 if config.flip and random.random() < FLIP_PROBABILITY else 1.0
        scales = letterbox_matrix(pixels, *size)[0, 0] * zoom * np.array([stretch * flip, 1 / stretch])
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scales
        view_size = np.array(size[::-1])
        image_size = np.array(pixels.shape[1::-1])
        # Shift as a random crop of the zoomed image does: an image that fits into the view stays in the center.
        room = np.maximum(np.abs(scales) * image_size - view_size, 0) / 2
        center = view_size / 2 + random.uniform(-1, 1, 2) * room
        return np.column_stack([rotation, center - rotation @ (image_size / 2)])


def _random_half(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Return the left or the right half of the image; the middle column of an odd width is in both."""
    middle = pixels.shape[1] // 2
    return pixels[:, middle:] if random.random() < RIGHT_PROBABILITY else pixels[:, : pixels.shape[1] - middle]


def _trivial_transforms() -> list[Any]:
    """Return the color operations of TrivialAugment; the warp already changes the geometry of each image."""
    import albumentations as a

    neutral = (1, 1)
    return [
        a.NoOp(), a.Equalize(mode="pil"), a.AutoContrast(method="pil"), a.Posterize(POSTERIZED_BITS),
        a.Solarize((0, 1)), a.Sharpen((0, MAX_SHARPENING), (1, 1)),
        *(a.ColorJitter(*(ENHANCEMENT if varied == changed else neutral for varied in range(3)), 0)
          for changed in range(3)),
    ]
