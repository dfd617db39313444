"""Random changes of one training picture, drawn from (seed, epoch, example) alone."""

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

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it looks for a newer release on import
cv2.setNumThreads(0)  # the pipeline's workers are the parallelism


class Augmenter:
    """Turns a decoded picture into a uint8 view: one warp for all of the geometry, then albumentations' colours."""

    def __init__(self, config: Augment) -> None:
        self.config = config

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}  # the transforms are made anew in each process and thread

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    def _colours(self) -> Any:
        if not hasattr(self._local, "colours"):
            import albumentations as a

            strength = self.config.color
            saturation = (1 - 2 * strength, 1 + 2 * strength) if strength <= 0.5 else (0.0, 2.0)
            self._local.colours = a.Compose([
                a.RandomBrightnessContrast(strength, strength, p=0.8),
                a.ColorJitter(0, 0, saturation, 0, p=0.8),  # brightness and contrast are three times faster above
            ])
        return self._local.colours

    def __call__(
        self, pixels: Pixels, height: int, width: int, *, seed: int, epoch: int, example: str
    ) -> Pixels:
        """One view (height, width, 3)."""
        # Each example has a seed of its own, so that the number of workers changes nothing.
        number = zlib.crc32(f"{seed}:{epoch}:{example}".encode())
        matrix = self._geometry(pixels, height, width, np.random.default_rng(number))
        view = warp_affine(pixels, matrix, height, width)
        if self.config.color:
            colours = self._colours()
            colours.set_random_seed(number)
            view = colours(image=view)["image"]
        return view

    def _geometry(self, pixels: Pixels, height: int, width: int, random: np.random.Generator) -> Matrix:
        """The letterbox frame zoomed, squeezed, turned, mirrored and shifted: 2x3, picture to view."""
        config, fit = self.config, letterbox_matrix(pixels, height, width)
        zoom = random.uniform(config.crop_scale, 1.0) ** -0.5
        aspect_jitter = np.exp(random.uniform(-config.aspect_jitter, config.aspect_jitter)) ** 0.5
        angle = np.deg2rad(random.uniform(-config.rotate_degrees, config.rotate_degrees))
        mirror = -1.0 if config.flip and random.random() < 0.5 else 1.0
        scales = fit[0, 0] * zoom * np.array([aspect_jitter * mirror, 1 / aspect_jitter])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scales
        frame, picture = np.array([width, height]), np.array([pixels.shape[1], pixels.shape[0]])
        # As a random crop of the zoomed picture: where all of it is in view, it stays in the middle.
        room = np.maximum(np.abs(scales) * picture - frame, 0) / 2
        middle = frame / 2 + random.uniform(-1, 1, 2) * room
        return np.column_stack([turn, middle - turn @ (picture / 2)])
